"""The shop in a database server behind a network, as services have it.

SQLite in the same process is the cheapest database there is, but a service rarely uses it. Here a
small server serves the same file behind a link, so that each *statement* is a round trip, as it is
with PostgreSQL or MySQL.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import redis

from .child import Child
from .distance import link
from .errors import LabError
from .source import Shop, make_uri

SQL_SERVER = Path(__file__).with_name("_sql_server.py")


class RemoteShop(Shop):
    """The queries of a `Shop`, answered by a server that is `achieved_rtt_ms` away; read-only.

    Each statement is one round trip: `user` takes one, `product_page` three. Like a Shop, it
    belongs to one thread. It has no `reopen()`: make another RemoteShop.

    Attributes: `achieved_rtt_ms` (measured by the link), `round_trips` (so far).
    """

    def __init__(self, shop: Shop, rtt_ms: float) -> None:
        self.file, self.writable = shop.file, False
        self.round_trips = 0
        self._server = Child("The shop's server", SQL_SERVER, make_uri(shop.file, "ro"))
        try:
            port = int(self._server.wait_ready().split()[1])
            with redis.Redis(port=port) as address:
                self._link = link(address, rtt_ms)
        except BaseException:
            self._server.stop()
            raise
        self.achieved_rtt_ms = self._link.achieved_ms
        self._socket = socket.create_connection((self._link.host, self._link.port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._answers = self._socket.makefile("rb")

    def __repr__(self) -> str:
        return f"{super().__repr__()}; behind a server, {self.achieved_rtt_ms:.2f} ms away"

    def close(self) -> None:
        """End the connection, the link and the server."""
        self._answers.close()
        self._socket.close()
        self._link.stop()
        self._server.stop()

    def reopen(self) -> Shop:
        raise LabError("Each thread makes a RemoteShop of its own: remote_shop(shop, rtt_ms).")

    def sql(self, query: str, values: Sequence | dict = ()) -> list[dict]:
        """The rows of your own query. Raises: LabError for anything that would write."""
        return self.rows(query, values)

    def one(self, query: str, values: Sequence | dict = ()) -> dict | None:
        return next(iter(self.rows(query, values)), None)

    def rows(self, query: str, values: Sequence | dict = ()) -> list[dict]:
        sent = values if isinstance(values, dict) else list(values)
        try:
            self._socket.sendall(json.dumps([query, sent], default=int).encode() + b"\n")
            line = self._answers.readline()
        except (OSError, ValueError):  # the connection has ended, or it was closed here
            line = b""
        if not line:
            raise LabError("The shop's server has ended. Make another: remote_shop(shop, rtt_ms).")
        self.round_trips += 1
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise LabError(f"The shop's server says {answer['error']}. It only reads.")
        return [dict(zip(answer["columns"], row, strict=True)) for row in answer["rows"]]


def remote_shop(shop: Shop, rtt_ms: float) -> RemoteShop:
    """The same shop behind a database server, `rtt_ms` milliseconds away; use it in a `with` block.

        with remote_shop(shop, rtt_ms=2) as far:
            far.product_page(1)  # three statements, three round trips

    At 0 ms there is still the process and its round trip over loopback. Raises: LabError as `link`.
    """
    return RemoteShop(shop, rtt_ms)
