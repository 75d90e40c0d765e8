"""What turns a notebook into a lesson: predictions, claims, exercises, the source of a pattern."""

from __future__ import annotations

import ast
import html
import inspect
import linecache
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, zip_longest
from numbers import Real
from types import FrameType
from typing import Any

import redis

from . import claims, copies, lessons, logbook, toc
from .child import TemporaryFolder as TemporaryFolder
from .claims import NOT_MEASURED
from .errors import LabError, wrap_lines
from .figures import Chart, describe, write_plot
from .judging import NotYet, ServerStuck
from .measure.comparison import Comparison
from .measure.results import Result, make_result, save
from .servers.choose import announced_client, server_behind

Guess = float | str


class ClaimFailed(AssertionError):
    """A claim of the lesson that this run contradicts."""

    def _render_traceback_(self) -> list[str]:
        return wrap_lines(str(self)).splitlines()


class Prediction:
    """Guesses made before a measurement, to be compared with it by `reveal`.

    They are numbers, or, if there are `choices`, one of these each.
    """

    def __init__(self, guesses: Mapping[str, Guess], choices: Sequence[str] = ()) -> None:
        self.guesses, self.choices = dict(guesses), tuple(choices)

    def __repr__(self) -> str:
        return "noted: " + ", ".join(
            f"{name} {guess if isinstance(guess, str) else format(guess, 'g')}"
            for name, guess in self.guesses.items()
        )

    def reveal(self, *, theory: Mapping[str, Guess] | None = None, **measured: Guess) -> Revealed:
        """Compare the guesses with the measurements and, if given, with the theory.

        Raises: LabError for a name without a guess, and for a value that is not among the choices.
        """
        theory = theory or {}
        unknown = (set(measured) | set(theory)) - set(self.guesses)
        if unknown:
            raise LabError(f"Nothing was predicted for {', '.join(sorted(unknown))}.")
        for name, value in [*measured.items(), *theory.items()]:
            if self.choices and value not in self.choices:
                raise LabError(f"{value!r} was not among the choices for {name}.")
        for name, value in measured.items():
            said = value if self.choices else float(value)
            logbook.note(prediction=name, guess=self.guesses[name], measured=said)
        return Revealed(self.guesses, measured, theory)


class Revealed:
    """A small table: guess, measurement, theory, and how far off the guess was."""

    def __init__(self, guesses: Mapping, measured: Mapping, theory: Mapping) -> None:
        between = ("theory",) if theory else ()
        self.heads = ("", "your guess", "measured", *between, "your guess was")
        self.rows = [
            (
                name.replace("_", " "),
                _format_number(guess),
                _format_number(measured.get(name)),
                *(_format_number(theory.get(name)) for _ in between),
                _describe_error(guess, measured.get(name)),
            )
            for name, guess in guesses.items()
        ]

    def __repr__(self) -> str:
        table = [self.heads, *self.rows]
        widths = [max(len(row[k]) for row in table) for k in range(len(self.heads))]
        return "\n".join("  ".join(map(str.rjust, row, widths)).rstrip() for row in table)

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{text}</th>" for text in self.heads)
        rows = "".join(
            "<tr>" + "".join(f"<td>{html.escape(text)}</td>" for text in row) + "</tr>"
            for row in self.rows
        )
        return f"<table><tr>{head}</tr>{rows}</table>"


def _format_number(value: Guess | None) -> str:
    if value is None or isinstance(value, str):
        return value or "–"
    return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _describe_error(guess: Guess, measured: Guess | None) -> str:
    if isinstance(guess, str) or isinstance(measured, str):
        return "–" if measured is None else "right" if guess == measured else "wrong"
    if measured is None or guess <= 0 or measured <= 0:
        return "–"
    factor = guess / measured
    if 1 / 1.25 <= factor <= 1.25:
        return "close"
    times = float(f"{max(factor, 1 / factor):.2g}")
    return f"{_format_number(times)} times too {'high' if factor > 1 else 'low'}"


def predict(*, choices: Sequence[str] = (), **guesses: Guess) -> Prediction:
    """Record guesses before measuring: `guess = lab.predict(here=2, away=2)`.

    With `choices`, each guess is one of them: `lab.predict(fastest="GET", choices=["GET", "SET"])`.

    Raises: LabError for a guess that is not a finite number, or not one of the choices.
    """
    for name, guess in guesses.items():
        if choices and guess not in choices:
            offered = ", ".join(map(repr, choices))
            raise LabError(f"The guess for {name} must be one of {offered}, not {guess!r}.")
        if choices:
            continue
        if not isinstance(guess, int | float) or not math.isfinite(guess):
            raise LabError(f"The guess for {name} must be a number, not {guess!r}.")
    if not guesses:
        raise LabError("Predict something: lab.predict(times_faster=2).")
    return Prediction(guesses, choices)


def claim(text: str, holds: bool, *, varies: bool = False) -> None:
    """Print a claim of the lesson with a tick, or report that this run contradicts it.

    A claim on a count, on a contract or on an answer must hold. A claim that depends on times, on
    the operating system, or on chance `varies` from machine to machine. If a claim does not hold,
    both sides are printed with a possible explanation, and the notebook continues. At the end
    `redis-lab validate` lists the varying claims that did not hold.

    Raises: ClaimFailed under `redis-lab validate` and `plots`, for a claim that must hold and does
    not.
    """
    if not varies and not holds:
        why = f"✗ {text}\n  {_describe_sides()} does not hold here. {MUST_HOLD}"
        if claims.is_strict():
            raise ClaimFailed(why)
        print(wrap_lines(why))
        return
    busy = varies and claims.missing
    if claims.is_validating() and varies:
        reason = (
            NOT_MEASURED if busy else "" if holds else f"does not hold here: {_describe_sides()}"
        )
        claims.append_claim(claim=text, holds=bool(holds), reason=reason)
    elif not holds:
        print(wrap_lines(f"✗ {text}\n  {_describe_sides()} does not hold here. {MAY_MEAN}"))
        return
    print(f"✓ {text}")


MAY_MEAN = (
    "This varies from machine to machine. If other programs were running, measure again; "
    "if it stays so, this machine is different, and what the lesson concludes is not true of it."
)

MUST_HOLD = (
    "It should hold on every machine. Perhaps a cell above was changed, or not run: run them all "
    "again, in their order. If it stays so, this is a fault of the workbook; please report it."
)


def _describe_sides() -> str:
    """Both sides of the comparison that the caller's caller passed to `claim`, with their values.

    The expressions left and right of `<` in the source are evaluated again, in the caller's scope.
    """
    here = inspect.currentframe()
    frame = here and here.f_back and here.f_back.f_back
    where = inspect.getframeinfo(frame, context=0).positions if frame else None
    if not frame or not where:
        return "it"
    tree = ast.parse("".join(linecache.getlines(frame.f_code.co_filename)) or "None")
    for call in ast.walk(tree):
        place = (getattr(call, name, None) for name in ("lineno", "col_offset", "end_lineno"))
        if isinstance(call, ast.Call) and tuple(place) == (
            where.lineno,
            where.col_offset,
            where.end_lineno,
        ):
            return _describe_values(call.args[1], frame) if len(call.args) > 1 else ""
    return "it"


def _describe_values(expression: ast.expr, frame: FrameType) -> str:
    """A comparison as in the source, with the value of each side in place of its expression."""
    if not isinstance(expression, ast.Compare):
        return ast.unparse(expression)
    shown = []
    for side in (expression.left, *expression.comparators):
        source = ast.unparse(side)
        try:
            value = eval(source, frame.f_globals, frame.f_locals)
        except Exception:  # a variable of a comprehension, or an expression that works only once
            shown.append(source)
        else:
            shown.append(_format_number(float(value)) if isinstance(value, Real) else repr(value))
    words = [SIGNS.get(type(sign), "?") for sign in expression.ops]
    return " ".join(chain.from_iterable(zip_longest(shown, words, fillvalue=""))).rstrip()


SIGNS = {
    ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=",
    ast.Is: "is", ast.IsNot: "is not", ast.In: "in", ast.NotIn: "not in",
}  # fmt: skip


def check(exercise: str, answer: object) -> None:
    """Check an answer: `lab.check("pipelines.cart_total", cart_total)`; print what is wrong.

    The answer is run with the client that `connect()` announced last.

    Raises: LabError for an exercise that does not exist, or before `connect()`; CheckFailed if the
    check itself fails.
    """
    judge, client = lessons.find_check(exercise), announced_client()
    if client is None:
        raise LabError("lab.check needs a server: call r = lab.connect() first.")
    try:
        print(wrap_lines(f"✓ {judge(client, answer)}"))
        outcome = "right"
    except NotYet as hint:
        print(wrap_lines(f"✗ not yet: {hint}"))
        outcome = hint.outcome
        if isinstance(hint, ServerStuck):
            print(wrap_lines(end_server(client)))
        elif untouched(exercise, inspect.currentframe()):
            outcome = "untouched"
            print(f'  This is the cell as it was. Try it, or lab.hint("{exercise}").')
    logbook.note(check=exercise, outcome=outcome)


def end_server(client: redis.Redis) -> str:
    """End the lab's server, which no command can stop any more; returns what to do next."""
    server = server_behind(client)
    if server is None or server.settings is None:  # the lab did not start it
        return (
            "  Your server answers nobody until the script ends. Whoever runs it can end it: "
            "SHUTDOWN NOSAVE."
        )
    server.stop()
    return "  The server was ended, and its data with it. Run r = lab.connect() again."


def untouched(exercise: str, check: FrameType | None) -> bool:
    """Whether the cell that called `check` is still the workbook's exercise, unchanged."""
    caller = check and check.f_back
    here = caller and "".join(linecache.getlines(caller.f_code.co_filename)).strip()
    if not here:
        return False
    try:
        cells = copies.read_notebook(lesson_of(exercise).find())["cells"]
    except LabError:
        return False
    return any(
        "exercise" in copies.tags(cell) and "".join(cell["source"]).strip() == here
        for cell in cells
    )


class Note:
    """A text in Markdown, rendered in a notebook; elsewhere its lines break between words."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        if self.text.startswith("```"):
            return self.text
        return wrap_lines(self.text)

    def _repr_markdown_(self) -> str:
        return self.text


_shown: Counter[str] = Counter()  # how many hints of an exercise this kernel has shown


def hint(exercise: str) -> Note:
    """The next hint for an exercise, `lab.hint("hashes.reserve")`: the first is a nudge, the last
    nearly the answer.

    Once all have been shown, the last one is shown again. Raises: LabError for an exercise that
    does not exist.
    """
    hints = lessons.find_hints(exercise)
    number = min(_shown[exercise] + 1, len(hints))
    _shown[exercise] = number
    left = len(hints) - number
    more = f"`lab.hint` has {left} more" if left else "This is the last one"
    return Note(
        f"**Hint {number} of {len(hints)}.** {hints[number - 1]} "
        f'*({more}; `lab.solution("{exercise}")` shows an answer.)*'
    )


def solution(exercise: str) -> Note:
    """An answer to an exercise, from the workbook's notebook: `lab.solution("hashes.reserve")`.

    Raises: LabError for an exercise that does not exist, or without the notebooks.
    """
    lessons.find_check(exercise)
    return Note(f"```python\n{solution_of(exercise)}\n```")


def solution_of(exercise: str) -> str:
    """The source of the cell that is tagged `solution` and checks this exercise."""
    for cell in copies.read_notebook(lesson_of(exercise).find())["cells"]:
        source = "".join(cell["source"])
        if "solution" in copies.tags(cell) and f'lab.check("{exercise}"' in source:
            return source
    raise LabError(f"The workbook has no solution of {exercise}.")


def lesson_of(exercise: str) -> toc.Lesson:
    """The lesson that an exercise belongs to. Raises: LabError without the notebooks."""
    name = exercise.partition(".")[0]
    for lesson in toc.read_toc():
        if lesson.name == name:
            return lesson
    raise LabError(f"No lesson has the exercise {exercise}.")


def show_source(thing: type | Callable) -> object:
    """Show the source of a pattern, read from the code that the lesson runs."""
    from IPython.display import Markdown

    return Markdown(f"```python\n{inspect.getsource(thing).rstrip()}\n```")


source = show_source  # as `lab.lesson.source`


def figure(
    experiment: str,
    measured: Comparison | Sequence[Mapping],
    *,
    client: redis.Redis | None = None,
    **more: Any,
) -> object:
    """Save an experiment's result and its plot, and show the plot.

    FIGURES in the lesson's module says how it is drawn; `more` is added to the result's
    environment.

    Raises: LabError for an experiment that no lesson has a figure for.
    """
    chart = lessons.find_figure(experiment)
    return _save_and_show(
        make_result(experiment, measured, title=chart.title, client=client, **more), chart
    )


def _save_and_show(result: Result, chart: Chart) -> object:
    """Save a result and its plot, and show the plot.

    At effort `full` they are written to data/results and data/plots, otherwise in data/local.
    """
    from IPython.display import Image

    save(result)
    return Image(data=write_plot(result, chart), format="png", alt=describe(result, chart))
