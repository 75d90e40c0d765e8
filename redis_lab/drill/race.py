"""Several processes race at one deployment, while clients are killed and the server fails.

The seed decides the faults and their order; the machine decides how the processes interleave.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

from ..child import Child, TemporaryFolder
from ..errors import LabError
from .clock import HOUR_S
from .contracts import Target
from .deployments import Deployment
from .hands import REDIS_ERRORS, Hands, History, Play
from .history import Op, read_history
from .ledger import Ledger
from .stepping import without_ttl

__all__ = ["Race"]

WORKER = Path(__file__).with_name("_worker.py")
CALM, FAULTS, SETTLE, STOP = b"c", b"f", b"s", b"x"
CALM_S = 1.0
BEGIN_S = 60.0
EVERY = 3  # kills, something else goes wrong too


class Race:
    """One race: call `run()`, then `history()`. Use it in a `with` block."""

    def __init__(
        self,
        target: Target,
        play: Play,
        deployment: Deployment,
        *,
        seed: int,
        kills: int,
        workers: int,
        progress: Callable[[str], object],
    ) -> None:
        self.target, self.play, self.deployment = target, play, deployment
        self.kills, self.progress = kills, progress
        self.luck = Random(seed)
        self.faults: dict[str, int] = dict.fromkeys(("kill", *deployment.faults), 0)
        self.marks: list[Op] = []
        self.names = [f"w{n}" for n in range(workers)]
        self.generation = 0
        self.crew: list[str] = []
        self._temporary = TemporaryFolder("redis-lab-drill-")
        self.folder = Path(self._temporary.name)
        self.settled: list[Op] = []
        try:
            (self.folder / "phase").write_bytes(CALM)
            Ledger(self.folder / "ledger").close()
            settings = {
                "path": [os.path.abspath(entry) if entry == "" else entry for entry in sys.path],
                "target": [target.module, target.name, target.file, target.kind],
                "folder": str(self.folder),
                "deployment": deployment.settings(),
            }
            self.forker = Child("The drill's workers", WORKER, settings=settings, isolated=False)
            self.forker.wait_ready()
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> Race:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End all processes and remove what they wrote."""
        if hasattr(self, "forker"):
            self.forker.stop()
        self._temporary.cleanup()

    # ------------------------------------------------------------ the course of it

    def run(self) -> None:
        """Run a calm phase, then one with faults; then the class must recover."""
        for _ in self.names:
            self._hire()
        self._at_work(len(self.names))
        time.sleep(CALM_S)
        self._phase(FAULTS)
        for kill in range(self.kills):
            self.progress(f"kill {kill + 1} of {self.kills}")
            time.sleep(self.luck.uniform(0.005, 0.12))
            if kill % EVERY == EVERY - 1:
                self._fault(self.deployment.faults[kill // EVERY % len(self.deployment.faults)])
            victim = self.luck.choice(self._at_work(1))
            self._mark("kill", victim)
            self._tell(f"kill {victim}")
            self.crew.remove(victim)
            self._hire()
        self._phase(SETTLE)
        self._settle()
        self._phase(STOP)
        for name in list(self.crew):
            self._tell(f"kill {name}")
        self.crew.clear()

    def _phase(self, phase: bytes) -> None:
        with open(self.folder / "phase", "r+b") as file, mmap.mmap(file.fileno(), 1) as now:
            now[:1] = phase

    def _tell(self, line: str) -> str:
        answer = self.forker.ask(line)
        if not answer:
            raise LabError(f"The drill's workers ended: {self.forker.last_words()}")
        return answer

    def _check(self) -> None:
        """Raises: LabError if a worker failed other than in a call of the contract."""
        for crash in sorted(self.folder.glob("*.crash")):
            _, words = json.loads(crash.read_text())
            raise LabError(f"A worker of the drill failed:\n{words}")

    def _at_work(self, least: int) -> list[str]:
        """Wait until so many workers have called something; returns these. Raises: LabError."""
        deadline = time.monotonic() + BEGIN_S
        while True:
            self._check()
            found = [name for name in self.crew if self._log(name)]
            if len(found) >= least:
                return found
            if time.monotonic() > deadline:
                raise LabError(
                    f"The drill's workers called nothing within {BEGIN_S:g} s. Does the class wait "
                    "for something? If the machine is busy, try again."
                )
            time.sleep(0.005)

    def _log(self, name: str) -> int:
        """How many bytes a worker has written."""
        file = self.folder / f"{name}.log"
        return file.stat().st_size if file.exists() else 0

    def _hire(self) -> None:
        name = f"{self.names[self.generation % len(self.names)]}.{self.generation}"
        self.generation += 1
        (self.folder / f"{name}.clock").write_bytes(struct.pack("d", 0))
        self._tell(f"start {name} {self.luck.randrange(2**32)}")
        self.crew.append(name)

    def _mark(self, fault: str, who: str = "server") -> None:
        self.faults[fault] += 1
        self.marks.append(Op(who, fault, "", now := time.monotonic(), now))

    def _fault(self, fault: str) -> None:
        server = self.luck.choice(self.deployment.servers)
        relay = self.luck.choice(self.deployment.relays)
        if fault in ("stall", "restart") and server.pid is None:
            return
        who = self.luck.choice(self.crew) if fault in ("pause", "clock") else "server"
        self._mark(fault, who)
        if fault == "lost replies":
            relay.lose(self.luck.randint(1, 12))
        elif fault == "cut":
            relay.cut()
        elif fault == "stall":
            with server.stalled():
                time.sleep(self.luck.uniform(0.05, 0.8))
        elif fault == "pause":
            self._tell(f"stop {who}")
            time.sleep(self.luck.uniform(1.1, 2) * min(self.target.lease_s, 1))
            self._tell(f"go {who}")
        elif fault == "clock":
            far = self.luck.choice((1.5 * self.target.span_s, HOUR_S))
            self._set_clock(who, self.luck.choice((1, -1)) * far)
        elif fault == self.deployment.fault:
            self.deployment.disturb(self.luck)
        else:
            with server.client() as admin:
                admin.config_set("maxmemory", 1)
                time.sleep(self.luck.uniform(0.05, 0.3))
                admin.config_set("maxmemory", 0)

    def _set_clock(self, who: str, ahead_s: float) -> None:
        file = self.folder / f"{who}.clock"
        with open(file, "r+b") as ahead, mmap.mmap(ahead.fileno(), 8) as now:
            now[:8] = struct.pack("d", ahead_s)

    def _settle(self) -> None:
        """End all faults; then the class must recover by itself."""
        self.progress("whether it gets on again")
        for relay in self.deployment.relays:
            relay.lose(0)
        for name in self.crew:
            self._set_clock(name, 0)
        ledger = Ledger(self.folder / "ledger")
        try:
            with self.deployment.client(**self.target.client_options) as client:
                luck = Random(0)
                hands = Hands("later", self.target, client, ledger, luck, self.settled.append)
                self.play.build(hands)
                hands.so_far = self._so_far
                self.play.settle(hands)
        finally:
            ledger.close()

    # ------------------------------------------------------------ what came of it

    def _so_far(self) -> list[Op]:
        settled = {id(op): op for op in self.settled}.values()
        return read_history(sorted(self.folder.glob("*.log"))) + list(settled)

    def history(self) -> History:
        """The history so far. Raises: LabError if a worker failed for another reason than the
        contract.
        """
        self._check()
        kept: list[str] = []
        keys = 0
        try:
            with self.deployment.client() as admin:
                keys = sum(1 for _ in admin.scan_iter(count=1000))
                kept = without_ttl(admin)
        except REDIS_ERRORS:  # it was interrupted while the server was down
            pass
        ops = sorted(self._so_far(), key=lambda op: op.start)
        return History(self.target, ops, Ledger(self.folder / "ledger"), kept, max(1, keys))
