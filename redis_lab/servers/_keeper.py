"""The keeper: a tiny process that owns one server and never outlives the lab.

Run as `python -I -S _keeper.py OWNER_PID MODE ...`, standard library only. It obeys three words
on its standard input and answers on its standard output:

    start   start the server again (it was killed)          -> "pid N" or "exit CODE"
    alive   is the server running?                          -> "pid N" or "exit CODE"
    quit    kill the server, remove its directory, leave

When its input closes, or when its owner is no longer its parent (a process that the owner forked
may hold the pipe open), it does what `quit` does. It polls, because that works alike on Linux and
macOS, also when the owner was killed with SIGKILL.

MODE is `native DIRECTORY PROGRAM ARGS...` or `remote HOST PORT LOGIN_FILE`, where the server runs
in a container and is shut down over its own port, after logging in with the command in the file.
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
    def __init__(self, directory, *command):
        self.directory, self.command, self.process = directory, command, None

    def start(self):
        if self.process and self.process.poll() is None:  # asked twice, after an interruption
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
        assert self.process  # it has been started
        code = self.process.poll()
        return f"pid {self.process.pid}" if code is None else f"exit {code}"

    def quit(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)


class Remote:
    def __init__(self, host, port, login_file):
        self.address = (host, int(port))
        with open(login_file, "rb") as file:
            self.login = file.read()
        os.remove(login_file)

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
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    server = {"native": Native, "remote": Remote}[mode](*args)
    try:
        print(server.start(), flush=True)
        waiting = b""
        # Windows cannot select on a pipe; nothing forks there, so the pipe's end alone will do
        while WINDOWS or os.getppid() == owner:
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
