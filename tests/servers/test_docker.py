"""The server in a container. Needs a Docker engine, or root and `dockerd` to start one.

No image is pulled: one is made of the `redis-server` on PATH and the libraries that it loads.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import re
import shutil
import signal
import subprocess
import tarfile
import tempfile
import textwrap
from ast import literal_eval
from pathlib import Path

import pytest
import redis
from processes import environment, run, script, within

docker = pytest.importorskip("docker")

IMAGE = "redis-lab-test:made-here"
BRIDGE = Path("/sys/class/net/docker0")

CONNECT = """
import os, signal, sys, time
from redis_lab.errors import LabError
from redis_lab.servers.choose import connect, running_server, server
try:
    r = connect()
except LabError as error:
    sys.exit(f"LabError: {error}")
"""


def engine_of(env: dict[str, str]) -> docker.DockerClient | None:
    """A client of the Docker engine that answers, or None."""
    try:
        engine = docker.from_env(environment=env, timeout=10)
        engine.ping()
    except Exception:
        return None
    return engine


@contextlib.contextmanager
def one_at_a_time():
    """Two engines would give their containers the same addresses: other workers wait here."""
    with open(Path(tempfile.gettempdir()) / "redis-lab-test-docker.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def own_engine():
    """The address of an engine that is started for these tests and leaves nothing behind."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("no Docker engine answers, and only root can start one")
    program = shutil.which("dockerd")
    if not program:
        pytest.skip("no Docker engine answers, and there is no dockerd on PATH")
    had_bridge = BRIDGE.exists()
    home = Path(tempfile.mkdtemp(prefix="redis-lab-dockerd-"))
    host = f"unix://{home}/docker.sock"
    with open(home / "log", "w") as log:
        engine = subprocess.Popen(
            [
                *(program, "--storage-driver=vfs", "--data-root", home / "data"),
                *("--exec-root", home / "run", "--pidfile", home / "pid", "--host", host),
                # A proxy process publishes ports without touching the machine's firewall
                *("--iptables=false", "--ip6tables=false", "--ip-forward=false"),
            ],
            stdout=log,
            stderr=log,
        )
    try:
        answers = within(60, lambda: engine.poll() is not None or engine_of({"DOCKER_HOST": host}))
        if not answers or engine.poll() is not None:
            last = (home / "log").read_text().strip().splitlines()[-1:]
            pytest.skip(f"dockerd did not start: {last}")
        yield host
    finally:
        engine.terminate()
        try:
            engine.wait(timeout=20)
        except subprocess.TimeoutExpired:
            engine.kill()
            engine.wait()
        for mount in reversed(mounts_below(home)):
            subprocess.run(["umount", "-l", mount], check=False)
        if BRIDGE.exists() and not had_bridge:
            subprocess.run(["ip", "link", "delete", BRIDGE.name], check=False)
        shutil.rmtree(home, ignore_errors=True)


def mounts_below(directory: Path) -> list[str]:
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    return [m for m in mounts if m.startswith(f"{directory}/")]


def make_image(engine: docker.DockerClient) -> None:
    binary = shutil.which("redis-server")
    if not binary or not shutil.which("ldd"):
        pytest.skip("an image is made of redis-server and what ldd names; one of them is not here")
    linked = subprocess.run(["ldd", binary], capture_output=True, text=True, check=True).stdout
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.add(os.path.realpath(binary), "usr/bin/redis-server")
        for library in set(re.findall(r"(/\S+) \(0x", linked)):
            tar.add(os.path.realpath(library), library.lstrip("/"))
        folder = tarfile.TarInfo("tmp")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o1777
        tar.addfile(folder)
        passwd = tarfile.TarInfo("etc/passwd")
        words = b"root:x:0:0:root:/:/bin/false\n"
        passwd.size = len(words)
        tar.addfile(passwd, io.BytesIO(words))
    repository, tag = IMAGE.split(":")
    engine.api.import_image_from_data(packed.getvalue(), repository=repository, tag=tag)


@pytest.fixture(scope="module")
def engine():
    """A Docker engine that has the image; `engine.env` is what makes the lab use it."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(one_at_a_time())
        chosen = {k: v for k, v in os.environ.items() if k.startswith("DOCKER_")}
        if engine_of(chosen) is None:
            chosen = {"DOCKER_HOST": stack.enter_context(own_engine())}
        client = engine_of(chosen)
        stack.callback(client.close)
        make_image(client)
        stack.callback(client.images.remove, IMAGE, force=True)
        client.env = {
            **chosen,
            "REDIS_LAB_SERVER": "docker",
            "REDIS_LAB_DOCKER_IMAGE": IMAGE,
            "TESTCONTAINERS_HOST_OVERRIDE": "127.0.0.1",
        }
        yield client
        left = client.containers.list(all=True, filters={"ancestor": IMAGE})
        for container in left:
            container.remove(force=True)


def containers(engine) -> list:
    return engine.containers.list(all=True, filters={"ancestor": IMAGE}, ignore_removed=True)


@contextlib.contextmanager
def owner(engine, body: str):
    """A process with a server in a container, which has printed the line of connect()."""
    process = subprocess.Popen(
        script(CONNECT + textwrap.dedent(body)),
        env=environment(**engine.env),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_connect_and_what_is_published(engine):
    body = """
    r.set("a", "1")
    print(r.get("a"), running_server().port, flush=True)
    sys.stdin.readline()
    """
    with owner(engine, body) as process:
        line = process.stdout.readline()
        assert ", docker, TCP loopback · REDIS_LAB_SERVER=docker\n" in line, process.stderr.read()
        value, port = process.stdout.readline().split()
        assert value == "1"
        [container] = containers(engine)
        published = container.attrs["NetworkSettings"]["Ports"]
        assert published == {"6379/tcp": [{"HostIp": "127.0.0.1", "HostPort": port}]}
        process.communicate("\n", timeout=20)
        assert process.returncode == 0
    assert within(60, lambda: not containers(engine))


def test_gone_after_owner_is_killed(engine):
    with owner(engine, "print(flush=True); time.sleep(60)") as process:
        process.stdout.readline()
        process.stdout.readline()
        assert len(containers(engine)) == 1
        process.kill()
        assert within(60, lambda: not containers(engine))


# At each of these moments the engine has something that its owner does not know yet
DIES = """
import os, signal, sys
import docker.models.containers as containers
from testcontainers.core import container
from redis_lab.servers import docker as ours
def die(*_, **__):
    print("there is one", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
moment = sys.argv[1]
if moment == "created":
    containers.Container.start = die
elif moment == "started":
    start = containers.Container.start
    containers.Container.start = lambda self, **how: (start(self, **how), die())
else:
    ours.DockerServer._wait_until_ready = die
from redis_lab.servers.choose import server
server()
"""


@pytest.mark.parametrize("moment", ["created", "started", "unready"])
def test_gone_after_its_owner_is_killed_while_it_starts(engine, moment):
    done = subprocess.run(
        [*script(DIES), moment], env=environment(**engine.env), capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "there is one\n"), done.stderr
    assert within(60, lambda: not containers(engine))


def test_ctrl_c_while_it_starts_leaves_no_container(engine):
    body = DIES.replace("os.kill(os.getpid(), signal.SIGKILL)", "raise KeyboardInterrupt")
    body = body.replace('print("there is one", flush=True)', "pass").replace("\nserver()\n", """
try:
    server()
except KeyboardInterrupt:
    print("stopped", flush=True)
    sys.stdin.readline()
""")  # fmt: skip
    for moment in ("created", "started", "unready"):
        with subprocess.Popen(
            [*script(body), moment],
            env=environment(**engine.env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout.readline() == "stopped\n"
            assert within(60, lambda: not containers(engine)), moment
            process.communicate("\n", timeout=60)


def test_configuration_and_stop(engine):
    """In one script, since each container takes a second."""
    body = r"""
    from redis_lab.servers.choose import server
    from redis_lab.servers.topology import cluster
    with server(password='p@ss "w\'#', maxmemory="50mb", hz=1, save=[("60", "1"), ("9", "2")],
                appendonly=False, lazyfree_lazy_user_del=True) as s:
        c = s.client()
        print(c.config_get("maxmemory", "hz", "save", "appendonly", "lazyfree-lazy-user-del"))
        for act in (s.kill, s.restart):
            try:
                act()
            except LabError as error:
                print("LabError:", error)
    print("stopped")
    for start in (lambda: server(no_such_setting=1), lambda: cluster().__enter__()):
        try:
            start()
        except LabError as error:
            print("LabError:", error)
    """
    done = run(CONNECT + textwrap.dedent(body), **engine.env)
    assert done.returncode == 0, done.stderr
    _, config, kill, restart, stopped, bad, of_three = done.stdout.splitlines()
    assert literal_eval(config) == {
        "maxmemory": str(50 << 20),
        "hz": "1",
        "save": "60 1 9 2",
        "appendonly": "no",
        "lazyfree-lazy-user-del": "yes",
    }
    assert kill == restart and "cannot be killed" in kill
    assert stopped == "stopped"
    assert "ended at once" in bad and "no_such_setting" in bad
    assert "native server" in of_three
    assert within(60, lambda: not containers(engine))


def test_stop_removes_the_container(engine, monkeypatch):
    for name, value in engine.env.items():
        monkeypatch.setenv(name, value)
    from redis_lab.servers.choose import server

    with server() as lab:
        assert lab.kind == "docker"
        client = lab.client()
        assert client.ping()
        assert len(containers(engine)) == 1
    assert within(60, lambda: not containers(engine))
    with pytest.raises(redis.ConnectionError):
        client.ping()


def test_missing_image(engine):
    done = run(CONNECT, **{**engine.env, "REDIS_LAB_DOCKER_IMAGE": "127.0.0.1:1/absent:none"})
    assert done.returncode == 1
    assert "LabError: Docker could not start 127.0.0.1:1/absent:none" in done.stderr


def test_no_engine(tmp_path):
    absent = {"DOCKER_HOST": f"unix://{tmp_path}/absent.sock", "REDIS_LAB_SERVER": "docker"}
    done = run(CONNECT, **absent)
    assert done.stderr == "LabError: REDIS_LAB_SERVER=docker, but no Docker engine answers.\n"
    done = run(
        """
        from redis_lab.errors import LabError
        from redis_lab.servers.choose import server
        try:
            server(kind="docker")
        except LabError as error:
            print("LabError:", error)
        """,
        **absent,
    )
    assert done.stdout.startswith("LabError: Docker could not start"), done
    assert "Is the Docker engine running" in done.stdout
