"""What every exercise's check has in common: how it is found, and whose fault an exception is.

A check is a function `(client, answer) -> praise` marked with `@exercise`. It runs the learner's
answer on keys of its own, returns a sentence of praise with the facts, or raises `NotYet` with a
hint. The decorator turns what goes wrong in the learner's code into such a hint, and what goes
wrong in the check itself into `CheckFailed`. With the check stand the hints that `lab.hint` shows
one after the other, from a nudge to nearly the answer.
"""

from __future__ import annotations

import functools
import inspect
import numbers
import traceback
import types
import typing
from collections import abc, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import redis

from .errors import LabError

A = TypeVar("A")
Check = Callable[[redis.Redis, A], str]

EXERCISES: dict[str, Check[Any]] = {}
"""The checks of the modules imported so far, by name: `hashes.reserve`."""

HINTS: dict[str, tuple[str, ...]] = {}
"""The hints of these exercises, in Markdown, the first only a nudge."""

REMEMBERED = 1000  # returned values of an answer, to explain why a check could not use them


class NotYet(Exception):
    """An exercise's answer is not right yet; the message is a hint that explains why."""


class CheckFailed(LabError):
    """A check broke down by itself: a fault of the workbook, not of the answer."""


def exercise(*, hints: Sequence[str]) -> Callable[[Check[A]], Check[A]]:
    """Mark a function as the check of an exercise, so that `lab.check("lesson.name", …)` finds it.

    `hints` are shown by `lab.hint`, one with each call.

    The marked function raises: NotYet, also for an exception in the learner's code and for a
    result of a type that the check cannot use; CheckFailed for an exception of the
    check's own; LabError where the lab's server is gone.
    """
    return partial(mark, hints=tuple(hints))


def mark(check: Check[A], hints: tuple[str, ...]) -> Check[A]:
    """What `exercise` does with a check."""
    name = f"{check.__module__.rpartition('.')[2]}.{check.__name__}"
    HINTS[name] = hints

    @functools.wraps(check)
    def checked(client: redis.Redis, answer: A) -> str:
        wanted = typing.get_type_hints(check)["answer"]
        if typing.get_origin(wanted) is abc.Callable and not callable(answer):
            raise NotYet(f"your answer is {shown(answer)}; it should be {described(wanted)}.")
        watch = Watch()
        try:
            return check(client, watch.over(answer))
        except (NotYet, LabError):
            raise
        except Exception as error:
            hint = watch.raised(error) or watch.misfit(answer, wanted) or stored_type(error)
            if hint:
                raise NotYet(hint) from error
            if isinstance(error, redis.ConnectionError):
                raise LabError(f"The server that the check talks to is gone: {error}") from error
            raise CheckFailed(
                f"The check of {name} broke down: {type(error).__name__}: {error} "
                f"({place(error)}). This is a fault of the workbook, not of your answer. "
                "Please report it as an issue, with this message and with your answer."
            ) from error

    EXERCISES[name] = checked
    return checked


class Watch:
    """Follows the calls of a learner's answer: what they returned, and what they raised."""

    def __init__(self) -> None:
        # function, what it returned, and whether that was awaited before
        self.returned: deque[tuple[Callable[..., Any], object, bool]] = deque(maxlen=REMEMBERED)
        self.let_out: list[tuple[Exception, int | None]] = []

    def over(self, answer: Any) -> Any:
        """The answer, every function in it (in a tuple or a dict, too) being watched."""
        if type(answer) is tuple:
            return tuple(map(self.over, answer))
        if type(answer) is dict:
            return {key: self.over(value) for key, value in answer.items()}
        if not callable(answer):
            return answer

        async def awaited(result: Awaitable[Any]) -> Any:
            try:
                value = await result
            except Exception as error:
                self.note(error)
                raise
            self.returned.append((answer, value, True))
            return value

        def call(*args: Any, **options: Any) -> Any:
            try:
                result = answer(*args, **options)
            except Exception as error:
                self.note(error)
                raise
            self.returned.append((answer, result, False))
            return awaited(result) if inspect.isawaitable(result) else result

        return call

    def note(self, error: Exception) -> None:
        """Remember an exception that leaves the answer, and the line its own code was at."""
        frames = traceback.extract_tb(error.__traceback__)[1:]  # without the frame of the wrapper
        lines = [frame.lineno for frame in frames if frame.filename == frames[0].filename]
        self.let_out.append((error, lines[-1] if lines else None))

    def raised(self, error: Exception) -> str | None:
        """A hint, if this exception came out of the answer."""
        for seen, line in self.let_out:
            if seen is error:
                where = f" in line {line}" if line else ""
                return f"your code raised {type(error).__name__}{where}: {error}"
        return None

    def misfit(self, answer: object, wanted: Any) -> str | None:
        """A hint, if the answer, or what it returned last, is not of the expected type."""
        if not fits(answer, wanted):
            return f"your answer is {shown(answer)}; it should be {described(wanted)}."
        for function, value, waited in reversed(self.returned):
            result = result_of(answer, wanted, function)
            if waited:
                [result] = typing.get_args(result) or (object,)
            if not fits(value, result):
                forgotten = " Is a `return` missing?" if value is None else ""
                return (
                    f"your function returned {shown(value)}; it should return {described(result)}."
                    f"{forgotten}"
                )
        return None


def result_of(answer: object, wanted: Any, function: Callable[..., Any]) -> Any:
    """The type that a function of the answer should return, `wanted` being the answer's type."""
    if isinstance(answer, tuple):
        for part, type_of_part in zip(answer, typing.get_args(wanted), strict=False):
            if part is function:
                return result_of(part, type_of_part, function)
    if typing.get_origin(wanted) is abc.Callable:
        return typing.get_args(wanted)[1]
    return object


def fits(value: object, wanted: Any) -> bool:
    """Whether a value is of a type as annotations name them, down to what a container holds."""
    origin, args = typing.get_origin(wanted), typing.get_args(wanted)
    if wanted in (Any, object):
        return True
    if wanted in (None, types.NoneType):
        return value is None
    if origin in (types.UnionType, typing.Union):
        return any(fits(value, one) for one in args)
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
            fits(key, args[0]) and fits(held, args[1]) for key, held in value.items()
        )
    if kind is tuple and args and args[-1] is not Ellipsis:
        return len(value) == len(args) and all(map(fits, value, args))
    if isinstance(value, list | tuple | set) and args:
        return all(fits(held, args[0]) for held in value)
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


def described(wanted: Any) -> str:
    """A type in words: "a number", "a list of a str"."""
    origin, args = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(map(described, args))
    kind = origin or wanted
    word = WORDS.get(kind) or str(getattr(kind, "__name__", kind))
    if kind in (list, dict, tuple, abc.Sequence, abc.Mapping) and args:
        return f"{word} ({str(wanted).replace('collections.abc.', '')})"
    return word


def shown(value: object, longest: int = 60) -> str:
    text = f"the function {value.__name__}" if inspect.isfunction(value) else repr(value)
    return text if len(text) <= longest else f"{text[:longest]}…"


def stored_type(error: Exception) -> str | None:
    """A hint, if the check found another type of key than the exercise asks for."""
    if isinstance(error, redis.ResponseError) and str(error).startswith("WRONGTYPE"):
        return (
            "one of the keys holds another type than the exercise asks for: to the check's "
            f"command the server says {error}"
        )
    return None


def place(error: Exception) -> str:
    """The file and line where the check was when it broke down."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "lessons" in Path(frame.filename).parts] or frames
    return f"{own[-1].filename.rpartition('/')[2]}, line {own[-1].lineno}"
