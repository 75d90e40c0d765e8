"""Start and stop a gateway that speaks the Upstash REST protocol in front of any Redis.

    with gateway(server) as web:
        web.client().set("greeting", "hello")  # upstash-redis, as it would talk to the service

The gateway is a separate process (`app.py`), so that it does not slow down the client in
measurements.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import redis

from ..child import Child
from ..distance import Link, Relay
from ..errors import LabError
from ..extras import require
from ..servers.base import CONTACT_TIMEOUT_S, Allowance, Server, check_url, redact

__all__ = ["TOKEN", "URL", "Endpoint", "Gateway", "gateway", "service"]

APP = Path(__file__).with_name("app.py")
BODY_LIMIT = 2**20  # bytes; the service allows 10 MB, even on the free plan
MAX_CLIENTS = 1000
REPLY_LIMIT = 8 * 2**20  # bytes; with this limit the gateway uses less than about 400 MB
URL, TOKEN = "UPSTASH_REDIS_REST_URL", "UPSTASH_REDIS_REST_TOKEN"


class Endpoint:
    """Where a REST API is: `url`, `token`, and a `prefix` for the keys of a lesson."""

    def __init__(self, url: str, token: str, prefix: str) -> None:
        self.url, self.token, self.prefix = url, token, prefix

    def __repr__(self) -> str:
        return f"the REST API at {redact(self.url)}"

    def client(self, **options: Any) -> Any:
        """A new `upstash_redis.Redis`, with telemetry switched off."""
        from upstash_redis import Redis

        return Redis(self.url, self.token, **{"allow_telemetry": False, **options})

    def async_client(self, **options: Any) -> Any:
        """A new `upstash_redis.asyncio.Redis`."""
        from upstash_redis.asyncio import Redis

        return Redis(self.url, self.token, **{"allow_telemetry": False, **options})

    def remove(self) -> int:
        """Delete only the keys with the prefix; return how many there were."""
        removed, cursor = 0, 0
        with self.client() as client:
            while True:
                cursor, keys = client.scan(int(cursor), match=f"{self.prefix}*", count=500)
                removed += client.delete(*keys) if keys else 0
                if int(cursor) == 0:
                    return removed


class Gateway(Endpoint):
    """A gateway process of the lab's own; `stop()` ends it, `kill()` as a crash would.

    Attributes: `pid`, `port` (on loopback), `ro_token` (a token that may only read), and those of
    `Endpoint`.
    """

    def __init__(
        self,
        url: str,
        token: str | None,
        prefix: str,
        port: int,
        body_limit: int,
        allow_dangerous: bool = False,
        reply_limit: int = REPLY_LIMIT,
        ro_token: str | None = None,
        max_clients: int = MAX_CLIENTS,
    ) -> None:
        self.ro_token = ro_token or secrets.token_urlsafe(24)
        self.settings = {
            "url": url,
            "port": port,
            "body_limit": body_limit,
            "allow_dangerous": allow_dangerous,
            "reply_limit": reply_limit,
            "max_clients": max_clients,
        }
        super().__init__("", token or secrets.token_urlsafe(24), prefix)
        self.start()

    def start(self) -> None:
        """Raises: LabError when it does not start, or when a package that it needs is not
        installed.
        """
        require("tornado", "upstash_redis", "httpx")
        # Not on the command line: passwords must not show in the list of processes.
        settings = {**self.settings, "token": self.token, "ro_token": self.ro_token}
        self._child = Child("The gateway", APP, settings=settings, isolated=False)
        self.settings["port"] = self.port = int(self._child.wait_ready().split()[1])
        self.pid, self.url = self._child.pid, f"http://127.0.0.1:{self.port}"

    def kill(self) -> None:
        """Kill it with SIGKILL: its current requests and the replies not yet sent are lost."""
        self._child.kill()

    def restart(self) -> None:
        """Start it again, with the same port and token."""
        self.stop()
        self.start()

    def stop(self) -> None:
        """End the process; a second time does nothing."""
        self._child.stop()

    @contextlib.contextmanager
    def behind(self, far: Link) -> Iterator[Endpoint]:
        """The gateway behind a relay with the delay of `far`, so that it is as far away as Redis is
        there.
        """
        if far.delay_ms is None:
            yield self
            return
        relay = Relay("tcp", "127.0.0.1", str(self.port))
        try:
            relay.set_delay(far.delay_ms)
            yield Endpoint(f"http://127.0.0.1:{relay.port}", self.token, self.prefix)
        finally:
            relay.stop()

    def __enter__(self) -> Gateway:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return "a gateway of the lab's own, on loopback"


def gateway(
    target: Server | str,
    *,
    token: str | None = None,
    ro_token: str | None = None,
    prefix: str = "rest:",
    port: int = 0,
    body_limit: int = BODY_LIMIT,
    allow_dangerous: bool = False,
    reply_limit: int = REPLY_LIMIT,
    max_clients: int = MAX_CLIENTS,
) -> Gateway:
    """Start a gateway in front of a Redis, given as a `Server` or a URL; use it in a `with` block.

    If no `token` is given, a random one is generated; the same is true of `ro_token`, which only
    allows commands that read, and not those that may read everything, such as KEYS and SCAN. The
    gateway listens on loopback, on a free port by default. More than `max_clients` connections are
    answered with status 503. `body_limit` is the longest body of a request, in bytes. `reply_limit`
    is the most bytes that Redis may answer to one request; longer replies are refused. A client
    that does not read its answer is disconnected.

    If you have the token, you may read and write every key of the URL's database. Commands that can
    do more harm are refused with an error: FLUSHALL, FLUSHDB, CONFIG, ACL, MODULE, REPLICAOF,
    FAILOVER, SHUTDOWN, DEBUG, SAVE, MIGRATE, RESTORE, commands that reach other databases, and
    scripts that name one of these. `allow_dangerous` allows them. A script can hide what it calls;
    if that matters, give the URL of a user with a restricted ACL.

    Raises: LabError if `target` is not the URL of a Redis, or when the gateway cannot start.
    """
    if not isinstance(target, Server | str):
        raise LabError(
            f"A gateway needs a Server or a URL, not {type(target).__name__}: "
            "rest.gateway(lab.server())."
        )
    url = target.url if isinstance(target, Server) else target
    check_url(url)
    for one in (token, ro_token):
        if one is not None and not re.fullmatch(r"[!-~]+", one):
            raise LabError("A token is sent in a header: visible ASCII, no spaces, not empty.")
    if token is not None and token == ro_token:
        raise LabError("The token that may only read must be another than the one that may write.")
    limits = {"reply_limit": reply_limit, "max_clients": max_clients}
    return Gateway(
        url, token, prefix, port, body_limit, allow_dangerous, ro_token=ro_token, **limits
    )


def service(default: Gateway) -> Endpoint:
    """The service that UPSTASH_REDIS_REST_URL and _TOKEN name; without them, the given gateway.

    On the service the prefix holds random letters, so that a lesson touches only its own keys.

    Raises: LabError when only one of the two is set, or no such service answers there.
    """
    url, token = os.environ.get(URL), os.environ.get(TOKEN)
    if not url and not token:
        return default
    if not url or not token:
        raise LabError(f"Set both {URL} and {TOKEN}, or neither, to use a gateway of the lab's.")
    if not re.fullmatch(r"https?://[\w.-]+(:\d+)?/?", url):
        raise LabError(
            f"{URL} should be the service's address, https://name.upstash.io, without a password, "
            f"not {redact(url)}."
        )
    _try(url, token)
    return Endpoint(url.rstrip("/"), token, f"{default.prefix}{secrets.token_hex(4)}:")


def _try(url: str, token: str) -> None:
    """Raises: LabError where no REST API answers, or not with this token."""
    import httpx

    def ask() -> httpx.Response:
        sent = {"Authorization": f"Bearer {token}"}
        return httpx.post(url, json=["PING"], headers=sent, timeout=CONTACT_TIMEOUT_S)

    try:
        answer = Allowance().call(ask)
        said = answer.json()
        pong = answer.status_code == 200 and said["result"] == "PONG"
    except (httpx.HTTPError, redis.RedisError, OSError) as error:
        raise LabError(f"Nothing answers at {url} ({error}). Correct {URL}, or unset it.") from None
    except (ValueError, KeyError, TypeError):  # also a token that cannot stand in a header
        pong = False
    if not pong:
        raise LabError(
            f"What answers at {url} is no REST API of Redis that takes this token. Correct {URL} "
            f"and {TOKEN}, or unset both to use a gateway of the lab's."
        )
