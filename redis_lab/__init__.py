"""A small laboratory for learning Redis by measuring it.

    import redis_lab as lab

    r = lab.connect()
    lab.bench.compare({"GET": lambda: r.get("key"), "EXISTS": lambda: r.exists("key")}, client=r)

Everything public is an attribute of this package; `dir(redis_lab)` lists it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from . import magic
from .distance import link
from .errors import LabError
from .extras import describe_missing
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

if TYPE_CHECKING:  # what __getattr__ provides, for editors and type checkers
    from . import figures, patterns, rest, source, teach
    from . import teach as lesson
    from .measure import bench, load, results, theory, workload
    from .remote import remote_shop
    from .teach import check, claim, figure, predict, show_source

    __version__: str

# Imported when first used, as numpy, pandas and matplotlib take seconds. A module, or a module and
# the name in it.
_LAZY: dict[str, tuple[str, str | None]] = {
    "bench": (".measure.bench", None),
    "check": (".teach", "check"),
    "claim": (".teach", "claim"),
    "figure": (".teach", "figure"),
    "figures": (".figures", None),
    "lesson": (".teach", None),  # as the notebooks call it
    "load": (".measure.load", None),
    "patterns": (".patterns", None),
    "predict": (".teach", "predict"),
    "remote_shop": (".remote", "remote_shop"),
    "rest": (".rest", None),
    "results": (".measure.results", None),
    "show_source": (".teach", "show_source"),
    "source": (".source", None),
    "teach": (".teach", None),
    "theory": (".measure.theory", None),
    "workload": (".measure.workload", None),
}

__all__ = [
    "Cluster",
    "LabError",
    "Replicated",
    "Server",
    "__version__",
    "bench",
    "check",
    "claim",
    "clean_up",
    "cluster",
    "connect",
    "figure",
    "figures",
    "has",
    "lesson",
    "link",
    "load",
    "magic",
    "patterns",
    "predict",
    "remote_shop",
    "replicated",
    "rest",
    "results",
    "server",
    "show_source",
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
    magic.register()


magic.register()
