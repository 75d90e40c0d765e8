"""A small laboratory for learning Redis by measuring it. See README.md."""

from __future__ import annotations

import importlib
from typing import Any

from . import magic
from .distance import link
from .errors import LabError
from .servers import (
    Cluster,
    Replicated,
    Server,
    clean_up,
    cluster,
    connect,
    has,
    replicated,
    server,
)
from .wiretap import wire

# Loaded when first used: a worker process that only counts need not wait for matplotlib.
MODULES = ("bench", "lesson", "patterns", "plots", "rest", "results", "source", "workload")
OF_LESSON = ("check", "claim", "predict")

__all__ = [
    "Cluster",
    "LabError",
    "Replicated",
    "Server",
    "clean_up",
    "cluster",
    "connect",
    "has",
    "link",
    "magic",
    "replicated",
    "server",
    "wire",
    *MODULES,
    *OF_LESSON,
]


def __getattr__(name: str) -> Any:
    if name in MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in OF_LESSON:
        return getattr(importlib.import_module(f"{__name__}.lesson"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


magic.register()
