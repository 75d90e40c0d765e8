"""The keeper: a tiny process that owns one server and never outlives the lab.

Run as `python -I -S _keeper.py OWNER_PID MODE ...`, standard library only. It reads three commands
from standard input and answers each on standard output:

    start   start the server, or start it again             -> "pid N" or "exit CODE"
    alive   is the server running?                          -> "pid N" or "exit CODE"
    quit    kill the server, remove its directory, leave

When its input closes, or when its owner is no longer its parent (a process that the owner forked
may hold the pipe open), it acts as on `quit`. It polls for this, because polling works on Linux and
on macOS, even if the owner was killed with SIGKILL.

MODE is `native PARENT PROGRAM ARGS...` or `remote HOST PORT`, where the server runs in a container
and is shut down over its own port, after logging in with the command on the first line of the
standard input, in hexadecimal digits.

A native server's keeper first makes its directory in PARENT, because an owner could be killed
between making one and starting a keeper. It prints `made NAME`, or `failed REASON`. The owner then
writes the file redis.conf there, and says `start`.
"""

import ctypes
import os
import select
import shutil
import signal
import socket
import subprocess
import sys

POLL_S = 0.25
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


class Remote:
    ready = "pid 0"

    def __init__(self, host, port):
        self.address = (host, int(port))
        with open(0, "rb", buffering=0, closefd=False) as unbuffered:
            self.login = bytes.fromhex(unbuffered.readline().decode())

    def start(self):
        return "pid 0"

    alive = start

    def quit(self):
        try:
            with socket.create_connection(self.address, timeout=1) as connection:
                connection.sendall(self.login + b"SHUTDOWN NOSAVE\r\n")
                connection.settimeout(1)
                while connection.recv(4096):
                    pass
        except OSError:
            pass


def main(owner, mode, *args):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ending = []  # an exception could interrupt the removal of the directory
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda *_: ending.append(True))
    server = {"native": Native, "remote": Remote}[mode](*args)
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
                print({b"start": server.start, b"alive": server.alive}[word](), flush=True)
    finally:
        server.quit()


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
