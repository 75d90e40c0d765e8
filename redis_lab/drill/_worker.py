"""The workers of a race: one process that forks them, so that a new one starts in milliseconds.

Run as `python _worker.py OWNER_PID`. It reads its settings as a line of JSON, imports the class,
prints `ready`, and then reads the commands `start NAME SEED`, `kill NAME`, `stop NAME` and `go
NAME`, each answered by a line. It ends, with all its workers, at `quit`, when its input closes, or
when its owner is no longer its parent.
"""

import contextlib
import json
import mmap
import os
import random
import select
import signal
import struct
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

CHECK_S = 0.25
CALM, FAULTS, SETTLE, STOP = b"c", b"f", b"s", b"x"


class Log:
    """Write one line when a call begins, and one when it has returned; SIGKILL loses neither."""

    def __init__(self, folder, name):
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self.file = os.open(Path(folder) / f"{name}.log", flags, 0o600)
        self.begun = {}

    def __call__(self, op):
        entry = {k: v for k, v in asdict(op).items() if v != float("inf")}
        number = self.begun.pop(id(op), None)
        if number is None:
            number = op.start
            if op.end == float("inf"):
                self.begun[id(op)] = number
        os.write(self.file, json.dumps([number, entry], default=str).encode() + b"\n")


def work(settings, target, play, name, seed):
    from redis.backoff import ConstantBackoff
    from redis.retry import Retry

    from redis_lab.drill.clock import jumping
    from redis_lab.drill.deployments import open_client
    from redis_lab.drill.hands import Hands
    from redis_lab.drill.ledger import Ledger

    owner, folder = os.getppid(), Path(settings["folder"])
    options: dict[str, Any] = {"socket_timeout": 0.5, "retry": Retry(ConstantBackoff(0.02), 3)}
    options |= {"decode_responses": True, **target.client_options}
    client = open_client(**settings["deployment"], **options)
    log, luck = Log(folder, name), random.Random(seed)
    hands = Hands(name, target, client, Ledger(folder / "ledger"), luck, log)
    phase, clock = mapped(folder / "phase", 1), mapped(folder / f"{name}.clock", 8)
    with jumping(target.module, lambda: struct.unpack("d", clock[:8])[0]):
        play.build(hands)
        while (now := phase[:1]) != STOP and os.getppid() == owner:
            if now == SETTLE:
                play.drain(hands)
            else:
                play.turn(hands, now == CALM)


def mapped(file, size):
    """What the race writes there, as it is now."""
    with open(file, "r+b") as opened:
        return mmap.mmap(opened.fileno(), size)


def main(owner):
    settings = json.loads(sys.stdin.buffer.readline())
    sys.path[:] = settings["path"]
    from redis_lab.drill.contracts import load_again
    from redis_lab.drill.kinds import PLAYS

    target = load_again(*settings["target"])
    play = PLAYS[target.kind]
    workers: dict = {}
    print("ready", flush=True)

    def end(name):
        pid = workers.pop(name)
        os.kill(pid, signal.SIGKILL)  # it has not been waited for, so no other process has its pid
        _, status = os.waitpid(pid, 0)
        return "crashed" if os.WIFEXITED(status) and os.WEXITSTATUS(status) else "ended"

    rest = b""
    try:
        while os.getppid() == owner:
            if not select.select([0], [], [], CHECK_S)[0]:
                continue
            received = os.read(0, 4096)
            if not received:
                return
            *lines, rest = (rest + received).split(b"\n")
            for line in lines:
                word, *more = line.decode().split()
                if word == "quit":
                    return
                name = more[0]
                answer = "ok"
                if word == "start":
                    pid = os.fork()
                    if not pid:
                        run_worker(settings, target, play, name, int(more[1]))
                    workers[name] = pid
                elif word == "kill":
                    answer = end(name)
                else:
                    os.kill(workers[name], signal.SIGSTOP if word == "stop" else signal.SIGCONT)
                print(answer, flush=True)
    finally:
        for name in list(workers):
            with contextlib.suppress(OSError):
                end(name)


def run_worker(settings, target, play, name, seed):
    """Run the worker in the forked process; never returns."""
    code = 0
    try:
        os.close(0)
        work(settings, target, play, name, seed)
    except BaseException:
        import traceback

        text = json.dumps([time.monotonic(), traceback.format_exc()[-2000:]])
        file = Path(settings["folder"]) / f"{name}.crash"
        file.with_suffix(".part").write_text(text)
        file.with_suffix(".part").rename(file)
        code = 1
    finally:
        os._exit(code)


if __name__ == "__main__":
    main(int(sys.argv[1]))
