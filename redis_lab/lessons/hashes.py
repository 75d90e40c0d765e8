"""The lesson on hashes: its exercises and its figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import redis

from redis_lab.figures import Chart, Lines
from redis_lab.judging import NotYet, exercise, vary
from redis_lab.wiretap import wire

FIGURES: dict[str, Chart] = {
    "hashes_memory": Lines(
        title="The memory of an object with n fields",
        x="fields",
        y="bytes_each",
        yscale="linear",
        theory="theory",
        theory_label="the JSON text; the bytes of a listpack",
        xlabel="fields of the object",
        ylabel="memory for each field (bytes)",
    ),
    "hashes": Lines(
        title="JSON string or hash?",
        x="fields",
        y="per_unit_us",
        by="what",
        panels="job",
        xlabel="fields of the object",
        ylabel="time for each (µs)",
    ),
}

BUYERS, CROWDED = 8, 100

# Another buyer's script: it looks and takes in one step.
TAKE = """
local left = tonumber(redis.call('HGET', KEYS[1], 'stock') or '0')
if left < tonumber(ARGV[1]) then return 0 end
redis.call('HINCRBY', KEYS[1], 'stock', '-' .. ARGV[1])
return tonumber(ARGV[1])
"""

Reserve = Callable[[redis.Redis, str, int], bool]


def _read_stock(r: redis.Redis, key: str) -> int:
    return int(r.hget(key, "stock") or 0)


def _overtake(r: redis.Redis, answer: Reserve, key: str, wanted: int, other: int) -> tuple:
    """Let another buyer take `other` of 5 right after the answer's first command.

    Returns whether the answer reserved, the result of the other buyer (None if it could not act in
    between, as with WATCH, which sends through a pipeline), and the remaining stock.
    """
    r.hset(key, "stock", 5)
    client: Any = r  # whose method is replaced meanwhile
    send = client.execute_command
    got: list[int] = []

    def interrupted(*args: object, **options: object) -> object:
        reply = send(*args, **options)
        if not got:
            got.append(send("EVAL", TAKE, 1, key, other))
        return reply

    client.execute_command = interrupted
    try:
        reserved = answer(r, key, wanted)
    finally:
        del client.execute_command
    return bool(reserved), got[0] if got else None, _read_stock(r, key)


def _sell_to_crowd(r: redis.Redis, answer: Reserve, key: str) -> int:
    """How many of 100 are sold to threads that buy at the same time until they are refused."""
    r.hset(key, "stock", CROWDED)

    def buyer(number: int) -> int:
        wanted, bought = 1 + number % 3, 0
        while bought <= CROWDED and answer(r, key, wanted):
            bought += wanted
        return bought

    with ThreadPoolExecutor(BUYERS) as pool:
        return sum(pool.map(buyer, range(BUYERS)))


@exercise(
    hints=(
        "Between your HGET and your HINCRBY another buyer can take what you have just counted. "
        "The look and the change must be one step on the server.",
        "A Lua script is one step: nothing runs between its commands. In it, read the stock "
        "with HGET, return 0 if there is too little, and otherwise subtract with HINCRBY and "
        "return 1.",
        "In Lua: `tonumber(redis.call('HGET', KEYS[1], 'stock') or '0')` is what is left; "
        "compare it with `tonumber(ARGV[1])`. Call it with `r.eval(script, 1, key, quantity)` "
        "and compare the reply with 1.",
    )
)
def reserve(r: redis.Redis, answer: Reserve) -> str:
    key, absent = "check:product:1", "check:product:none"
    try:
        r.hset(key, mapping={"name": "lamp", "stock": 5})
        yes, after_yes = answer(r, key, 3), _read_stock(r, key)
        no, after_no = answer(r, key, 3), _read_stock(r, key)
        if not yes or after_yes != 2:
            raise NotYet(
                f"3 of 5 are wanted: True, and 2 left. You say {yes}, and left {after_yes}."
            )
        if no or after_no != 2:
            raise NotYet(
                f"3 of 2 are wanted: False, and 2 left. You say {no}, and left {after_no}."
            )
        _, others, left = _overtake(r, answer, key, wanted=3, other=5)
        if left < 0:
            raise NotYet(
                f"there were 5. You looked, another buyer took {others}, and you took 3 all the "
                f"same: {others + 3} sold, stock {left}. Looking and taking must be one step."
            )
        reserved, others, left = _overtake(r, answer, key, wanted=8, other=1)
        if reserved or left != 5 - (others or 0):
            raise NotYet(f"8 of 5 are wanted while another takes {others}: {left} were left.")
        if others == 0:
            raise NotYet(
                "nothing is oversold. But you took 8 of 5 and gave them back, and while they were "
                "out, a buyer who wanted one of the 5 was sent away. Look first, in the same step."
            )
        nothing, ghost = answer(r, absent, 1), r.hgetall(absent)
        if nothing:
            raise NotYet("a product that is not there was reserved.")
        if ghost:
            raise NotYet(f"asking for a product that is not there has made one: {ghost}.")
        sold = _sell_to_crowd(r, answer, key)
        left, fields = _read_stock(r, key), r.hgetall(key)
    finally:
        r.delete(key, absent)
    if left < 0 or sold + left != CROWDED:
        raise NotYet(
            f"alone it is right. {BUYERS} buyers at once were sold {sold} of {CROWDED}, and the "
            f"stock is {left}. Looking and taking must be one step."
        )
    if set(fields) != {"name", "stock"}:
        raise NotYet(
            f"the product had a name and a stock, and now has {', '.join(map(str, fields))}."
        )
    return f"right: {BUYERS} buyers at once, {CROWDED} lamps, none sold twice"


@exercise(
    hints=(
        "Two things are too many: the round trips, and the fields. Only the price is asked "
        "for, and no product waits for another.",
        "HGET reads one field. Queue one HGET for each product in a pipeline with "
        "`transaction=False`. A product that is not there gives None.",
        "After the loop: `zip(ids, pipe.execute())`, leave out the pairs whose price is None, "
        "and make an `int` of the others.",
    )
)
def price_list(
    r: redis.Redis, answer: Callable[[redis.Redis, Sequence[int]], dict[int, int]]
) -> str:
    prices = {k: vary(1000 + 7 * k, 1000, 9999) for k in range(1, 101)}
    keys = [f"check:product:{k}" for k in prices]
    try:
        with r.pipeline(transaction=False) as pipe:
            for key, price in zip(keys, prices.values(), strict=True):
                pipe.hset(key, mapping={"name": "lamp", "price_cents": price, "text": "x" * 500})
            pipe.execute()
        with wire(r) as counted:
            got = answer(r, list(prices))
        with_absent: object
        try:
            with_absent = answer(r, [1, 999, 2])
        except (TypeError, KeyError) as error:
            with_absent = error
        ghost = r.exists("check:product:999")
    finally:
        r.delete(*keys, "check:product:999")
    if not isinstance(got, dict) or set(got) != set(prices):
        raise NotYet("it should be a dictionary with the 100 ids in it.")
    if any(isinstance(price, str) for price in got.values()):
        raise NotYet("the prices are text: a hash keeps no numbers. Convert them.")
    if got != prices:
        wrong = next(k for k in prices if got[k] != prices[k])
        raise NotYet(f"product {wrong} costs {prices[wrong]}, and you say {got[wrong]!r}.")
    if counted.round_trips > 1:
        raise NotYet(
            f"the prices are right, in {counted.round_trips} round trips and {counted.bytes_in:,} "
            "bytes. No command waits for another's reply, so they can share a pipeline; and "
            "the names and texts are not needed."
        )
    if counted.bytes_in > 100 * 40:
        raise NotYet(
            f"one round trip, and {counted.bytes_in:,} bytes came back for 100 prices: HGETALL "
            "sends the whole product. Which command sends one field?"
        )
    if isinstance(with_absent, Exception):
        raise NotYet(
            f"product 999 is not there, and that raised {type(with_absent).__name__}. "
            "Its price comes back as None."
        )
    if with_absent != {1: prices[1], 2: prices[2]} or ghost:
        raise NotYet(f"product 999 is not there and should be left out; you say {with_absent}.")
    return f"right: 100 prices in one round trip, {counted.bytes_in:,} bytes"
