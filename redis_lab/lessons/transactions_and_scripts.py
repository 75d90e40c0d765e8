"""The lesson on transactions and scripts: its exercises and its figures."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import redis

from redis_lab.figures import Chart, Lines
from redis_lab.judging import NotYet, exercise
from redis_lab.servers.choose import server
from redis_lab.wiretap import wire

FIGURES: dict[str, Chart] = {
    "transactions": Lines(
        title="Four processes transfer money",
        x="accounts",
        y="transfers_s",
        xlabel="accounts to choose from (fewer: more contention)",
        ylabel="transfers a second, all four together",
        meanings={
            "naive (wrong)": "lost",
            "WATCH": "ours",
        },
    ),
    "transactions_retries": Lines(
        title="How often WATCH has to try again",
        x="accounts",
        y="retries",
        theory="ceiling",
        theory_label="ceiling: (processes − 1) × 2 ÷ accounts",
        xlabel="accounts to choose from (fewer: more contention)",
        ylabel="retries for each transfer",
    ),
}

THREADS, EACH, IN_STOCK = 8, 40, 200


def _interrupt_after(r: redis.Redis, at: int, act: Callable[[], object]) -> redis.Redis:
    """A client that is interrupted: after its reply number `at`, `act` is called."""
    replies = -1_000_000  # replies to the connection's handshake do not count

    pool = r.connection_pool
    kind: Any = pool.connection_class

    class Interrupted(kind):
        def read_response(self, *args, **kwargs):
            nonlocal replies
            try:
                return super().read_response(*args, **kwargs)
            finally:
                replies += 1
                if replies == at:
                    act()

    kwargs = pool.connection_kwargs
    client = redis.Redis(
        connection_pool=redis.ConnectionPool(connection_class=Interrupted, **kwargs)
    )
    client.ping()
    replies = 0
    return client


# A rival whose purchase is correct
TAKE = """
if tonumber(redis.call('GET', KEYS[1]) or '0') < 3 then return 0 end
redis.call('DECRBY', KEYS[1], 3)
return 3
"""

Buy = Callable[[redis.Redis, str, str, int], bool]


@exercise(
    hints=(
        "MULTI keeps other clients out while your two commands run. But the decision, the GET "
        "and the `if`, is made before it. What may happen between the two?",
        "WATCH and a retry would notice, in several round trips. A script decides on the "
        "server, in one: GET, compare, DECRBY, INCRBY.",
        "In Lua: `if tonumber(redis.call('GET', KEYS[1]) or '0') < tonumber(ARGV[1]) then "
        "return 0 end`, then the two writes and `return 1`. Register it with "
        "`r.register_script`, call it with `keys=[stock, cart], args=[quantity], client=r`, "
        "and compare the reply with 1.",
    )
)
def buy(r: redis.Redis, answer: Buy) -> str:
    stock, cart = "check:stock", "check:cart"
    try:
        _check_alone(r, answer, stock, cart)
        for at in range(1, 9):
            _check_rival(r, answer, stock, cart, at)
            _check_observer(r, answer, stock, cart, at)
        r.mset({stock: 5, cart: 0})
        with wire(r) as counted:
            answer(r, stock, cart, 1)
        _check_crowd(r, answer, stock, cart)
    finally:
        r.delete(stock, cart)
    if counted.round_trips > 1:
        raise NotYet(
            f"not a piece is sold twice, in {counted.round_trips} round trips, and more when two "
            "want the same. Where could the decision be made, so that one is enough?"
        )
    return (
        f"right: one round trip; {THREADS} threads wanted {THREADS * EACH}, "
        f"{IN_STOCK} were there, {IN_STOCK} were sold"
    )


def _read_numbers(r: redis.Redis, *keys: str) -> tuple[int, ...]:
    """The numbers at keys; a missing key counts as 0."""
    return tuple(int(found or 0) for found in r.mget(*keys))


def _check_alone(r: redis.Redis, answer: Buy, stock: str, cart: str) -> None:
    for left, quantity, sold in ((5, 3, True), (3, 3, True), (2, 3, False), (0, 1, False)):
        r.mset({stock: left, cart: 0})
        result = answer(r, stock, cart, quantity)
        now = _read_numbers(r, stock, cart)
        right = (left - quantity, quantity) if sold else (left, 0)
        if now != right:
            raise NotYet(
                f"{left} in stock, {quantity} wanted: stock and cart should be {right} then, "
                f"and are {now}."
            )
        if bool(result) != sold:
            raise NotYet(
                f"{left} in stock, {quantity} wanted: stock and cart are right, but the answer "
                f"is {result!r}. The caller must learn whether it was sold."
            )


def _check_rival(r: redis.Redis, answer: Buy, stock: str, cart: str, at: int) -> None:
    """Five are in stock, two buyers want three each; the rival buys after reply `at`."""
    r.mset({stock: 5, cart: 0})
    rival = []
    client = _interrupt_after(r, at, lambda: rival.append(r.eval(TAKE, 1, stock)))
    try:
        result = answer(client, stock, cart, 3)
    finally:
        client.close()
    left, bought = _read_numbers(r, stock, cart)
    others = sum(rival)
    if left < 0:
        raise NotYet(
            f"right when you are alone. But a rival bought 3 of the 5 after reply number {at}, "
            f"and you sold 3 as well: {left} in stock. The decision was out of date when the "
            "pipeline was sent. WATCH would notice; a script would decide on the server."
        )
    if left + bought + others != 5 or bought != (3 if result else 0):
        raise NotYet(
            f"right when you are alone. But a rival came between, after reply number {at}: "
            f"of 5 pieces {left} are in stock, {bought} in your cart, {others} with the rival, "
            f"and the answer was {result!r}. Taking and adding must happen together."
        )


def _check_observer(r: redis.Redis, answer: Buy, stock: str, cart: str, at: int) -> None:
    """Two are in stock, three wanted; another client reads the stock after reply `at`."""
    r.mset({stock: 2, cart: 0})
    seen: list[int] = []
    client = _interrupt_after(r, at, lambda: seen.extend(_read_numbers(r, stock)))
    try:
        answer(client, stock, cart, 3)
    finally:
        client.close()
    if seen and seen[0] != 2:
        raise NotYet(
            f"2 in stock, 3 wanted: in the end all is well, but after reply number {at} the stock "
            f"was {seen[0]}. A buyer who looked just then was turned away, or sold what is gone. "
            "Look first, take afterwards, in one step."
        )


def _check_crowd(r: redis.Redis, answer: Buy, stock: str, cart: str) -> None:
    r.mset({stock: IN_STOCK, cart: 0})

    def visitor(_: int) -> int:
        return sum(bool(answer(r, stock, cart, 1)) for _ in range(EACH))

    with ThreadPoolExecutor(THREADS) as pool:
        sold = sum(pool.map(visitor, range(THREADS)))
    left, carts = _read_numbers(r, stock, cart)
    if (left, carts, sold) != (0, IN_STOCK, IN_STOCK):
        raise NotYet(
            f"{THREADS} threads wanted more than the {IN_STOCK} pieces there were: {left} are "
            f"left, {carts} in the cart, {sold} calls said they were sold."
        )


@exercise(
    hints=(
        "EVALSHA sends only the hash of the script. What does a server say that does not know "
        "the script, for example after a restart?",
        "It says NOSCRIPT, and then the text must be sent. redis-py has an object that does "
        "exactly this: it tries EVALSHA, and sends the text only if it must.",
        "`r.register_script(HIGHER)` makes it. Call it like a function, with `keys`, `args`, "
        "and `client=r`, so that it talks to the client that was handed in.",
    )
)
def set_if_higher(shared: redis.Redis, answer: Callable[[redis.Redis, str, int], object]) -> str:
    """It runs on a private server, because SCRIPT FLUSH would affect other users."""
    key = "check:best"
    try:
        with server() as private, private.client() as r:
            return _judge_higher(r, answer, key)
    finally:
        shared.delete(key)  # the server of an answer that did not use `r`


def _judge_higher(r: redis.Redis, answer: Callable, key: str) -> str:
    def best() -> int:
        return int(r.get(key) or 0)

    try:
        answer(r, key, 9)
    except redis.exceptions.NoScriptError:
        raise NotYet(
            "NOSCRIPT: this server has never seen your script, and yours will not have seen it "
            "after its next restart. EVALSHA sends only a hash. Which call sends the text when the "
            "server does not know it?"
        ) from None
    if best() != 9:
        raise NotYet(
            f"where nothing was, 9 should be stored, and there is {r.get(key)!r}. (A script object "
            "talks to the client that registered it, unless you say client=r.)"
        )
    for value, right in ((10, 10), (7, 10), (10, 10)):
        answer(r, key, value)
        if best() != right:
            raise NotYet(
                f"{value} came, the best should be {right}, and is {best()}. "
                "(As text, '9' is higher than '10'; tonumber makes numbers of both.)"
            )
    for at in range(1, 6):
        _check_higher(r, answer, key, at)
    r.script_flush()
    try:
        answer(r, key, 200)
    except redis.exceptions.NoScriptError:
        raise NotYet(
            "it works until the server forgets its scripts (a restart, SCRIPT FLUSH): NOSCRIPT. "
            "Which call sends the text again?"
        ) from None
    if best() != 200:
        raise NotYet(f"after SCRIPT FLUSH 200 should be stored, and there is {best()}.")
    with wire(r) as counted:
        answer(r, key, 300)
    if counted.round_trips > 1:
        raise NotYet(
            f"right, in {counted.round_trips} round trips every time. Only the call that finds "
            "the script missing needs more than one."
        )
    if counted.by_command["EVAL"]:
        raise NotYet(
            f"right, but the whole text travels with every call, {counted.bytes_out} bytes. "
            "EVALSHA sends 40 characters, and the text only when it is missing."
        )
    return "right: one round trip, 40 characters instead of the text, and a restart does no harm"


def _check_higher(r: redis.Redis, answer: Callable, key: str, at: int) -> None:
    """Another client stores 100 after the answer's reply `at`; an answer of 50 must not win."""
    r.set(key, 10)
    came = []
    client = _interrupt_after(r, at, lambda: came.append(r.set(key, 100)))
    try:
        answer(client, key, 50)
    finally:
        client.close()
    right = "100" if came else "50"
    if r.get(key) != right:
        raise NotYet(
            f"somebody stored 100 after reply number {at}, and your 50 replaced it. Looking and "
            "storing must be one step."
        )
