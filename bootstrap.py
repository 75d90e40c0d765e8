"""Set the workbook up: the virtual environment, the pinned packages, the shop's data.

`make lab`, `make plots` and `make test` run this first. It needs nothing but Python's standard
library, returns at once when all is up to date, and takes up again what was interrupted. What goes
wrong is said in one line on stderr, with the mend, and ends it with exit code 1.

This file has to be readable by Pythons that are too old for the workbook, so that it can say so:
no f-strings, no annotations.
"""
# ruff: noqa: B904, RUF005, UP031

import errno
import os
import subprocess
import sys

OLDEST = (3, 11)
CANDIDATES = ("python3.12", "python3.13", "python3.11", "python3.14", "python3", "python")
FREE_BYTES = 1500 * 10**6  # the environment takes 730 MB, pip's downloads pass through as well
FULL = (errno.ENOSPC, errno.EDQUOT)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
STAMP = "redis-lab-stamp"
UNFINISHED = "unfinished"


class Trouble(Exception):
    """One line for the user; `details` are another program's last words."""

    def __init__(self, line, details=""):
        Exception.__init__(self, line)
        self.details = details


def newer_python():
    """The name of a Python on PATH that is new enough, or None."""
    code = "import sys; sys.exit(sys.version_info[:2] < (%d, %d))" % OLDEST
    for name in CANDIDATES:
        try:
            process = subprocess.Popen(
                [name, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
            process.communicate()
        except OSError:
            continue
        if process.returncode == 0:
            return name
    return None


def check_python():
    if sys.version_info[:2] >= OLDEST:
        return
    line = "The workbook needs Python %d.%d or newer; %s is %d.%d. " % (
        OLDEST + (sys.executable,) + tuple(sys.version_info[:2])
    )
    name = newer_python()
    if name:
        raise Trouble(line + "There is a newer one here: make PYTHON=%s ..." % name)
    raise Trouble(line + "Install one, then: make PYTHON=python3.12 ...")


def check_modules():
    for module in ("venv", "ensurepip"):
        try:
            __import__(module)
        except ImportError:
            raise Trouble(
                "%s has no module %s, which makes the virtual environment. On Debian or Ubuntu: "
                "apt install python3-venv; elsewhere choose another Python: make PYTHON=..."
                % (sys.executable, module)
            )


def check_space(folder):
    import shutil

    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    free = shutil.disk_usage(folder).free
    if free < FREE_BYTES:
        raise Trouble(
            "Only %.1f GB are free in %s and setting up takes %.1f GB. Free some, then run the "
            "same command again." % (free / 1e9, folder, FREE_BYTES / 1e9)
        )


def no_space(where):
    return Trouble(
        "The disk or its quota became full while setting up in %s. Free %.1f GB there (df -h, "
        "df -i), then run the same command again." % (where, FREE_BYTES / 1e9)
    )


def no_permission(where):
    return Trouble(
        "%s cannot be written. Make it yours (chown, chmod), or copy the workbook to a folder of "
        "your own and run make there." % where
    )


def run(command, root, failed):
    """Run quietly. Raises: Trouble with the line `failed` if it fails."""
    process = subprocess.Popen(
        command,
        cwd=root,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        output = process.communicate()[0].decode("utf-8", "replace")
    except BaseException:
        process.terminate()
        process.communicate()
        raise
    if process.returncode == 0:
        return
    if any("[Errno %d]" % code in output for code in FULL):
        raise no_space(root)
    for code in FORBIDDEN:
        # with a path behind it: a network may say "Permission denied" too
        start = "[Errno %d] %s: '" % (code, os.strerror(code))
        if start in output:
            raise no_permission(output.split(start)[1].split("'")[0])
    raise Trouble(failed, "\n".join(output.strip().splitlines()[-8:]))


class Setup:
    def __init__(self, root, venv):
        self.root = root
        self.venv = os.path.join(root, venv)
        self.lock = os.path.join(root, "requirements.lock")
        self.python = os.path.join(self.venv, "bin", "python")
        self.stamp = os.path.join(self.venv, STAMP)
        # An environment does not survive another Python, nor being moved: its scripts name both.
        self.place = "%d.%d %s" % (tuple(sys.version_info[:2]) + (os.path.realpath(self.venv),))

    def claim(self):
        """What the stamp of an environment that is up to date says."""
        import hashlib

        digest = hashlib.sha256()
        for name in (self.lock, os.path.join(self.root, "pyproject.toml")):
            with open(name, "rb") as file:
                digest.update(file.read() + b"\0")
        return "%s\n%s\n" % (self.place, digest.hexdigest())

    def stamped(self):
        try:
            with open(self.stamp) as file:
                return file.read()
        except (OSError, ValueError):
            return ""

    def write_stamp(self, text):
        with open(self.stamp, "w") as file:
            file.write(text)

    def make(self):
        claim = self.claim()
        before = self.stamped()
        if before == claim and os.path.exists(self.python):
            return
        check_modules()
        check_space(self.venv)
        reusable = before.startswith(self.place + "\n") and os.path.exists(self.python)
        if not reusable and (before or not self.adoptable()):
            say("1/3 making %s" % os.path.relpath(self.venv, self.root))
            self.make_venv()
        self.write_stamp("%s\n%s\n" % (self.place, UNFINISHED))
        self.install()
        if os.path.exists(os.path.join(self.root, "redis_lab", "source.py")):
            say("3/3 making the shop's data")
            run(
                [self.python, "-c", "from redis_lab.source import path; path()"],
                self.root,
                "The shop's data could not be made (its last words are above). Run the same "
                "command again; if that does not help, make clean first.",
            )
        self.write_stamp(claim)

    def adoptable(self):
        """Whether the user has made an environment there, with pip and this Python."""
        code = "import sys, pip; sys.exit(sys.version_info[:2] != (%d, %d))" % sys.version_info[:2]
        if not os.path.exists(os.path.join(self.venv, "pyvenv.cfg")):
            return False
        try:
            return subprocess.call([self.python, "-c", code], stderr=subprocess.DEVNULL) == 0
        except OSError:
            return False

    def make_venv(self):
        import shutil

        if os.path.isdir(self.venv):
            names = os.listdir(self.venv)
            if names and STAMP not in names:
                raise Trouble(
                    "%s is there, was not made by this and is of no use to it. Move it away, or "
                    "choose another place: make VENV=.venv-lab ..." % self.venv
                )
            shutil.rmtree(self.venv)
        elif os.path.lexists(self.venv):
            raise Trouble(
                "%s is in the way: it is a file, and the virtual environment belongs there. "
                "Remove it, or choose another place: make VENV=.venv-lab ..." % self.venv
            )
        os.makedirs(self.venv)
        self.write_stamp(UNFINISHED)
        failed = (
            "%s could not make a virtual environment (its last words are above). Choose another "
            "Python: make PYTHON=python3.12 ..." % sys.executable
        )
        # in two steps, because venv hides why its own call of ensurepip failed
        run([sys.executable, "-m", "venv", "--without-pip", self.venv], self.root, failed)
        run([self.python, "-m", "ensurepip", "--default-pip"], self.root, failed)

    def install(self):
        with open(self.lock) as file:
            pins = [line for line in file if line.strip() and not line.startswith("#")]
        say("2/3 installing %d pinned packages (a minute or so)" % len(pins))
        pip = [self.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        pip += ["--no-input"]
        failed = (
            "pip could not install %s (its last words are above). Is there a network, and does "
            "pip reach its package index (pip config list)? Mend that, then run the same command "
            "again."
        )
        run(pip + ["-r", self.lock], self.root, failed % "the packages")
        here = ["--no-deps", "--no-build-isolation", "-e", "."]
        run(pip + here, self.root, failed % "the workbook's own package")


def say(line):
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(arguments):
    if len(arguments) != 2 or arguments[0] != "--venv":
        raise Trouble("Usage: python3 bootstrap.py --venv .venv")
    check_python()
    root = os.path.dirname(os.path.abspath(__file__))
    try:
        Setup(root, arguments[1]).make()
    except OSError as error:
        where = error.filename or root
        if error.errno in FULL:
            raise no_space(root)
        if error.errno in FORBIDDEN:
            raise no_permission(where)
        raise Trouble(
            "%s: %s. Mend that, then run the same command again." % (where, error.strerror)
        )


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Trouble as trouble:
        if trouble.details:
            say(trouble.details)
        sys.stderr.write("%s\n" % trouble)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.stderr.write("\nStopped before it was set up; the same command takes it up again.\n")
        sys.exit(130)
