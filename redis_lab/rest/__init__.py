"""Redis over HTTP: a gateway with the Upstash REST protocol, and helpers for lessons."""

from __future__ import annotations

from .client import Adapted, Exchange, Script, exchanges
from .endpoint import TOKEN, URL, Endpoint, Gateway, gateway, service

__all__ = [
    "TOKEN",
    "URL",
    "Adapted",
    "Endpoint",
    "Exchange",
    "Gateway",
    "Script",
    "exchanges",
    "gateway",
    "service",
]
