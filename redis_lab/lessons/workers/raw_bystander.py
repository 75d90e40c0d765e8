"""The bystander of the lesson on anti-patterns: it asks for one small key, again and again.

`raw_bystander.py HOST PORT` prints `ready`, asks until its standard input is closed, and then
prints as JSON when it asked and how many seconds it waited each time.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time


def ask_until(over: threading.Event, sock: socket.socket) -> list[tuple[float, float]]:
    """Read the key until it is over. Returns (start, seconds waited) pairs."""
    seen = []
    while not over.is_set():
        start = time.monotonic()
        sock.sendall(b"GET small\r\n")
        sock.recv(100)
        seen.append((start, time.monotonic() - start))
        time.sleep(0.0005)
    return seen


def main(host: str, port: str) -> None:
    over = threading.Event()

    def wait_for_end() -> None:
        sys.stdin.read()
        over.set()

    threading.Thread(target=wait_for_end, daemon=True).start()
    with socket.create_connection((host, int(port))) as sock:
        print("ready", flush=True)
        json.dump(ask_until(over, sock), sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
