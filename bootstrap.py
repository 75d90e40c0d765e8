"""Set the workbook up: the virtual environment, the pinned packages, the shop's data.

`make lab`, `make plots` and `make test` run this first. It needs only Python's standard library,
returns at once when all is up to date, and continues an interrupted set-up. uv installs the
packages if it can, otherwise pip does. An error is one line on stderr that says how to fix it; the
exit code is then 1.

This file must run on Pythons that are too old for the workbook (3.6 to 3.10), so that it can report
that.
"""

import ast
import errno
import glob
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys

OLDEST = (3, 11)
CANDIDATES = ("python3.12", "python3.13", "python3.11", "python3.14", "python3", "python")
FREE_BYTES = 2300 * 10**6  # 1.4 GB for the environment, the rest for the cache of uv or pip
FULL = (errno.ENOSPC, errno.EDQUOT)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
STAMP = "redis-lab-stamp"
UNFINISHED = "unfinished"
QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
HEARD = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
# Runs a command, ends it when its owner ends or is killed, and removes its temporary files.
GUARD = """
import os, shutil, signal, subprocess, sys, tempfile, time
owner, told = int(sys.argv[1]), []
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, lambda *_: told.append(1))
folder = tempfile.mkdtemp(prefix="redis-lab-")
os.environ["TMPDIR"] = folder
try:
    child = subprocess.Popen(sys.argv[2:], close_fds=False, start_new_session=True)
    while child.poll() is None and os.getppid() == owner and not told:
        time.sleep(0.05)
    for number in (signal.SIGINT, signal.SIGKILL):
        end = time.monotonic() + 2
        try:
            os.killpg(child.pid, number)
            while child.poll() is None and time.monotonic() < end:
                time.sleep(0.05)
        except OSError:
            pass
except OSError as error:  # there is no such program
    sys.exit(error)
finally:
    end = time.monotonic() + 4
    while os.path.isdir(folder) and time.monotonic() < end:  # what is dying may still write
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.01)
sys.exit(child.returncode)
"""
# uv's names of pip's settings: uv must use the same index as pip, in the same way.
UV_NAMES = {
    "index-url": "UV_INDEX_URL",
    "extra-index-url": "UV_EXTRA_INDEX_URL",
    "find-links": "UV_FIND_LINKS",
    "constraint": "UV_CONSTRAINT",
    "trusted-host": "UV_INSECURE_HOST",
    "cert": "SSL_CERT_FILE",
    "proxy": "ALL_PROXY",
}


class Trouble(Exception):
    """One line for the user, and optionally the end of another program's output."""


def check_python():
    if sys.version_info[:2] >= OLDEST:
        return
    advice = "Install one, then: make PYTHON=python3.12 ..."
    code = f"import sys; sys.exit(sys.version_info[:2] < {OLDEST})"
    for name in filter(shutil.which, CANDIDATES):
        if subprocess.call([name, "-c", code], **QUIET) == 0:
            advice = f"There is a newer one here: make PYTHON={name} ..."
            break
    here, oldest = (".".join(map(str, version[:2])) for version in (sys.version_info, OLDEST))
    raise Trouble(
        f"The workbook needs Python {oldest} or newer; {sys.executable} is {here}. {advice}"
    )


def check_modules():
    missing = [name for name in ("venv", "ensurepip") if importlib.util.find_spec(name) is None]
    if missing:
        raise Trouble(
            f"{sys.executable} has no module {missing[0]}, which the virtual environment needs. On "
            "Debian or Ubuntu: apt install python3-venv; elsewhere: make PYTHON=another ..."
        )


def check_space(folder):
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    free = shutil.disk_usage(folder).free
    if free < FREE_BYTES:
        raise Trouble(
            f"Only {free / 1e9:.1f} GB are free in {folder} and setting up takes "
            f"{FREE_BYTES / 1e9:.1f} GB. Free some, then run the same command again."
        )


class Setup:
    def __init__(self, root, venv):
        self.root = root
        self.venv = os.path.join(root, venv)
        self.lock = os.path.join(root, "requirements.lock")
        self.python = os.path.join(self.venv, "bin", "python")
        self.stamp = os.path.join(self.venv, STAMP)
        with open(self.lock) as lock, open(os.path.join(root, "pyproject.toml")) as project:
            texts = lock.read(), project.read()
        self.pins = [line for line in texts[0].splitlines() if line[:1] not in ("", "#")]
        # An environment cannot be moved, nor used with another Python: its scripts contain both
        # paths.
        self.place = "{}.{} {}\n".format(*sys.version_info[:2], os.path.realpath(self.venv))
        # The stamp of an environment that is up to date.
        self.claim = self.place + hashlib.sha256("\0".join(texts).encode()).hexdigest() + "\n"
        self.pip_settings = {}

    def stamped(self):
        try:
            with open(self.stamp) as file:
                return file.read() if os.path.exists(self.python) else UNFINISHED
        except (OSError, ValueError):
            return ""

    def write_stamp(self, text):
        with open(self.stamp + ".new", "w") as file:
            file.write(text)
        os.replace(self.stamp + ".new", self.stamp)

    def make(self):
        if self.stamped() == self.claim:
            return
        check_modules()
        check_space(self.venv)
        self.wait_for_others()
        before = self.stamped()
        if before == self.claim:  # the user has made it
            return
        if not before.startswith(self.place) and (before or not self.adoptable()):
            say(f"1/3 making {os.path.relpath(self.venv, self.root)}")
            self.make_venv()
        self.write_stamp(self.place + UNFINISHED)
        say(f"2/3 installing {len(self.pins)} pinned packages")
        self.install(interrupted=before.splitlines()[1:] == [UNFINISHED])
        if os.path.exists(os.path.join(self.root, "redis_lab", "source.py")):
            say("3/3 making the shop's data")
            self.run(
                [self.python, "-c", "from redis_lab import cli, source; source.make_database()"],
                "The shop's data could not be made. Run the same command again, after make clean.",
            )
        self.write_stamp(self.claim)

    def wait_for_others(self):
        """Hold a lock until this process and its child processes have ended: a pip whose bootstrap
        was killed continues for a moment.
        """
        os.makedirs(os.path.dirname(self.venv), exist_ok=True)
        lock = os.open(self.venv + ".lock", os.O_RDWR | os.O_CREAT, 0o666)
        os.set_inheritable(lock, True)
        try:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Another make is setting this up; waiting for it.")
            fcntl.flock(lock, fcntl.LOCK_EX)
        except (ImportError, OSError):
            pass  # this system or file system has no such locks

    def run(self, command, failed, environment=None):
        """Run quietly; returns the output. Raises: Trouble with the line `failed`; OSError."""
        guarded = [sys.executable, "-S", "-c", GUARD, str(os.getpid()), *command]
        # close_fds=False: the child inherits the lock. In its own session it outlives a killed
        # group.
        options = {"start_new_session": True, "close_fds": False, **HEARD}
        ran = subprocess.Popen(guarded, cwd=self.root, env=environment, **options)
        try:
            output = ran.communicate()[0].decode("utf-8", "replace")
        except BaseException:
            ran.terminate()
            ran.wait()
            raise
        if ran.returncode == 0:
            return output
        for number in FULL + FORBIDDEN:
            # followed by a path, because "Permission denied" can also come from the network
            path = f" {re.escape(os.strerror(number))}: '(.+?)'" if number in FORBIDDEN else "()"
            found = re.search(rf"\[Errno {number}\]{path}", output)
            if found:
                raise OSError(number, os.strerror(number), found[1])
        # of a traceback keep only the last line, which says what was wrong
        words = re.sub(r"(?m)^( *)Traceback .*\n(?:\1 +.*\n)*", "", output)
        raise Trouble(failed, "\n".join(words.strip().splitlines()[-8:]))

    def adoptable(self):
        """Whether the user has made an environment there, with pip and the same Python version."""
        code = f"import sys, pip; sys.exit(sys.version_info[:2] != {sys.version_info[:2]})"
        there = os.path.exists(os.path.join(self.venv, "pyvenv.cfg")) and shutil.which(self.python)
        return there and subprocess.call([self.python, "-c", code], **QUIET) == 0

    def make_venv(self):
        names = os.listdir(self.venv) if os.path.isdir(self.venv) else []
        a_file = os.path.lexists(self.venv) and not os.path.isdir(self.venv)
        if a_file or (names and STAMP not in names):
            reason = "it is a file" if a_file else "it was not made by this and cannot be used"
            raise Trouble(
                f"{self.venv} is in the way: {reason}. Move it away, or choose another place for "
                "the virtual environment: make VENV=.venv-lab ..."
            )
        os.makedirs(self.venv, exist_ok=True)
        self.write_stamp(UNFINISHED)  # it stays: what a kill leaves is then known to be ours
        for path in (os.path.join(self.venv, name) for name in names if name != STAMP):
            if os.path.isdir(path) and not os.path.islink(path):
                shutil.rmtree(path)
            else:
                os.remove(path)
        failed = f"{sys.executable} made no virtual environment. Use another: make PYTHON=... ..."
        # in two steps, because venv hides why its own call of ensurepip failed
        self.run([sys.executable, "-m", "venv", "--without-pip", self.venv], failed)
        self.run([self.python, "-m", "ensurepip", "--default-pip"], failed)

    def install(self, interrupted):
        failed = (
            "pip could not install %s (its last words are above). Is there a network, and does pip "
            "reach its package index (pip config list)? Fix that, then run the same command again."
        )
        install, again = ["install", "--quiet"], ["--force-reinstall"]
        here = [*again, "--no-deps", "--no-build-isolation", "-e", "."]
        for tool in (self.uv, self.pip):
            self.remove_half_records(interrupted)
            packages = [*again * interrupted, "-r", self.lock]
            try:
                tool(*install, *packages, failed=failed % "the packages")
                return tool(*install, *here, failed=failed % "the workbook's own package")
            except (Trouble, OSError):
                if tool == self.pip:
                    raise
                say("    uv could not; pip takes over, which takes a minute or two")
                interrupted = True

    def remove_half_records(self, interrupted):
        """Remove the incomplete records of a killed installer, because uv or pip would fail on
        them.
        """
        needed = ["METADATA"] + ["RECORD"] * interrupted
        for info in glob.glob(os.path.join(glob.escape(self.venv), "lib/*/*/*.dist-info")):
            if not all(os.path.exists(os.path.join(info, name)) for name in needed):
                shutil.rmtree(info)

    def pip(self, *arguments, failed):
        environment = {**os.environ, "PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        return self.run([self.python, "-m", "pip", *arguments], failed, environment)

    def uv(self, *arguments, failed):
        """Run `uv pip` with pip's settings."""
        uv = shutil.which("uv") or os.path.join(self.venv, "bin", "uv")
        for pin in self.pins:
            if pin.startswith("uv==") and not os.path.exists(uv):
                self.pip("install", "--quiet", pin, failed="There is no uv.")
        pip_settings = self.pip_settings = self.pip_settings or self.settings()
        # As pip does: take the best match of several indexes, and trust the system's certificates.
        # Files are copied, because an edit of a hard-linked file would change uv's cache and all
        # environments.
        environment = {"UV_INDEX_STRATEGY": "unsafe-best-match", "UV_SYSTEM_CERTS": "1"}
        environment["UV_LINK_MODE"] = "copy"
        environment["UV_COMPILE_BYTECODE"] = "1"  # as pip does; otherwise the first import does
        environment.update(os.environ)
        for name in filter(pip_settings.get, UV_NAMES):
            separator = "," if name == "find-links" else " "
            environment[UV_NAMES[name]] = separator.join(pip_settings[name].split())
        no_index = pip_settings.get("no-index", "").lower() in ("1", "true", "yes", "on", "y", "t")
        options = ["--python", self.python] + ["--no-index"] * no_index
        return self.run([uv, "pip", *arguments, *options], failed, environment)

    def settings(self):
        """pip's settings, from its files and from the environment."""
        pip_settings = {}
        listed = self.pip("config", "list", failed="pip could not read its settings.")
        for section in ("global", "install", ":env:"):  # from the lowest to the highest priority
            for name, value in re.findall(rf"(?m)^{section}\.([\w-]+)=(.*)$", listed):
                pip_settings[name] = ast.literal_eval(value)
        return pip_settings


def say(line):
    print(line, flush=True)


def main(arguments):
    if arguments[:1] != ["--venv"] or arguments[2:3] not in ([], ["--uv"]):
        raise Trouble("Usage: python3 bootstrap.py --venv .venv [--uv compile ...]")
    check_python()
    root = os.path.dirname(os.path.abspath(__file__))
    try:
        setup = Setup(root, arguments[1])
        setup.make()
        if arguments[2:]:
            setup.uv(*arguments[3:], failed="uv failed (its last words are above).")
    except OSError as error:
        where, line = error.filename or root, f"{error.strerror}. Fix that,"
        if error.errno in FORBIDDEN:
            line = "cannot be written. Make it yours (chown, chmod) or copy the workbook,"
        if error.errno in FULL:
            where, line = (
                root,
                f"the disk or its quota became full. Free {FREE_BYTES / 1e9:.1f} GB,",
            )
        raise Trouble(f"{where}: {line} then run the same command again.") from None


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Trouble as trouble:
        for last_words in filter(None, trouble.args[1:]):
            say(last_words)
        print(trouble.args[0], file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("\nStopped. Run the same command to continue.", file=sys.stderr)
        sys.exit(130)
