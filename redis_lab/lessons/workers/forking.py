"""A process of the lesson on connections that forks while it has a client.

`forking.py URL one` with a client that has a single connection, `forking.py URL pool` with a pool.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import redis


def fork_and_ask(r: Any) -> None:
    """The child asks for Bob's cart and reads no reply. Then the parent asks for Ada's."""
    r.ping()
    if os.fork() == 0:
        mine = r.connection or r.connection_pool.get_connection()
        mine.send_command("GET", "cart:bob")
        os.kill(os.getpid(), signal.SIGKILL)
    os.wait()
    print("Ada has", r.get("cart:ada"), "and the price is", r.get("price:1"))


if __name__ == "__main__":
    url, kept = sys.argv[1:]
    one = kept == "one"
    fork_and_ask(redis.Redis.from_url(url, decode_responses=True, single_connection_client=one))
