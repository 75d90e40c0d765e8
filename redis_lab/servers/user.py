"""The server that REDIS_URL names, which belongs to the user."""

from __future__ import annotations

import atexit
import contextlib
import os
from collections.abc import Iterator
from typing import Any, cast

import redis

from .. import internals
from ..errors import LabError
from .base import (
    Allowance,
    Kind,
    Server,
    check_url,
    fail_fast,
    is_too_old,
    redact,
)
from .guest import Guest, claim_database, restrict, restrict_cluster


class UserServer(Server):
    """The server that REDIS_URL names. See `guest.py` for what the lab may do there."""

    kind = "url"
    guest: Guest | None = None
    run: str | None = None  # the server's run id, which changes with a restart

    def __init__(self, url: str) -> None:
        self.url = url
        self.shown = redact(url)
        pool = check_url(url)
        self.host = pool.connection_kwargs.get("host", "127.0.0.1")
        self.port = pool.connection_kwargs.get("port", 0)
        self.socket = pool.connection_kwargs.get("path")
        self._allowance = Allowance()  # for all that comes before a lesson's first command
        with self._explained():
            self._allowance.call(self._examine)

    def _examine(self) -> None:
        """Find out which server it is. Raises: LabError if the lab cannot work on it."""
        info = self.identify()
        self.run = info.get("run_id")
        mode = info.get("server_mode") or info.get("redis_mode")  # of Valkey, of Redis
        if mode == "sentinel":
            raise LabError(
                f"{self.shown} is a Sentinel, which holds no data. Name the server that it watches "
                "in REDIS_URL, or unset it to let the lab bring its own server."
            )
        if is_too_old(self.compatible):
            raise LabError(
                f"{self.shown} runs Redis {self.version}; the lab needs 7.0 or newer. "
                "Upgrade it, or unset REDIS_URL to let the lab bring its own server."
            )
        as_a_lesson = {name: value for name, value in fail_fast().items() if name != "protocol"}
        with self.client(**as_a_lesson, parser_class=internals.PLAIN_PARSER) as client:
            role = client.info("replication")
            self.clustered = bool(client.info("cluster").get("cluster_enabled"))
        # A cluster's client finds the primaries by itself
        if role.get("role") == "slave" and not self.clustered:
            raise LabError(
                f"{self.shown} is a replica of "
                f"{role.get('master_host')}:{role.get('master_port')}. "
                "Name that server in REDIS_URL instead, or unset it to let the lab bring its own."
            )

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Raises: LabError for an exception that shows that the lab cannot work on the server."""
        shown, own = self.shown, "or unset REDIS_URL to let the lab bring its own server."
        try:
            yield
        except redis.AuthenticationError as error:
            raise LabError(
                f"{shown} refused the user name or password ({error}). "
                "Write them into the URL: redis://user:password@host:port/0."
            ) from error
        except redis.exceptions.NoPermissionError as error:
            raise self._forbidden(error) from error
        except redis.exceptions.OutOfMemoryError as error:
            raise LabError(
                f"{shown} is full and refuses to write ({error}). Raise its maxmemory, {own}"
            ) from error
        except redis.exceptions.RedisClusterException as error:
            raise LabError(
                f"{shown} is a node of a cluster that cannot be used ({str(error).rstrip('.')}). "
                f"Check with CLUSTER INFO that all its slots are served, {own}"
            ) from error
        except redis.ResponseError as error:
            if "DB index" in str(error):
                raise LabError(
                    f"{shown} has no database of that number ({error}). Name a lower one, {own}"
                ) from error
            raise LabError(
                f"{shown} refuses what the lab needs: {str(error).rstrip('.')}. Allow it, {own}"
            ) from error
        except redis.exceptions.BusyLoadingError as error:
            raise LabError(
                f"{shown} is not ready yet ({str(error).rstrip('.')}). Try again later, {own}"
            ) from error
        except (redis.RedisError, OSError) as error:
            tls = shown.startswith("rediss:")
            raise LabError(
                f"No Redis answers at {shown} ({str(error).rstrip('.')}). Start it, fix "
                f"REDIS_URL{' (redis:// if it speaks no TLS)' * tls}, {own}"
            ) from error
        except (LookupError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise LabError(
                f"What answers at {shown} does not answer INFO or COMMAND as Redis does. "
                f"Name a Redis, {own}"
            ) from error

    def _forbidden(self, error: Exception) -> LabError:
        return LabError(
            f"{self.shown} does not let this user do what the lab needs: {error}. Allow it with "
            "ACL SETUSER name ~* &* +@all -@admin -@dangerous +info, or unset REDIS_URL to let "
            "the lab bring its own server."
        )

    def origin(self) -> str:
        return "REDIS_URL"

    def visit(self) -> Guest:
        """Claim an empty database there, once; from then on every client is restricted.

        Raises: LabError if no database can be claimed.
        """
        if self.guest is None:
            with self._explained():
                self.guest = self._allowance.call(self._claim)
            if self.guest.removed:
                print(
                    f"Removed {self.guest.removed:,} keys that a run of the lab had left in "
                    f"database {self.guest.database} when it was killed."
                )
            atexit.register(self.leave, self.guest)
        return self.guest

    def _claim(self) -> Guest:
        one = super().client(**fail_fast())
        everywhere = self._cluster_client(**fail_fast()) if self.clustered else None
        return claim_database(one, self.shown, everywhere)

    def _cluster_client(self, **options: Any) -> redis.RedisCluster:
        return redis.RedisCluster.from_url(self.url, **{"decode_responses": True, **options})

    def client(self, **options: Any) -> redis.Redis:
        """A new client; a RedisCluster, if the URL names a node of a cluster."""
        if self.guest is None:
            return super().client(**options)
        if self.clustered:
            # RedisCluster has the same commands as Redis; code that needs the difference uses
            # isinstance
            return cast(redis.Redis, restrict_cluster(self._cluster_client(**options), self.guest))
        return restrict(super().client(**options), self.guest)

    def listens(self) -> bool:
        """Whether it answers, and is still the server that REDIS_URL names.

        Raises: LabError if REDIS_URL still names it and it does not answer.
        """
        client = self.guest.client if self.guest else super().client(**fail_fast())
        try:
            run = Allowance().call(lambda: client.info("server").get("run_id"))
            self.restarted = self.run is not None and run != self.run
            self.run = run
            if self.restarted and self.guest:
                self.guest.note_restart(str(run))
            return True
        except (redis.RedisError, OSError) as error:
            if os.environ.get("REDIS_URL") != self.url:
                return False
            raise LabError(
                f"{self.shown} does not answer any more ({str(error).rstrip('.')}). Start it "
                "again, or unset REDIS_URL to let the lab bring its own server; then connect again."
            ) from error

    def transport(self) -> str:
        return super().transport() + (", cluster" if self.clustered else "")

    def leave(self, guest: Guest) -> int:
        if os.getpid() != guest.owner:
            return 0
        plain = super().client
        with (
            contextlib.suppress(redis.RedisError),
            (self._cluster_client if self.clustered else plain)(**fail_fast()) as client,
        ):
            return guest.remove_written(client)
        return 0


class Url(Kind):
    """The server that REDIS_URL names, which is the user's own."""

    name = UserServer.kind
    private = False
    fallback = False

    def probe(self) -> tuple[bool, str]:
        url = os.environ.get("REDIS_URL")
        return bool(url), f"REDIS_URL is {redact(url)}" if url else "REDIS_URL is not set"

    def start(self, password: str | None = None, config: dict | None = None) -> Server:
        return UserServer(os.environ["REDIS_URL"])
