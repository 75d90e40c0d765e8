"""A packer of the lesson on streams. Several share the orders, ten at a time.

`packers.py URL NAME [SCRIPT]`. Bob prints a line half way through his third batch, and then waits
to be killed. The others print a line when nothing new comes; who then reads a line from standard
input takes over what is pending. With the Lua script, an order that is packed twice is paid once.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import redis


class Packer:
    """Adds the price of each order to the revenue, and keeps a diary in the stream `done`."""

    def __init__(self, r: Any, name: str, once: str | None = None) -> None:
        self.r, self.name, self.packed = r, name, 0
        self.once = r.register_script(once) if once else None

    def work(self, entries: list) -> None:
        """Pack a batch, one order after the other, and acknowledge it."""
        for entry, order in entries:
            time.sleep(0.003)
            self.pay(entry, order)
            self.note("packed", entry)
            self.packed += 1
            if self.name == "bob" and self.packed == 25:
                print("half way through a batch", flush=True)
                time.sleep(60)
        self.r.xack("orders", "packers", *[entry for entry, _ in entries])

    def pay(self, entry: str, order: dict) -> None:
        """Add the order's price to the revenue."""
        if self.once:
            self.once(keys=["packed:" + entry, "revenue"], args=[order["cents"]])
        else:
            self.r.incrby("revenue", order["cents"])

    def note(self, event: str, entry: str) -> None:
        """Write a line in the diary."""
        self.r.xadd("done", {"worker": self.name, "event": event, "entry": entry})

    def read(self) -> None:
        """Work until nothing new comes."""
        block = 0  # for ever, until the first order
        new = {"orders": ">"}
        while reply := self.r.xreadgroup("packers", self.name, new, count=10, block=block):
            self.work(reply[0][1])
            block = 100

    def take_over(self) -> None:
        """Claim what has been pending for 700 ms, as soon as there is something, and pack it."""
        claimed: list = []
        while not claimed:
            time.sleep(0.02)
            _, claimed, _ = self.r.xautoclaim("orders", "packers", self.name, min_idle_time=700)
        for entry, _ in claimed:
            self.note("claimed", entry)
        self.work(claimed)


def main(url: str, name: str, once: str | None = None) -> None:
    r = redis.Redis.from_url(url, decode_responses=True, socket_timeout=None)
    packer = Packer(r, name, once)
    packer.read()
    print("nothing new", flush=True)
    if sys.stdin.readline():
        packer.take_over()


if __name__ == "__main__":
    main(*sys.argv[1:])
