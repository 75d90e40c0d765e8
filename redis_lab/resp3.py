"""One RESP3 connection, written by hand, which keeps pushes apart from replies."""

from __future__ import annotations

import select
import socket
from typing import Any

import hiredis


class RawLine:
    """A socket to a server that speaks RESP3, and hiredis to read from it.

    Attributes: `pushed` (what the server sent without being asked, the oldest first), `socket`.
    """

    def __init__(self, host: str, port: int) -> None:
        self.socket = socket.create_connection((host, port), timeout=5)
        self.reader = hiredis.Reader(encoding="utf-8")
        self.pushed: list[list] = []
        self.ask("HELLO", 3)

    def ask(self, *words: object) -> Any:
        """Send a command and return its reply; what is pushed before it goes to `pushed`.

        Raises: ConnectionError when the server has closed the connection.
        """
        packed: Any = words  # hiredis's annotation allows only one word
        self.socket.sendall(hiredis.pack_command(packed))
        while isinstance(got := self._next(), hiredis.PushNotification):
            self.pushed.append(list(got))
        return got

    def listen(self, wait_s: float = 0) -> None:
        """Take what has arrived, or arrives within so many seconds. Raises: as `ask`."""
        while self.reader.has_data() or select.select([self.socket], [], [], wait_s)[0]:
            self.pushed.append(list(self._next()))
            wait_s = 0

    def _next(self) -> Any:
        """The next message, a reply or a push."""
        while (got := self.reader.gets()) is False:
            data = self.socket.recv(65536)
            if not data:
                raise ConnectionError("the server has closed the connection")
            self.reader.feed(data)
        return got
