"""Notes of many tenants over HTTP, in the database of one cell: notes.py PORT DATABASE

    PUT /NAME    writes a note      GET /NAME    reads it      GET /    lists their names

What it knows of Cellway: one statement at the beginning of each transaction, and what it answers where that is refused.
"""
import queue
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psycopg

PORT, DATABASE = int(sys.argv[1]), sys.argv[2]
SESSIONS = queue.LifoQueue()
for _ in range(8):
    SESSIONS.put(None)  # connected when it is needed


class Notes(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/":
            self.serve("look", "SELECT string_agg(name, ' ' ORDER BY name) FROM notes WHERE tenant_id = %s", [])
        else:
            self.serve("look", "SELECT body FROM notes WHERE tenant_id = %s AND name = %s", [self.path[1:]])

    def do_PUT(self):
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        write = "INSERT INTO notes VALUES (%s, %s, %s) ON CONFLICT (tenant_id, name) DO UPDATE SET body = excluded.body RETURNING body"
        self.serve("enter", write, [self.path[1:], body])

    def serve(self, enter, statement, values):
        stamp = [self.headers["cell-tenant"], int(self.headers["cell-uid"]), int(self.headers["cell-epoch"])]
        session = SESSIONS.get()
        try:
            if session is None or session.closed:
                session = psycopg.connect(DATABASE, autocommit=True)
            with session.transaction():
                session.execute(f"SELECT cellway.{enter}(%s, %s, %s)", stamp)
                row = session.execute(statement, [stamp[0], *values]).fetchone()
        except psycopg.Error as error:
            if (error.sqlstate or "").startswith("CW"):  # nothing was executed: the gate knows what to do
                code = error.diag.message_primary.split(":")[0]
                return self.answer(503, "", [("cell-not-executed", "1"), ("cell-code", code)])
            return self.answer(500, f"{error}\n")
        finally:
            SESSIONS.put(session)
        # Only now: what is answered is committed.
        return self.answer(200, f"{row[0] or ''}\n") if row else self.answer(404, "no such note\n")

    def answer(self, status, text, fields=()):
        body = text.encode()
        self.send_response(status)
        for name, value in [("content-type", "text/plain; charset=utf-8"), ("content-length", str(len(body))), *fields]:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("127.0.0.1", PORT), Notes).serve_forever()
