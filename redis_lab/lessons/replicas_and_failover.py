"""The lesson on replicas and failover: its exercises and its figures."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable

import redis

from redis_lab.figures import Chart, Lines, Timeline
from redis_lab.judging import NotYet, exercise, vary
from redis_lab.servers.topology import Replicated, replicated, wait_until
from redis_lab.wiretap import wire

FIGURES: dict[str, Chart] = {
    "replicas_lag": Lines(
        title="A replica at a distance",
        x="rtt_ms",
        y="ms",
        by="arm",
        xscale="linear",
        yscale="linear",
        theory="theory_ms",
        theory_label="without distance + 0, ½ or 1 round trip",
        xlabel="round trip between primary and replica (ms)",
        ylabel="time since the SET was sent (ms)",
    ),
    "replicas_failover": Timeline(
        title="A primary is killed at a bad moment",
        x="seconds",
        lane="lane",
        event="event",
        xlabel="time since the first order (s)",
        meanings={
            "acknowledged": "acknowledged",
            "read from a replica": "acknowledged",
            "acknowledged, and lost": "lost",
            "ConnectionError": "refused",
            "MasterNotFoundError": "refused",
        },
    ),
}

PATIENCE_S = 4


def _make_alternating_client(made: Replicated) -> redis.Redis:
    """A client whose two open connections take turns."""
    pool = redis.BlockingConnectionPool.from_url(
        made.primary.url,
        max_connections=2,
        queue_class=queue.Queue,
        decode_responses=True,
        socket_timeout=PATIENCE_S,
    )
    client = redis.Redis(connection_pool=pool)
    client.ping(), client.ping()
    return client


@exercise(
    hints=(
        "WAIT asks about the last write of its own connection. The client has a pool, so are "
        "SET and WAIT on the same connection?",
        "A pipeline uses one connection for all its commands. Without MULTI, that is: inside a "
        "transaction WAIT does not wait.",
        "In `primary.pipeline(transaction=False)` queue the `set` and `wait(1, 200)`. The last "
        "reply is the number of replicas that have it.",
    )
)
def write_safely(_: redis.Redis, answer: Callable[[redis.Redis, str, str], bool]) -> str:
    with replicated(2) as made, made.primary.client() as own:
        client = _make_alternating_client(made)

        def up_to_date() -> None:
            client.ping(), client.ping()
            own.set("check:mark", 1)
            if own.wait(2, 5000) < 2:
                raise NotYet("the replicas of this check did not catch up. Try again.")

        up_to_date()
        with wire(client) as w:
            acknowledged = answer(client, "check:1", "paid")
        if own.get("check:1") != "paid":
            raise NotYet(f"the key holds {own.get('check:1')!r} afterwards, not the value.")
        if not acknowledged:
            raise NotYet("both replicas were well, and the answer was not True.")
        up_to_date()
        with made.replicas[0].stalled():
            if not answer(client, "check:2", "paid"):
                raise NotYet(
                    "one of the two replicas stood still, the other had the value; that is enough."
                )
        up_to_date()
        with made.replicas[0].stalled(), made.replicas[1].stalled():
            start = time.perf_counter()
            try:
                acknowledged = answer(client, "check:3", "paid")
            except redis.TimeoutError:
                raise NotYet(
                    "with both replicas standing still it waits without end. WAIT takes "
                    "milliseconds; 0 means for ever."
                ) from None
            waited = time.perf_counter() - start
        if acknowledged and waited < 0.1:
            raise NotYet(
                "both replicas stood still and the answer was True at once. WAIT asks about the "
                "last write of its own connection: are SET and WAIT on the same one? And not in "
                "MULTI, where WAIT does not wait?"
            )
        if acknowledged:
            raise NotYet("both replicas stood still, and the answer was True.")
        if own.get("check:3") != "paid":
            raise NotYet(
                "no replica had it, and now it is gone from the primary. The value stays in any "
                "case; others may have read it already."
            )
    return f"right: True only when a replica has it, round trips: {w.round_trips}"


@exercise(
    hints=(
        "`min_replicas_max_lag` is only looked at if replicas are required. How many, if one "
        "of the two may be down?",
        "`min_replicas_to_write` says how many. And silence is counted in whole seconds and "
        "looked at once a second, so up to two seconds come on top of the lag.",
        "Require 1 replica, and make the lag two seconds shorter than what is asked for.",
    )
)
def settings(_: redis.Redis, answer: Callable[[int], dict]) -> str:
    for seconds in (30, vary(10, 12, 25), 3):
        given = {name.replace("-", "_"): int(value) for name, value in answer(seconds).items()}
        strange = set(given) - {"min_replicas_to_write", "min_replicas_max_lag"}
        if strange:
            raise NotYet(f"{', '.join(sorted(strange))} is not needed for this.")
        enough, lag = given.get("min_replicas_to_write", 0), given.get("min_replicas_max_lag", 10)
        asked = f"for {seconds} seconds your answer is {given}"
        if enough < 1:
            raise NotYet(
                f"{asked}. Without min_replicas_to_write the primary needs no replica at all, and "
                "max-lag is never looked at."
            )
        if enough > 1:
            raise NotYet(f"{asked}. With {enough} replicas needed, one that is down stops writes.")
        if lag < 1:
            raise NotYet(f"{asked}. A max-lag of 0 switches the whole thing off.")
        if lag > seconds - 2:
            raise NotYet(
                f"{asked}. Silence is counted in whole seconds and looked at once a second: up to "
                "two seconds come on top of max-lag."
            )
        if lag < seconds - 4:
            raise NotYet(
                f"{asked}. That is stricter than asked, and a short network failure would "
                "already stop the shop. Use what is allowed."
            )
    with replicated(1, **given) as made, made.primary.client() as primary:
        wait_until(lambda: primary.info("replication")["min_slaves_good_slaves"] == 1, 10, "Health")
        primary.set("check:order", "paid")  # one replica is down, and nobody notices
        with made.replicas[0].stalled():
            primary.client_kill_filter(_type="replica")
            try:
                primary.set("check:order", "lost")
            except redis.ResponseError as error:
                refusal = str(error).split()[0]
            else:
                raise NotYet(f"with {given} and no replica at all the primary takes writes.")
    return f"right: one of two replicas is enough, and without any the primary says {refusal}"
