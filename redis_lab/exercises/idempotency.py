"""Exercises of notebooks/patterns/11_idempotency.ipynb."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import redis

from redis_lab.judging import NotYet, exercise

Handler = Callable[[str], object]

SAFE = {
    "SET price:1 500": (True, "the second SET leaves what the first left"),
    "INCR views": (False, "the second INCR counts again"),
    "LPUSH jobs a": (False, "the job is in the list twice"),
    "SADD seen e1": (True, "it is a set; only the reply differs, 0 instead of 1"),
    "GET price:1": (True, "reading changes nothing"),
    "SET lock ada NX": (
        False,
        "if the first was carried out, the second is refused, and Ada believes that somebody else "
        "has her lock",
    ),
    "HINCRBY stock:1 lamp -1": (False, "two lamps are gone for one sold"),
    "ZADD board 10 ada": (True, "it sets the score to 10, however often (ZINCRBY would not)"),
}


@exercise
def handle_once(r: redis.Redis, answer: Callable[[redis.Redis, str, Handler], object]) -> str:
    handled: list[str] = []

    def broken(event: str) -> None:
        raise RuntimeError("the handler's own trouble")

    def meet(event: str) -> None:
        """Eight arrivals of one event at the same moment."""
        together = threading.Barrier(8)

        def arrive(_: int) -> None:
            together.wait()
            answer(r, event, handled.append)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(arrive, range(8)))

    events = [f"e{k}" for k in range(40)]
    try:
        for event in ("a", "b", "a", "c", "b"):
            answer(r, event, handled.append)
        in_turn = list(handled)
        handled.clear()
        for event in events:
            meet(event)
        with contextlib.suppress(RuntimeError):
            answer(r, "broken", broken)
        before = len(handled)
        answer(r, "broken", handled.append)
        recovered = len(handled) > before
        lasting = [key for key in r.scan_iter("check:*", count=1000) if r.ttl(key) == -1]
    finally:
        r.delete(*r.scan_iter("check:*", count=1000), "check:")
    if in_turn != ["a", "b", "c"]:
        raise NotYet(f"a, b, a, c, b arrived one after the other, and handled were {in_turn}.")
    twice = len(handled) - recovered - len(events)
    if twice > 0:
        raise NotYet(
            "when eight arrive at once, some events are handled more than once. Between GET and "
            "SET there is room for seven. Which word lets SET tell the first from the rest?"
        )
    if not recovered:
        raise NotYet(
            "the handler raised, and the event counts as handled all the same: it is lost. Take "
            "the mark away again before the error goes on."
        )
    if lasting:
        raise NotYet(f"{len(lasting)} keys have no time to live. Each event leaves one for ever.")
    return f"right: {len(events)} events, {8 * len(events)} arrivals, each handled once"


@exercise
def safe_to_repeat(_: redis.Redis, answer: Mapping[str, bool]) -> str:
    if set(answer) != set(SAFE):
        raise NotYet("keep the eight commands as they are, and say True or False for each.")
    wrong = [command for command, said in answer.items() if bool(said) != SAFE[command][0]]
    if wrong:
        right = len(SAFE) - len(wrong)
        raise NotYet(f"{right} of {len(SAFE)} are right. Look at {wrong[0]}: {SAFE[wrong[0]][1]}.")
    return "right: four may be repeated, four may not"
