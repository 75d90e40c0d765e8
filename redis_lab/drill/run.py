"""Hold a class to a contract, from Python and inside pytest."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Callable
from typing import Any

from ..errors import LabError
from ..servers import Server
from ..servers import server as start_server
from .contracts import Target, resolve
from .deployments import DEPLOYMENTS, Deployment, Pair, pair
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
    on: str = "single",
    forget: bool = False,
    steps: bool = True,
    progress: Callable[[str], object] = lambda text: None,
) -> Report:
    """Play the known interleavings, then race `workers` processes with `kills` of them killed.

    `what` is a class at the top of a module, or its address "module:Name"; `as_` is one of
    contracts.KINDS. The race is run `on` a single server, a "failover" or a "cluster". With
    `forget` the server keeps nothing when it is restarted. Without `steps` there is the race only,
    with `kills=0` the interleavings only. Ctrl-C ends it early, and the report says so.

    Raises: LabError if the class cannot be found or used.
    """
    if sys.platform == "win32":
        raise LabError("The drill needs Linux or macOS. On Windows, run it in WSL.")
    target = resolve(what, as_)
    play = PLAYS[as_]
    seed = random.randrange(1_000_000) if seed is None else seed
    if on not in DEPLOYMENTS:
        raise LabError(f"There is no deployment {on!r}: it is one of {', '.join(DEPLOYMENTS)}.")
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(start_server())
        text = f"{server.product} {server.version}"
        again = command(target, seed, kills, on, forget, steps)
        report = Report.begin(target, text, seed, again, on)
        try:
            servers: list[Server | Pair] = [server] if steps else []
            if steps and on == "failover":
                servers.append(stack.enter_context(pair()))
            for each in servers:
                for mode, findings, witnesses in interleavings(
                    each, play, target, progress, forget=forget
                ):
                    report.orders += 1
                    report.add(findings, witnesses, raced=False, failover=mode == "failover")
        except KeyboardInterrupt:
            report.interrupted = True
    if kills and not report.interrupted:
        with DEPLOYMENTS[on].open(forget) as deployment:
            report.server = str(deployment)
            race(target, report, deployment, seed, kills, workers, progress)
    return report


def race(
    target: Target,
    report: Report,
    deployment: Deployment,
    seed: int,
    kills: int,
    workers: int,
    progress: Callable[[str], object],
) -> None:
    """Run the race and add its verdicts to the report, even if it is interrupted."""
    play = PLAYS[target.kind]
    with Race(
        *(target, play, deployment), seed=seed, kills=kills, workers=workers, progress=progress
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
            if each.broken and each.promise not in report.witnesses and each.seen:
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
        report.add(found, witnesses, raced=True, failover=deployment.name == "failover")


def command(target: Target, seed: int, kills: int, on: str, forget: bool, steps: bool) -> str:
    """What plays this again."""
    more = [f"--kills {kills}"] + [f"--on {on}"] * (on != "single")
    more += ["--forget"] * forget + ["--no-steps"] * (not steps)
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
