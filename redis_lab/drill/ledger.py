"""What the classes guard: rows, a store, effects. They are in a SQLite file, which a client's death
does not damage.
"""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path
from typing import Any

__all__ = ["Ledger", "StaleFence"]

SCHEMA = """
CREATE TABLE IF NOT EXISTS version
  (key TEXT, version INTEGER, value INTEGER, UNIQUE (key, version));
CREATE TABLE IF NOT EXISTS written (name TEXT, was INTEGER, is_now INTEGER, who TEXT);
CREATE TABLE IF NOT EXISTS fence (name TEXT PRIMARY KEY, fence INTEGER);
CREATE TABLE IF NOT EXISTS note (topic TEXT, what TEXT, who TEXT);
"""


class StaleFence(Exception):
    """The store has seen a greater fence."""


class Ledger:
    """The source of truth outside Redis. One connection for all threads of a process."""

    def __init__(self, file: Path | str = ":memory:") -> None:
        self._mutex = threading.Lock()
        self._database = sqlite3.connect(
            file, isolation_level=None, timeout=60, check_same_thread=False
        )
        if file != ":memory:":
            self._database.execute("PRAGMA journal_mode = wal")
        self._database.execute("PRAGMA synchronous = off")  # it must survive kills, not power cuts
        self._database.executescript(SCHEMA)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _do(self, *statements: tuple[str, tuple]) -> list[Any]:
        """Execute the statements in one transaction; returns the rows of the last one."""
        with self._mutex:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                for sql, values in statements:
                    rows = self._database.execute(sql, values).fetchall()
                self._database.execute("COMMIT")
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
            return rows

    def ask(self, sql: str, *values: object) -> list[Any]:
        """The rows of a query."""
        with self._mutex:
            return self._database.execute(sql, values).fetchall()

    # ------------------------------------------------------------ rows, for caches

    def load(self, key: str) -> int | None:
        """The row's value, which is its version; None if the row does not exist (any more)."""
        found = self.ask(
            "SELECT value FROM version WHERE key = ? ORDER BY version DESC LIMIT 1", key
        )
        return found[0][0] if found else None

    def commit(self, key: str, gone: bool = False) -> int:
        """Update or create the row, or delete it; returns the new version."""
        rows = self._do(
            (
                "INSERT INTO version SELECT ?1, n, CASE WHEN ?2 THEN NULL ELSE n END FROM "
                "(SELECT COALESCE(MAX(version), 0) + 1 AS n FROM version WHERE key = ?1)",
                (key, gone),
            ),
            ("SELECT MAX(version) FROM version WHERE key = ?", (key,)),
        )
        return int(rows[0][0])

    def create(self, key: str) -> None:
        """Create the row in its first version, if it does not exist."""
        self._do(("INSERT OR IGNORE INTO version VALUES (?, 1, 1)", (key,)))

    # ------------------------------------------------------------ a number, for locks

    def read(self, name: str, fence: int | None) -> int:
        """The number. Raises: StaleFence if the store has seen a greater fence."""
        self._show(name, fence)
        found = self.ask("SELECT MAX(is_now) FROM written WHERE name = ?", name)
        return int(found[0][0] or 0)

    def write(self, name: str, was: int, fence: int | None, who: str) -> None:
        """Write `was + 1`, where `was` is the number that was read. Raises: StaleFence."""
        self._show(
            name, fence, ("INSERT INTO written VALUES (?, ?, ?, ?)", (name, was, was + 1, who))
        )

    def _show(self, name: str, fence: int | None, *then: tuple[str, tuple]) -> None:
        if fence is None:
            if then:
                self._do(*then)
            return
        with self._mutex:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                found = self._database.execute("SELECT fence FROM fence WHERE name = ?", (name,))
                row = found.fetchone()
                if row and row[0] > fence:
                    raise StaleFence(f"the store has seen fence {row[0]}, and this is {fence}")
                self._database.execute("INSERT OR REPLACE INTO fence VALUES (?, ?)", (name, fence))
                for sql, values in then:
                    self._database.execute(sql, values)
                self._database.execute("COMMIT")
            except BaseException:
                self._database.execute("ROLLBACK")
                raise

    # ------------------------------------------------------------ effects

    def note(self, topic: str, what: str, who: str) -> None:
        """Record an effect that is never undone."""
        self._do(("INSERT INTO note VALUES (?, ?, ?)", (topic, what, who)))

    def noted(self, topic: str) -> list[str]:
        """The recorded effects, in order."""
        return [row[0] for row in self.ask("SELECT what FROM note WHERE topic = ?", topic)]
