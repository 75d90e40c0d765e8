"""The SQL server: a tiny database server that executes statements on one SQLite file.

Run by `child.Child` as `python -I -S _sql_server.py OWNER_PID FILE_URI`, standard library only. It
prints `port N` and then serves clients on loopback, each in a thread that has its own connection to
the database. A client sends a line `[statement, values]` and gets a line `{"columns": [...],
"rows": [...]}` or `{"error": "..."}`, all in JSON. It answers `PING` as Redis does, so that a link
in front of it can measure its round trips. It ends at `quit`, when its input closes, or when its
owner is no longer its parent.
"""

import contextlib
import json
import os
import select
import socketserver
import sqlite3
import sys
import threading

POLL_S = 0.5


def answer(database: sqlite3.Connection, line: bytes) -> dict:
    try:
        statement, values = json.loads(line)
        cursor = database.execute(statement, values)
        columns = [column[0] for column in cursor.description or ()]
        return {"columns": columns, "rows": cursor.fetchall()}
    except (sqlite3.Error, ValueError, TypeError) as error:
        return {"error": f"{type(error).__name__}: {error}"}


class Client(socketserver.StreamRequestHandler):
    disable_nagle_algorithm = True
    rbufsize = 1 << 16

    def handle(self) -> None:
        with (
            contextlib.suppress(ConnectionError),
            contextlib.closing(sqlite3.connect(sys.argv[2], uri=True)) as database,
        ):
            for line in self.rfile:
                if line == b"PING\r\n":
                    self.wfile.write(b"+PONG\r\n")
                else:
                    self.wfile.write(json.dumps(answer(database, line)).encode() + b"\n")


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False


def main() -> None:
    owner = int(sys.argv[1])
    with Server(("127.0.0.1", 0), Client) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print("port", server.server_address[1], flush=True)
        while os.getppid() == owner:
            if select.select([sys.stdin], [], [], POLL_S)[0]:
                break  # `quit`, or the end of the input


if __name__ == "__main__":
    main()
