"""The core workloads of YCSB, the Yahoo! Cloud Serving Benchmark, on Redis.

A record is a hash of ten fields of 100 bytes, as in YCSB's own binding for Redis: a read is
HGETALL, an update HSET of one field. Which record comes next follows Zipf's law with YCSB's
constant 0.99, the popular ones scattered over all keys.

- Brian F. Cooper, Adam Silberstein, Erwin Tam, Raghu Ramakrishnan, Russell Sears: Benchmarking
  cloud serving systems with YCSB. SoCC 2010.
- Core workloads: https://github.com/brianfrankcooper/YCSB/tree/master/workloads
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import redis

from ..errors import LabError
from .load import Mix
from .progress import show_progress
from .workload import Zipf

__all__ = ["LEFT_OUT", "WORKLOADS", "Workload", "load_records", "make_mix"]

FIELDS, FIELD_BYTES = 10, 100
ZIPF = 0.99
PREFIX = "ycsb:"
TTL_S = 3600
BATCH = 500  # records in one round trip while they are stored
DISTINCT = 20_000  # operations that are prepared; then they begin again


@dataclass(frozen=True)
class Workload:
    """Shares of the operations; a read-modify-write is a read and then an update of one record."""

    about: str
    read: float = 0.0
    update: float = 0.0
    read_modify_write: float = 0.0


WORKLOADS = {
    "ycsb-a": Workload("half reads, half updates, such as a session store", read=0.5, update=0.5),
    "ycsb-b": Workload("95 % reads, 5 % updates, such as tags of photos", read=0.95, update=0.05),
    "ycsb-c": Workload("reads only, such as a cache of profiles", read=1.0),
    "ycsb-f": Workload(
        "half reads, half read-modify-writes, such as records that users change",
        read=0.5,
        read_modify_write=0.5,
    ),
}
# The load generator sends bytes that were encoded beforehand and counts the bytes of the replies
LEFT_OUT = {
    "ycsb-d": "inserts records all the time and reads the newest: a prepared insert, sent a second "
    "time, would be an update",
    "ycsb-e": "reads ranges of records: which records a range has is known only from the reply",
}


def _key(record: int) -> str:
    return f"{PREFIX}user{record}"


def _texts(random: np.random.Generator, count: int) -> list[str]:
    """Values of fields: printable, and they do not compress well."""
    drawn = random.integers(33, 127, count * FIELD_BYTES, dtype=np.uint8).tobytes().decode("ascii")
    return [drawn[k : k + FIELD_BYTES] for k in range(0, len(drawn), FIELD_BYTES)]


def load_records(client: redis.Redis, records: int, seed: int = 0) -> None:
    """Store the records 0 to `records` − 1, each with a time to live of an hour.

    Raises: LabError if there would be none; what redis-py raises, such as a full server's error.
    """
    if records < 1:
        raise LabError("A workload needs at least one record.")
    random = np.random.default_rng(seed)
    names = [f"field{n}" for n in range(FIELDS)]
    for start in show_progress(range(0, records, BATCH), "storing the records", after_s=2.0):
        with client.pipeline(transaction=False) as pipe:
            for record in range(start, min(start + BATCH, records)):
                fields: dict[Any, Any] = dict(zip(names, _texts(random, FIELDS), strict=True))
                pipe.hset(_key(record), mapping=fields)
                pipe.expire(_key(record), TTL_S)
            pipe.execute()


def make_mix(name: str, records: int, seed: int = 0) -> Mix:
    """The workload's operations on so many records. Raises: LabError for an unknown name."""
    if name not in WORKLOADS:
        why = f" {name} {LEFT_OUT[name]}." if name in LEFT_OUT else ""
        raise LabError(f"There is no workload {name!r}; there are {', '.join(WORKLOADS)}.{why}")
    if records < 1:
        raise LabError("A workload needs at least one record.")
    chosen, random = WORKLOADS[name], np.random.default_rng(seed)
    scattered = random.permutation(records)
    popular = scattered[Zipf(records, ZIPF, seed).sample(DISTINCT) - 1]
    commands: list[tuple[int, tuple[object, ...]]] = []
    turns: list[int] = []
    reads: dict[int, int] = {}  # by record, where its read is among the commands
    for record, dice in zip(popular.tolist(), random.random(DISTINCT), strict=True):
        if dice >= chosen.update:  # both others begin with a read
            if record not in reads:
                reads[record] = len(commands)
                commands.append((0, ("HGETALL", _key(record))))
            turns.append(reads[record])
        if dice < chosen.update + chosen.read_modify_write:
            turns.append(len(commands))
            field = f"field{random.integers(FIELDS)}"
            commands.append((1, ("HSET", _key(record), field, *_texts(random, 1))))
    kinds = ("read", "update")[: 1 + max(kind for kind, _ in commands)]
    return Mix(kinds, commands, np.array(turns, dtype=np.int32))
