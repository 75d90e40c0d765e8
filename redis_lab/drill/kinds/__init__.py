"""How each kind of class is played and judged. A new kind needs a module, and a line here."""

from __future__ import annotations

from ..hands import Play
from .cache_kind import CachePlay
from .limiter_kind import LimiterPlay
from .lock_kind import LockPlay
from .once_kind import OncePlay
from .queue_kind import QueuePlay
from .session_kind import SessionPlay

__all__ = ["PLAYS"]

PLAYS: dict[str, Play] = {
    play.kind: play
    for play in (CachePlay(), LockPlay(), QueuePlay(), LimiterPlay(), SessionPlay(), OncePlay())
}
