"""The lesson on rate limiting: its exercises and its figures."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import redis

from redis_lab.figures import Chart, DotPlot, Lines
from redis_lab.judging import NotYet, exercise, vary
from redis_lab.wiretap import wire

FIGURES: dict[str, Chart] = {
    "rate_limiting": Lines(
        title="Ten a minute, and somebody who asks twice a second",
        x="second",
        y="n",
        by="what",
        panels="kind",
        xscale="linear",
        yscale="linear",
        xlabel="seconds",
        ylabel="let through in the last 60 s",
        meanings={
            "let through": "ours",
            "limit": "theory",
        },
    ),
    "rate_limiting_memory": Lines(
        title="What a client who has used up the limit takes up",
        x="limit",
        y="bytes",
        xlabel="limit (requests in a window)",
        ylabel="bytes for each client",
        meanings={
            "sorted set": "baseline",
        },
    ),
    "rate_limiting_beside": DotPlot(
        title="May I? Compared with the library limits",
        x="p50_us",
        xlabel="time for one answer (µs, log scale)",
        meanings={
            "limits, fixed window": "theirs",
            "limits, moving window": "theirs",
            "limits, sliding window": "theirs",
            "limits, fixed window and stats": "theirs",
        },
    ),
}

LIMIT, WINDOW_MS = 5, 1000
NOON_MS = 1_767_268_800_000
CALLERS = 8


@exercise(
    hints=(
        "Three things are wrong: refused requests are written into the log, two requests in "
        "the same millisecond are one member, and the time is the client's. To decide before "
        "writing, without a gap, you need a script.",
        "In the script: take the time from TIME if none was given, remove what is older than "
        "1000 ms, count with ZCARD, return 0 if there are five; otherwise ZADD with a member "
        "that is unique, PEXPIRE, and return 1.",
        "TIME returns seconds and microseconds: `at[1] * 1000 + math.floor(at[2] / 1000)`. As "
        "member take the time and the count, joined by a colon. Pass `now` as ARGV[1], an "
        "empty text if there is none; `tonumber` of that is nil. Call `r.eval(script, 1, key, "
        "now)` and compare the reply with 1.",
    )
)
def log(r: redis.Redis, answer: Callable[..., bool]) -> str:
    keys = [f"check:log:{part}" for part in ("eager", "patient", "many", "same", "cost", "now")]
    eager, patient, many, same, cost, live = keys
    together = threading.Barrier(CALLERS, timeout=30)

    troubles: list[Exception] = []

    def caller(place: int) -> int:
        allowed = 0
        try:
            for turn in range(5):
                together.wait()
                # two seconds apart, so that every turn has room for five
                allowed += bool(answer(r, many, NOON_MS + 2 * turn * WINDOW_MS + place))
        except threading.BrokenBarrierError:
            pass  # another caller is in trouble
        except Exception as trouble:
            troubles.append(trouble)
            together.abort()
        return allowed

    try:
        r.delete(*keys)
        allowed = [t for t in range(0, 10_000, 100) if answer(r, eager, NOON_MS + t)]
        slow = sum(bool(answer(r, patient, NOON_MS + t)) for t in range(0, 10_000, 250))
        at_once = sum(bool(answer(r, same, NOON_MS)) for _ in range(2 * LIMIT))
        ttl = r.pttl(eager)
        longest = 0  # several new keys: on a busy machine one look may come late, but not all
        for _ in range(5):
            r.delete(cost)
            answer(r, cost, NOON_MS)
            longest = max(longest, r.pttl(cost))
        r.delete(cost)
        with wire(r) as counted:
            answer(r, cost, NOON_MS)
        with ThreadPoolExecutor(CALLERS) as pool:
            crowd = sum(pool.map(caller, range(CALLERS)))
        times = _count_time_calls(r)
        today = sum(bool(answer(r, live)) for _ in range(LIMIT))
        with mock.patch("time.time", lambda: NOON_MS / 1000):  # another web server's clock
            answer(r, live)
        times = _count_time_calls(r) - times
        late = r.pttl(live)
    finally:
        r.delete(*keys)
    if troubles:
        raise troubles[0]
    most = max((sum(t - WINDOW_MS < u <= t for u in allowed) for t in allowed), default=0)
    if most > LIMIT:
        raise NotYet(f"{most} were let through within one second; the limit is {LIMIT}.")
    passed = len(allowed)
    if passed <= LIMIT:
        raise NotYet(
            f"an eager client asked ten times a second for ten seconds, and {passed} of its 100 "
            "requests were let through. It could have had fifty. Refused requests are in the log "
            "as well, and keep it full."
        )
    if passed < 50:
        raise NotYet(f"the eager client could have had 50 of its 100 requests, and got {passed}.")
    if slow < 40:
        raise NotYet(f"a client that asked four times a second was refused {40 - slow} times.")
    if at_once != LIMIT:
        raise NotYet(
            f"ten requests in the same millisecond: {at_once} were let through, not {LIMIT}. "
            "Members of a sorted set are unique, so two requests need two members."
        )
    if crowd != 5 * LIMIT:
        raise NotYet(
            f"{CALLERS} callers at once, five times: {crowd} were let through, not {5 * LIMIT}. "
            "Between the look at the log and the entry another caller looks. A script is one step."
        )
    if today != LIMIT or times < LIMIT:
        raise NotYet(
            "right with a `now` that is given. Without one, as in production, the time "
            "must be the server's: two web servers have two clocks, Redis has one. "
            f"In {LIMIT + 1} calls it was asked {times} times what time it is (TIME, in the "
            f"script), and {today} of the first {LIMIT} were let through."
        )
    if ttl < 0 or late < 0:
        raise NotYet("right, but the key has no time to live: a client who leaves is kept forever.")
    if longest < 0.7 * WINDOW_MS:
        raise NotYet(
            f"the key is gone {longest} ms after a request, and what it knows of the last second "
            f"with it. It must live at least the {WINDOW_MS} ms of the window."
        )
    if counted.round_trips > 1:
        raise NotYet(f"right, in {counted.round_trips} round trips. One is enough.")
    return (
        f"right: {passed} of the eager client's 100, never more than {most} in a second, "
        f"and {crowd // 5} of {CALLERS} callers at once"
    )


def _count_time_calls(r: redis.Redis) -> int:
    """How often TIME was called on this server, by any client."""
    return r.info("commandstats").get("cmdstat_time", {"calls": 0})["calls"]


@exercise(
    hints=(
        "The oldest entry may be too old to count, or there may be fewer than five. Which "
        "entry decides when there is room again?",
        "There is room as soon as the fifth entry from the end is a second old. If there is no "
        "such entry, there is room now. ZRANGE takes negative positions.",
        "Read position -5 to -5 with its score. The wait is that score plus 1000 minus `now`, "
        "but never below 0; without such an entry it is 0.",
    )
)
def retry_after(r: redis.Redis, answer: Callable[[redis.Redis, str, int], int]) -> str:
    key = "check:wait"
    now = NOON_MS + 5000
    wait = vary(100, 110, 190)
    first = 1000 - wait

    def ask(*ages: int) -> int:
        r.delete(key)
        if ages:
            r.zadd(key, {f"{age}:{k}": now - age for k, age in enumerate(ages)})
        return answer(r, key, now)

    try:
        full = ask(first, 800, 700, 200, 100)
        stale = ask(4000, 3000, first, 800, 700, 200, 100)
        room = ask(900, 800, 100)
        opened = ask(5000, 4000, 3000, 2000, 1000, 100)
        nobody = ask()
        over = ask(900, 600, 500, 400, 300, 200, 100)
        r.delete(key)
        r.zadd(key, {str(k): now - 10 * k for k in range(1, 6)})
        with wire(r) as counted:
            answer(r, key, now)
    finally:
        r.delete(key)
    if nobody is None or nobody != 0:
        raise NotYet(f"nobody has asked yet, so the wait is 0, not {nobody}.")
    if room != 0 or opened != 0:
        raise NotYet(
            f"there is room, so the wait is 0, not {room or opened}. Never negative, either."
        )
    if full == WINDOW_MS:
        raise NotYet(
            f"{WINDOW_MS} ms is safe and too long. Requests came {first}, 800, 700, 200 and 100 ms "
            f"ago: in {wait} ms the first of them is a second old, and there is room for one."
        )
    if full != wait:
        raise NotYet(
            f"requests came {first}, 800, 700, 200 and 100 ms ago: there is room for one in "
            f"{wait} ms, not in {full}."
        )
    if stale != wait:
        raise NotYet(
            "right where the log is tidy. But entries older than a second may still be in it, and "
            f"count for nothing: with two of them you say {stale} instead of {wait}. "
            "Count from the newest."
        )
    if over != 500:
        raise NotYet(
            "seven within a second, as when the limit was lowered: the wait is until the fifth "
            f"from the end is a second old, 500 ms, not {over}."
        )
    if counted.round_trips > 1 or counted.bytes_in > 80:
        raise NotYet(
            f"right, with {counted.bytes_in} bytes in {counted.round_trips} round trips. "
            "One entry of the log is all you need."
        )
    return f"right: {wait} ms, from one entry of the log, whatever else is in it"
