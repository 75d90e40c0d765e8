"""A small laboratory for learning Redis by measuring it. See README.md."""

from .errors import LabError
from .server import Cluster, Server, clean_up, cluster, connect, server

__all__ = ["Cluster", "LabError", "Server", "clean_up", "cluster", "connect", "server"]
