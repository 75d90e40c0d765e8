"""The lesson on connections: its exercises and its figures."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import redis

from redis_lab.figures import Chart, DotPlot, Timeline
from redis_lab.judging import NotYet, exercise
from redis_lab.servers.choose import server
from redis_lab.wiretap import wire

FIGURES: dict[str, Chart] = {
    "connections": DotPlot(
        title="One GET: an open connection, or a new one each time",
        x="p50_us",
        xlabel="time for one request (µs, log scale)",
    ),
    "connections_restart": Timeline(
        title="A stall and a death, and what became of each request",
        x="seconds",
        lane="lane",
        event="event",
        xlabel="time since the first request (s)",
        meanings={
            "answered": "acknowledged",
            "tried again, answered": "acknowledged",
            "answered, done twice": "lost",
            "failed, not done": "refused",
            "due, not sent": "stale",
        },
    ),
}

LONG_S = 60
LATEST_S = 60  # how much longer than the pop a worker may wait before it considers the server down
WAITS_S = 0.4


@exercise(
    hints=(
        "How long does the server keep silent while a pop waits, and how long is the socket "
        "willing to wait? And what happens to a pop that is sent a second time?",
        "`socket_timeout` must be some seconds longer than `block_s`, whatever `block_s` is. "
        "The number of retries is the second argument of `Retry`.",
        "Compute the timeout as `block_s` plus some seconds, and let `Retry(NoBackoff(), …)` "
        "retry 0 times.",
    )
)
def worker_client(_: redis.Redis, answer: Callable[[str, float], redis.Redis]) -> str:
    with server() as private:
        client = answer(private.url, LONG_S)
        if not isinstance(client, redis.Redis):
            raise NotYet(f"you should return a redis.Redis, not a {type(client).__name__}.")
        connection: Any = client.connection_pool.make_connection()
        timeout_s = connection.socket_timeout
        if timeout_s is None:
            raise NotYet(
                "without a socket_timeout a worker whose server stands still waits for ever. "
                "How long after block_s is too late?"
            )
        if timeout_s <= LONG_S:
            raise NotYet(
                f"a pop of {LONG_S} s, but the socket gives up after {timeout_s:g} s, on a server "
                "that does exactly what it was asked. socket_timeout must be longer than block_s."
            )
        if timeout_s > LONG_S + LATEST_S:
            raise NotYet(
                f"a pop of {LONG_S} s, and a server that stands still is noticed only after "
                f"{timeout_s:g} s. Some seconds more than block_s are enough."
            )
        other: Any = answer(private.url, WAITS_S).connection_pool.make_connection()
        if other.socket_timeout == timeout_s:
            raise NotYet(
                f"right for a pop of {LONG_S} s, and a pop of {WAITS_S} s has the same timeout: "
                f"{timeout_s:g} s. Compute it from block_s."
            )
        if connection.retry.get_retries() != 0:
            raise NotYet(
                f"the timeout is right, but the pop is tried again up to "
                f"{connection.retry.get_retries()} times. After a stall the server answers the "
                "first try as well, and nobody receives that job. Retry(NoBackoff(), 0) tries once."
            )
        client = answer(private.url, WAITS_S)
        outcome: object
        with wire(client) as counted:
            try:
                outcome = client.blpop(["check:jobs"], timeout=WAITS_S)
            except redis.RedisError as error:
                outcome = type(error).__name__
        if outcome is not None or counted.by_command["BLPOP"] != 1:
            raise NotYet(
                f"right for a pop of {LONG_S} s. A pop of {WAITS_S} s should return None, and ends "
                f"with {outcome!r} after {counted.by_command['BLPOP']} BLPOPs. Use block_s."
            )
    return "right: a pop that finds nothing is one BLPOP and None, and a stall is noticed"


MAY = (("BLMOVE", "jobs:mail", "working:1", "LEFT", "RIGHT", 1), ("LREM", "working:1", 1, "letter"))
MAY_NOT = (
    (("GET", "session:ada"), "the worker can read session:ada. Which keys does a worker need?"),
    (
        ("FLUSHALL",),
        "the worker has just emptied the server. FLUSHALL names no key, so no ~pattern stops it; "
        "it is in @write and @all. Name the commands instead of a category.",
    ),
    (
        ("KEYS", "*"),
        "the worker can list all keys' names. KEYS and SCAN name no key, so no ~pattern "
        "stops them; they are in @read. Name the commands instead of a category.",
    ),
    (
        ("SCAN", 0),
        "the worker can list all keys' names with SCAN. Name the commands.",
    ),
    (
        ("LREM", "mail:ada", 1, "letter"),
        "the worker can change lists that are not its own (LREM on mail:ada). Which two "
        "patterns of keys does the worker need?",
    ),
    (("LRANGE", "jobs:mail", 0, -1), "the worker can read lists (LRANGE). It needs two commands."),
    (("CONFIG", "GET", "*"), "the worker can read the server's configuration. Name the commands."),
    (("LPUSH", "jobs:mail", "forged"), "the worker can add jobs (LPUSH). It needs two commands."),
    (("DEL", "jobs:mail"), "the worker can delete the whole list of jobs. It needs two commands."),
    (("PUBLISH", "news", "x"), "the worker can publish messages. It needs two commands."),
)


@exercise(
    hints=(
        "`+@write` allows every command that writes, FLUSHALL as well, and `+@read` allows "
        "KEYS. A pattern of keys does not stop commands that name no key.",
        "Take the two categories out, and allow the two commands that the worker needs by "
        "name. A plus sign allows a command.",
        "Keep `on`, the password and the two patterns. After them write `+` and the name of "
        "the command, once for BLMOVE and once for LREM.",
    )
)
def rules(_: redis.Redis, answer: str) -> str:
    with server() as private, private.client() as admin:
        admin.rpush("jobs:mail", "letter", "parcel")
        admin.set("session:ada", "a secret")
        try:
            admin.execute_command("ACL", "SETUSER", "worker", "reset", *answer.split())
        except redis.ResponseError as error:
            raise NotYet(f"the server does not take these rules: {error}") from error
        user = admin.acl_getuser("worker")
        if "off" in user["flags"]:
            raise NotYet("a new user is off, and cannot log in. One word switches it on.")
        if "nopass" in user["flags"]:
            raise NotYet("nopass lets in anybody who knows the name. Its password is `lab`: >lab.")
        worker = private.client(username="worker", password="lab")
        try:
            worker.execute_command(*MAY[0])
        except redis.AuthenticationError as error:
            raise NotYet("the worker cannot log in with the password `lab`. Write >lab.") from error
        except redis.exceptions.NoPermissionError as error:
            raise NotYet(
                f"BLMOVE from jobs:mail to working:1 is refused: {error}. It needs the command, "
                "and both patterns of keys."
            ) from error
        for command, hint in MAY_NOT:
            with contextlib.suppress(redis.exceptions.NoPermissionError):
                worker.execute_command(*command)
                raise NotYet(f"the rules allow too much: {hint}")
        try:
            removed = worker.execute_command(*MAY[1])
        except redis.exceptions.NoPermissionError as error:
            raise NotYet(f"LREM on working:1 is refused: {error}.") from error
        if removed != 1 or admin.lrange("jobs:mail", 0, -1) != ["parcel"]:
            raise NotYet("the job did not arrive intact.")
    return f"right: two commands, two patterns of keys, and {len(MAY_NOT)} attempts refused"
