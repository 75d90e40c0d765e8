"""Workers that send letters and may be killed, of the lesson on queues.

`letter_writers.py URL KIND ME DIE_WHEN DIE_AT`: KIND is a queue of `KINDS`; the worker called ME is
killed at its DIE_AT-th job, `before` or `after` it has sent the letter. It ends when there is a key
`closed`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import redis

from redis_lab.patterns.queue import Job, ListQueue, StreamQueue

ONCE = """
if redis.call('SET', KEYS[1], 1, 'NX', 'EX', 86400) then
    return redis.call('INCRBY', KEYS[2], ARGV[1])
end
"""


class BRPOP:
    def __init__(self, r: Any, name: str, lease_s: float) -> None:
        self.r, self.name = r, f"{{{name}}}:naive"

    def take(self, block_s: float) -> Job | None:
        found = self.r.brpop(self.name, block_s)
        return found and Job(found[1], json.loads(found[1]), 1)

    def done(self, job: Job) -> None:
        pass

    def reap(self) -> None:
        pass


KINDS: dict[str, Any] = {"BRPOP": BRPOP, "ListQueue": ListQueue, "StreamQueue": StreamQueue}


def write_letters(r: Any, queue: Any, note: Callable, perhaps_die: Callable) -> None:
    book_once = r.register_script(ONCE)
    jobs = 0
    while not r.exists("closed"):
        queue.reap()
        if job := queue.take(block_s=0.2):
            jobs, order = jobs + 1, job.payload
            time.sleep(0.004)
            perhaps_die("before", jobs, order)
            note("sent", order)
            r.incrby("book", order["cents"])
            book_once(keys=["booked:" + job.id, "second book"], args=[order["cents"]])
            time.sleep(0.004)
            perhaps_die("after", jobs, order)
            queue.done(job)


def main(url: str, kind: str, me: str, die_when: str, die_at: str) -> None:
    r = redis.Redis.from_url(url, decode_responses=True)

    def note(event: str, order: dict[str, int]) -> None:
        r.xadd("diary", {"worker": me, "event": event, "order": order["order_id"]})

    def perhaps_die(when: str, jobs: int, order: dict[str, int]) -> None:
        if (when, jobs) == (die_when, int(die_at)):
            note("killed", order)
            os.kill(os.getpid(), signal.SIGKILL)

    queue = KINDS[kind](r, "crash", lease_s=1)
    print("ready", flush=True)
    write_letters(r, queue, note, perhaps_die)


if __name__ == "__main__":
    main(*sys.argv[1:])
