"""A writer that is killed after its commit, of the lesson on invalidation.

`killed_after_commit.py FILE [outbox]`: with `outbox`, the transaction also writes to that table.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import sys


def main(file: str, outbox: str = "") -> None:
    db = sqlite3.connect(file)
    db.execute("UPDATE product SET version = version + 1")
    if outbox:
        db.execute("INSERT INTO outbox (key, version) SELECT '1', version FROM product")
    db.commit()
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(*sys.argv[1:])
