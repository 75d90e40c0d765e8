"""The lesson on cache-aside: its exercises and its figures."""

from __future__ import annotations

from collections.abc import Callable

import redis

from redis_lab.figures import Chart, Lines
from redis_lab.judging import NotYet, exercise, vary, vary_word

FIGURES: dict[str, Chart] = {
    "cache_aside": Lines(
        title="When does a cache help?",
        x="query_us",
        y="per_unit_us",
        panels="rtt_ms",
        panel_title="Redis {} ms away",
        theory="theory_us",
        theory_label="h · hit + (1 − h) · (miss + query + fill)",
        xlabel="what the query costs without a cache (µs)",
        ylabel="average answer (µs)",
        meanings={
            "SQLite alone": "theirs",
        },
    ),
    "warm_up": Lines(
        title="A cold cache warms up",
        x="requests",
        y="hit_ratio",
        xscale="linear",
        yscale="linear",
        theory="theory",
        theory_label="Σ p (1 − (1 − p)^t)",
        xlabel="requests since the cold start",
        ylabel="hit ratio (of 500 requests)",
    ),
}


@exercise(
    hints=(
        "A user who does not exist is never stored, so the database is asked again each time. "
        "Can the absence be stored like a user?",
        "`json.dumps(None)` is `'null'`, a text that can be cached. So store what `load` "
        "returned in any case, the absence for a shorter time. And `if cached` is one test for "
        "two different things.",
        "Test `cached is not None`, and return `json.loads(cached)`. After `load`, always SET, "
        "with a time to live that depends on whether there is a user.",
    )
)
def get_user(r: redis.Redis, answer: Callable[[redis.Redis, int, Callable], dict | None]) -> str:
    users = {1: {"name": vary_word("Ada")}, 2: {"name": vary_word("Grace")}}
    keys = [f"user:{k}" for k in (1, 2, 99)]
    asked = []

    def load(user_id: int) -> dict | None:
        asked.append(user_id)
        return users.get(user_id)

    try:
        answers = [[answer(r, user_id, load) for _ in range(50)] for user_id in (1, 2, 99)]
        lifetimes = [r.ttl(key) for key in keys]
    finally:
        r.delete(*keys)
    for user_id, got in zip((1, 2, 99), answers, strict=True):
        wrong = [value for value in got if value != users.get(user_id)]
        if wrong:
            right = users.get(user_id)
            raise NotYet(f"user {user_id} should be {right} and once was {wrong[0]!r}.")
    if asked.count(99) > 1:
        raise NotYet(
            f"the database was asked {asked.count(99)} times for a user who is not there. "
            "None can be stored as well: json.dumps(None) is 'null'. Which test tells 'null' from "
            "nothing?"
        )
    if asked.count(1) > 1:
        raise NotYet(f"a user who exists was loaded {asked.count(1)} times; the copy is not used.")
    if any(left == -1 for left in lifetimes):
        raise NotYet("right answers, but a key has no time to live.")
    if -2 in lifetimes:
        raise NotYet("right answers, but they are not kept in Redis under user:<id>.")
    if lifetimes[2] > lifetimes[0]:
        raise NotYet("right; but 'no such user' should not outlive a user. Somebody may sign up.")
    return "right: 150 requests, 3 questions to the database, a time to live on every key"


@exercise(
    hints=(
        "With a hit ratio of h, a share h of the requests costs a hit, and the rest costs a "
        "miss. When is that exactly as expensive as the query alone?",
        "Write it as an equation: h · hit + (1 − h) · miss = query. Solve it for h. If a hit "
        "alone costs as much as the query, no hit ratio is enough.",
        "h is (miss − query) divided by (miss − hit). Return None unless `hit_us < query_us`.",
    )
)
def needed(_: redis.Redis, answer: Callable[[float, float, float], float | None]) -> str:
    if answer(10, 150, 400) is not None:
        raise NotYet(
            "a query of 10 µs with a hit of 150 µs: even with hits only the cache is slower. "
            "No hit ratio is enough, so the answer is None."
        )
    for query, hit, miss in (
        (1000, 150, 1400),
        (50_000, 150, 50_400),
        (vary(400, 300, 700), vary(150, 100, 250), 800),
    ):
        right = (miss - query) / (miss - hit)
        got = answer(query, hit, miss)
        if got is None or abs(got - right) > 1e-6:
            raise NotYet(
                f"query {query:,} µs, hit {hit} µs, miss {miss:,} µs: {right:.1%} is needed, "
                f"you say {'None' if got is None else f'{got:.1%}'}. "
                "Set h · hit + (1 − h) · miss equal to the query and solve for h."
            )
    return "right: the more expensive the query, the fewer hits a cache needs to pay off"
