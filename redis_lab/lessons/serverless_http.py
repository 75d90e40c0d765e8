"""The lesson on serverless HTTP: its exercises and its figures."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable

import redis

from redis_lab import rest
from redis_lab.figures import Chart, DotPlot, Lines
from redis_lab.judging import NotYet, exercise
from redis_lab.servers.choose import server

FIGURES: dict[str, Chart] = {
    "serverless_http": Lines(
        title="The same GETs over TCP and over HTTP",
        x="rtt_ms",
        y="p50_us",
        by="arm",
        panels="panel",
        theory="theory_us",
        theory_label="cost without distance + round trips × distance",
        xlabel="round trip to Redis or its gateway (ms)",
        ylabel="time for all of it (µs)",
        meanings={
            "TCP, open": "ours",
            "TCP, cold": "ours",
            "TCP, cold and lean": "ours",
            "TCP, pipeline": "ours",
            "HTTP, open": "theirs",
            "HTTP, cold": "theirs",
            "HTTP, new client": "theirs",
            "HTTP, pipeline": "theirs",
            "HTTP, one by one": "theirs",
        },
    ),
    "serverless_http_cost": DotPlot(
        title="One GET next door",
        x="p50_us",
        xlabel="time for one GET (µs, log scale)",
        meanings={
            "http.client": "baseline",
            "upstash-redis": "theirs",
            "upstash-redis, new each time": "theirs",
        },
    ),
}

COMMANDS = (
    ["SET", "check:plain", "lamp"],
    ["SET", "check:path", "a/b?c=d&e"],
    ["SET", "check:percent", "100 % wool + 5%20"],
    ["SET", "check:empty", ""],
    ["SET", "check:text", 'ä "quoted" \\ line\n'],
)

CUT = (
    "A path is cut at its slashes and ends at a question mark; in a JSON array in the body "
    "nothing is cut."
)


@exercise(
    hints=(
        "A path is cut at slashes and ends at a question mark, so a value cannot be put there "
        "as it is. Where else in a request can text go?",
        "The body. With POST to `/` the gateway takes the command as a JSON array. The token "
        "stays in the header.",
        'Return `"POST"`, `"/"`, the header that is there already, and `json.dumps` of the '
        "command.",
    )
)
def encode(_: redis.Redis, answer: Callable[[list[str], str], tuple]) -> str:
    with server() as private, rest.gateway(private) as web, private.client() as r:
        return _check_encoding(answer, web, r)


def _check_encoding(answer: Callable, web: rest.Gateway, r: redis.Redis) -> str:
    for command in COMMANDS:
        request = answer(command, web.token)
        if not isinstance(request, tuple) or len(request) != 4:
            raise NotYet("the function should return four things: method, path, headers and body.")
        status, reply = _send_request(web.port, *request)
        if web.token in request[1]:
            raise NotYet(
                "the token is in the address, and addresses are written to the logs of "
                "every machine on the way. Put it into a header."
            )
        if status == 401:
            raise NotYet(
                f"the gateway says 401, {reply}. "
                "Who is asking? The token goes into the header Authorization, after Bearer."
            )
        if status != 200:
            raise NotYet(
                f"{command!r} became {request[0]} {request[1]}, and the gateway says "
                f"{status}, {reply}. {CUT if request[1] != '/' else ''}".rstrip()
            )
        if (stored := r.get(command[1])) != command[2]:
            raise NotYet(f"{command[1]} should be {command[2]!r} and is {stored!r}. {CUT}")
        r.delete(command[1])
    return f"right: {len(COMMANDS)} commands arrived as they were, with their spaces and slashes"


def _send_request(
    port: int, method: str, path: str, headers: dict, body: str | bytes | None
) -> tuple:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        body = body.encode() if isinstance(body, str) else body
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return response.status, json.loads(response.read()).get("error")
    except http.client.InvalidURL:
        raise NotYet(f"{path!r} is not a path: it cannot contain spaces. What can?") from None
    finally:
        connection.close()


@exercise(
    hints=(
        "Three requests are three moments at which the function may end. One request can carry "
        "several commands.",
        "There are two ways to send several: `/pipeline`, between whose commands others may "
        "come, and `/multi-exec`, which runs them as a transaction. The client has a method "
        "for each.",
        "Begin with `multi = client.multi()`, call the three commands on `multi` instead of "
        "`client`, and end with `multi.exec()`.",
    )
)
def place_order(_: redis.Redis, answer: Callable[[object, str, dict[str, str]], object]) -> str:
    with server() as private, rest.gateway(private) as web, private.client() as r:
        return _check_order(answer, web, r)


def _check_order(answer: Callable, web: rest.Gateway, r: redis.Redis) -> str:
    key, queue, fields = "check:order:7", "check:orders", {"user": "ada", "total": "4999"}
    with web.client(rest_retries=0) as client:
        client.ping()
        with rest.exchanges(client) as seen:
            answer(client, "7", fields)
        stored, left, queued = r.hgetall(key), r.ttl(key), r.lrange(queue, 0, -1)
    if stored != fields:
        raise NotYet(f"{key} should be the hash {fields} and is {stored or 'not there'}.")
    if queued != ["7"]:
        raise NotYet(f"the list {queue} should be ['7'] and is {queued}.")
    if not 3300 < left <= 3600:
        raise NotYet(f"{key} should live for an hour, and its TTL is {left}.")
    if len(seen) > 1:
        raise NotYet(
            f"right, in {len(seen)} requests: as many waits, and as many moments at which the "
            "function may be ended with half an order written. One request can carry all three."
        )
    if seen[0].path.rstrip("/") == "/pipeline":
        raise NotYet(
            "right, in one request. But between two commands of a pipeline another client may "
            "look, and find an order without a time to live. Which route lets nobody in between?"
        )
    return f"right: one request to {seen[0].path}, and nobody sees half an order"
