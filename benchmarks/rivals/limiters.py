"""Rate limiters."""

from __future__ import annotations

from types import SimpleNamespace

import limits
import redis
import slowapi
from slowapi.errors import RateLimitExceeded
from slowapi.util import get_remote_address
from starlette.requests import Request


class LimitsMovingWindow:
    """`limits`' moving window: at most so many in any window.

    https://limits.readthedocs.io/en/stable/strategies.html
    """

    package = "limits"
    limit, window_s = 20, 1
    strategy = "MovingWindowRateLimiter"

    def __init__(self, client: redis.Redis) -> None:
        storage = limits.storage.RedisStorage("redis://", connection_pool=client.connection_pool)
        self.limiter = getattr(limits.strategies, self.strategy)(storage)
        self.item = limits.RateLimitItemPerSecond(self.limit, self.window_s)

    def allow(self, name: str) -> bool:
        """Whether the hit is within the limit."""
        return self.limiter.hit(self.item, name)


class LimitsFixedWindow(LimitsMovingWindow):
    """`limits`' fixed window: twice as many where two windows meet."""

    most = 40
    strategy = "FixedWindowRateLimiter"


class LimitsSlidingWindowCounter(LimitsMovingWindow):
    """`limits`' sliding window counter, an approximation."""

    most = 40
    strategy = "SlidingWindowCounterRateLimiter"


class SlowApi:
    """slowapi as its quick start shows it, in front of an endpoint: a fixed window of `limits`.

    https://slowapi.readthedocs.io/en/latest/
    """

    package = "slowapi"
    limit, window_s = 20, 1
    most = 40  # where two windows meet

    def __init__(self, client: redis.Redis) -> None:
        limiter = slowapi.Limiter(
            key_func=get_remote_address,
            storage_uri="redis://",
            storage_options={"connection_pool": client.connection_pool},
        )
        self.app = SimpleNamespace(state=SimpleNamespace(limiter=limiter))

        @limiter.limit(f"{self.limit}/second")
        def homepage(request: Request) -> None:
            return None

        self.homepage = homepage

    def allow(self, name: str) -> bool:
        """A request of a client of that name to the endpoint."""
        scope = {
            "type": "http",
            "method": "GET",
            "path": "/",
            "headers": [],
            "client": (name, 0),
            "app": self.app,
        }
        try:
            self.homepage(request=Request(scope))
        except RateLimitExceeded:
            return False
        return True
