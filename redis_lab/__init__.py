"""A small laboratory for learning Redis by measuring it.

    import redis_lab as lab

    r = lab.connect()
    lab.bench.compare({"GET": lambda: r.get("key"), "EXISTS": lambda: r.exists("key")}, client=r)

Everything public is an attribute of this package; `dir(redis_lab)` lists it.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from .errors import LabError
from .extras import describe_missing

if TYPE_CHECKING:  # what __getattr__ provides, for editors and type checkers
    from . import calculators, figures, magic, patterns, rest, source, teach
    from . import teach as lesson
    from .calculators import calculator
    from .distance import link
    from .logbook import progress
    from .measure import bench, load, results, theory, workload
    from .remote import remote_shop
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
    from .teach import check, claim, figure, hint, predict, show_source, solution
    from .wiretap import wire

    __version__: str

# Imported when first used: redis-py takes a third of a second, numpy, pandas and matplotlib take
# more. A module, or a module and the name in it.
_LAZY: dict[str, tuple[str, str | None]] = {
    "Cluster": (".servers", "Cluster"),
    "Replicated": (".servers", "Replicated"),
    "Server": (".servers", "Server"),
    "bench": (".measure.bench", None),
    "calculator": (".calculators", "calculator"),
    "calculators": (".calculators", None),
    "check": (".teach", "check"),
    "claim": (".teach", "claim"),
    "clean_up": (".servers", "clean_up"),
    "cluster": (".servers", "cluster"),
    "connect": (".servers", "connect"),
    "figure": (".teach", "figure"),
    "figures": (".figures", None),
    "has": (".servers", "has"),
    "hint": (".teach", "hint"),
    "lesson": (".teach", None),  # as the notebooks call it
    "link": (".distance", "link"),
    "load": (".measure.load", None),
    "magic": (".magic", None),
    "patterns": (".patterns", None),
    "predict": (".teach", "predict"),
    "progress": (".logbook", "progress"),
    "remote_shop": (".remote", "remote_shop"),
    "replicated": (".servers", "replicated"),
    "rest": (".rest", None),
    "results": (".measure.results", None),
    "server": (".servers", "server"),
    "show_source": (".teach", "show_source"),
    "solution": (".teach", "solution"),
    "source": (".source", None),
    "teach": (".teach", None),
    "theory": (".measure.theory", None),
    "wire": (".wiretap", "wire"),
    "workload": (".measure.workload", None),
}

__all__ = [
    "Cluster",
    "LabError",
    "Replicated",
    "Server",
    "__version__",
    "bench",
    "calculator",
    "calculators",
    "check",
    "claim",
    "clean_up",
    "cluster",
    "connect",
    "figure",
    "figures",
    "has",
    "hint",
    "lesson",
    "link",
    "load",
    "magic",
    "patterns",
    "predict",
    "progress",
    "remote_shop",
    "replicated",
    "rest",
    "results",
    "server",
    "show_source",
    "solution",
    "source",
    "teach",
    "theory",
    "wire",
    "workload",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("redis-lab")
    elif name in _LAZY:
        path, attribute = _LAZY[name]
        try:
            value = importlib.import_module(path, __name__)
        except ModuleNotFoundError as error:
            if advice := describe_missing(str(error.name)):
                raise LabError(advice) from error
            raise
        value = getattr(value, attribute) if attribute else value
    elif name == "plots":
        raise AttributeError(
            "lab.plots is called lab.figures now, and each lesson's module in redis_lab/lessons "
            "says how its experiments are drawn."
        )
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value  # not asked for again
    return value


def __dir__() -> list[str]:
    return __all__


def load_ipython_extension(shell: Any) -> None:
    """`%load_ext redis_lab` gives a notebook its `%%redis`; so does importing the package."""

    def run_redis(line: str, cell: str) -> None:
        from .magic import run_cell

        run_cell(shell, line, cell)

    shell.register_magic_function(run_redis, magic_kind="cell", magic_name="redis")


_ipython = sys.modules.get("IPython")  # importing it would take time
if _shell := _ipython and _ipython.get_ipython():
    load_ipython_extension(_shell)
