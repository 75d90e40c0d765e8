"""Caches."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import aiocache
import cashews
import django.conf
import fastapi_cache
import fastapi_cache.backends.redis
import fastapi_cache.decorator
import redis
import redis.asyncio
from django_redis.cache import RedisCache
from dogpile.cache import make_region

from .asynchronous import Loop, connection_class, where

for name in ("cashews", "fastapi_cache", "aiocache"):
    logging.getLogger(name).setLevel(logging.CRITICAL)  # each suppressed error with a traceback

Load = Callable[[str], Any]
NOTHING = ("", "")  # its documentation does not mention it


class DogpileCache:
    """dogpile.cache with its distributed lock, for several processes."""

    package = "dogpile.cache"
    lease_s = 1
    says = {  # noqa: RUF012
        "stale after invalidate": NOTHING,
        "no order of reads": NOTHING,
        "errors not in the contract": NOTHING,
    }
    not_promised = tuple(says)
    client_options = {"decode_responses": False}  # noqa: RUF012

    def __init__(self, client: redis.Redis, load: Load) -> None:
        self.load = load
        arguments = {
            "connection_pool": client.connection_pool,
            "redis_expiration_time": 120,  # longer than the region's
            "distributed_lock": True,
            "thread_local_lock": False,
            "lock_timeout": self.lease_s,
        }
        self.region = make_region().configure(
            "dogpile.cache.redis", expiration_time=60, arguments=arguments
        )

    def get(self, key: str) -> Any:
        """From the cache, or loaded under the lock."""
        return self.region.get_or_create(key, lambda: self.load(key))

    def invalidate(self, key: str) -> None:
        """Delete it."""
        self.region.delete(key)


class Cashews:
    """cashews' `@cache` with `lock=True`, which it advises against a stampede.

    Its lock lives as long as the value, so the value lives as short as the lock.
    https://github.com/Krukov/cashews#locked
    """

    package = "cashews"
    lease_s = 2
    says = {  # noqa: RUF012
        "stale after invalidate": NOTHING,
        "no order of reads": NOTHING,
        "absences loaded": NOTHING,
    }
    not_promised = tuple(says)

    def __init__(self, client: redis.Redis, load: Load) -> None:
        self.loop = Loop()
        host, port = where(client)
        self.cache = cashews.Cache()
        self.cache.setup(f"redis://{host}:{port}/0", connection_class=connection_class(client))

        @self.cache(ttl=self.lease_s, key="row:{key}", lock=True)
        async def row(key: str) -> Any:
            return load(key)

        self.row = row

    def get(self, key: str) -> Any:
        """From the cache, or loaded under the lock."""
        return self.loop.run(self.row(key))

    def invalidate(self, key: str) -> None:
        """Delete it."""
        self.loop.run(self.cache.delete(f"row:{key}"))


class AioCache:
    """aiocache's `@cached_stampede`.

    https://aiocache.aio-libs.org/en/latest/decorators.html
    """

    package = "aiocache"
    lease_s = 1
    says = {  # noqa: RUF012
        "stale after invalidate": NOTHING,
        "no order of reads": NOTHING,
        "loads for one miss": (
            "Those locks are aimed for performance reasons where failing on locking from time to "
            "time is acceptable.",
            "https://aiocache.aio-libs.org/en/latest/locking.html",
        ),
        "absences loaded": NOTHING,
        "errors not in the contract": NOTHING,
    }
    not_promised = tuple(says)

    def __init__(self, client: redis.Redis, load: Load) -> None:
        self.loop = Loop()
        host, port = where(client)

        @aiocache.cached_stampede(
            lease=self.lease_s,
            ttl=60,
            key_builder=lambda function, key: f"row:{key}",
            cache=aiocache.Cache.REDIS,
            endpoint=host,
            port=port,
            connection_pool_kwargs={"connection_class": connection_class(client)},
        )
        async def row(key: str) -> Any:
            return load(key)

        self.row = row

    def get(self, key: str) -> Any:
        """From the cache, or loaded under the lock."""
        return self.loop.run(self.row(key))

    def invalidate(self, key: str) -> None:
        """Delete it."""
        self.loop.run(self.row.cache.delete(f"row:{key}"))


class _Here(threading.local):
    """fastapi-cache has one backend a process; several clients share it in the drill."""

    redis: Any = None


here = _Here()


class _Backend(fastapi_cache.backends.redis.RedisBackend):
    is_cluster = False

    def __init__(self) -> None:
        pass

    @property
    def redis(self) -> Any:
        return here.redis


class FastApiCache:
    """fastapi-cache's `@cache`, on a function.

    https://github.com/long2ice/fastapi-cache
    """

    package = "fastapi-cache2"
    lease_s = 0.3  # it has none: so long a reader stands still in the drill
    says = {  # noqa: RUF012
        "stale after invalidate": NOTHING,
        "no order of reads": NOTHING,
        "loads for one miss": NOTHING,
        "absences loaded": NOTHING,
    }
    not_promised = tuple(says)

    def __init__(self, client: redis.Redis, load: Load) -> None:
        self.loop = Loop()
        host, port = where(client)
        pool = redis.asyncio.ConnectionPool(
            host=host, port=port, connection_class=connection_class(client)
        )
        self.redis = redis.asyncio.Redis(connection_pool=pool)
        fastapi_cache.FastAPICache.init(_Backend(), prefix="c")

        @fastapi_cache.decorator.cache(expire=60, key_builder=self.key)
        async def row(key: str) -> Any:
            return load(key)

        self.row = row

    @staticmethod
    def key(function: object, namespace: str = "", *, args: tuple, **_: object) -> str:
        """A row's key."""
        return f"c:{args[0]}"

    def get(self, key: str) -> Any:
        """From the cache, or loaded and stored."""
        here.redis = self.redis
        return self.loop.run(self.row(key))

    def invalidate(self, key: str) -> None:
        """Delete it."""
        here.redis = self.redis
        self.loop.run(fastapi_cache.FastAPICache.get_backend().clear(key=f"c:{key}"))


class DjangoRedis:
    """django-redis where "Redis is only used for cache": it ignores exceptions.

    https://github.com/jazzband/django-redis#memcached-exceptions-behavior
    """

    package = "django-redis"
    lease_s = 0.3  # it has none
    says = {  # noqa: RUF012
        "stale after invalidate": NOTHING,
        "no order of reads": NOTHING,
        "loads for one miss": NOTHING,
        "absences loaded": NOTHING,
    }
    not_promised = tuple(says)

    def __init__(self, client: redis.Redis, load: Load) -> None:
        if not django.conf.settings.configured:
            django.conf.settings.configure()
        self.load = load
        host, port = where(client)
        options = {
            "IGNORE_EXCEPTIONS": True,
            "CONNECTION_POOL_KWARGS": {"connection_class": client.connection_pool.connection_class},
        }
        self.cache = RedisCache(f"redis://{host}:{port}/0", {"OPTIONS": options})
        self.cache.client.connection_factory._pools = {}  # one for each client of the drill

    def get(self, key: str) -> Any:
        """From the cache, or loaded and added."""
        return self.cache.get_or_set(key, lambda: self.load(key), timeout=60)

    def invalidate(self, key: str) -> None:
        """Delete it."""
        self.cache.delete(key)
