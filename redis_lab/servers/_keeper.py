"""The keeper: a tiny process that owns one server and never outlives the lab.

Run as `python -I -S _keeper.py OWNER_PID MODE ...`, standard library only. It reads three commands
from standard input and answers each on standard output:

    start   start the server, or start it again             -> "pid N" or "exit CODE"
    alive   is the server running?                          -> "pid N" or "exit CODE"
    quit    kill the server, remove its directory, leave

When its input closes, or when its owner is no longer its parent (a process that the owner forked
may hold the pipe open), it acts as on `quit`. It polls for this, because polling works on Linux and
on macOS, even if the owner was killed with SIGKILL.

MODE is `native PARENT PROGRAM ARGS...` or `container NAME`, which needs the site's packages (no -I
-S). That keeper is started before the container, and removes it by its name in whatever state the
owner has left it; the word `gone` says that the owner has removed it.

A native server's keeper first makes its directory in PARENT, because an owner could be killed
between making one and starting a keeper. It prints `made NAME`, or `failed REASON`. The owner then
writes the file redis.conf there, and says `start`.
"""

import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import time

POLL_S = 0.25
ABSENT_TIMES = 6  # in a row
WINDOWS = sys.platform == "win32"


def before_exec():
    """On Linux the kernel kills the server even if the keeper itself is killed; pin the server."""
    cores = os.environ.get("REDIS_LAB_SERVER_CORES")  # set by redis-lab publish
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, map(int, cores.split(",")))
    if sys.platform.startswith("linux"):
        PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Native:
    def __init__(self, parent, program, *arguments):
        name = "redis-lab-" + os.urandom(6).hex()
        self.directory, self.process = os.path.join(parent, name), None
        self.command = [program, os.path.join(self.directory, "redis.conf"), *arguments]
        try:
            os.mkdir(self.directory, 0o700)
        except OSError as error:
            self.ready = f"failed {error.strerror}"
        else:
            self.ready = f"made {name}"

    def start(self):
        if self.process and self.process.poll() is None:  # sent twice, after an interruption
            return self.alive()
        with open(os.path.join(self.directory, "log"), "ab") as log:
            self.process = subprocess.Popen(
                self.command,
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=before_exec,
            )
        return self.alive()

    def alive(self):
        if self.process is None:
            return "exit before it was started"
        code = self.process.poll()
        return f"pid {self.process.pid}" if code is None else f"exit {code}"

    def quit(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)


class Container:
    ready = "pid 0"

    def __init__(self, name):
        self.name, self.removed = name, False

    def gone(self):
        self.removed = True
        return "gone"

    def quit(self):
        if self.removed:
            return
        here = os.path.dirname(os.path.abspath(__file__))  # its docker.py is not the package
        sys.path[:] = [path for path in sys.path if os.path.abspath(path) != here]
        from docker.errors import DockerException
        from testcontainers.core.docker_client import DockerClient

        absent = 0
        while absent < ABSENT_TIMES:  # the engine may still be creating or starting it
            try:
                DockerClient().client.containers.get(self.name).remove(force=True, v=True)
                absent = 0
            except (DockerException, OSError):  # not there, being removed, or the engine has ended
                absent += 1
            time.sleep(POLL_S)


def main(owner, mode, *args):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ending = []  # an exception could interrupt the removal of the directory
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda *_: ending.append(True))
    server = {"native": Native, "container": Container}[mode](*args)
    try:
        print(server.ready, flush=True)
        waiting = b""
        # Windows cannot select on a pipe; nothing forks there, so end of file on the pipe is enough
        while WINDOWS or (os.getppid() == owner and not ending):
            if not WINDOWS and not select.select([0], [], [], POLL_S)[0]:
                continue
            chunk = os.read(0, 4096)
            if not chunk:
                return
            *words, waiting = (waiting + chunk).split(b"\n")
            for word in words:
                if word == b"quit":
                    return
                print(getattr(server, word.decode())(), flush=True)
    finally:
        server.quit()


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
