"""The websockets package on both sides of a router: messages of all sizes, pings, close codes, compression.

Prints `PORT n` of the server that plays the cell, reads `ROUTER host:port`, and ends with 0 where everything held. With a
second line `MOVE` it expects its connection to be closed with 1012.
"""

import asyncio
import os
import sys

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

closed_at_the_cell = asyncio.Queue()


async def echo(socket):
    try:
        async for message in socket:
            if message == "close me":
                await socket.close(4001, "as you wish")
                return
            await socket.send(message)
    finally:
        await closed_at_the_cell.put(socket.close_code)


async def line():
    return (await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)).split()


async def drive(router):
    host, port = router.split(":")
    uri = "ws://t-1.example.com/chat"
    for compression in (None, "deflate"):
        async with connect(uri, host=host, port=int(port), compression=compression, max_size=None) as socket:
            for size in (0, 1, 125, 126, 65_535, 65_536, 1_000_000):
                message = os.urandom(size)
                await socket.send(message)
                assert await socket.recv() == message
            await socket.send("\u00e4\u4e16")
            assert await socket.recv() == "\u00e4\u4e16"
            # In fragments.
            await socket.send(["one ", "two ", "three"])
            assert await socket.recv() == "one two three"
            await (await socket.ping())
        assert await closed_at_the_cell.get() == 1000
    async with connect(uri, host=host, port=int(port)) as socket:
        await socket.send("close me")
        try:
            await socket.recv()
            raise AssertionError("it was not closed")
        except ConnectionClosed as closed:
            assert (closed.rcvd.code, closed.rcvd.reason) == (4001, "as you wish"), closed
    await closed_at_the_cell.get()

    sockets = [await connect(uri, host=host, port=int(port)) for _ in range(50)]
    for number, socket in enumerate(sockets):
        await socket.send(str(number))
        assert await socket.recv() == str(number)
    print("READY", flush=True)
    assert await line() == ["MOVE"]
    for socket in sockets:
        try:
            await asyncio.wait_for(socket.recv(), 10)
            raise AssertionError("it was not closed")
        except ConnectionClosed as closed:
            assert closed.rcvd is not None and closed.rcvd.code == 1012, closed
        assert await asyncio.wait_for(closed_at_the_cell.get(), 10) == 1012


async def main():
    async with serve(echo, "127.0.0.1", 0, max_size=None) as server:
        print(f"PORT {server.sockets[0].getsockname()[1]}", flush=True)
        await drive((await line())[1])
    print("OK", flush=True)


asyncio.run(main())
