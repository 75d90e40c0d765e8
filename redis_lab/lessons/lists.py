"""The lesson on lists: its exercises and its figures."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import redis

from redis_lab.figures import Chart, Lines
from redis_lab.judging import NotYet, exercise
from redis_lab.wiretap import Wire, wire

FIGURES: dict[str, Chart] = {
    "lists": Lines(
        title="What the length of a list costs",
        x="length",
        y="per_unit_us",
        by="what",
        panels="list",
        theory="theory_us",
        theory_label="round trip + steps × price of a step",
        xlabel="elements in the list",
        ylabel="time for one command (µs)",
    ),
}

DAYS_30 = 30 * 86400
AT_ONCE = {"MULTI", "EVAL", "EVALSHA", "FCALL"}  # any of these makes several commands one step


@exercise(
    hints=(
        "If the product is in the list already, it should move to the front. The simplest way "
        "to move something is to remove it and to push it again.",
        "LREM removes a value wherever it is, LPUSH puts it in front, LTRIM keeps ten, EXPIRE "
        "sets the 30 days. The EXPIRE is needed every time, because LREM may empty the list, "
        "and an empty list is a key that is gone.",
        "In `with r.pipeline() as pipe:` queue `lrem(key, 0, product_id)`, `lpush`, "
        "`ltrim(key, 0, 9)` and `expire`, then execute. That is one transaction and one round "
        "trip.",
    )
)
def remember(r: redis.Redis, answer: Callable[[redis.Redis, str, str], object]) -> str:
    key, views = "check:seen", [f"product:{n}" for n in range(12)]
    try:
        with wire(r) as counted:
            answer(r, key, views[0])
        first_left = r.ttl(key)
        for view in views[1:]:
            answer(r, key, view)
        ten = r.lrange(key, 0, -1)
        answer(r, key, views[5])
        again = r.lrange(key, 0, -1)
        r.delete(key)
        for _ in range(2):
            answer(r, key, views[0])  # the list is empty for a moment, between LREM and LPUSH
        last_left = r.ttl(key)
    finally:
        r.delete(key)
    newest = views[:1:-1]
    if ten == newest[::-1]:
        raise NotYet("the right ten, the oldest first. The newest should be in front.")
    if ten == views[9::-1]:
        raise NotYet("ten are kept, and they are the oldest ten: LTRIM kept the wrong end.")
    if len(ten) > 10:
        raise NotYet(f"after 12 different products {len(ten)} are kept; ten are enough.")
    if ten != newest:
        raise NotYet(f"after products 0 to 11 the list should be {newest} and is {ten}.")
    if again.count(views[5]) > 1:
        raise NotYet(
            "a product that is looked at again is in the list twice. Which command removes a "
            "value, wherever it is?"
        )
    if again == ten:
        raise NotYet(
            "no product is there twice, but one that is looked at again should move to the "
            "front, and it stayed where it was."
        )
    if again != [views[5], *(view for view in newest if view != views[5])]:
        raise NotYet(f"product 5 again, and the list should have it in front; it is {again}.")
    if first_left == -1:
        raise NotYet("the right ten, but the key has no time to live.")
    if last_left == -1:
        raise NotYet(
            "the key has a time to live, until the only product in it is looked at again: LREM "
            "empties the list, so the key is gone, and its time to live too. Set it every time."
        )
    if min(first_left, last_left) < 3600:
        raise NotYet(
            f"the list is gone after {min(first_left, last_left)} seconds, as if nobody had "
            "looked at anything. EXPIRE takes seconds: 30 days are 30 * 86400."
        )
    if max(first_left, last_left) > DAYS_30:
        raise NotYet(f"the list should live for at most 30 days, not {first_left} seconds.")
    return _require_one_trip(
        counted,
        "right: each product once, the newest in front, at most ten, a TTL, and all in one step",
    )


def _require_one_trip(counted: Wire, praise: str) -> str:
    if counted.round_trips > 1:
        raise NotYet(
            f"right when you are alone, in {counted.round_trips} round trips. Two tabs at once can "
            "both find the product missing, and both push it. Put everything into one transaction."
        )
    if counted.commands > 1 and not AT_ONCE & set(counted.by_command):
        raise NotYet(
            "one round trip, but the commands are only sent together, not run together: another "
            "client may come between them. Which pipeline runs its commands atomically?"
        )
    return praise


@exercise(
    hints=(
        "Between LRANGE and LTRIM another worker reads the same jobs. Is there one command "
        "that both returns and removes?",
        "LPOP removes from the left and returns what it removed. It takes a count.",
        "`r.lpop(key, n)` returns a list, or None if the key is gone. Turn the None into `[]`.",
    )
)
def take(r: redis.Redis, answer: Callable[[redis.Redis, str, int], list]) -> str:
    key, jobs = "check:jobs", [f"job:{n}" for n in range(10)]
    try:
        r.rpush(key, *jobs)
        with wire(r) as counted:
            four = answer(r, key, 4)
        left = r.lrange(key, 0, -1)
        rest = answer(r, key, 100)
        nothing = answer(r, key, 4)
        r.delete(key)
        _check_alone(four, left, rest, nothing, jobs)
        if counted.round_trips > 1 and counted.by_command["LPOP"] == counted.commands:
            raise NotYet(
                f"right, and no job goes out twice; but it took {counted.round_trips} round trips "
                "for four jobs. One command can take several."
            )
        if counted.round_trips > 1:
            raise NotYet(
                f"right when you are alone, in {counted.round_trips} round trips. Between them "
                "another worker is handed the same jobs, and what is removed then are jobs that "
                "nobody has seen. One command can look and remove."
            )
        if counted.commands > 1 and not AT_ONCE & set(counted.by_command):
            raise NotYet(
                "one round trip, but the commands are only sent together, not run together: "
                "another worker may come between them. One command can take several."
            )
        twice, nobody = _race_workers(r, key, answer)
    finally:
        r.delete(key)
    if twice or nobody:
        raise NotYet(
            f"right when you are alone. With eight at once {twice} of 400 jobs were handed out "
            f"again, and {nobody} to nobody."
        )
    return "right: one round trip, and with eight at once each of 400 jobs went to exactly one"


def _check_alone(four: list, left: list, rest: list, nothing: list, jobs: list) -> None:
    """Raises: NotYet when `take` is wrong even with a single worker."""
    for got in (four, rest, nothing):
        if isinstance(got, list) and None in got:
            raise NotYet(
                f"there was less than you asked for, and the answer has {got.count(None)} × None "
                "in it. LPOP takes a count, and then gives what there is."
            )
    if nothing is None:
        raise NotYet(
            "when nothing is there the answer should be [], and is None: that is what redis-py "
            "returns for LPOP of a list that is gone."
        )
    if four == jobs[:-5:-1]:
        raise NotYet("these are the newest four. The oldest are on the left.")
    if four != jobs[:4] or rest != jobs[4:] or nothing != []:
        raise NotYet(
            f"of ten jobs the first four, then the other six, then none should come; there came "
            f"{four}, {rest} and {nothing}."
        )
    if left != jobs[4:]:
        raise NotYet("the four jobs are still in the list: the next worker gets them again.")


def _race_workers(r: redis.Redis, key: str, answer: Callable) -> tuple[int, int]:
    """Eight workers share 400 jobs; returns how many were handed out twice, and how many never."""
    jobs = [f"job:{n}" for n in range(400)]
    r.delete(key)
    r.rpush(key, *jobs)
    together = threading.Barrier(8)

    def work(_: int) -> list:
        together.wait()
        handed = []
        for _ in range(len(jobs)):  # an answer that never removes a job must end, too
            batch = answer(r, key, 3)
            if not batch:
                break
            handed += batch
        return handed

    with ThreadPoolExecutor(8) as pool:
        handed = [job for batch in pool.map(work, range(8)) for job in batch]
    return len(handed) - len(set(handed)), len(set(jobs) - set(handed))
