"""The lesson on Redis Cluster: its exercises and its figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import redis
from redis.crc import key_slot

from redis_lab.figures import Chart, Lines, Timeline
from redis_lab.judging import NotYet, exercise, vary
from redis_lab.servers.topology import SLOTS, cluster
from redis_lab.wiretap import wire

FIGURES: dict[str, Chart] = {
    "cluster_throughput": Lines(
        title="More servers, on one machine",
        x="servers",
        y="per_second",
        by="depth",
        theory="theory",
        theory_label="n times what one does",
        xscale="linear",
        xlabel="servers, and generators",
        ylabel="GETs a second, all together",
    ),
    "cluster_failover": Timeline(
        title="A server of the cluster is killed",
        x="seconds",
        lane="lane",
        event="event",
        xlabel="time since the first order (s)",
        meanings={
            "acknowledged": "acknowledged",
            "acknowledged, and lost": "lost",
            "ConnectionError": "refused",
            "ClusterDownError": "refused",
            "due, not sent": "stale",
        },
    ),
}


@exercise(
    hints=(
        "What is between the braces decides the slot. Now it is the same for all users, so all "
        "of them are on one server.",
        "All keys of one user must have the same text between the braces, and another user "
        "another one. So the braces must contain what the user is known by.",
        "Move the braces: they should enclose the user's number, for example together with the "
        "word `user:`. In an f-string a brace that is meant is written twice.",
    )
)
def names(_: redis.Redis, answer: Callable[[int], Sequence[str]]) -> str:
    first = vary(0, 1000, 1_000_000)
    every = {user: list(answer(user)) for user in range(first, first + 300)}
    for user, keys in every.items():
        if len(set(keys)) != 3:
            raise NotYet(f"three different names are needed; user {user} has {keys}.")
        slots = {key_slot(key.encode()) for key in keys}
        if len(slots) > 1:
            raise NotYet(
                f"{keys} lie in {len(slots)} slots, so a MULTI over them is refused "
                "(CROSSSLOT). Put what they have in common between braces."
            )
    if len({key for keys in every.values() for key in keys}) < 900:
        raise NotYet("two users have a key in common.")
    used = {key_slot(keys[0].encode()) for keys in every.values()}
    parts = {slot * 3 // SLOTS for slot in used}
    if len(used) < 100 or len(parts) < 3:
        raise NotYet(
            f"300 users lie in {len(used)} slot{'s' * (len(used) > 1)}: on one server, whatever "
            "the others do. What is between the braces must differ from user to user."
        )
    return "right: one slot for each user, and the users spread over the servers"


@exercise(
    hints=(
        "Each GET is a round trip of its own. The keys are in many slots, so one MGET for all "
        "of them is refused.",
        "A pipeline of the cluster's client sorts its commands by server, and sends each "
        "server its part at once.",
        "In `with client.pipeline() as pipe:` queue a `get` for each key. `execute()` returns "
        "the values in the order of the keys.",
    )
)
def values(_: redis.Redis, answer: Callable[[redis.RedisCluster, list[str]], Sequence]) -> str:
    wanted = {f"page:{n}": str(vary(n, 1000, 1_000_000)) for n in range(200)}
    with cluster(3) as three, three.client() as rc:
        with rc.pipeline() as pipe:
            for key, value in wanted.items():
                pipe.set(key, value)
            pipe.execute()
        keys = [*reversed(wanted), "missing"]
        try:
            with wire(rc) as w:
                got = list(answer(rc, keys))
        except (redis.RedisError, redis.exceptions.RedisClusterException) as error:
            raise NotYet(
                f"{type(error).__name__}: {error}. The keys lie in many slots, and one command "
                "goes to one server."
            ) from error
    if got != [wanted.get(key) for key in keys]:
        raise NotYet(
            "these are not the values in the order of the keys, with None where there is none."
        )
    if w.round_trips > 6:
        raise NotYet(
            f"right, in {w.round_trips} round trips for 3 servers. A pipeline of the cluster's "
            "client is sent to each server once."
        )
    return "right: 201 values, in as many round trips as there are servers"
