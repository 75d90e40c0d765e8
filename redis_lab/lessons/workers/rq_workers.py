"""Workers of rq, of the lesson on queues: `rq_workers.py URL count` or `rq_workers.py URL work`."""

from __future__ import annotations

import sys
import time

import redis
from rq import Queue, SimpleWorker

from redis_lab.wiretap import wire


def count_round_trips(r: redis.Redis) -> None:
    queue, trips = Queue("count", connection=r), []
    for jobs in (1, 21):
        for _ in range(jobs):
            queue.enqueue(time.sleep, 0)
        with wire(r) as w:
            SimpleWorker([queue], connection=r).work(burst=True, logging_level="ERROR")
        trips.append(w.round_trips)
    print((trips[1] - trips[0]) / 20)


def work(r: redis.Redis) -> None:
    queue = Queue("kill", connection=r)
    SimpleWorker([queue], connection=r).work(logging_level="ERROR")


if __name__ == "__main__":
    url, what = sys.argv[1:]
    {"count": count_round_trips, "work": work}[what](redis.Redis.from_url(url))
