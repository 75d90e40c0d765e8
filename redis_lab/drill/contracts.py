"""What each kind of class must offer, and the promises that are then checked.

Your class, or a small adapter around it, is called with a client (`redis.Redis`), or with a client
and `load` if it is a cache. Attributes of the class tell the drill what it needs to know; all of
them may be left out:

- `lease_s` (1): how many seconds a lock, a job or a claim belongs to the caller. Make it short.
- `limit` (20) and `window_s` (1) of a limiter; `most` (= limit): how many it may let through in any
  span of `window_s`. A fixed window promises twice its limit.
- `most_tries` (20): after how many hand-outs a queue sets a job aside that nobody gets done.
- `errors`: a tuple of exceptions that belong to its contract. Redis's own always do, except for the
  `get` of a cache, which has the source to turn to.
- `not_promised`: a tuple of names of promises that it does not make. They are counted all the same.
- `not_promised_at_failover`: those that it does not make where a replica takes over that is behind.
- `client_options`: a dictionary of options for the client.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from ..errors import LabError

__all__ = [
    "KINDS",
    "Cache",
    "Limiter",
    "Lock",
    "Once",
    "Promise",
    "Queue",
    "Sessions",
    "Target",
    "resolve",
]


class Cache(Protocol):
    """Called with `(client, load)`; `load(key)` reads the source: a whole number or None."""

    def get(self, key: str) -> Any:
        """The value of `load(key)`, from the cache or from the source."""
        ...

    def invalidate(self, key: str) -> object:
        """Called after each commit of the source. It may have a second parameter, the row's
        version.
        """
        ...


class Lock(Protocol):
    """Called with `(client)`. Each client of the drill has its own."""

    def acquire(self, name: str) -> Any:
        """A lease; None (or False) at once if another client has it.

        If the lease has an attribute `fence`, a whole number, the store that the drill writes to
        refuses reads and writes with a smaller fence than it has seen.
        """
        ...

    def release(self, lease: Any) -> object:
        """Release the lease; False if it was lost meanwhile."""
        ...


class Queue(Protocol):
    """Called with `(client)`.

    If it has a method `fail(job)`, it is called where the work has raised an exception.
    """

    def put(self, payload: str) -> object:
        """Add a job."""
        ...

    def take(self) -> Any:
        """A job or None, at once or within a second: an object with `payload`, or the payload.

        Jobs whose worker died must be handed out again after some time, so bring them back here,
        unless something else does.
        """
        ...

    def done(self, job: Any) -> object:
        """The job is done; False if it was no longer the caller's."""
        ...


class Limiter(Protocol):
    """Called with `(client)`."""

    def allow(self, name: str) -> bool:
        """Whether `name` is allowed now; an allowed request counts."""
        ...


class Sessions(Protocol):
    """Called with `(client)`. A session must live for at least a minute without being loaded."""

    def start(self, user: str) -> str:
        """A new session's id."""
        ...

    def load(self, id: str) -> Any:
        """The session's data; loading keeps the session alive. None (or False) if it has ended."""
        ...

    def end(self, id: str) -> object:
        """Log out."""
        ...


class Once(Protocol):
    """Called with `(client)`."""

    def run(self, key: str, work: Callable[[], str]) -> Any:
        """The result of `work()`, the first time and every later time. Raises: one of `errors`
        while another client is at work, or if the result cannot be known.
        """
        ...


@dataclass(frozen=True)
class Promise:
    """Something that must never happen, and how it is counted.

    With a `unit` it is no count but a measure, of which the greatest is reported.
    """

    name: str
    how: str
    unit: str = ""


GRACE_S = 3.0  # beyond three leases, before something counts as hung
HUNG = Promise("hung", "once all faults are over, nothing gets on by itself any more", "s")
ERRORS = Promise("errors not in the contract", "calls that raised what the contract does not name")
NO_TTL = Promise("keys without TTL", "keys that would stay for ever")


KINDS: dict[str, tuple[Promise, ...]] = {
    "cache": (
        Promise(
            "stale after invalidate",
            "reads that began after `invalidate` had returned, and gave a value from before",
        ),
        Promise("no order of reads", "histories of reads and updates that no one order explains"),
        Promise("loads for one miss", "second loads of a key while the first one was under way"),
        Promise("absences loaded", "further loads of a key that the source does not have"),
        *(HUNG, ERRORS, NO_TTL),
    ),
    "lock": (
        Promise("two holders", "leases that began within another holder's lease"),
        Promise("no order of holders", "histories of acquire and release that no order explains"),
        Promise("lost updates", "writes to the store that overwrote one they had not read"),
        *(HUNG, ERRORS, NO_TTL),
    ),
    "queue": (
        Promise("jobs lost", "jobs that were put, and were never worked on"),
        Promise("done twice", "jobs that were handed out after `done` had returned"),
        Promise("two at one job", "jobs that were handed out within another worker's lease"),
        Promise(
            "poison rounds",
            "how often a job was handed out that kills its worker or makes it fail, each time; "
            "too often: more than `most_tries`",
            "rounds",
        ),
        Promise("out of order", "histories of put and take that no first-in-first-out explains"),
        *(HUNG, ERRORS),
    ),
    "limiter": (
        Promise("over the limit", "let through beyond `most` in a span of `window_s`"),
        Promise("locked out", "names refused although nobody had asked for two windows"),
        *(ERRORS, NO_TTL),
    ),
    "session": (
        Promise("sessions revived", "loads that began after `end` had returned, and found it"),
        Promise("sessions lost", "loads that found nothing of a session that nobody had ended"),
        *(HUNG, ERRORS, NO_TTL),
    ),
    "once": (
        Promise("effects repeated", "effects that began after `run` had returned a result"),
        Promise("two at work", "effects that began within another's lease, while it was at work"),
        Promise("two answers", "keys for which `run` returned different results"),
        *(HUNG, ERRORS, NO_TTL),
    ),
}


@dataclass(frozen=True)
class Target:
    """The class that is held to a contract: its address, and its attributes for the drill."""

    make: Callable[..., Any]
    module: str
    name: str
    kind: str
    file: str = ""
    lease_s: float = 1.0
    limit: int = 20
    window_s: float = 1.0
    most: int = 20
    most_tries: int = 20
    errors: tuple[type[BaseException], ...] = ()
    not_promised: tuple[str, ...] = ()
    not_promised_at_failover: tuple[str, ...] = ()
    client_options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.module}:{self.name}"

    @property
    def promises(self) -> tuple[Promise, ...]:
        """The promises that are checked."""
        return KINDS[self.kind]

    @property
    def span_s(self) -> float:
        """How long a lease is, or a limiter's window."""
        return self.window_s if self.kind == "limiter" else self.lease_s

    @property
    def patience_s(self) -> float:
        """How long to wait before something counts as hung; generous, for a busy machine."""
        return 3 * self.lease_s + GRACE_S


def resolve(what: str | Callable[..., Any], kind: str) -> Target:
    """The target for a class, or for its address "module:Name".

    Raises: LabError if it cannot be imported, here or in another process, or if there is no such
    kind.
    """
    if kind not in KINDS:
        raise LabError(f"There is no contract {kind!r}: it is one of {', '.join(KINDS)}.")
    if isinstance(what, str):
        module_name, colon, name = what.partition(":")
        if not (module_name and colon and name):
            raise LabError(f"{what!r} is not an address: my_module:MyClass.")
        module = _import(module_name)
        make: Callable[..., Any] = getattr(module, name, None)  # type: ignore[assignment]
        if not callable(make):
            raise LabError(f"{module_name} has nothing that can be called {name}.")
    else:
        make, name = what, getattr(what, "__qualname__", repr(what))
        module_name = getattr(what, "__module__", "")
        if getattr(sys.modules.get(module_name), name, None) is not make:
            raise LabError(
                f"The drill's workers import it in processes of their own, and cannot import "
                f"{name}: define it at the top of a module."
            )
        module = sys.modules[module_name]
    said = {k: getattr(make, k) for k in SAYS if hasattr(make, k)}
    if "limit" in said:
        said.setdefault("most", said["limit"])
    excluded = {*said.get("not_promised", ()), *said.get("not_promised_at_failover", ())}
    unknown = excluded - {promise.name for promise in KINDS[kind]}
    if unknown:
        raise LabError(f"A {kind} makes no promise called {', '.join(sorted(unknown))}.")
    file = getattr(module, "__file__", None) or ""
    return Target(make, module_name, name, kind, str(Path(file).resolve()) if file else "", **said)


SAYS = (
    *("lease_s", "limit", "window_s", "most", "most_tries"),
    *("errors", "not_promised", "not_promised_at_failover", "client_options"),
)


def _import(name: str) -> ModuleType:
    if "" not in sys.path and "." not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise LabError(f"{name} cannot be imported: {error}.") from error


def load_again(module: str, name: str, file: str, kind: str) -> Target:
    """The same target in a worker's process, which has this one's `sys.path`."""
    if module not in sys.modules:
        known = None if module == "__main__" else importlib.util.find_spec(module)
        if known is not None and known.origin and Path(known.origin).resolve() == Path(file):
            importlib.import_module(module)
        else:
            _from_file("_drilled" if module == "__main__" else module, file)
    found = sys.modules["_drilled" if module == "__main__" else module]
    return resolve(getattr(found, name), kind)


def _from_file(name: str, file: str) -> None:
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise LabError(f"{file} is not a Python file that a worker can import.")
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])
