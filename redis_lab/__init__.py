"""A small laboratory for learning Redis by measuring it. See README.md."""

from . import bench, lesson, magic, patterns, plots, results, source, workload
from .errors import LabError
from .lesson import check, claim, predict
from .link import link
from .server import Cluster, Server, clean_up, cluster, connect, server
from .wire import wire

__all__ = [
    "Cluster",
    "LabError",
    "Server",
    "bench",
    "check",
    "claim",
    "clean_up",
    "cluster",
    "connect",
    "lesson",
    "link",
    "magic",
    "patterns",
    "plots",
    "predict",
    "results",
    "server",
    "source",
    "wire",
    "workload",
]

magic.register()
