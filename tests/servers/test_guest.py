"""A user's own server, named by REDIS_URL: what the lab may do there, and what it leaves behind.

The "user's server" is a private one that the test starts. The lab visits it from scripts in
processes of their own, as a notebook's kernel would.
"""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import threading
import time
import traceback
from ast import literal_eval
from collections.abc import Mapping
from types import MappingProxyType
from urllib.parse import quote

import pytest
import redis
import trustme
from processes import assert_prompt, environment, run, script

from redis_lab.distance import link
from redis_lab.errors import LabError
from redis_lab.rest import gateway
from redis_lab.servers.base import Server, check_url, free_port
from redis_lab.servers.choose import server
from redis_lab.servers.guest import Guest
from redis_lab.servers.native import binary_on_path
from redis_lab.servers.topology import Cluster

# A visit prints the LabError that it meets; any other exception is a traceback on stderr.
VISIT = """
import sys
from redis_lab.errors import LabError
from redis_lab.servers.choose import clean_up, connect
try:
    r = connect()
except LabError as error:
    print("LabError:", error)
    sys.exit(1)
print("connected")
"""


# Being turned away leaves nothing behind, so that one process can try many URLs.
TURNED_AWAY = """
import os, sys
from redis_lab.errors import LabError
from redis_lab.servers.choose import connect
for url in sys.stdin.read().split("\\n"):
    os.environ["REDIS_URL"] = url
    try:
        connect()
    except LabError as error:
        print("LabError:", error, end="\\n\\0")
"""


@pytest.fixture(scope="module")
def host(lab):
    return lab


@pytest.fixture
def user(host):
    """The user's own client, with every database empty and all counts at nothing."""
    with emptied(host) as client:
        yield client


@pytest.fixture
def user_of_each(each_kind):
    """As `user`, where servers of different kinds can differ."""
    with emptied(each_kind) as client:
        yield client


@contextlib.contextmanager
def emptied(host: Server):
    with host.client() as client:
        client.flushall()
        client.config_resetstat()
        yield client


def visit(url: str, body: str = "") -> subprocess.CompletedProcess:
    return run(VISIT + body, REDIS_URL=url)


def refusal(url: str) -> str:
    """The LabError of a visit that is turned away, and nothing else said."""
    done = visit(url)
    assert done.stderr == ""
    assert done.returncode == 1
    assert done.stdout.startswith("LabError: ")
    return done.stdout


def refusals(*urls: str) -> list[str]:
    """The same for many URLs, in one process."""
    done = subprocess.run(
        script(TURNED_AWAY),
        input="\n".join(urls),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stderr, done.returncode) == ("", 0)
    *said, after = done.stdout.split("\0")
    assert not after and len(said) == len(urls)
    assert all(text.startswith("LabError: ") for text in said)
    return said


# ---------------------------------------------------------------- getting in


def test_says_whose_server_it_is(user, host):
    done = visit(host.url, "r.set('a', 1); print(r.get('a'))")
    assert ", REDIS_URL, TCP loopback · REDIS_URL is redis://127.0.0.1:" in done.stdout
    assert done.stdout.endswith("connected\n1\n")


def test_password_and_unix_socket():
    with server(password="p@ss/w#rd") as host:
        for url in (host.url, host.unix_url):
            done = visit(url, "r.set('a', 1); print(r.get('a'))")
            assert done.stdout.endswith("connected\n1\n"), done
            assert "w#rd" not in done.stdout and quote("p@ss/w#rd", safe="") not in done.stdout
            assert host.client().keys() == []


def test_tls(tmp_path):
    if not binary_on_path():
        pytest.skip("no redis-server on PATH, and the embedded one is built without TLS")
    ca = trustme.CA()
    issued = ca.issue_cert("localhost", "127.0.0.1")
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    issued.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    issued.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    port = free_port()
    config = {"tls_port": port, "tls_auth_clients": "no"}
    for setting, name in (("cert", "cert"), ("key", "key"), ("ca_cert", "ca")):
        config[f"tls_{setting}_file"] = str(tmp_path / f"{name}.pem")
    try:
        host = server(kind="path", password="secret", **config)
    except LabError as error:
        pytest.skip(f"redis-server on PATH is built without TLS: {error}")
    with host:
        url = f"rediss://:secret@127.0.0.1:{port}/0?ssl_ca_certs={tmp_path / 'ca.pem'}"
        done = visit(url, "r.set('a', 1); print(r.get('a'))")
        assert "TLS loopback" in done.stdout and done.stdout.endswith("connected\n1\n"), done
        assert host.client().keys() == []
        assert "secret" not in done.stdout + done.stderr
        unknown = refusal(f"rediss://:secret@127.0.0.1:{port}/0")
        assert "certificate" in unknown.lower() and "secret" not in unknown
        host.client().set("yours", 1)
        advice = re.search(r"set REDIS_URL to (\S+)\.\n", refusal(url)).group(1)
        assert advice == url.replace("secret", "***").replace("/0?", "/1?")


def acl_user(user: redis.Redis, host: Server, name: str, *rights: str) -> str:
    """The URL of a new user with these rights."""
    user.execute_command("ACL", "DELUSER", name)
    user.execute_command("ACL", "SETUSER", name, "on", ">secret", "~*", "&*", *rights)
    return f"redis://{name}:secret@127.0.0.1:{host.port}/0"


def test_user_with_limited_rights(user_of_each, each_kind):
    user = user_of_each
    url = acl_user(user, each_kind, "ada", "+@all", "-@admin", "-@dangerous", "+info")
    done = visit(url, "r.set('a', 1); print(r.get('a'))")
    assert done.stdout.endswith("connected\n1\n"), done
    assert user.keys() == []
    user.set("yours", 1)
    assert "/1." in refusal(url)  # though it may not ask how many databases there are


def test_user_without_a_needed_right(user_of_each, each_kind):
    missing = ("info", "command", "dbsize")
    urls = [acl_user(user_of_each, each_kind, f"no-{m}", "+@all", f"-{m}") for m in missing]
    for right, said in zip(missing, refusals(*urls), strict=True):
        assert "does not let this user do" in said and f"'{right}'" in said
        assert "ACL SETUSER" in said and "secret" not in said


# ---------------------------------------------------------------- being turned away


def test_database_with_keys_is_refused_and_the_advice_works(user, host):
    user.set("yours", "1")
    with redis.Redis(port=host.port, db=1) as second:
        second.set("yours", "1")
    said = refusal(host.url)
    assert "Database 0 of" in said and "already holds 1 keys" in said
    advice = re.search(r"set REDIS_URL to (\S+)\.\n", said).group(1)
    assert advice.endswith("/2")
    assert visit(advice, "r.set('a', 1)").stdout.endswith("connected\n")
    assert user.get("yours") == "1"


def test_advice_may_be_database_0_or_a_socket(user, host):
    with redis.Redis(port=host.port, db=3) as third:
        third.set("yours", "1")
    urls = (host.url.replace("/0", "/3"), host.unix_url.replace("db=0", "db=3"))
    for said in refusals(*urls):
        advice = re.search(r"set REDIS_URL to (\S+)\.\n", said).group(1)
        assert advice.endswith("0")
        assert visit(advice).stdout.endswith("connected\n")


def test_no_empty_database_left():
    with server(databases=1) as host:
        host.client().set("yours", "1")
        assert "use another server" in refusal(host.url)


@pytest.mark.parametrize("then", ["restart", "unset"])
def test_connect_notices_that_the_users_server_has_ended(then):
    body = """
import os
r.set("a", 1)
print("written", flush=True)
for line in sys.stdin:
    if line == "unset\\n":
        del os.environ["REDIS_URL"]
    try:
        print(connect(quiet=True).set("b", 1), flush=True)
    except LabError as error:
        print("LabError:", error, flush=True)
"""
    with server(password=SECRET, appendonly=True, appendfsync="always") as host:
        process = subprocess.Popen(
            script(VISIT + body),
            env=environment(REDIS_URL=host.url),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            while process.stdout.readline() != "written\n":
                assert process.poll() is None
            host.kill()
            answer(process)
            said = process.stdout.readline()
            assert said.startswith("LabError: redis://:***@127.0.0.1") and SECRET not in said
            assert "does not answer any more" in said
            if then == "restart":
                host.restart()
            process.stdin.write(f"{then}\n")
            process.stdin.flush()
            assert process.stdout.readline() == "True\n"
            if then == "restart":  # and it is still the same visit
                assert sorted(host.client().keys()) == ["a", "b"]
                assert "Another notebook" in refusal(host.url)
            process.communicate(timeout=20)
            if then == "restart":
                assert host.client().keys() == []
        finally:
            process.kill()
            process.communicate()


def test_a_restart_of_the_users_server_is_said_in_the_line_and_noted(journals):
    body = """
r.set("a", 1)
print("done", flush=True)
for line in sys.stdin:
    connect().set("b", 1)
    print("done", flush=True)
"""
    with server(appendonly=True, appendfsync="always") as host:
        process = subprocess.Popen(
            script(VISIT + body),
            env=environment(REDIS_URL=host.url),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            said = ["".join(iter(process.stdout.readline, "done\n"))]
            for restarted in (False, True, False):
                if restarted:
                    host.restart()
                process.stdin.write("connect\n")
                process.stdin.flush()
                said.append("".join(iter(process.stdout.readline, "done\n")))
            told = ["restarted since the last connect()" in line for line in said]
            assert told == [False, False, True, False], said
            process.kill()
            process.communicate()
            # What the killed run left is known by the name that the server has now
            done = visit(host.url)
            assert "Removed 2 keys" in done.stdout and host.client().keys() == []
        finally:
            process.kill()
            process.communicate()


def test_second_visit_is_refused_while_the_first_lives(user, host):
    body = VISIT + "sys.stdout.flush(); sys.stdin.readline(); r.set('a', 1)"
    first = subprocess.Popen(
        script(body),
        env=environment(REDIS_URL=host.url),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert "REDIS_URL" in first.stdout.readline()
        assert first.stdout.readline() == "connected\n"
        said = refusal(host.url)
        assert "Another notebook of the lab is working in database 0" in said
        advice = re.search(r"set REDIS_URL to (\S+)\.\n", said).group(1)
        assert visit(advice).stdout.endswith("connected\n")
        first.communicate("\n", timeout=20)
        assert visit(host.url).stdout.endswith("connected\n")
    finally:
        first.kill()
        first.wait()


SECRET = "hunter2"


REFUSED = dict(
    [
        ("redis://:hunter2wrong@127.0.0.1:{port}/0", "refused the user name or password"),
        ("redis://eve:hunter2@127.0.0.1:{port}/0", "refused the user name or password"),
        ("redis://127.0.0.1:{port}/0", "refused the user name or password"),
        ("redis://:hunter2@127.0.0.1:1/0", "No Redis answers"),
        ("redis://:hunter2@nowhere.invalid:1/0", "No Redis answers"),
        ("unix://:hunter2@/nowhere/s?db=0", "No Redis answers"),
        ("rediss://:hunter2@127.0.0.1:{port}/0", "No Redis answers"),
        ("http://:hunter2@127.0.0.1:{port}/0", "not a Redis URL"),
        ("redis:hunter2@127.0.0.1", "not a Redis URL"),
        (":hunter2@127.0.0.1:6379", "not a Redis URL"),
        ("redis://eve:a/hunter2@127.0.0.1:{port}/0", "not a Redis URL"),
        ("redis://:a@hunter2/x@127.0.0.1:{port}/0", "not a Redis URL"),
        ("redis://:#hunter2@nowhere.invalid:{port}/5", "not a Redis URL"),
        ("redis://:?hunter2@127.0.0.1:{port}/0", "not a Redis URL"),
        ("redis://eve:1/hunter2@127.0.0.1:{port}/0", "not a Redis URL"),
        ("redis://:hunter2/x", "not a Redis URL"),
        ("redis://:hunter2#@127.0.0.1:{port}/0", "not a Redis URL"),
        ("redis://[::1:hunter2@127.0.0.1:{port}/0", "not a Redis URL"),
        ("redis://127.0.0.1:{port}/0?no_such_option=1&password=hunter2", "not a Redis URL"),
        # What redis-py would read otherwise than its owner wrote it
        ("redis://127.0.0.1:{port}/0?password=hunter2#", "not a Redis URL"),
        ("redis://127.0.0.1:{port}/0?password=a&hunter2", "not a Redis URL"),
        ("redis://127.0.0.1:{port}/0?password=a@hunter2", "not a Redis URL"),
        ("redis://:hunter2@127.0.0.1:{port}/one", "not a Redis URL"),
        ("redis://:hunter2@127.0.0.1:0/0", "not a Redis URL"),
        ("redis://:hunter2@127.0.0.1:{port}/0?protocol=9", "not a Redis URL"),
        ("redis-cli -h 127.0.0.1 -a hunter2", "not a Redis URL"),
        ("redis://127.0.0.1:{port}/hunter2", "not a Redis URL"),
        ("redis://:hunter2@127.0.0.1:{port}/0", "already holds"),
    ]
)


def test_no_password_in_a_refusal(guarded):
    told = refusals(*(url.format(port=guarded.port) for url in REFUSED))
    for (url, words), said in zip(REFUSED.items(), told, strict=True):
        assert words in said, url
        assert SECRET not in said, url


UNESCAPED = [url for url, words in REFUSED.items() if words == "not a Redis URL"]


@pytest.mark.parametrize("url", [*UNESCAPED, "unix://:a/hunter2@/nowhere/s"])
def test_no_password_in_the_errors_of_link_and_gateway(guarded, url):
    """Which see that it is none before they connect to what they take for the host."""
    for use in (lambda url: link(url, rtt_ms=1), gateway):
        with pytest.raises(LabError, match="is not a Redis URL") as raised:
            use(url.format(port=guarded.port))
        assert SECRET not in "".join(traceback.format_exception(raised.value))


def test_an_escaped_password_and_a_path_with_an_at_are_understood():
    assert check_url("redis://:a%40b%2Fc@h:1/2").connection_kwargs["password"] == "a@b/c"
    assert check_url("unix:///a@b/s?db=3").connection_kwargs["path"] == "/a@b/s"
    assert check_url("redis://h:1/0?password=a%40b").connection_kwargs["password"] == "a@b"


@pytest.mark.parametrize(
    "url", ["redis://:hunter2wrong@127.0.0.1:{port}/0", "redis://eve:a/hunter2@127.0.0.1:{port}/0"]
)
def test_no_password_in_a_traceback(guarded, url):
    body = "from redis_lab.servers.choose import connect; connect()"
    done = run(body, REDIS_URL=url.format(port=guarded.port))
    assert "LabError" in done.stderr
    assert SECRET not in done.stdout + done.stderr


@pytest.fixture(scope="module")
def guarded():
    # It hangs up after a second of silence, which is what it hears from one who speaks TLS to it.
    with server(password=SECRET, timeout=1) as started:
        started.client().set("yours", 1)
        yield started


@contextlib.contextmanager
def stand_in(
    info: str,
    hello: bool = True,
    replies: Mapping[bytes, bytes] = MappingProxyType({}),
    otherwise: bytes = b"+OK\r\n",
    after_s: float = 0,
):
    """A server that answers each command `otherwise`, and INFO with what it is told.

    `replies` are those to other commands; each comes after a while.

    It stands in for a Redis too old for the lab, which cannot be installed on a current system:
    it shows only that the lab reads the version and says what to do.
    """
    listener = socket.create_server(("127.0.0.1", 0))

    def answer(connection: socket.socket) -> None:
        with (
            contextlib.suppress(OSError),  # the lab hangs up
            connection,
            connection.makefile("rb") as stream,
        ):
            while line := stream.readline():
                words = []
                for _ in range(int(line[1:])):
                    stream.readline()
                    words.append(stream.readline().strip().upper())
                time.sleep(after_s)
                if (name := b" ".join(words[:2])) in replies or (name := words[0]) in replies:
                    connection.sendall(replies[name])
                elif words[0] == b"HELLO" and not hello:  # nor did Redis 5
                    connection.sendall(b"-ERR unknown command `HELLO`, with args\r\n")
                elif words[0] == b"HELLO":
                    connection.sendall(b"%1\r\n$5\r\nproto\r\n:3\r\n")
                elif words[0] == b"INFO":
                    connection.sendall(b"$%d\r\n%b\r\n" % (len(info), info.encode()))
                else:
                    connection.sendall(otherwise)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=answer, args=listener.accept()[:1], daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"redis://:{SECRET}@127.0.0.1:{listener.getsockname()[1]}/0"
    finally:
        listener.close()


def test_too_old():
    with stand_in("redis_version:6.0.16\r\nprocess_id:1\r\nrole:master\r\n") as url:
        said = refusal(url)
    assert "runs Redis 6.0.16; the lab needs 7.0 or newer" in said
    assert SECRET not in said


IMPATIENT = """
from redis_lab.servers import base
base.CONTACT_TIMEOUT_S = 0.5
"""


def in_five_seconds(url: str, before: str = "") -> str:
    """The refusal, within five seconds of asking; importing the lab is not part of that."""
    body = before + VISIT.replace("try:", "import time; start = time.monotonic()\ntry:", 1)
    done = run(body.replace("sys.exit", "print(time.monotonic() - start); sys.exit"), REDIS_URL=url)
    assert done.stderr == "" and done.returncode == 1
    said, took_s = done.stdout.splitlines()
    assert said.startswith("LabError: ") and SECRET not in said
    assert_prompt(float(took_s))
    return said


def test_so_old_that_it_does_not_know_hello():
    with stand_in("redis_version:5.0.14\r\nprocess_id:1\r\nrole:master\r\n", hello=False) as url:
        assert "runs Redis 5.0.14; the lab needs 7.0 or newer" in in_five_seconds(url)


@pytest.mark.parametrize("info", ["", "role:master\r\n", "redis_version:new\r\n", "\r\n:\r\n#"])
def test_odd_info(info):
    with stand_in(info) as url:
        assert "does not answer INFO or COMMAND as Redis does" in in_five_seconds(url)


FINE = "redis_version:7.2.0\r\nprocess_id:1\r\nrole:master\r\ncluster_enabled:0\r\n"
EMPTY = {b"DBSIZE": b":0\r\n", b"CLIENT LIST": b"$0\r\n\r\n"}


@pytest.mark.parametrize("table", [b"*0\r\n", b"+OK\r\n", b"*1\r\n*1\r\n:1\r\n"])
def test_odd_table_of_commands(table):
    """Without it nobody knows which keys a lesson writes, and which to remove."""
    with stand_in(FINE, replies={b"COMMAND": table, **EMPTY}) as url:
        assert "does not answer INFO or COMMAND as Redis does" in in_five_seconds(url)


HUGE, NESTED = b"*2147483647\r\n", b"*1\r\n" * 5000


@pytest.mark.parametrize(
    ("reply", "said", "before"),
    [(HUGE, "No Redis answers", IMPATIENT), (NESTED, "as Redis does", "")],
    ids=["huge", "nested"],
)
def test_a_header_that_promises_too_much(reply, said, before):
    """Nothing follows it. A list of so many items would take 16 GB, and long to release."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))\n"
    with stand_in("", replies={b"INFO": reply}, otherwise=reply) as url:
        assert said in in_five_seconds(url, limit + before)


def test_one_that_is_loading():
    loading = b"-LOADING Redis is loading the dataset in memory\r\n"
    with stand_in("", replies={b"INFO": loading, b"HELLO": loading}, otherwise=loading) as url:
        assert "is not ready yet" in in_five_seconds(url)


def test_one_that_answers_slowly():
    """Each answer is in time, and so is each of the two steps, but not all of it."""
    with stand_in(FINE, replies=EMPTY, after_s=0.35) as url:
        assert "it took longer than" in in_five_seconds(url)


@pytest.mark.parametrize(
    ("byte", "before"), [(b"+", ""), (b"$", IMPATIENT), (b"x", "")], ids=["+", "$", "x"]
)
def test_one_that_dribbles(byte, before):
    listener = socket.create_server(("127.0.0.1", 0))

    def dribble() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection = listener.accept()[0]
                threading.Thread(target=send, args=(connection,), daemon=True).start()

    def send(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while True:
                connection.sendall(byte)
                time.sleep(0.2)

    threading.Thread(target=dribble, daemon=True).start()
    with listener:
        port = listener.getsockname()[1]
        said = in_five_seconds(f"redis://:{SECRET}@127.0.0.1:{port}/0", before)
    assert "No Redis answers" in said


def test_tls_to_a_plain_port(host):
    said = in_five_seconds(f"rediss://:{SECRET}@127.0.0.1:{host.port}/0", IMPATIENT)
    assert "No Redis answers" in said and "redis:// if it speaks no TLS" in said


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"sentinel": []}, "is a Sentinel"),
        ({"cluster_enabled": True}, "all its slots are served"),
        ({"rename_command": ("CLIENT", "")}, "refuses what the lab needs: unknown command"),
        ({"rename_command": ("HELLO", "")}, "refuses what the lab needs: unknown command"),
        ({"maxmemory": "1kb"}, "is full and refuses to write"),
    ],
    ids=["Sentinel", "no slots", "no CLIENT", "no HELLO", "full"],
)
def test_servers_that_cannot_be_used(config, words, host):
    if "sentinel" in config:
        config = {"sentinel": [("monitor", "no", "127.0.0.1", host.port, 1)]}
    with server(**config) as unfit:
        assert words in in_five_seconds(unfit.url)


def test_a_database_that_is_not_there(host):
    said = in_five_seconds(host.url[:-1] + "99")
    assert "has no database of that number" in said and "No Redis answers" not in said


@pytest.mark.parametrize(
    "rights",
    [("resetkeys", "~lab:*"), ("resetkeys", "%W~*"), ("-unlink",), ("-@write",), ("-set",)],
    ids=" ".join,
)
def test_a_user_who_may_not_write_or_remove_is_told_before_anything_is_written(user, host, rights):
    url = acl_user(user, host, "eve", "+@all", *rights)
    said = in_five_seconds(url)
    assert "does not let this user do what the lab needs" in said and "ACL SETUSER" in said
    assert user.keys() == []


def test_the_advice_to_a_user_without_rights_works(user, host):
    said = refusal(acl_user(user, host, "eve", "+info"))
    rights = re.search(r"ACL SETUSER name (.*), or unset", said).group(1).split()
    done = visit(acl_user(user, host, "eve", "resetkeys", *rights), "r.set('a', 1)")
    assert done.stdout.endswith("connected\n"), done
    assert user.keys() == []


@pytest.mark.parametrize("read_only", ["yes", "no"])
def test_replica(user, host, read_only):
    """Also of one that can be written: what was written there goes when it synchronises again."""
    with server(replicaof=("127.0.0.1", host.port), replica_read_only=read_only) as replica:
        said = refusal(replica.url)
        assert f"is a replica of 127.0.0.1:{host.port}" in said
        assert "Name that server in REDIS_URL" in said


# ---------------------------------------------------------------- what it never runs

FORBIDDEN = """
from redis_lab import magic
from redis_lab.wiretap import wire
import redis

def in_watch():
    with r.pipeline() as p:
        p.watch("a")
        p.flushall()

def in_wire():
    with wire(r):
        r.flushall()

ways = {
    "flushall": lambda: r.flushall(),
    "flushall async": lambda: r.flushall(asynchronous=True),
    "flushdb": lambda: r.flushdb(),
    "config set": lambda: r.config_set("hz", 20),
    "config resetstat": lambda: r.config_resetstat(),
    "shutdown": lambda: r.shutdown(),
    "debug": lambda: r.execute_command("DEBUG", "SLEEP", "0"),
    "lower case": lambda: r.execute_command("flushall"),
    "bytes": lambda: r.execute_command(b"flushall"),
    "bytes in two": lambda: r.execute_command(b"config", b"set", "hz", "20"),
    "one string": lambda: r.execute_command("config  set", "hz", "20"),
    "padded": lambda: r.execute_command(" flushall "),
    "another database": lambda: r.execute_command("SELECT", 1),
    "swapdb": lambda: r.swapdb(0, 1),
    "replicaof": lambda: r.replicaof("127.0.0.1", 1),
    "plain pipeline": lambda: r.pipeline(transaction=False).set("a", 1).flushall().execute(),
    "MULTI": lambda: r.pipeline().set("a", 1).flushdb().execute(),
    "in WATCH": in_watch,
    "another client": lambda: connect(quiet=True, decode_responses=False).flushall(),
    "single connection": lambda: r.client().flushall(),
    "while watched by wire": in_wire,
}

for way, send in ways.items():
    try:
        send()
        print("not refused:", way)
    except LabError as error:
        assert "lab.server()" in str(error), error

lines = ["FLUSHALL", "config set hz 20", "DEBUG SLEEP 0", "MULTI", "flushdb", "EXEC"]
shown = magic.run_commands(r, "\\n".join(lines))
print(shown.count("(refused) "), "refused by the magic")
"""


def test_forbidden_commands_never_arrive(user_of_each, each_kind):
    user, host = user_of_each, each_kind
    with redis.Redis(port=host.port, db=1) as second:
        second.set("yours", "1")
    done = visit(host.url, FORBIDDEN)
    assert done.stderr == ""
    assert "not refused" not in done.stdout
    assert done.stdout.endswith("4 refused by the magic\n")
    arrived = {name.removeprefix("cmdstat_").upper() for name in user.info("commandstats")}
    own = {"FLUSHALL", "CONFIG|RESETSTAT"}  # `user` sent these before the counts were reset
    suspects = ("FLUSH", "SHUTDOWN", "DEBUG", "CONFIG|SET", "SWAPDB", "REPLICAOF")
    assert [n for n in arrived - own if n.startswith(suspects)] == []
    assert user.info("commandstats").get("cmdstat_flushall", {"calls": 0})["calls"] == 0


def test_malformed_commands_get_the_servers_own_error(user_of_each, each_kind):
    body = """
import redis
for words in (["EVAL", "return 1", "many"], ["EVAL"], ["EVAL", "return 1", "-1"], ["MSET"],
              ["SET"], ["SORT", "a", "STORE"], ["FCALL", "f", "9", "k"], ["XGROUP", "CREATE"],
              ["GEORADIUS", "a"], ["EVAL", "return 1", "99999999999"]):
    try:
        print("answered", r.execute_command(*words))
    except redis.ResponseError as error:
        print("ResponseError")
"""
    done = visit(each_kind.url, body)
    assert done.stdout.endswith("connected\n" + "ResponseError\n" * 10), done


# ---------------------------------------------------------------- what it leaves behind

# Each line writes to keys whose names begin with `w`, and may read or move those with `f`.
WRITES = """
r.set("w:set", 1)
r.execute_command("set", b"w:bytes", 1)
r.execute_command("SET", memoryview(b"w:view"), 1)
r.execute_command("SET", 7, 1)
r.mset({"w:mset1": 1, "w:mset2": 2})
r.pipeline(transaction=False).set("w:p1", 1).incr("w:p2").execute()
r.pipeline().set("w:m1", 1).hset("w:m2", "a", 1).execute()
r.eval("redis.call('SET', KEYS[1], 1) redis.call('SET', KEYS[2], 1)", 2, "w:ev1", "w:ev2")
r.register_script("redis.call('SET', KEYS[1], ARGV[1])")(keys=["w:evsha"], args=["f:arg"])
r.execute_command("EVAL", "redis.call('SET', KEYS[1], 1)", b"1", "w:ev3")
r.bitop("OR", "w:bitop", "f:string")
r.zunionstore("w:zunion", ["f:zset"])
r.zrangestore("w:zrange", "f:zset", 0, -1)
r.sunionstore("w:sunion", "f:set")
r.xgroup_create("w:xgroup", "g", mkstream=True)
r.xadd("w:xadd", {"a": 1})
r.copy("f:string", "w:copy")
r.set("w:before", 1); r.rename("w:before", "w:after")
r.sort("f:list", store="w:sort")
r.geosearchstore("w:geo", "f:geo", longitude=0, latitude=0, radius=9, unit="km")
r.execute_command("GEORADIUS", "f:geo", 0, 0, 9, "km", "STORE", "w:georadius")
r.lmove("f:list", "w:lmove"); r.smove("f:set", "w:smove", "a")
r.pfmerge("w:pfmerge", "f:hll")
r.restore("w:restore", 0, r.dump("f:string"))
r.execute_command("FCALL", "put", 1, "w:fcall")
r.setbit("w:bit", 9, 1); r.append("w:append", "a"); r.lpush("w:list", 1); r.sadd("w:sadd", 1)
r.zadd("w:zadd", {"a": 1}); r.geoadd("w:geoadd", (0, 0, "a")); r.pfadd("w:pfadd", "a")
r.getex("f:string"); r.expire("f:string", 100); r.persist("f:string")
r.lpop("f:list"); r.spop("f:set"); r.zpopmin("f:zset"); r.getdel("f:gone")
r.delete("f:deleted"); r.pfcount("f:hll"); r.zmpop(1, ["f:zset"], min=True)
from redis_lab import magic
magic.run_commands(r, "SET w:magic 1\\nMULTI\\nLPUSH w:queued 1\\nEXEC")
"""
WRITTEN = {"7", *re.findall(r"\bw:\w+", WRITES)} - {"w:before"}
FOREIGN = {"f:string", "f:zset", "f:set", "f:list", "f:geo", "f:hll"}


def furnish(user: redis.Redis) -> None:
    user.set("f:string", "1")
    user.zadd("f:zset", {m: 1 for m in "abcd"})
    user.sadd("f:set", *"abcd")
    user.rpush("f:list", 1, 2, 3, 4)
    user.geoadd("f:geo", (0, 0, "a"))
    user.pfadd("f:hll", "a")
    user.mset({"f:gone": 1, "f:deleted": 1})
    user.function_load(
        "#!lua name=putting\n"
        "redis.register_function('put', function(keys) redis.call('SET', keys[1], 1) end)",
        replace=True,
    )


# The database must be empty when the visit begins, so its owner comes back meanwhile.
MEANWHILE = "print('ready', flush=True); sys.stdin.readline()\n"


def test_exactly_what_it_wrote_is_removed(user_of_each, each_kind):
    removed_again(user_of_each, each_kind, "clean_up")


@pytest.mark.parametrize("how", ["at exit", "after an exception"])
def test_what_it_wrote_is_removed_without_being_told(user, host, how):
    removed_again(user, host, how)


def removed_again(user: redis.Redis, host: Server, how: str) -> None:
    last = {
        "at exit": "",
        "clean_up": "clean_up(r); print(sorted(r.keys('*')), flush=True); sys.stdin.readline()",
        "after an exception": "raise RuntimeError",
    }[how]
    show = "print(sorted(r.keys('*')), flush=True); sys.stdin.readline()\n"
    process = subprocess.Popen(
        script(VISIT + MEANWHILE + WRITES + show + last),
        env=environment(REDIS_URL=host.url),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while process.stdout.readline() != "ready\n":
            assert process.poll() is None, process.stderr.read()
        furnish(user)
        answer(process)
        assert set(literal_eval(process.stdout.readline())) == WRITTEN | FOREIGN
        user.set("f:meanwhile", 1)
        answer(process)
        if how == "clean_up":
            assert set(literal_eval(process.stdout.readline())) == FOREIGN | {"f:meanwhile"}
            answer(process)
        process.communicate(timeout=20)
    finally:
        process.kill()
        process.communicate()
    assert set(user.keys()) == FOREIGN | {"f:meanwhile"}


def answer(process: subprocess.Popen) -> None:
    process.stdin.write("\n")
    process.stdin.flush()


ENDINGS = ("os._exit(0)", *(f"os.kill(os.getpid(), {n})" for n in (1, 9, 15)))


@pytest.fixture
def journals(tmp_path, monkeypatch):
    monkeypatch.setenv("REDIS_LAB_DATA", str(tmp_path / "data"))
    return tmp_path / "data" / "local" / "visits"


@pytest.mark.parametrize("ending", ENDINGS, ids=["_exit", "HUP", "KILL", "TERM"])
def test_what_a_killed_run_left_is_removed_by_the_next(user, host, journals, ending):
    body = "import os; [r.set(f'w:{n}', n) for n in range(5)]; r.set(b'w:\\xff', 1); " + ending
    assert visit(host.url, MEANWHILE.partition(";")[0] + "\n" + body).stdout.endswith("ready\n")
    assert user.dbsize() == 6
    with redis.Redis(port=host.port, db=1) as second:
        second.set("w:1", "yours, in another database")
        done = visit(host.url, "r.set('w:new', r.dbsize())")
        assert "Removed 6 keys that a run of the lab had left in database 0" in done.stdout
        assert done.stdout.endswith("connected\n") and done.stderr == ""
        assert user.keys() == [] and second.dbsize() == 1
    assert list(journals.iterdir()) == []
    assert "Removed" not in visit(host.url).stdout


def test_of_what_is_there_only_what_the_killed_run_wrote_is_removed(user, host, journals):
    visit(host.url, "import os; r.mset({'w:a': 1, 'w:b': 1}); os._exit(0)")
    user.set("w:yours", 1)
    said = refusal(host.url)
    assert "already holds 1 keys" in said and "2 keys that a killed run of the lab had left" in said
    assert user.keys() == ["w:yours"]


def test_a_restarted_server_may_hold_others_keys_of_the_same_name(journals):
    with server() as host:
        visit(host.url, "import os; r.set('w:a', 1); os._exit(0)")
        host.restart()
        host.client().set("w:a", "yours")
        assert "already holds 1 keys" in refusal(host.url)
        assert host.client().get("w:a") == "yours"


def test_a_living_runs_keys_are_not_taken_for_left_ones(user, host, journals):
    """Even where the user may not list who is there."""
    url = acl_user(user, host, "ada", "+@all", "-client|list")
    with subprocess.Popen(
        script(VISIT + "r.set('w:a', 1)\n" + MEANWHILE),
        env=environment(REDIS_URL=url),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as first:
        try:
            while first.stdout.readline() != "ready\n":
                assert first.poll() is None
            assert "already holds 1 keys" in refusal(url)
            assert user.keys() == ["w:a"]
        finally:
            first.communicate("\n", timeout=20)
    assert user.keys() == [] and list(journals.iterdir()) == []


def test_what_a_killed_run_left_in_a_cluster_is_removed(three, journals):
    writes = "import os; [r.set(f'w:{n}', n) for n in range(30)]; os._exit(0)"
    visit(three.nodes[0].url, writes)
    assert keys_of(three) == 30
    said = visit(three.nodes[1].url).stdout
    assert "Removed 30 keys" in said, said
    assert keys_of(three) == 0


def test_a_forked_child_does_not_clean_up(user, host):
    body = """
import os
r.set("a", 1)
child = os.fork()
if not child:
    sys.exit(0)
os.waitpid(child, 0)
print(r.get("a"))
"""
    assert visit(host.url, body).stdout.endswith("connected\n1\n")
    assert user.keys() == []


def test_the_servers_own_table_of_commands_is_read(each_kind):
    """Every command that the server marks as writing to a key it names at a fixed place."""
    with each_kind.client() as client:
        guest = Guest(client)
        for protocol in (2, 3):
            with each_kind.client(protocol=protocol) as other:
                assert Guest(other).table == guest.table
        assert {"SET", "MSET", "EVAL", "XGROUP CREATE", "COPY", "SORT"} <= set(guest.table)
        assert not {"GET", "DEL", "ZMPOP", "PFCOUNT", "XGROUP DESTROY"} & set(guest.table)
        for key, command in (("t", ("SET", "t", 1)), ("d", ("BITOP", "AND", "d", "s"))):
            guest.see(command)
            assert guest.written == {key.encode()}
            guest.written.clear()
        with pytest.raises(LabError, match="never run on a server"):
            guest.see(("FLUSHALL",))


# ---------------------------------------------------------------- a cluster


def keys_of(nodes: Cluster) -> int:
    return sum(node.client().dbsize() for node in nodes.nodes)


def test_a_cluster_is_recognised_and_left_clean(three):
    body = """
for n in range(30):
    r.set(f"key:{n}", n)
pipe = r.pipeline()
for n in range(30):
    pipe.get(f"key:{n}")
print(type(r).__name__, sum(map(int, pipe.execute())))
for command in ("FLUSHALL", "FLUSHDB"):
    try:
        r.execute_command(command)
    except LabError as error:
        print(error)
"""
    done = visit(three.nodes[1].url, body)  # any node will do
    assert done.stderr == ""
    first, *_, answer, flushall, flushdb = done.stdout.splitlines()
    assert ", REDIS_URL, TCP loopback, cluster · REDIS_URL is redis://" in first
    assert answer == "RedisCluster 435"
    assert flushall.startswith("FLUSHALL is never run on") and flushdb.startswith("FLUSHDB is")
    assert keys_of(three) == 0


def test_every_node_of_a_cluster_keeps_the_rules(three):
    """Also the one with which the client has spoken before it was restricted."""
    body = """
for n in range(30):
    r.set(f"key:{n}", n)
for node in r.get_primaries():
    try:
        print(r.execute_command("FLUSHALL", target_nodes=node))
    except LabError as error:
        print("refused")
print(r.execute_command("DBSIZE", target_nodes="primaries"))
"""
    for node in three.nodes:
        done = visit(node.url, body)
        assert done.stderr == "" and done.stdout.endswith("refused\n" * 3 + "30\n"), done
        assert keys_of(three) == 0


def test_a_lesson_that_needs_one_server_gets_one_of_its_own(three):
    body = """
r.mset({"a": 1, "b": 2, "c": 3})
print(type(r).__name__, r.dbsize())
"""
    told = run(VISIT.replace("connect()", "connect(one_server=True)") + body, REDIS_URL=three.url)
    assert told.stderr == ""
    first, *_, answer = told.stdout.splitlines()
    assert first.endswith("REDIS_URL is of a cluster, and this lesson needs one server")
    assert answer == "Redis 3"
    assert keys_of(three) == 0
    with three.nodes[0].client() as one:  # nobody has announced himself there
        assert not [c for c in one.client_list() if c["name"].startswith("redis-lab")]


@pytest.mark.parametrize("order", [(False, True, False), (True, False, True)])
def test_what_connect_was_asked_first_decides_nothing(three, order):
    body = f"""
for one_server in {order}:
    r = connect(quiet=True, one_server=one_server)
    r.set("from", type(r).__name__)
    print(type(r).__name__)
print(connect(quiet=True).get("from"), connect(quiet=True, one_server=True).get("from"))
"""
    told = run("from redis_lab.servers.choose import connect\n" + body, REDIS_URL=three.url)
    assert told.stderr == ""
    wanted = ["Redis" if one_server else "RedisCluster" for one_server in order]
    assert told.stdout.split() == [*wanted, "RedisCluster", "Redis"]
    assert keys_of(three) == 0


def test_after_a_refusal_another_url_can_be_named(user, host):
    user.set("yours", 1)
    body = f"""
import os
os.environ["REDIS_URL"] = {host.url[:-1] + "1"!r}
print(connect(quiet=True).ping())
"""
    told = run(VISIT.replace("sys.exit(1)", body).replace('print("connected")', ""),
               REDIS_URL=host.url)  # fmt: skip
    assert told.stdout.startswith("LabError: Database 0") and told.stdout.endswith("True\n"), told


def test_a_cluster_with_keys_is_refused(three):
    with three.client() as client:
        client.set("mine", 1)
        for said in refusals(*(node.url for node in three.nodes)):
            assert "already holds 1 keys" in said and "use an empty cluster, or unset" in said
        assert client.get("mine") == "1"


def test_load_keeps_the_rules_of_a_guest_too(host, user):
    done = visit(
        host.url,
        """
from redis_lab import load
from redis_lab.measure import validity
validity.TRIES = 1
rate = {"rate_per_s": 50, "seconds": 0.2}
try:
    print(load.open_loop(r, "SET", "page", "x", **rate).errors)
except load.InvalidRun:  # the machine was busy; what was written must go all the same
    print(0)
for command in (["FLUSHALL"], ["CONFIG", "SET", "save", ""]):
    try:
        load.open_loop(r, *command, **rate)
    except LabError as error:
        print(error)
clean_up(r)
""",
    )
    assert done.stderr == ""
    words = done.stdout.split("\n")
    assert "0" in words
    assert done.stdout.count("is never run on a server that the lab did not start") == 2
    assert user.keys("*") == []


def test_a_second_visit_to_a_cluster_is_refused(three):
    with subprocess.Popen(
        script(VISIT + "import time; r.set('a', 1); time.sleep(60)"),
        env=environment(REDIS_URL=three.url),
        stdout=subprocess.PIPE,
        text=True,
    ) as first:
        try:
            while first.stdout.readline() != "connected\n":
                pass
            assert "Another notebook of the lab is working" in refusal(three.url)
        finally:
            first.terminate()
            first.wait()


def test_raw_commands_and_measurements_on_a_cluster(three):
    done = visit(
        three.url,
        """
import redis_lab as lab
from redis_lab.magic import run_commands
from redis_lab.measure.results import describe_server
print(run_commands(r, "\\n".join(f"SET key:{n} {n}" for n in range(6))).count("OK"))
print(run_commands(r, "FLUSHALL"))
arms = {f"arm {n}": lambda n=n: r.get(f"key:{n}") for n in range(3)}
rows = lab.bench.compare(arms, client=r).rows
print([row["round_trips"] for row in rows][:3], describe_server(r)["transport"])
""",
    )
    assert "Traceback" not in done.stderr  # a progress bar may be there, if it takes long
    assert "OK" not in done.stdout
    assert "\n6\n" in done.stdout and "(refused) FLUSHALL" in done.stdout
    assert done.stdout.endswith("[1, 1, 1] TCP loopback\n"), done.stdout
    assert keys_of(three) == 0


# ---------------------------------------------------------------- no way to another database

ELSEWHERE = """
from redis_lab import magic
import redis

def copied_in_a_script():
    r.eval("return redis.call('copy', KEYS[1], KEYS[2], 'db', 3, 'replace')", 2, "k", "k2")

ways = {
    "copy": lambda: r.copy("k", "k", destination_db=3, replace=True),
    "copy, lower case": lambda: r.execute_command("copy", "k", "k", "db", "3", "replace"),
    "copy, bytes": lambda: r.execute_command(b"COPY", b"k", b"k", b"REPLACE", b"DB", b"3"),
    "copy, twice": lambda: r.execute_command("COPY", "k", "k", "DB", "0", "DB", "3"),
    "copy in a pipeline": lambda: r.pipeline().copy("k", "k", 3, True).execute(),
    "move": lambda: r.move("k", 3),
    "swapdb": lambda: r.swapdb(0, 3),
    "select": lambda: r.execute_command("SELECT", "3"),
    "reset": lambda: r.execute_command("RESET"),
    "reset()": lambda: r.reset(),
    "migrate": lambda: r.migrate("127.0.0.1", HERE, "k", 3, 1000, copy=True, replace=True),
    "a script": lambda: r.eval("redis.call('SELECT', 3) redis.call('SET', KEYS[1], 1)", 1, "k"),
    "server.pcall": lambda: r.eval('server.pcall( "select", 3)', 0),
    "a known script": lambda: r.register_script("redis.call('SELECT', '3')")(keys=["k"]),
    "script load": lambda: r.script_load("redis.call('SWAPDB', 0, 3)"),
    "flush in a script": lambda: r.eval("redis.call('FLUSHALL')", 0),
    "config in a script": lambda: r.eval("redis.call('CONFIG', 'SET', 'hz', '20')", 0),
    "a copying script": copied_in_a_script,
    "cluster": lambda: r.execute_command("CLUSTER RESET"),
}
r.set("k", "the lab's")
for way, send in ways.items():
    try:
        send()
        print("not refused:", way)
    except LabError as error:
        assert "lab.server()" in str(error), error
    except Exception as error:
        print(way, "failed otherwise:", error)
shown = magic.run_commands(r, "RESET\\nSET k 1\\nCOPY k k DB 3 REPLACE\\nSELECT 3\\nMOVE k 3")
print(shown.count("(refused) "), "refused by the magic")
r.copy("k", "copy"), r.copy("k", "DB", 2, True), r.execute_command("COPY", "DB", "3")
print(r.eval("return redis.call('COPY', KEYS[1], KEYS[2])", 2, "k", "DB"), r.exists("copy", "3"))
"""


def test_no_way_to_another_database(user, host):
    """Of the owner's, who has a key of the same name in each; the lab is a guest in database 2."""
    owners = [redis.Redis(port=host.port, db=n, decode_responses=True) for n in (0, 3)]
    for owner in owners:
        owner.set("k", "the owner's")
    body = ELSEWHERE.replace("HERE", str(host.port)).replace('"DB", "0", "DB"', '"DB", "2", "DB"')
    done = visit(host.url.replace("/0", "/2"), body)
    assert done.stderr == ""
    assert done.stdout.endswith("connected\n4 refused by the magic\n0 2\n"), done.stdout
    for owner in owners:
        assert owner.keys() == ["k"] and owner.get("k") == "the owner's"
        owner.close()
    assert redis.Redis(port=host.port, db=2).dbsize() == 0


PATTERNS = """
from redis_lab.patterns.leaderboard import Leaderboard, ShardedLeaderboard
from redis_lab.patterns.queue import ListQueue, StreamQueue
from redis_lab.patterns.session import Sessions
from datetime import date
for board in (Leaderboard(r, "game", keep_days=8),
              ShardedLeaderboard(r, "big", shards=2, keep_days=8)):
    board.add("ada", 5), board.set("ada", 4), board.subtract("ada", 1), board.top(3)
Leaderboard(r, "game", keep_days=8).top(3, date.today(), 7)
sessions = Sessions(r, "s", idle_s=60, absolute_s=600)
id = sessions.login(sessions.start(data={"a": 1}), "ada")
sessions.save(id, {"b": 1}), sessions.revoke_all("ada", keep=id), sessions.start("bob")
for queue in (ListQueue(r, "l"), StreamQueue(r, "t")):
    queue.put_many("abc"), queue.fail(queue.take()), queue.done(queue.take(block_s=0.1))
    while queue.take(block_s=0.01):
        pass
print(r.dbsize() > 20)
"""


@pytest.mark.parametrize("last", ["", "clean_up(r)"], ids=["at exit", "clean_up"])
def test_the_patterns_leave_nothing(user, host, last):
    """Each key that a script makes is among its KEYS, so it is known and removed."""
    done = visit(host.url, PATTERNS + last)
    assert done.stderr == "" and done.stdout.endswith("connected\nTrue\n"), done
    assert user.keys() == []
    assert visit(host.url).returncode == 0, "and so the next lesson begins"
