"""Hold popular libraries to the contracts of `redis-lab drill`, and compare them with ours.

    pip install python-redis-lock pottery limits dogpile.cache
    python benchmarks/contracts.py docs/contracts.md

Each is configured as its documentation advises for several processes, with times as short as it
accepts. A promise that a library does not make is counted, but is not a failure. To run one of them
alone, in this folder: redis-lab drill contracts:PotteryRedlock --as lock
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import limits
import pottery
import redis
import redis_lock
from dogpile.cache import make_region

from redis_lab.drill import drill

SEED, KILLS = 12, 100


class RedisPyLock:
    """redis-py's `Lock` with a timeout; without one, a killed holder's lock stays for ever."""

    lease_s = 0.3
    not_promised = ("lost updates",)  # it has no fence

    def __init__(self, client: redis.Redis) -> None:
        self.client = client

    def acquire(self, name: str) -> Any:
        lock = self.client.lock(name, timeout=self.lease_s)
        return lock if lock.acquire(blocking=False) else None

    def release(self, lease: Any) -> None:
        lease.release()


class PythonRedisLock:
    """`redis_lock.Lock` with `expire`, in whole seconds."""

    lease_s = 1
    not_promised = ("lost updates",)
    client_options = {"decode_responses": False}  # noqa: RUF012

    def __init__(self, client: redis.Redis) -> None:
        self.client = client

    def acquire(self, name: str) -> Any:
        lock = redis_lock.Lock(self.client, name, expire=self.lease_s)
        return lock if lock.acquire(blocking=False) else None

    def release(self, lease: Any) -> bool:
        try:
            lease.release()
        except redis_lock.NotAcquired:  # the lease had ended
            return False
        return True


class PotteryRedlock:
    """`pottery.Redlock` on one master, with `auto_release_time`."""

    lease_s = 0.3
    not_promised = ("lost updates",)

    def __init__(self, client: redis.Redis) -> None:
        self.client = client

    def acquire(self, name: str) -> Any:
        lock = pottery.Redlock(key=name, masters={self.client}, auto_release_time=self.lease_s)
        return lock if lock.acquire(blocking=False) else None

    def release(self, lease: Any) -> bool:
        try:
            lease.release()
        except pottery.ReleaseUnlockedLock:
            return False
        return True


class LimitsMovingWindow:
    """`limits`' moving window: never more than the limit in any window."""

    limit, window_s = 20, 1
    strategy = "MovingWindowRateLimiter"

    def __init__(self, client: redis.Redis) -> None:
        storage = limits.storage.RedisStorage("redis://", connection_pool=client.connection_pool)
        self.limiter = getattr(limits.strategies, self.strategy)(storage)
        self.item = limits.RateLimitItemPerSecond(self.limit, self.window_s)

    def allow(self, name: str) -> bool:
        return self.limiter.hit(self.item, name)


class LimitsFixedWindow(LimitsMovingWindow):
    """`limits`' fixed window: twice as many where two windows meet."""

    most = 40
    strategy = "FixedWindowRateLimiter"


class LimitsSlidingWindowCounter(LimitsMovingWindow):
    """`limits`' sliding window counter, an approximation."""

    most = 40
    strategy = "SlidingWindowCounterRateLimiter"


class DogpileCache:
    """dogpile.cache with its distributed lock, for several processes."""

    lease_s = 1
    # Its documentation promises nothing about readers overtaken by an invalidation, or if Redis is
    # down
    not_promised = ("stale after invalidate", "no order of reads", "errors not in the contract")
    client_options = {"decode_responses": False}  # noqa: RUF012

    def __init__(self, client: redis.Redis, load: Callable[[str], Any]) -> None:
        self.load = load
        arguments = {
            "connection_pool": client.connection_pool,
            "redis_expiration_time": 120,  # longer than the region's
            "distributed_lock": True,
            "thread_local_lock": False,
            "lock_timeout": self.lease_s,
        }
        self.region = make_region().configure(
            "dogpile.cache.redis", expiration_time=60, arguments=arguments
        )

    def get(self, key: str) -> Any:
        return self.region.get_or_create(key, lambda: self.load(key))

    def invalidate(self, key: str) -> None:
        self.region.delete(key)


OURS = "redis_lab.drill.ours"
TRIED = [
    ("lock", "redis", "contracts:RedisPyLock"),
    ("lock", "python-redis-lock", "contracts:PythonRedisLock"),
    ("lock", "pottery", "contracts:PotteryRedlock"),
    ("lock", "redis-lab", f"{OURS}:Lock"),
    ("limiter", "limits", "contracts:LimitsMovingWindow"),
    ("limiter", "limits", "contracts:LimitsFixedWindow"),
    ("limiter", "limits", "contracts:LimitsSlidingWindowCounter"),
    ("limiter", "redis-lab", f"{OURS}:SlidingLog"),
    ("limiter", "redis-lab", f"{OURS}:FixedWindow"),
    ("limiter", "redis-lab", f"{OURS}:SlidingCounter"),
    ("limiter", "redis-lab", f"{OURS}:Gcra"),
    ("cache", "dogpile.cache", "contracts:DogpileCache"),
    ("cache", "redis-lab", f"{OURS}:Cache"),
    ("queue", "redis-lab", f"{OURS}:ListQueue"),
    ("queue", "redis-lab", f"{OURS}:StreamQueue"),
    ("session", "redis-lab", f"{OURS}:Sessions"),
    ("once", "redis-lab", f"{OURS}:Once"),
]

HEAD = (
    "# What libraries keep of the contracts\n\n"
    "Written by `python benchmarks/contracts.py docs/contracts.md` on {date}, on {server}, with "
    "redis-py {client}. Each class was played step by step, and then raced by four processes with "
    "{kills} kills, from seed {seed}; what the columns and verdicts mean: [drill.md](drill.md). "
    "The adapters, and with them the configuration of each library, are in "
    '[`benchmarks/contracts.py`](../benchmarks/contracts.py). "3 in 400" is: broken 3 times, in '
    "400 orders, calls or keys. One run each, on a machine that others used too: the counts of the "
    "race differ from run to run. A promise that a library does not make is counted, and *not "
    "promised*.\n"
)


def main(page: Path) -> None:
    """Run all drills, and write the page again after each of them."""
    sys.path.insert(0, str(Path(__file__).parent))
    parts: dict[str, list[str]] = {}
    for kind, package, address in TRIED:
        print(f"{address} ...", flush=True)
        started = time.monotonic()
        report = drill(address, kind, seed=SEED, kills=KILLS)
        print(report, f"\n{time.monotonic() - started:.0f} s\n", flush=True)
        if report.interrupted:
            raise KeyboardInterrupt
        name = address.partition(":")[2]
        found = parts.setdefault(kind, [])
        heads = "| class | promise | step by step | in the race | verdict |\n| - | - | - | - | - |"
        if not found:
            found += [f"\n## {kind}\n", heads]
        first = f"{name} ({package} {version(package)})"
        for row in report.rows():
            found.append(f"| {first} | {' | '.join(row)} |")
            first = ""
        head = HEAD.format(
            date=time.strftime("%d %B %Y"),
            server=report.server,
            client=redis.__version__,
            kills=KILLS,
            seed=SEED,
        )
        lines = [line for part in parts.values() for line in part]
        page.write_text(head + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
