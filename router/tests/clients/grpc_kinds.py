"""grpcio on both sides of a router: four kinds of calls, cancel, deadline, trailers-only, metadata, refusals, a move.

Prints `PORT n` of the server that plays the cell, reads `ROUTER host:port`, prints `STREAMING` when its tenant is to move, and ends
with 0 where everything held.
"""

import sys
import threading
import time
from concurrent import futures

import grpc

TENANT = "t-1"
cancelled = threading.Event()


def unary(request, context):
    context.set_trailing_metadata((("x-trailer", "after"),))
    return request + b"!"


def server_stream(request, context):
    for at in range(int(request)):
        yield b"%d" % at


def client_stream(requests, context):
    return b"".join(requests)


def chat(requests, context):
    for request in requests:
        yield request.upper()


def fails(request, context):
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "no: \u00e4 % b")


def waits(request, context):
    context.add_callback(cancelled.set)
    while context.is_active():
        time.sleep(0.01)
    return b""


def endless(request, context):
    context.add_callback(cancelled.set)
    yield b"first"
    while context.is_active():
        time.sleep(0.01)


def many(request, context):
    return b"".join(value.encode() for key, value in context.invocation_metadata() if key == "x-large")


HANDLERS = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
    "ClientStream": grpc.stream_unary_rpc_method_handler(client_stream),
    "Chat": grpc.stream_stream_rpc_method_handler(chat),
    "Fails": grpc.unary_unary_rpc_method_handler(fails),
    "Waits": grpc.unary_unary_rpc_method_handler(waits),
    "Endless": grpc.unary_stream_rpc_method_handler(endless),
    "Many": grpc.unary_unary_rpc_method_handler(many),
}


def refused(call, code):
    try:
        call()
    except grpc.RpcError as error:
        assert error.code() == code, (error.code(), error.details())
        return error
    raise AssertionError("it was not refused")


def drive(router):
    channel = grpc.insecure_channel(router, options=[("grpc.default_authority", "t-1.example.com")])
    path = "/test.Kinds/"
    call = channel.unary_unary(path + "Unary")
    answer, state = call.with_call(b"one", timeout=10)
    assert answer == b"one!", answer
    assert ("x-trailer", "after") in [tuple(item) for item in state.trailing_metadata()]
    assert list(channel.unary_stream(path + "ServerStream")(b"100", timeout=10)) == [b"%d" % at for at in range(100)]
    pieces = [b"x" * 100_000 for _ in range(200)]
    whole = channel.stream_unary(path + "ClientStream")(iter(pieces[:20]), timeout=20)
    assert len(whole) == 2_000_000, len(whole)

    # A conversation: each answer is waited for before the next word.
    words, heard = [b"a", b"b", b"c"], []
    ready = threading.Semaphore(0)

    def speak():
        for word in words:
            yield word
            assert ready.acquire(timeout=10)

    for word in channel.stream_stream(path + "Chat")(speak(), timeout=20):
        heard.append(word)
        ready.release()
    assert heard == [b"A", b"B", b"C"], heard

    error = refused(lambda: channel.unary_unary(path + "Fails")(b"", timeout=10), grpc.StatusCode.FAILED_PRECONDITION)
    assert error.details() == "no: \u00e4 % b", error.details()
    refused(lambda: channel.unary_unary(path + "Unknown")(b"", timeout=10), grpc.StatusCode.UNIMPLEMENTED)
    refused(lambda: channel.unary_unary(path + "Waits")(b"", timeout=0.3), grpc.StatusCode.DEADLINE_EXCEEDED)
    assert cancelled.wait(10), "the deadline did not reach the cell"
    cancelled.clear()
    pending = channel.unary_unary(path + "Waits").future(b"")
    time.sleep(0.2)
    pending.cancel()
    assert cancelled.wait(10), "the cancel did not reach the cell"
    large = "v" * 6_000
    assert channel.unary_unary(path + "Many")(b"", metadata=(("x-large", large),), timeout=10) == large.encode()

    other = grpc.insecure_channel(router, options=[("grpc.default_authority", "t-9.example.com")])
    error = refused(lambda: other.unary_unary(path + "Unary")(b"", timeout=10), grpc.StatusCode.NOT_FOUND)
    # Trailers-only: everything stands in the head, which grpcio reads as trailing metadata.
    said = dict(tuple(item) for item in error.trailing_metadata())
    assert said["cellway-code"] == "TENANT_UNKNOWN" and "t-9" in error.details(), (said, error.details())

    # Many calls at once on one connection.
    calls = [call.future(b"%d" % at, timeout=20) for at in range(500)]
    assert [one.result() for one in calls] == [b"%d!" % at for at in range(500)]

    # Its tenant moves in the middle of a stream.
    cancelled.clear()
    stream = channel.unary_stream(path + "Endless")(b"", timeout=30)
    assert next(stream) == b"first"
    print("STREAMING", flush=True)
    error = refused(lambda: list(stream), grpc.StatusCode.UNAVAILABLE)
    assert dict(tuple(item) for item in error.trailing_metadata())["cellway-code"] == "STREAM_MOVED"
    assert cancelled.wait(10), "the end of the stream did not reach the cell"
    assert call(b"again", timeout=10) == b"again!"


def main():
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=16))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Kinds", HANDLERS),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"PORT {port}", flush=True)
    router = sys.stdin.readline().split()[1]
    drive(router)
    server.stop(None)
    print("OK", flush=True)


main()
