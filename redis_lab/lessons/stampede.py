"""The lesson on stampedes: its exercises and its figures."""

from __future__ import annotations

import math
from collections.abc import Callable

import redis

from redis_lab.figures import Chart, DotPlot, Lines
from redis_lab.judging import NotYet, exercise, vary, vary_word

FIGURES: dict[str, Chart] = {
    "stampede": Lines(
        title="A page that expires every 0.7 seconds",
        x="seconds",
        y="made",
        by="way",
        xscale="linear",
        yscale="linear",
        xlabel="time since the page was first computed (s)",
        ylabel="recomputations so far, by 32 readers",
        meanings={
            "naive": "baseline",
            "single flight": "ours",
        },
    ),
    "stampede_xfetch": Lines(
        title="What XFetch costs",
        x="beta",
        y="made",
        by="what",
        theory="theory",
        theory_label="e^(1/β)",
        xscale="linear",
        yscale="linear",
        xlabel="β",
        ylabel="recomputations for each expiry",
    ),
    "stampede_beside": DotPlot(
        title="A hit",
        x="p50_us",
        xlabel="time for one hit (µs, log scale)",
        meanings={
            "dogpile.cache": "theirs",
            "cashews": "theirs",
            "cashews, locking": "theirs",
        },
    ),
}

Rule = Callable[[float, float, float, float], bool]


@exercise(
    hints=(
        "The rule is: recompute if −took · beta · ln(chance) is at least as long as the time "
        "that is left. Your version uses only `left_s`.",
        "`math.log` is the natural logarithm. The logarithm of a number below one is negative, "
        "so the minus sign makes it a time.",
        "Compare `-took_s * beta * math.log(chance)` with `left_s`: it is due if the first is "
        "not smaller.",
    )
)
def rule(_: redis.Redis, answer: Rule) -> str:
    def says(left_s: float, took_s: float, beta: float, reach: float) -> bool:
        """The answer for the random number whose -ln is `reach`."""
        return bool(answer(left_s, took_s, beta, math.exp(-reach)))

    if not says(0.1, 0.2, 1.0, 2.0):
        probe = [says(left, 0.2, 1.0, reach) for left in (0.05, 0.1, 0.3) for reach in (1, 3, 9)]
        if not any(probe):
            raise NotYet(
                "a value is only recomputed once it has expired. Either only left_s is used, or "
                "a sign is wrong: the logarithm of a number below one is negative."
            )
    if not says(0.0, 0.2, 1.0, 0.5) or not says(-1.0, 0.2, 1.0, 0.5):
        raise NotYet("an expired value must be recomputed, whatever the random number.")
    if says(10.0, 0.2, 1.0, 11.0):
        raise NotYet(
            "a value that takes 0.2 s to compute and has 10 s left was recomputed. What counts is "
            "how long the recomputation takes, took_s."
        )
    if says(0.1, 0.2, 1.0, 0.1) and says(0.1, 0.2, 1.0, 0.01):
        raise NotYet(
            "two readers at the same moment both recomputed it, whatever their random numbers. "
            "Only chance keeps them from all doing it at once."
        )
    if not says(0.5, 0.2, 2.0, 1.5) or says(0.5, 0.2, 1.0, 1.5):
        raise NotYet("beta changes nothing, or the wrong way: twice the beta, twice as early.")
    for left_s in (0.01, 0.1, 0.19, 0.21, vary(0.5, 0.53, 0.9), 1.0):
        for reach in (0.04, 0.3, 0.96, 1.1, 2.6, 5.1):
            if says(left_s, 0.2, 1.0, reach) != (0.2 * reach >= left_s):
                raise NotYet(
                    f"with {left_s} s left, 0.2 s to compute it, beta 1 and chance "
                    f"{math.exp(-reach):.4f} the answer should be {0.2 * reach >= left_s}."
                )
    return "right: early by chance, the longer it takes the earlier"


Answer = Callable[[redis.Redis, str, Callable[[str], str | None], int, int], str | None]


@exercise(
    hints=(
        "If `load` returns None, nothing is stored, so every further request loads again. The "
        "absence must be stored as well.",
        "Redis cannot store None. Store a text that cannot be a real value, for "
        "`missing_ttl_s`, and translate it back into None when you read it.",
        "Choose a constant mark that no value can be. If `r.get` gives the mark, return None. "
        "After a `load` that returned None, `r.set(key, mark, ex=missing_ttl_s)`; otherwise "
        "set the value with `ex=ttl_s`.",
    )
)
def negative(r: redis.Redis, answer: Answer) -> str:
    there, missing = "check:product:1", "check:product:999"
    asked: list[str] = []
    lamp = vary_word("a lamp")

    def load(key: str) -> str | None:
        asked.append(key)
        return lamp if key == there else None

    try:
        r.delete(there, missing)
        got = [answer(r, there, load, 600, 10) for _ in range(10)]
        if set(got) != {lamp} or asked != [there]:
            raise NotYet(
                f"for a product that exists the answer is {got[-1]!r}, after {len(asked)} "
                "queries for ten requests. One query, and the value each time."
            )
        asked.clear()
        got = [answer(r, missing, load, 600, 10) for _ in range(10)]
        if len(asked) > 1:
            raise NotYet(
                f"ten requests for a product that does not exist asked the database {len(asked)} "
                "times. An attacker would ask for nothing else. Remember the "
                "absence too, with something that cannot be a value."
            )
        if set(got) != {None}:
            raise NotYet(
                f"there is no such product, and the caller got {set(got) - {None}!r}. The mark in "
                "the cache is for you; the caller gets None, from the cache as from the database."
            )
        ttl = {key: r.ttl(key) for key in (there, missing)}
        if -1 in ttl.values():
            raise NotYet("something was stored with no time to live.")
        if ttl[missing] > 10:
            raise NotYet(
                f"the absence is remembered for {ttl[missing]} s, as long as a value. When the "
                "product is created, nobody will see it for so long: use missing_ttl_s."
            )
        if not 590 <= ttl[there] <= 600:
            raise NotYet(f"the value lives {ttl[there]} s, not ttl_s.")
    finally:
        r.delete(there, missing)
    return "right: one query for what is there, one for what is not, and that forgotten soon"
