"""The lesson on pipelines: its exercises and its figures."""

from __future__ import annotations

from collections.abc import Callable

import redis

from redis_lab.figures import Chart, Lines
from redis_lab.judging import NotYet, exercise, vary
from redis_lab.wiretap import wire

FIGURES: dict[str, Chart] = {
    "pipelines": Lines(
        title="What one GET costs in a batch of n",
        x="depth",
        y="per_unit_us",
        panels="rtt_ms",
        panel_title="{} ms added",
        theory="theory_us",
        theory_label="RTT ÷ n + service",
        xlabel="commands in one batch",
        ylabel="time for each GET (µs)",
    ),
}


@exercise(
    hints=(
        "Which commands need the reply of another before they can be sent? Only the HGETs need "
        "the names from SMEMBERS; they do not need each other.",
        "SMEMBERS is the first round trip. All the lines can then be read in one pipeline, the "
        "second round trip. HMGET reads both fields of a line at once.",
        'In the loop over the members, queue `pipe.hmget(line, "quantity", '
        '"price_cents")`. After the loop, sum the products over the replies of '
        "`pipe.execute()`.",
    )
)
def cart_total(r: redis.Redis, answer: Callable[[redis.Redis, str], int]) -> str:
    lines = {f"check:line:{k}": (1 + k % 3, vary(199 + 50 * k, 100, 9999)) for k in range(20)}
    right = sum(quantity * price for quantity, price in lines.values())
    try:
        r.sadd("cart:check", *lines)
        for line, (quantity, price) in lines.items():
            r.hset(line, mapping={"quantity": quantity, "price_cents": price})
        with wire(r) as counted:
            total = answer(r, "check")
    finally:
        r.delete("cart:check", *lines)
    if total != right:
        raise NotYet(f"the total should be {right} cents, and was {total}.")
    if counted.round_trips > 2:
        raise NotYet(
            f"the answer is right, and it took {counted.round_trips} round trips. Two are enough. "
            "Which commands can share a pipeline?"
        )
    return f"right, in {counted.round_trips} round trips"


@exercise(
    hints=(
        "The prices are independent of each other, so many can go in one pipeline. How many "
        "pipelines of at most 1000 commands do 2,500 prices need?",
        "MSET would be one command, but it cannot set a time to live. Use a pipeline of SETs "
        "with `ex=3600`, and begin a new pipeline after each thousand.",
        "Make a list of `prices.items()` and go through it with `range(0, len(items), 1000)`: "
        "a fresh pipeline for each slice, and one `execute()` at the end of each slice.",
    )
)
def load(r: redis.Redis, answer: Callable[[redis.Redis, dict], object]) -> str:
    prices = {f"check-{k}": vary(100 + k, 100, 9999) for k in range(2500)}
    keys = [f"price:{product}" for product in prices]
    try:
        with wire(r) as counted:
            answer(r, prices)
        stored = r.mget(keys)
        lives = [r.ttl(key) for key in keys[:: len(keys) // 50]]
    finally:
        r.delete(*keys)
    wrong = sum(value != str(price) for value, price in zip(stored, prices.values(), strict=True))
    if wrong:
        raise NotYet(f"{wrong} of {len(prices)} prices are missing or wrong.")
    if -1 in lives:
        raise NotYet(
            "the prices have lost their time to live. (MSET cannot set one; a pipeline of SETs "
            "can.)"
        )
    if not 3300 <= min(lives) <= max(lives) <= 3600:
        raise NotYet(f"the prices should live for an hour, and one lives {min(lives)} seconds.")
    if counted.round_trips > 3:
        raise NotYet(
            f"every price is there, after {counted.round_trips:,} round trips. "
            "With 1000 commands to a pipeline, how many pipelines do 2,500 prices need?"
        )
    if counted.round_trips < 3:
        raise NotYet(
            f"every price is there, after {counted.round_trips} round trips: some pipeline holds "
            "more than 1000 commands. It works today; with a million prices it holds a gigabyte."
        )
    return "right, in 3 round trips, none of them deeper than 1000"
