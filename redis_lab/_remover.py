"""The remover: a tiny process that makes a folder, and removes it when its owner has ended.

Run by `child.Child` as `python -I -S _remover.py OWNER_PID PARENT PREFIX [VARIABLE]`, standard
library only. It prints `made NAME`, or `failed REASON`. It removes the folder at `quit`, when its
input closes, or when its owner is no longer its parent; it polls for this, because polling works on
Linux and on macOS, even after SIGKILL. It makes the folder itself, because an owner could be killed
between making one and starting a remover.

With VARIABLE it first ends every process in whose environment that variable names the folder:
processes that the owner started, directly or indirectly, may not notice that the owner has gone.
"""

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import time

POLL_S = 0.25
WINDOWS = sys.platform == "win32"
LONGEST_S = 4.0  # a program that was just starting may write in the folder, and make it again
TERM_S = 1.5  # processes that have not ended by then are killed


CLEANERS = (b"/_keeper.py", b"/_remover.py")


def make(parent, prefix):
    """Create a folder of mode 0700; returns its name."""
    name = prefix + os.urandom(6).hex()
    os.mkdir(os.path.join(parent, name), 0o700)
    return name


def wait_for_end(owner):
    """Return at `quit`, at the end of the input, when the owner has gone, or at SIGTERM."""
    ending = []  # an exception could interrupt the removal of the folder
    for each in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, each):
            signal.signal(getattr(signal, each), lambda *_: ending.append(True))
    if WINDOWS:  # which cannot select on a pipe; nothing forks there, so end of file is enough
        sys.stdin.readline()
        return
    while os.getppid() == owner and not ending:
        if select.select([0], [], [], POLL_S)[0]:
            return


def words(pid, what):
    """What Linux knows about a process. Raises: OSError."""
    with open(f"/proc/{pid}/{what}", "rb") as file:
        return file.read().split(b"\0")


def processes_with(setting):
    """The processes in whose environment a variable has this value: `NAME=value`, in bytes.

    Keepers and removers are left out: they notice by themselves that their owner has gone, and have
    to clean up.
    """
    if os.path.isdir("/proc/self"):
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                environment, command = words(pid, "environ"), words(pid, "cmdline")
            except OSError:  # it has ended, or is another user's
                continue
            if setting in environment and not any(word.endswith(CLEANERS) for word in command):
                yield int(pid)
    elif not WINDOWS:
        listed = subprocess.run(["ps", "-axEwwo", "pid=,command="], stdout=subprocess.PIPE).stdout
        for line in listed.splitlines():
            number, *command = line.split()
            if setting in command and not any(word.endswith(CLEANERS) for word in command):
                yield int(number)


def end(setting, how):
    """Send a signal; returns whether the process had already ended."""
    found = list(processes_with(setting))
    for pid in found:
        with contextlib.suppress(OSError):  # it has just ended
            os.kill(pid, how)
    return not found


def remove(folder, setting):
    began = time.monotonic()
    while True:
        spent = time.monotonic() - began
        how = signal.SIGTERM if spent < TERM_S else signal.SIGKILL
        ended = not setting or end(setting, how)
        shutil.rmtree(folder, ignore_errors=True)
        if (ended and not os.path.lexists(folder)) or spent > LONGEST_S:
            return
        time.sleep(POLL_S / 5)


def main():
    owner, parent, prefix, *variable = int(sys.argv[1]), *sys.argv[2:]
    try:
        name = make(parent, prefix)
    except OSError as error:
        print("failed", error.strerror, flush=True)
        return
    folder = os.path.join(parent, name)
    try:
        print("made", name, flush=True)
        wait_for_end(owner)
    finally:
        remove(folder, b"".join(os.fsencode(f"{each}={folder}") for each in variable))


if __name__ == "__main__":
    main()
