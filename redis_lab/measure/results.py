"""A measured table with its environment: save it, load it, compare two runs.

A result is one JSON file for each experiment. `make plots` (effort `full`) writes them to
data/results; anything quicker goes to data/local, so that a quick look never overwrites a
careful measurement.
"""

from __future__ import annotations

import base64
import datetime
import importlib.metadata
import json
import math
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
import psutil
import redis
from hdrh.histogram import HdrHistogram

from .. import internals
from ..errors import LabError
from ..files import data_folder, write_whole
from ..servers.choose import server_behind
from ..servers.nodes import first
from .effort import effort_name
from .stats import block_interval, judge_ratio, median_ratio

__all__ = ["Result", "compare", "environment", "load", "of", "results_folder", "save", "write"]


def __dir__() -> list[str]:
    return __all__


FORMAT = 1
RESAMPLES = 500


def results_folder(effort: str | None = None) -> Path:
    """Where this run's results go: data/results at full effort, data/local otherwise."""
    return data_folder() / ("results" if effort_name(effort) == "full" else "local")


@dataclass
class Result:
    """One experiment as measured once on one machine.

    `rows` is a list of flat dictionaries, one a measured point. `environment` is what
    `environment()` found. `histograms` holds encoded HDR histograms by arm (nanoseconds). How it is
    drawn is not in it: the lesson's module says so, and `title` is what it said at the time.
    """

    experiment: str
    title: str
    rows: list[dict]
    environment: dict = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    histograms: dict[str, str] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def table(self) -> pd.DataFrame:
        return pd.DataFrame(self.rows)


def cpu_model() -> str:
    try:
        if sys.platform == "darwin":
            words = ["sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(words, capture_output=True, text=True).stdout.strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def get_affinity(process: psutil.Process | None) -> list[int] | None:
    """The processors a process may run on; None where the system does not say."""
    try:
        return process.cpu_affinity() if process else None
    except (AttributeError, psutil.Error):
        return None


def environment(client: redis.Redis | None = None, **more: object) -> dict[str, object]:
    """What the numbers depend on: machine, load, versions, server, transport, parser.

    `more` adds what only the experiment knows, such as its seed. Holds no host name, user name,
    path or password.
    """
    times = psutil.cpu_times_percent(interval=None)
    found: dict[str, object] = {
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "effort": effort_name(),
        "cpu": cpu_model(),
        "cores": psutil.cpu_count(),
        "client_affinity": get_affinity(psutil.Process()),
        "load_1_min": round(psutil.getloadavg()[0], 2),
        "steal_percent": getattr(times, "steal", None),
        "memory_gb": round(psutil.virtual_memory().total / 2**30),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "redis_py": redis.__version__,
        "numpy": np.__version__,
        "redis_lab": importlib.metadata.version("redis-lab"),
    }
    if client is not None:
        found |= describe_server(client)
    return found | more


def describe_server(client: redis.Redis) -> dict[str, object]:
    client = first(client)
    info = client.info("server")
    pool = client.connection_pool
    connection = pool.get_connection()
    try:
        parser = internals.parser_name(connection)
        protocol = connection.get_protocol()
    finally:
        pool.release(connection)
    where = pool.connection_kwargs
    tls = issubclass(pool.connection_class, redis.SSLConnection)
    transport = "Unix socket" if where.get("path") else "TLS" if tls else "TCP"
    if where.get("host") in ("127.0.0.1", "localhost", "::1"):
        transport += " loopback"
    ours = server_behind(client)
    return {
        "server": "Valkey" if "valkey_version" in info else "Redis",
        "server_version": info.get("valkey_version", info["redis_version"]),
        "allocator": client.info("memory").get("mem_allocator"),
        "server_config": ours.settings if ours else None,
        "server_affinity": get_affinity(psutil.Process(ours.pid)) if ours and ours.pid else None,
        "transport": transport,
        "protocol": f"RESP{protocol}",
        "parser": parser,
    }


def to_plain(value: Any) -> Any:
    """A value as JSON takes it: numpy scalars to Python's, not-a-number to null."""
    if isinstance(value, Mapping):
        return {str(k): to_plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [to_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


@runtime_checkable
class Measured(Protocol):
    """What has rows, histograms and facts about how it was measured: a `Comparison`."""

    @property
    def rows(self) -> list[dict[str, Any]]: ...

    def histograms(self) -> dict[str, HdrHistogram]: ...

    def facts(self) -> dict[str, object]: ...


def of(
    experiment: str,
    measured: Measured | Sequence[Mapping],
    *,
    title: str,
    client: redis.Redis | None = None,
    notes: Sequence[str] = (),
    **more: object,
) -> Result:
    """A result made from a comparison (its rows and histograms) or from rows of your own."""
    histograms: dict[str, str] = {}
    if isinstance(measured, Measured):
        more = measured.facts() | more
        histograms = {
            name: base64.b64encode(histogram.encode()).decode()
            for name, histogram in measured.histograms().items()
        }
        measured = measured.rows
    return Result(
        experiment=experiment,
        title=title,
        rows=[to_plain(dict(row)) for row in measured],
        environment=to_plain(environment(client, **more)),
        notes=list(notes),
        histograms=histograms,
    )


def save(result: Result, folder: Path | None = None) -> Path:
    """Write the result's file into a folder, `results_folder()` by default; return its path.

    Raises: LabError when the disk is full or the folder cannot be written.
    """
    return write(result, (folder or results_folder()) / f"{result.experiment}.json")


def write(result: Result, path: Path) -> Path:
    """Write the result to a file, atomically; return its path. Raises: LabError as `save`."""
    text = json.dumps(to_plain(asdict(result)), indent=1, ensure_ascii=False) + "\n"
    write_whole(path, text.encode())
    return path


def load(path: Path | str) -> Result:
    """Read a result.

    Older files hold, under `figure`, how they were drawn when they were measured; it is ignored.

    Raises: LabError for a file that is absent, damaged or of another format.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_bytes())  # UTF-8, whatever the locale
        if content["format"] != FORMAT:
            raise LabError(
                f"{path.name} has format {content['format']}, this version of the lab reads "
                f"{FORMAT}. Measure it again: make plots."
            )
        content.pop("figure", None)
        return _checked(Result(**content))
    except FileNotFoundError as error:
        raise LabError(f"There is no result {path}. Make it with: make plots.") from error
    except OSError as error:
        raise LabError(f"{path} could not be read: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise LabError(f"{path.name} is not a result of the lab ({error}).") from error


def _checked(result: Result) -> Result:
    """The same. Raises: TypeError where a field or a row's medians are of another type."""
    kinds: dict[str, type] = {"experiment": str, "title": str, "rows": list, "environment": dict}
    for name, kind in {**kinds, "notes": list, "histograms": dict}.items():
        if not isinstance(getattr(result, name), kind):
            raise TypeError(f"{name} is no {kind.__name__}")
    for row in result.rows:
        if not isinstance(row, dict):
            raise TypeError("a row is no dict")
        medians = row.get("block_medians_us") or []
        if not isinstance(medians, list) or not all(isinstance(m, int | float) for m in medians):
            raise TypeError("a row's block_medians_us are no list of numbers")
    texts = [*result.notes, *result.histograms.values()]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("a note or a histogram is no str")
    return result


def _key_of(row: Mapping) -> tuple:
    """What a row is a measurement of: its arm and the columns the experiment varied."""
    return tuple(
        (name, value)
        for name, value in row.items()
        if name not in _MEASURED and not isinstance(value, list) and not name.startswith("theory")
    )


_MEASURED = {
    *("calls", "units", "round_trips", "commands", "ratio", "ratio_low", "ratio_high", "verdict"),
    *(f"{q}{end}_us" for q in ("p50", "p99") for end in ("", "_low", "_high")),
    *("mean_us", "per_unit_us", "per_unit_low_us", "per_unit_high_us", "achieved_ms"),
}


def _in_blocks(row: Mapping) -> bool:
    return len(row.get("block_medians_us") or ()) > 1


def compare(old: Result, new: Result) -> pd.DataFrame:
    """Two runs compared: medians, their ratio with a 95 % interval, and the verdict it allows.

    The interval resamples the medians of the blocks of each run. Rows that only one run has, or
    that were not measured in blocks, are left out.

    Raises: LabError when the two have nothing in common.
    """
    before = {_key_of(row): row for row in old.rows if _in_blocks(row)}
    rows = []
    for row in new.rows:
        was = before.get(_key_of(row))
        if was is None or not _in_blocks(row):
            continue
        a, b = np.array(was["block_medians_us"]), np.array(row["block_medians_us"])
        low, high = block_interval(median_ratio, b, a, resamples=RESAMPLES, paired=False)
        rows.append(
            {
                "what": ", ".join(f"{v}" if k == "arm" else f"{k} {v}" for k, v in _key_of(row)),
                "first µs": round(float(np.median(a)), 2),
                "second µs": round(float(np.median(b)), 2),
                "ratio": round(float(np.median(b) / np.median(a)), 3),
                "interval": f"[{low:.3f}, {high:.3f}]",
                "says": judge_ratio(low, high),
            }
        )
    if not rows:
        raise LabError(
            f"{old.experiment} and {new.experiment} have no measured point in common; "
            "compare two runs of the same experiment."
        )
    return pd.DataFrame(rows)
