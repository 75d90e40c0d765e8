"""The lesson on the hit ratio: its exercises and its figures."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import redis

from redis_lab.figures import Chart, Lines
from redis_lab.judging import NotYet, exercise, vary
from redis_lab.measure import theory
from redis_lab.measure.workload import Zipf

FIGURES: dict[str, Chart] = {
    "hit_ratio_size": Lines(
        title="What each eviction policy answers",
        x="size",
        y="hit_ratio",
        by="policy",
        panels="exponent",
        panel_title="Zipf, s = {}",
        theory="theory",
        theory_label="the formula of the exact policy",
        xscale="linear",
        yscale="linear",
        xlabel="keys that the cache holds, of 20,000",
        ylabel="hit ratio",
        meanings={
            "allkeys-random": "baseline",
        },
    ),
    "hit_ratio_pace": Lines(
        title="The faster it is measured, the less LRU is in it",
        x="stays_s",
        y="lost",
        by="what",
        theory="chance",
        theory_label="what random eviction loses",
        xscale="linear",
        yscale="linear",
        xlabel="how long a key stays that nobody asks for (s)",
        ylabel="hits lost against exact LRU (points)",
    ),
    "hit_ratio_ttl": Lines(
        title="What a time to live does to the hit ratio",
        x="ttl_ms",
        y="hit_ratio",
        by="what",
        theory="theory",
        theory_label="λT / (1 + λT), and 1 − e^(−λT)",
        yscale="linear",
        xlabel="time to live (ms)",
        ylabel="hit ratio",
    ),
}


@exercise(
    hints=(
        "Think of one life of the key. It begins with a miss, which sets it. How many requests "
        "come, on average, while it lives? They are the hits.",
        "While it lives, rate × TTL requests come, and all of them hit. The miss that began it "
        "is a request too.",
        "The hits are λT and all requests are λT + 1. The answer is the one divided by the other.",
    )
)
def one_key(_: redis.Redis, answer: Callable[[float, float], float]) -> str:
    got = {}
    for rate, ttl in ((vary(0.1, 0.2, 0.9), 1), (1, 1), (10, vary(60, 20, 90)), (3, 0)):
        ratio = got[rate, ttl] = answer(rate, ttl)
        if not 0 <= ratio <= 1:
            raise NotYet(
                f"asked for {rate:g} times a second with {ttl} s to live, you say {ratio:g}: "
                "not a share of the requests. The miss is a request too: it is one of how many?"
            )
    if abs(got[1, 1] - (1 - np.exp(-1))) < 1e-6:
        raise NotYet(
            "that is for a time to live that each hit renews. Here only a miss sets it: one "
            "miss, then as many hits as fall into its life, on average."
        )
    for (rate, ttl), ratio in got.items():
        right = rate * ttl / (1 + rate * ttl)
        if abs(ratio - right) > 1e-9:
            raise NotYet(
                f"asked for {rate:g} times a second with {ttl} s to live: on average "
                f"{rate * ttl:g} hits for each miss, a share of {right:.4f}. Your answer is "
                f"{ratio:.4f}."
            )
    return "right: λT hits for each miss; 90 % needs λT = 9"


@exercise(
    hints=(
        "Popular keys make up for many others, so the share of keys is not the share of hits. "
        "`theory.lru(probabilities, size)` gives the hit ratio for a size. You look for the "
        "smallest size that is enough.",
        "The ratio only grows with the size, so you can halve the interval: try the middle; if "
        "it is enough, look below it, else above.",
        "Keep two bounds: one size that is too small (begin with -1) and one that is enough "
        "(begin with all keys). While they are more than 1 apart, try the middle and move one "
        "of them. Return the one that is enough.",
    )
)
def room_needed(_: redis.Redis, answer: Callable[[np.ndarray, float], int]) -> str:
    for exponent in (vary(0.7, 0.6, 0.9), 1.0):
        chance = Zipf(2000, exponent).probabilities
        for wanted in (vary(0.5, 0.4, 0.6), 0.8):
            size = answer(chance, wanted)
            if not isinstance(size, int | np.integer) or not 0 <= size <= 2000:
                raise NotYet(
                    f"your answer is {size!r}; it should be a number of keys from 0 to 2000."
                )
            ratio = theory.lru(chance, size)
            where = f"for a hit ratio of {wanted:.0%} and exponent {exponent} your answer is {size}"
            if ratio < wanted:
                raise NotYet(f"{where} keys, and those give {ratio:.1%}. More room is needed.")
            if size and theory.lru(chance, size - 1) >= wanted:
                raise NotYet(
                    f"{where} keys, which give {ratio:.1%}. Fewer are enough: the popular ones "
                    "make up for it. The ratio only grows with the size, so halve the interval."
                )
    return "right: the smallest, for each of four wishes"
