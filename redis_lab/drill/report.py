"""The report of a drill: a table of promises, a verdict for each, and the shortest witnesses."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..files import write_whole
from .contracts import Target
from .hands import Finding
from .stepping import Witness

__all__ = ["BROKEN", "HOLDS", "NOT_AT_FAILOVER", "NOT_PROMISED", "NOT_TESTED", "Report"]

HOLDS, BROKEN = "holds", "BROKEN"
NOT_TESTED, NOT_PROMISED = "not tested here", "not promised"
NOT_AT_FAILOVER = "not promised at a failover"


@dataclass
class Line:
    """One promise: how often it was broken, step by step and in the race, out of how many cases."""

    promise: str
    how: str
    unit: str = ""
    stepped: float = 0
    stepped_of: int = 0
    raced: float = 0
    raced_of: int = 0
    broken: bool = False
    verdict: str = NOT_TESTED

    def cell(self, count: float, of: int) -> str:
        """What was counted, for the table."""
        if not of:
            return "–"
        return f"{count:g} {self.unit}" if self.unit else f"{count:g} in {of}"


@dataclass
class Report:
    """The report of a drill of one class. `ok`: none of its promises is broken."""

    target: str
    kind: str
    server: str
    seed: int
    command: str
    lines: dict[str, Line]
    witnesses: dict[str, Witness] = field(default_factory=dict)
    orders: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    not_promised: tuple[str, ...] = ()
    not_at_failover: tuple[str, ...] = ()  # where there are failovers
    interrupted: bool = False

    @classmethod
    def begin(
        cls, target: Target, server: str, seed: int, command: str, on: str = "single"
    ) -> Report:
        """A report of nothing so far."""
        lines = {
            promise.name: Line(promise.name, promise.how, promise.unit)
            for promise in target.promises
        }
        return cls(
            *(str(target), target.kind, server, seed, command, lines),
            not_promised=target.not_promised,
            not_at_failover=target.not_promised_at_failover if on == "failover" else (),
        )

    def add(
        self,
        findings: list[Finding],
        witnesses: dict[str, Witness],
        *,
        raced: bool,
        failover: bool = False,
    ) -> None:
        """Add the verdicts of a run; keep the shortest witness for each promise.

        `failover`: there was one in the run.
        """
        for found in findings:
            line = self.lines.get(found.promise)
            if line is None:
                continue
            if raced:
                line.raced = max(line.raced, found.count) if line.unit else line.raced + found.count
                line.raced_of += found.of
            else:
                line.stepped = (
                    max(line.stepped, found.count) if line.unit else line.stepped + found.broken
                )
                line.stepped_of += bool(found.of)
            excused = found.promise in self.not_at_failover
            line.broken = line.broken or (found.broken and not (excused and failover))
            if found.promise in self.not_promised:
                line.verdict = NOT_PROMISED
            elif line.broken:
                line.verdict = BROKEN
            elif line.stepped_of + line.raced_of:
                line.verdict = NOT_AT_FAILOVER if excused else HOLDS
        for promise, witness in witnesses.items():
            known = self.witnesses.get(promise)
            if promise in self.lines and (not known or len(witness.steps) < len(known.steps)):
                self.witnesses[promise] = witness

    @property
    def ok(self) -> bool:
        """Whether no promise of the class was seen broken."""
        return not self.broken

    @property
    def broken(self) -> list[str]:
        """The class's promises that were seen broken."""
        return [name for name, line in self.lines.items() if line.verdict == BROKEN]

    def rows(self) -> list[list[str]]:
        """The table: promise, in so many orders, in the race, verdict."""
        return [
            [
                line.promise,
                line.cell(line.stepped, line.stepped_of),
                line.cell(line.raced, line.raced_of),
                line.verdict,
            ]
            for line in self.lines.values()
        ]

    def timelines(self) -> str:
        """The shortest witness for each broken promise, one below the other."""
        parts, shown = [], set()
        for promise, witness in self.witnesses.items():
            text, steps = timeline(witness), str(witness.steps)
            if self.lines[promise].verdict == BROKEN and steps not in shown:
                shown.add(steps)
                parts.append(f"{promise}: {witness.title}\n{text}")
        return "\n\n".join(parts)

    def summary(self) -> str:
        """A summary of the drill in one line."""
        faults = ", ".join(f"{n} × {fault}" for fault, n in self.faults.items() if n)
        raced = f"a race with {faults}" if faults else "no race"
        stopped = " Interrupted: this is what was found so far." if self.interrupted else ""
        return f"{self.orders} orders played step by step; {raced}.{stopped}"

    def __str__(self) -> str:
        heads = ["promise", "step by step", "in the race", "verdict"]
        rows = [heads, *self.rows()]
        widths = [max(len(row[k]) for row in rows) for k in range(len(heads))]
        table = "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        )
        head = f"{self.target} as {self.kind}, on {self.server}, seed {self.seed}"
        parts = [head, table, self.summary(), self.timelines(), f"Again: {self.command}"]
        return "\n\n".join(part for part in parts if part)

    def to_json(self) -> dict[str, Any]:
        """The whole report as a dictionary, for a file."""
        return {**asdict(self), "ok": self.ok}

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        text = json.dumps(self.to_json(), indent=1, ensure_ascii=False, default=str)
        write_whole(path, text.encode() + b"\n")


def timeline(witness: Witness) -> str:
    """One line a step, each client in a column of its own."""
    width = max((len(step.who) for step in witness.steps), default=0) + 2
    lines = []
    for number, step in enumerate(witness.steps, 1):
        if not step.who:
            lines.append(f"      {step.text}:")
            continue
        answer = f" → {step.reply}" if step.reply else ""
        lines.append(f"  {number:>2}  {step.who.ljust(width)}{step.text}{answer}")
    lines += [f"   so  {reason}" for reason in witness.because]
    return "\n".join(lines)
