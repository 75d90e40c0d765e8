"""What all checks of exercises share: how a check is found, and whose fault an exception is.

A check is a function `(client, answer) -> praise` marked with `@exercise`. It runs the learner's
answer on keys of its own, returns a sentence of praise with the facts, or raises `NotYet` with a
hint. The decorator turns an exception of the learner's code into such a hint, and an exception of
the check itself into `CheckFailed`. It also takes the hints that `lab.hint` shows one after the
other, from a nudge to nearly the answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import functools
import inspect
import numbers
import random
import signal
import string
import threading
import time
import traceback
import types
import typing
from collections import abc, deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

from .errors import LabError

A = TypeVar("A")
Number = TypeVar("Number", int, float)
Check = Callable[[redis.Redis, A], str]

EXERCISES: dict[str, Check[Any]] = {}
"""The checks of the modules imported so far, by name: `hashes.reserve`."""

HINTS: dict[str, tuple[str, ...]] = {}
"""The hints of these exercises, in Markdown, the first only a nudge."""

REMEMBERED = 1000  # returned values of an answer, to explain why a check could not use them


LIMIT_S = 30.0
"""How long one call of an answer may take before it is stopped."""


_seed = 0
_chance: random.Random | None = None  # of the check that is running


def reseed(seed: int) -> None:
    """From now on let checks draw other data, the same for the same seed; 0: the lessons' own.

    The lessons' own data are the same each time, so that the committed outputs are, too.
    """
    global _seed
    _seed = seed


def vary(own: Number, low: Number, high: Number) -> Number:
    """A number of a check's data: the lesson's own; after `reseed` another, from low to high."""
    if _chance is None:
        return own
    drawn = own
    while drawn == own:
        if isinstance(own, int):
            drawn = _chance.randint(low, high)  # type: ignore[arg-type]
        else:
            drawn = round(_chance.uniform(low, high), 3)
    return drawn


def vary_word(own: str) -> str:
    """A word of a check's data: the lesson's own, or, after `reseed`, one that begins with it."""
    if _chance is None:
        return own
    return f"{own}-{''.join(_chance.choices(string.ascii_lowercase, k=6))}"


class NotYet(Exception):
    """An exercise's answer is not right yet; the message is a hint that explains why."""

    outcome = "wrong"


class Raised(NotYet):
    """The learner's code raised an exception."""

    outcome = "raised"


class Endless(NotYet):
    """The learner's code did not end, and was stopped."""

    outcome = "endless"


class ServerStuck(Endless):
    """The learner's script has written and does not end: only ending the server stops it."""


class Stop(BaseException):
    """Ends an answer that takes too long; a BaseException, as KeyboardInterrupt is."""


class CheckFailed(LabError):
    """A check raised an exception of its own: a fault of the workbook, not of the answer."""


def exercise(*, hints: Sequence[str]) -> Callable[[Check[A]], Check[A]]:
    """Mark a function as the check of an exercise, so that `lab.check("lesson.name", …)` finds it.

    `hints` are shown by `lab.hint`, one with each call.

    The marked function raises: NotYet, also for an exception in the learner's code and for a
    result of a type that the check cannot use; CheckFailed for an exception of the
    check's own; LabError where the lab's server is gone.
    """
    return partial(_register, hints=tuple(hints))


def _register(check: Check[A], hints: tuple[str, ...]) -> Check[A]:
    """What `exercise` does with a check."""
    name = f"{check.__module__.rpartition('.')[2]}.{check.__name__}"
    HINTS[name] = hints

    @functools.wraps(check)
    def checked(client: redis.Redis, answer: A) -> str:
        global _chance
        _chance = random.Random(f"{_seed} {name}") if _seed else None
        wanted = typing.get_type_hints(check)["answer"]
        if typing.get_origin(wanted) is abc.Callable and not callable(answer):
            raise NotYet(
                f"your answer is {_format_answer(answer)}; it should be {_describe_type(wanted)}. "
                "Hand over the "
                f'function itself, without calling it: lab.check("{name}", its_name).'
            )
        watch = Watch()
        try:
            with _TimeLimit(watch, client):
                return check(client, watch.over(answer))
        except (Exception, Stop, SystemExit) as error:
            if watch.stopped or _is_busy_reply(error):
                raise _explain_stop(client, watch) from None
            if isinstance(error, NotYet | LabError):
                raise
            if hint := watch.raised(error):
                raise Raised(hint) from error
            if not isinstance(error, Exception):
                raise
            if hint := watch.misfit(answer, wanted) or _explain_wrong_type(error):
                raise NotYet(hint) from error
            if isinstance(error, redis.ConnectionError):
                raise LabError(f"The server that the check talks to is gone: {error}") from error
            raise CheckFailed(
                f"The check of {name} broke down: {type(error).__name__}: {error} "
                f"({_locate_failure(error)}). This is a fault of the workbook, not of your answer. "
                "Please report it as an issue, with this message and with your answer."
            ) from error

    EXERCISES[name] = checked
    return checked


class Watch:
    """Follows the calls of a learner's answer: what they returned, and what they raised."""

    def __init__(self) -> None:
        self.running: dict[object, Call] = {}  # which calls have not returned yet
        self.lock = threading.Lock()
        self.stopped = False  # by a Limit
        self.line: int | None = None  # where an answer was when it was stopped
        # function, what it returned, and whether that was awaited before
        self.returned: deque[tuple[Callable[..., Any], object, bool]] = deque(maxlen=REMEMBERED)
        self.let_out: list[tuple[BaseException, int | None]] = []

    def over(self, answer: Any) -> Any:
        """The answer, with every function in it watched, also in a tuple or a dict."""
        if type(answer) is tuple:
            return tuple(map(self.over, answer))
        if type(answer) is dict:
            return {key: self.over(value) for key, value in answer.items()}
        if not callable(answer):
            return answer

        async def awaited(result: Awaitable[Any]) -> Any:
            with self.followed(asyncio.get_running_loop()):
                value = await result
            self.returned.append((answer, value, True))
            return value

        def call(*args: Any, **options: Any) -> Any:
            with self.followed():
                result = answer(*args, **options)
            self.returned.append((answer, result, False))
            return awaited(result) if inspect.isawaitable(result) else result

        return call

    @contextlib.contextmanager
    def followed(self, loop: asyncio.AbstractEventLoop | None = None) -> Iterator[None]:
        """Record that a call of the answer is running, and what it raises."""
        token = object()
        self.running[token] = Call(threading.get_ident(), time.monotonic(), loop)
        try:
            yield
        except (Exception, SystemExit, Stop) as error:
            self.note(error)
            raise
        finally:
            with self.lock:
                self.running.pop(token, None)

    def note(self, error: BaseException) -> None:
        """Remember an exception that leaves the answer, and the line its own code was at."""
        ours = (__file__, contextlib.__file__)
        every = traceback.extract_tb(error.__traceback__)
        frames = [frame for frame in every if frame.filename not in ours]
        lines = [frame.lineno for frame in frames if frame.filename == frames[0].filename]
        self.let_out.append((error, lines[-1] if lines else None))
        if isinstance(error, Stop) and lines:
            self.line = lines[-1]

    def late(self, limit_s: float) -> list[tuple[object, Call]]:
        """The calls that have been running for longer than this."""
        now = time.monotonic()
        return [(t, c) for t, c in list(self.running.items()) if now - c.began > limit_s]

    def raised(self, error: BaseException) -> str | None:
        """A hint, if this exception came from the answer; else None."""
        for seen, line in self.let_out:
            if seen is error:
                where = f" in line {line}" if line else ""
                return f"your code raised {type(error).__name__}{where}: {error}"
        return None

    def misfit(self, answer: object, wanted: Any) -> str | None:
        """A hint, if the answer, or its last result, is not of the expected type; else None."""
        if not _fits_type(answer, wanted):
            return (
                f"your answer is {_format_answer(answer)}; it should be {_describe_type(wanted)}."
            )
        for function, value, waited in reversed(self.returned):
            result = _find_result_type(answer, wanted, function)
            if waited:
                [result] = typing.get_args(result) or (object,)
            if not _fits_type(value, result):
                forgotten = " Is a `return` missing?" if value is None else ""
                return (
                    f"your function returned {_format_answer(value)}; it should return "
                    f"{_describe_type(result)}.{forgotten}"
                )
        return None


@dataclass(frozen=True)
class Call:
    """A running call of an answer: its thread, when it began, and its event loop."""

    thread: int
    began: float
    loop: asyncio.AbstractEventLoop | None


class _TimeLimit:
    """While it is entered, an answer that runs for longer than LIMIT_S is stopped.

    A separate thread watches the calls. It interrupts the main thread by a signal, which also ends
    a wait for a lock or a socket. It interrupts other threads by an exception, which Python raises
    between two of their steps; their connections are closed, so that they do not wait for a reply.
    """

    EVERY_S = 0.1
    PATIENCE = 50  # tries, before a thread that cannot be interrupted is left behind

    def __init__(self, watch: Watch, client: redis.Redis | None) -> None:
        self.watch, self.client = watch, client
        self.over = threading.Event()
        self.tries = 0
        self.main = threading.main_thread()
        self.by_signal = threading.current_thread() is self.main and hasattr(signal, "SIGURG")
        self.thread = threading.Thread(target=self.look, daemon=True)

    def __enter__(self) -> None:
        if self.by_signal:
            self.before = signal.signal(signal.SIGURG, self.interrupt)
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()
        if self.by_signal:
            signal.signal(signal.SIGURG, self.before)

    def interrupt(self, *_: object) -> None:
        """The signal's handler, in the main thread. Raises: Stop, if an answer is at fault."""
        main = self.main.ident
        late = self.watch.late(LIMIT_S)
        if any(call.thread == main for _, call in late) or (late and self.tries > self.PATIENCE):
            raise Stop

    def look(self) -> None:
        while not self.over.wait(self.EVERY_S):
            late = self.watch.late(LIMIT_S)
            if not late:
                continue
            self.watch.stopped = True
            self.tries += 1
            with contextlib.suppress(Exception):  # whatever is wrong, the answer must be stopped
                if self.tries == 1:
                    _free_server(self.client)
                elif self.tries % 5 == 0:
                    hang_up(self.client)
            for token, call in late:
                self.stop(token, call)

    def stop(self, token: object, call: Call) -> None:
        main = self.main.ident
        if self.by_signal and main and (call.thread == main or self.tries > self.PATIENCE):
            signal.pthread_kill(main, signal.SIGURG)
        if self.by_signal and call.thread == main:
            return
        with self.watch.lock:  # it must not be raised after the answer has returned
            if token in self.watch.running:
                raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc
                raise_in(ctypes.c_ulong(call.thread), ctypes.py_object(Stop))
        if call.loop:  # wakes it, if it waits
            with contextlib.suppress(RuntimeError):  # it is closed
                call.loop.call_soon_threadsafe(lambda: None)


def _free_server(client: redis.Redis | None) -> str:
    """End a script that blocks the server; returns "killed", "stuck" if it cannot be ended, or "".

    This uses a new connection and tries only once.
    """
    pool = getattr(client, "connection_pool", None)
    if pool is None:  # no server, or a cluster's client
        return ""
    options = {
        **pool.connection_kwargs,
        "protocol": 2,
        "socket_timeout": BUSY_S,
        "retry": ONCE,
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
    }
    own = redis.ConnectionPool(connection_class=pool.connection_class, **options)
    with contextlib.closing(redis.Redis(connection_pool=own)) as asking:
        deadline = time.monotonic() + BUSY_S
        while True:
            try:
                asking.ping()
                return ""
            except redis.exceptions.BusyLoadingError:
                return ""
            except redis.RedisError as error:
                if "BUSY" in str(error):
                    return kill_script(asking)
                if time.monotonic() > deadline:  # it answers no client
                    return ""


def kill_script(asking: redis.Redis) -> str:
    try:
        asking.script_kill()
    except redis.RedisError as error:
        return "stuck" if "UNKILLABLE" in str(error) else ""
    return "killed"


BUSY_S = 10.0  # a script may block a server for five seconds before it answers BUSY
ONCE = Retry(NoBackoff(), 0)


def hang_up(client: redis.Redis | None) -> None:
    """Close all connections of a client; it opens new ones when it needs them."""
    pool = getattr(client, "connection_pool", None)
    if pool is not None:
        with contextlib.suppress(redis.RedisError, OSError, RuntimeError):
            pool.disconnect()


def _is_busy_reply(error: BaseException) -> bool:
    """Whether a server refuses to answer because it runs a script."""
    return isinstance(error, redis.RedisError) and str(error).startswith("BUSY ")


def _explain_stop(client: redis.Redis | None, watch: Watch) -> Endless:
    """End what blocks the server; returns the hint that explains what happened."""
    state = _free_server(client)
    where = f" It was in line {watch.line}." if watch.line else ""
    if state == "stuck":
        return ServerStuck("your script does not end, and a script that has written goes on.")
    hang_up(client)
    if client is not None and getattr(client, "connection_pool", None):
        with contextlib.suppress(redis.RedisError):
            for key in client.scan_iter("check:*", count=1000):
                client.unlink(key)
    if state == "killed" or not watch.stopped:
        return Endless("your script did not end, and was stopped. What does its loop wait for?")
    return Endless(
        f"your code had not ended after {LIMIT_S:g} s, and was stopped.{where} Does a loop go on "
        "for ever, or does something wait for what never comes?"
    )


def _find_result_type(answer: object, wanted: Any, function: Callable[..., Any]) -> Any:
    """The type that a function of the answer should return; `wanted` is the answer's type."""
    if isinstance(answer, tuple):
        for part, type_of_part in zip(answer, typing.get_args(wanted), strict=False):
            if part is function:
                return _find_result_type(part, type_of_part, function)
    if typing.get_origin(wanted) is abc.Callable:
        return typing.get_args(wanted)[1]
    return object


def _fits_type(value: object, wanted: Any) -> bool:
    """Whether a value has the type of an annotation, including the items of a container."""
    origin, args = typing.get_origin(wanted), typing.get_args(wanted)
    if wanted in (Any, object):
        return True
    if wanted in (None, types.NoneType):
        return value is None
    if origin in (types.UnionType, typing.Union):
        return any(_fits_type(value, one) for one in args)
    if wanted is abc.Callable or origin is abc.Callable:
        return callable(value)
    if wanted is float:
        return isinstance(value, numbers.Real)
    if wanted is int:
        return isinstance(value, numbers.Integral)
    kind = origin or wanted
    if not isinstance(value, kind) or (kind is abc.Sequence and isinstance(value, str | bytes)):
        return False
    if isinstance(value, Mapping):
        return len(args) != 2 or all(
            _fits_type(key, args[0]) and _fits_type(held, args[1]) for key, held in value.items()
        )
    if kind is tuple and args and args[-1] is not Ellipsis:
        return len(value) == len(args) and all(map(_fits_type, value, args))
    if isinstance(value, list | tuple | set) and args:
        return all(_fits_type(held, args[0]) for held in value)
    return True


WORDS: dict[Any, str] = {
    float: "a number",
    int: "a whole number",
    bool: "True or False",
    str: "a str",
    bytes: "bytes",
    list: "a list",
    dict: "a dict",
    tuple: "a tuple",
    abc.Sequence: "a list",
    abc.Mapping: "a dict",
    abc.Callable: "a function",
    abc.Awaitable: "something to await (async def)",
    types.NoneType: "None",
}


def _describe_type(wanted: Any) -> str:
    """A type in words: "a number", "a list of a str"."""
    origin, args = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(map(_describe_type, args))
    kind = origin or wanted
    word = WORDS.get(kind) or str(getattr(kind, "__name__", kind))
    if kind in (list, dict, tuple, abc.Sequence, abc.Mapping) and args:
        return f"{word} ({str(wanted).replace('collections.abc.', '')})"
    return word


def _format_answer(value: object, longest: int = 60) -> str:
    text = f"the function {value.__name__}" if inspect.isfunction(value) else repr(value)
    return text if len(text) <= longest else f"{text[:longest]}…"


def _explain_wrong_type(error: Exception) -> str | None:
    """A hint, if the check found another type of key than the exercise asks for."""
    if isinstance(error, redis.ResponseError) and str(error).startswith("WRONGTYPE"):
        return (
            "one of the keys holds another type than the exercise asks for: to the check's "
            f"command the server says {error}"
        )
    return None


def _locate_failure(error: Exception) -> str:
    """The file and line where the check was when it broke down."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "lessons" in Path(frame.filename).parts] or frames
    return f"{own[-1].filename.rpartition('/')[2]}, line {own[-1].lineno}"
