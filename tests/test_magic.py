"""%%redis against the real redis-cli, and inside a real IPython."""

from __future__ import annotations

import shutil
import subprocess

import pytest
import redis
import redis.asyncio
from hypothesis import given
from hypothesis import strategies as st
from IPython.core.interactiveshell import InteractiveShell

from redis_lab import LabError, connect, load_ipython_extension, magic, server
from redis_lab.magic import quote_string, run_commands, split_arguments

CLI = shutil.which("redis-cli")
needs_cli = pytest.mark.skipif(not CLI, reason="redis-cli is not on PATH")


@pytest.fixture
def client(r):
    return r


def cli(lab, text: str) -> str:
    """What redis-cli says when `text` is typed into it."""
    command = [CLI, "--no-raw", "-p", str(lab.port)]
    done = subprocess.run(command, input=text.encode(), capture_output=True, timeout=20)
    return done.stdout.decode(errors="replace")


def replies(client, text: str) -> str:
    """What the cell prints, less the echo of the commands."""
    out = run_commands(client, text)
    return "".join(line for line in out.splitlines(True) if not line.startswith("> "))


COMMANDS = r"""
PING
PING "hello world"
ECHO ""
SET k v
SET k v NX
GET k
GET missing
SET quoted "a \"quoted\" \\ word"
GET quoted
SET single 'it\'s \n raw'
GET single
SET binary "\x00\x01\x7f\x80\xff\n\r\t\a\b\e\xZZ"
GET binary
SET unicode "héllo wörld ☃"
GET unicode
SET héllo ☃
KEYS h*
INCR n
DECRBY n 10
INCR k
INCRBYFLOAT f 1.5
APPEND k more
STRLEN k
FOO bar baz
SET
GET a b
HSET h a 1 b 2 c 3
HGET h a
HGETALL h
HMGET h a zz b
LRANGE nolist 0 -1
HGETALL nohash
LPUSH k x
RPUSH l 1 2 3 4 5 6 7 8 9
LRANGE l 0 -1
RPUSH l 10 11 12
LRANGE l 0 -1
BLPOP none 0.01
SADD s one
SMEMBERS s
ZADD z 1 one 2.5 two
ZRANGE z 0 -1 WITHSCORES
ZSCORE z two
XADD st 1-1 f v g w
XADD st 2-1 f v
XRANGE st - +
XREAD COUNT 2 STREAMS st 0
XINFO STREAM st
TYPE st
OBJECT ENCODING n
EXPIRE k 100
TTL k
EVAL "return {1,{2,{},false,'a',{'deep',{'deeper'}}},3,4,5,6,7,8,9,10,11,{12,'x'}}" 0
EVAL "return {{1,2},{{}},{{{'x'}}}}" 0
EVAL "return {ok='fine'}" 0
EVAL "return {err='BAD thing'}" 0
EVAL "return {1,redis.error_reply('ERR inside'),{ok='st'}}" 0
EVAL "local t={} for i=1,120 do t[i]={i,'x'} end return t" 0
EVAL "return 'two\nlines'" 0
SCAN 0 MATCH nothing*
COMMAND DOCS get
COMMAND COUNT
CONFIG GET maxmemory
GEOADD g 2.35 48.85 paris
GEOPOS g paris nowhere
EXEC
DISCARD
WATCH k
CLUSTER INFO
CLUSTER NODES
MEMORY DOCTOR
LATENCY DOCTOR
get   k
"GET" 'k'
GET"k"
GET "k
GET 'k
GET "k"x
"""


@needs_cli
@pytest.mark.parametrize("line", COMMANDS.strip().split("\n"))
def test_as_redis_cli(lab, client, line):
    """Both sides run all lines up to this one's state, so that each reply has something in it."""
    seed = COMMANDS.strip().split("\n")
    before = "\n".join(seed[: seed.index(line)])
    run_commands(client, before)
    ours = replies(client, line)
    client.flushall()
    run_commands(client, before)
    theirs = cli(lab, line + "\n")
    if theirs.startswith("Invalid argument"):
        assert ours.startswith("Invalid argument(s)")
    else:
        assert ours == theirs


@needs_cli
def test_a_whole_cell_as_redis_cli(lab, client):
    text = (
        "SET a 1\n\nMULTI\nINCR a\nLPUSH a x\nGET a\nNOSUCH\nEXEC\nSELECT 1\nSET b 2\nGET a\n"
        "MULTI\nSET c 3\nINCR c\nEXEC\nDBSIZE\nFLUSHDB"
    )
    ours = replies(client, text)
    client.flushall()
    assert ours == cli(lab, text + "\n")


def test_cell_looks(client):
    text = '\n# greet\nSET greeting "hello"  \n\n  # again\n  GET greeting\r\n'
    assert run_commands(client, text) == '> SET greeting "hello"\nOK\n> GET greeting\n"hello"\n'
    assert run_commands(client, "# nothing\n\n") == ""


def test_an_error_does_not_end_the_cell(client):
    out = run_commands(client, "SET a x\nINCR a\nGET 'a\nGET a")
    assert out.splitlines()[3].startswith("(error) ERR value is not an integer")
    assert out.splitlines()[5] == "Invalid argument(s): a quote ' is not closed"
    assert out.endswith('> GET a\n"x"\n')


def test_state_holds_within_a_cell_and_not_beyond(client):
    out = run_commands(client, "SELECT 3\nSET k in-three\nMULTI\nSET k never")
    assert out.endswith("QUEUED\n")
    assert run_commands(client, "GET k") == "> GET k\n(nil)\n"
    assert run_commands(client, "SELECT 3\nGET k").endswith('"in-three"\n')
    assert client.get("k") is None  # nor does it reach the client's own connections


def test_no_connection_is_left_open(client):
    client.ping()
    before = client.info("clients")["connected_clients"]
    for _ in range(20):
        run_commands(client, "PING\nFOO\nQUIT\nPING\nPING")
    assert client.info("clients")["connected_clients"] < before + 5  # the last may be closing


def test_after_quit_the_next_line_gets_a_new_connection(client):
    out = run_commands(client, "QUIT\nPING\nPING")
    assert "(connection lost" in out
    assert out.endswith("> PING\nPONG\n")


def test_a_blocking_command_does_not_hang_the_cell(client, monkeypatch):
    monkeypatch.setattr(magic, "TIMEOUT_S", 0.2)
    out = run_commands(client, "BLPOP none 0\nPING")
    assert "(no reply within 0.2 s" in out
    assert out.endswith("> PING\nPONG\n")


@pytest.mark.parametrize(
    "line, hint",
    [
        ("SUBSCRIBE news", "pubsub"),
        ("psubscribe news*", "pubsub"),
        ("SSUBSCRIBE news", "pubsub"),
        ("UNSUBSCRIBE", "pubsub"),
        ("MONITOR", "monitor"),
        ("HELLO 3", "protocol"),
        ("client reply off", "replies"),
    ],
)
def test_what_a_cell_cannot_do(client, line, hint):
    out = run_commands(client, f"{line}\nPING")
    refused = out.splitlines()[1]
    assert refused.startswith("(refused) ") and hint in refused
    assert out.endswith("> PING\nPONG\n")


def test_asks_the_guard(client, monkeypatch):
    seen = []

    def guard(client, args):
        seen.append(args)
        if args[0].upper() == b"FLUSHALL":
            raise LabError("FLUSHALL is not for here.")

    monkeypatch.setattr(magic, "guard", guard)
    out = run_commands(client, 'SET k "v w"\nFLUSHALL\nGET k')
    assert seen == [(b"SET", b"k", b"v w"), (b"FLUSHALL",), (b"GET", b"k")]
    assert "> FLUSHALL\n(refused) FLUSHALL is not for here.\n" in out
    assert out.endswith('"v w"\n')


def test_other_ways_to_connect(lab):
    with server(password="s3 cret") as locked, locked.client() as client:
        assert run_commands(client, "PING") == "> PING\nPONG\n"
    if lab.socket:
        with redis.Redis(unix_socket_path=lab.socket, protocol=3, db=2) as client:
            assert "db=2" in run_commands(client, "CLIENT INFO")
    pool = redis.BlockingConnectionPool.from_url(lab.url)
    with redis.Redis(connection_pool=pool) as client:
        assert run_commands(client, "PING") == "> PING\nPONG\n"


@pytest.mark.parametrize("wrong", [None, "redis://localhost", redis.asyncio.Redis()])
def test_needs_a_client(wrong):
    with pytest.raises(LabError, match=r"redis\.Redis"):
        run_commands(wrong, "PING")


# quoting


@given(st.lists(st.binary(), min_size=1))
def test_what_is_quoted_splits_into_the_same(args):
    assert split_arguments(" ".join(map(quote_string, args)).encode()) == args


@given(st.lists(st.from_regex(rb"[!#-&(-~\x80-\xff]+", fullmatch=True)))
def test_bare_words(words):
    assert split_arguments(b"  ".join(words) + b" ") == words


@given(st.binary())
def test_any_line_splits_or_is_refused(line):
    try:
        args = split_arguments(line.replace(b"\0", b""))
    except LabError as error:
        assert str(error).startswith("Invalid argument(s)")
    else:
        assert all(isinstance(arg, bytes) for arg in args)


# inside IPython


@pytest.fixture
def shell():
    shell = InteractiveShell.instance()
    load_ipython_extension(shell)
    yield shell
    shell.reset(new_session=False)
    InteractiveShell.clear_instance()


def test_magic_with_a_name(shell, client, capsys):
    shell.user_ns["mine"] = client
    result = shell.run_cell("%%redis mine\nSET k v\nGET k\n")
    assert result.success
    assert capsys.readouterr().out == '> SET k v\nOK\n> GET k\n"v"\n'


def test_magic_with_the_lab_client(shell, capsys, monkeypatch):
    monkeypatch.delenv("REDIS_URL", raising=False)
    with connect(quiet=True):
        assert shell.run_cell("%%redis\nPING").success
    assert capsys.readouterr().out == "> PING\nPONG\n"


def test_magic_without_a_client(shell, capsys, monkeypatch):
    monkeypatch.setattr(magic, "announced_client", lambda: None)
    for cell, hint in [
        ("%%redis\nPING", "call lab.connect() first"),
        ("%%redis nobody\nPING", "no variable of that name"),
        ("x = 3", ""),
        ("%%redis x\nPING", "redis.Redis, not int"),
    ]:
        result = shell.run_cell(cell)
        said = "".join(capsys.readouterr())
        assert hint in said and "Traceback" not in said
        assert result.success == (not hint)
