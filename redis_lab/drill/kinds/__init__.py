"""How each kind of class is played with and judged. A further kind: one module, one line here."""

from __future__ import annotations

from ..hands import Play
from .cache_kind import CachePlay
from .lock_kind import LockPlay

__all__ = ["PLAYS"]

PLAYS: dict[str, Play] = {play.kind: play for play in (CachePlay(), LockPlay())}
