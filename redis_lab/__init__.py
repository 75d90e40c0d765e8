"""A small laboratory for learning Redis by measuring it. See README.md."""

from __future__ import annotations

import importlib
from typing import Any

from . import magic
from .errors import LabError
from .link import link
from .server import Server, clean_up, connect, has, server
from .topology import Cluster, Replicated, cluster, replicated
from .wire import wire

# Loaded when first used: a worker process that only counts need not wait for matplotlib.
MODULES = ("bench", "figures", "patterns", "rest", "results", "source", "teach", "workload")
OF_TEACH = ("check", "claim", "figure", "predict", "show_source")

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
    *OF_TEACH,
]


def __getattr__(name: str) -> Any:
    if name in MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in OF_TEACH:
        return getattr(importlib.import_module(f"{__name__}.teach"), name)
    if name == "lesson":  # as the notebooks call it
        return importlib.import_module(f"{__name__}.teach")
    if name == "plots":
        raise AttributeError(
            "lab.plots is called lab.figures now, and each lesson's module in "
            "redis_lab/lessons says how its experiments are drawn."
        )
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


magic.register()
