"""Hold a class to a contract, from Python and inside pytest."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from typing import Any

from ..errors import LabError
from ..servers import server as start_server
from .contracts import Target, resolve
from .kinds import PLAYS
from .race import Race
from .report import Report
from .stepping import Step, Witness, interleavings

__all__ = ["drill", "hold"]

MOST_SHOWN = 6  # operations of a race in a witness


def drill(
    what: str | Callable[..., Any],
    as_: str,
    *,
    seed: int | None = None,
    kills: int = 100,
    workers: int = 4,
    forget: bool = False,
    steps: bool = True,
    progress: Callable[[str], object] = lambda text: None,
) -> Report:
    """Play the known interleavings, then race `workers` processes with `kills` of them killed.

    `what` is a class at the top of a module, or its address "module:Name"; `as_` is one of
    contracts.KINDS. With `forget` the server keeps nothing when it is restarted. Without `steps`
    there is only the race, with `kills=0` there are only the interleavings. Ctrl-C ends the drill
    early, and the report says so.

    Raises: LabError if the class cannot be found or used.
    """
    if sys.platform == "win32":
        raise LabError("The drill needs Linux or macOS. On Windows, run it in WSL.")
    target = resolve(what, as_)
    play = PLAYS[as_]
    seed = random.randrange(1_000_000) if seed is None else seed
    # A killed server must not lose acknowledged writes; power does not fail here, so no fsync is
    # needed
    config = {} if forget else {"appendonly": "yes", "appendfsync": "no"}
    with start_server() as server:
        text = f"{server.product} {server.version}"
        report = Report.begin(target, text, seed, command(target, seed, kills, forget, steps))
        try:
            if steps:
                for findings, witnesses in interleavings(
                    server, play, target, progress, forget=forget
                ):
                    report.orders += 1
                    report.add(findings, witnesses, raced=False)
        except KeyboardInterrupt:
            report.interrupted = True
    if kills and not report.interrupted:
        with start_server(**config) as server:
            race(target, report, server, seed, kills, workers, progress)
    return report


def race(
    target: Target,
    report: Report,
    server: Any,
    seed: int,
    kills: int,
    workers: int,
    progress: Callable[[str], object],
) -> None:
    """Run the race and add its verdicts to the report, even if it is interrupted."""
    play = PLAYS[target.kind]
    with Race(
        *(target, play, server),
        seed=seed,
        kills=kills,
        workers=workers,
        restarts=True,
        progress=progress,
    ) as run:
        try:
            run.run()
        except KeyboardInterrupt:
            report.interrupted = True
        report.faults = run.faults
        history = run.history()
        found = play.judge(history)
        history.ledger.close()
        witnesses = {}
        for each in found:
            if each.count and each.promise not in report.witnesses and each.seen:
                ops = sorted(each.seen, key=lambda op: op.start)[:MOST_SHOWN]
                begin, end = ops[0].start, max(min(op.end, op.start + 60) for op in ops)
                marks = [mark for mark in run.marks if begin <= mark.start <= end]
                shown = sorted([*ops, *marks[:4]], key=lambda op: op.start)
                steps = [
                    Step(
                        op.who,
                        f"+{op.start - begin:.3f} s  "
                        + (f"{op.name} of {op.who}" if op in marks else str(op)),
                    )
                    for op in shown
                ]
                witnesses[each.promise] = Witness("seen in the race", steps, [])
        report.add(found, witnesses, raced=True)


def command(target: Target, seed: int, kills: int, forget: bool, steps: bool) -> str:
    """The command that repeats this drill."""
    more = [f"--kills {kills}"] + ["--forget"] * forget + ["--no-steps"] * (not steps)
    return f"redis-lab drill {target} --as {target.kind} --seed {seed} {' '.join(more)}"


def hold(
    what: str | Callable[..., Any],
    as_: str,
    *,
    seed: int | None = None,
    kills: int = 20,
    **options: Any,
) -> Report:
    """`drill`, for a test. Raises: AssertionError with the table and witnesses, if a promise is
    broken.
    """
    __tracebackhide__ = True
    report = drill(what, as_, seed=seed, kills=kills, **options)
    if report.interrupted:
        raise KeyboardInterrupt
    if not report.ok:
        raise AssertionError(f"{', '.join(report.broken)}\n\n{report}")
    return report
