"""The first lesson: its exercises and its figures."""

from __future__ import annotations

from collections.abc import Callable

import redis

from redis_lab.figures import Chart, DotPlot
from redis_lab.judging import NotYet, exercise, vary
from redis_lab.wiretap import wire

FIGURES: dict[str, Chart] = {
    "start_here": DotPlot(
        title="What a question costs",
        x="p50_us",
        xlabel="time for one answer (µs, log scale)",
        meanings={
            "a dict in this process": "baseline",
            "SQLite: a user by id": "theirs",
            "SQLite behind a server, 2 ms away: a user by id": "theirs",
            "SQLite: a product page": "theirs",
            "SQLite: best sellers of a month": "theirs",
            "SQLite: the year's dashboard": "theirs",
        },
    ),
}


@exercise(
    hints=(
        "A round trip is one wait for the server. Go through `morning` line by line and ask at "
        "each: does the code wait here? How many values come back does not matter.",
        "SET waits once. MGET asks for three keys in one command, so it waits once as well. "
        "The loop waits once in each of its turns.",
        "One for SET, one for MGET, four for INCR: add them up.",
    )
)
def round_trips(r: redis.Redis, answer: dict) -> str:
    morning, guess = answer.get("morning"), answer.get("answer")
    if not callable(morning) or not isinstance(guess, int):
        raise NotYet("keep `morning` as it is, and say as a whole number how often it waits.")
    with wire(r) as counted:
        morning(r)
    if guess == counted.round_trips:
        return f"right: {counted.round_trips} round trips, one for each time the code waits"
    if guess > counted.round_trips:
        raise NotYet(f"{guess} is too many. MGET asks for three keys; how often does it wait?")
    raise NotYet(f"{guess} is too few. Each turn of the loop waits for its own answer.")


@exercise(
    hints=(
        "Think of ten requests. Nine find the answer in the cache. What does each of these "
        "nine cost, and what does the tenth cost?",
        "The tenth request asks Redis first, in vain, and then the database: it pays both. So "
        "every request pays for the GET.",
        "The average is what all of them pay, plus a tenth of what only one in ten pays.",
    )
)
def on_average(_: redis.Redis, answer: Callable[[float, float], float]) -> str:
    for query_us, get_us in ((1000, 100), (10, 100), (200_000, vary(2100, 3000, 9000))):
        right = get_us + 0.1 * query_us
        got = answer(query_us, get_us)
        if abs(got - right) <= 1e-6 * right:
            continue
        if abs(got - (0.9 * get_us + 0.1 * query_us)) <= 1e-6 * right:
            raise NotYet(
                "a miss is not free of Redis: you asked there first, in vain. "
                "Which cost do hit and miss both pay?"
            )
        raise NotYet(
            f"with a query of {query_us:,} µs and a GET of {get_us:,} µs it should be "
            f"{right:,.0f} µs and is {got:,.0f}. Ten requests: what do nine pay, what does one?"
        )
    return "right: everyone pays for the GET, one in ten pays for the query as well"
