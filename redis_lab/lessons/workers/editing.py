"""An editor of the lesson on hashes: it changes one field of a product, and no other.

`python editing.py URL FIELD` reads lines, each the name of a way. It makes 300 edits in that way,
then prints `done`.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import redis


def json_string(r: Any, field: str) -> None:
    """Edit the product that is kept as JSON text."""
    product = json.loads(r.get("edited:json"))
    product[field] += 1
    r.set("edited:json", json.dumps(product))


def one_hash(r: Any, field: str) -> None:
    """Edit the product that is kept as a hash."""
    r.hincrby("edited", field, 1)


if __name__ == "__main__":
    url, own_field = sys.argv[1:]
    client = redis.Redis.from_url(url)
    for line in sys.stdin:
        edit = {"json_string": json_string, "one_hash": one_hash}[line.strip()]
        for _ in range(300):
            edit(client, own_field)
        print("done", flush=True)
