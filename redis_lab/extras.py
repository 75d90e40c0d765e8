"""Which extra of the package installs which module that is not in the core installation."""

from __future__ import annotations

import importlib.util

from .errors import LabError

EXTRAS = {
    "lab": (
        *("jupyterlab", "ipykernel", "IPython", "nbformat", "nbclient", "trustme"),
        *("altair", "vl_convert"),
    ),
    "rivals": ("limits", "rq", "dogpile", "cashews", "celery"),
    "http": ("upstash_redis", "httpx", "tornado"),
    "docker": ("testcontainers", "docker"),
    "locust": ("locust",),
    "test": ("pytest", "nbval", "pyperf", "pytest_benchmark"),
}  # the names by which they are imported


def describe_missing(module: str) -> str | None:
    """How to install a missing module, in one line; None if no extra installs it."""
    name = module.partition(".")[0]
    for extra, modules in EXTRAS.items():
        if name in modules:
            return f"This needs {name}, which is not installed: pip install 'redis-lab[{extra}]'"
    return None


def require(*modules: str) -> None:
    """Raises: LabError that says how to install the first of the modules that is missing."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise LabError(describe_missing(module) or f"This needs {module}.")
