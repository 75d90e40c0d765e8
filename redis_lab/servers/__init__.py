"""Find or start Redis servers, single or joined, and manage their lifetime."""

from __future__ import annotations

from .base import Server, redact
from .choose import (
    KINDS,
    announced_client,
    choose_kind,
    clean_up,
    connect,
    has,
    kind_named,
    server,
    server_behind,
)
from .guest import guard, guest_of
from .nodes import first_primary, primaries
from .topology import Cluster, Replicated, cluster, replicated

__all__ = [
    "KINDS",
    "Cluster",
    "Replicated",
    "Server",
    "announced_client",
    "choose_kind",
    "clean_up",
    "cluster",
    "connect",
    "first_primary",
    "guard",
    "guest_of",
    "has",
    "kind_named",
    "primaries",
    "redact",
    "replicated",
    "server",
    "server_behind",
]
