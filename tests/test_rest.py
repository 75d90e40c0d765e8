"""redis_lab.rest: the Upstash REST protocol, held to the service's own client and documentation."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest
import redis
import upstash_redis
import upstash_redis.asyncio
from processes import assert_prompt, gone, within
from upstash_redis.errors import UpstashError

from redis_lab import link, rest
from redis_lab.errors import LabError
from redis_lab.patterns.cache import Cache
from redis_lab.patterns.idempotency import Idempotency, Yours
from redis_lab.patterns.rate_limit import (
    AsyncGcra,
    FixedWindow,
    Gcra,
    SlidingCounter,
    SlidingLog,
)
from redis_lab.patterns.session import AsyncSessions, Sessions
from redis_lab.rest import app, protocol
from redis_lab.servers.choose import server

TOKEN = "a-token"


@pytest.fixture(scope="module")
def web(lab):
    with rest.gateway(lab, token=TOKEN) as started:
        yield started


@pytest.fixture
def u(web, r):
    with web.client(rest_retries=0) as client:
        yield client


def ask(web, method, path, body=None, headers=None, token=TOKEN):
    """One request without any client's help: status and what the JSON says."""
    connection = http.client.HTTPConnection("127.0.0.1", web.port, timeout=30)
    headers = dict(headers or {}) | ({"Authorization": f"Bearer {token}"} if token else {})
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    text = response.read()
    connection.close()
    return response.status, json.loads(text) if text else None


def pings(web) -> bool:
    """Whether it answers; not while it turns clients away, some of whom it resets."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        return ask(web, "GET", "/ping")[0] == 200
    return False


# ---------------------------------------------------------------- the service's own client


def test_strings(u, r):
    assert u.set("k", "v", ex=60) is True and r.ttl("k") == 60
    assert u.get("k") == "v" and u.get("nothing") is None
    assert u.set("k", "other", nx=True) is None or u.get("k") == "v"
    assert u.incrby("n", 5) == 5 and u.get("n") == "5"
    assert u.incrbyfloat("f", 1.5) == 1.5
    assert u.mget("k", "nothing", "n") == ["v", None, "5"]
    assert u.delete("k", "n", "f") == 3
    assert u.set("object", {"a": [1, 2]}) is True and r.get("object") == '{"a": [1, 2]}'


@pytest.mark.parametrize("text", ["", "OK", "T0s=", "ä€𝄞", 'q"\\/\n\x00', "a/b?c=d&e f+g%20"])
@pytest.mark.parametrize("encoding", ["base64", None])
def test_every_text_comes_back(text, encoding, web, r):
    with web.client(rest_encoding=encoding) as u:
        u.set("t", text)
        assert r.get("t") == text and u.get("t") == text


def test_hashes_sets_sorted_sets_lists(u):
    assert u.hset("h", values={"name": "Lamp", "stock": 7}) == 2
    assert u.hgetall("h") == {"name": "Lamp", "stock": "7"} and u.hgetall("nothing") == {}
    assert u.hmget("h", "name", "x") == ["Lamp", None] and u.hincrby("h", "stock", -1) == 6
    assert u.sadd("s", "a", "b") == 2 and set(u.smembers("s")) == {"a", "b"}
    assert u.sismember("s", "a") and not u.sismember("s", "z")
    assert u.zadd("z", {"ada": 10, "bob": 30.5}) == 2 and u.zincrby("z", 25, "ada") == 35
    assert u.zrange("z", 0, -1, rev=True, withscores=True) == [("ada", 35.0), ("bob", 30.5)]
    assert u.zscore("z", "nobody") is None
    assert u.rpush("l", "a", "b") == 2 and u.lrange("l", 0, -1) == ["a", "b"]
    cursor, keys = u.scan(0, match="*", count=100)
    assert int(cursor) == 0 and set(keys) == {"h", "s", "z", "l"}


def test_streams(u):
    first = u.xadd("x", "*", {"a": "1"})
    assert re.fullmatch(r"\d+-\d+", first) and u.xlen("x") == 1
    assert u.xrange("x", "-", "+") and u.xread({"x": "0"})[0][0] == "x"
    assert u.xgroup_create("x", "g", "0") == "OK"
    ((_, entries),) = u.xreadgroup("g", "me", {"x": ">"})
    assert entries[0][0] == first and u.xack("x", "g", first) == 1


def test_scripts(u):
    text = "return {KEYS[1], ARGV[1], 7, false, redis.status_reply('FINE')}"
    assert u.eval(text, keys=["k"], args=["ä"]) == ["k", "ä", 7, None, "FINE"]
    sha = u.script_load("return 2.9")
    assert u.evalsha(sha) == 2
    with pytest.raises(UpstashError, match=r"^NOSCRIPT No matching script"):
        u.evalsha("f" * 40)
    with pytest.raises(UpstashError, match=r"^MINE oh"):
        u.eval("return redis.error_reply('MINE oh')")


def test_pipelines(u, r):
    pipe = u.pipeline()
    pipe.set("a", 1)
    pipe.incr("a")
    pipe.get("a")
    with rest.exchanges(u) as seen:
        assert pipe.exec() == [True, 2, "2"]
    assert [exchange.path for exchange in seen] == ["/pipeline"]
    pipe = u.pipeline()
    pipe.set("b", "x")
    pipe.incr("b")
    pipe.set("c", "later")
    with pytest.raises(UpstashError, match=r"^ERR value is not an integer"):
        pipe.exec()
    assert r.get("c") == "later", "what comes after an error was done"
    r.delete("c")
    with pytest.raises(UpstashError):
        pipe.exec()
    assert r.get("c") == "later", "a pipeline that failed still holds its commands"


def test_transactions(u, r):
    multi = u.multi()
    multi.set("a", 1)
    multi.incr("a")
    assert multi.exec() == [True, 2]
    multi = u.multi()
    multi.set("a", "x")
    multi.incr("a")
    multi.set("b", "later")
    with pytest.raises(UpstashError, match=r"^ERR value is not an integer"):
        multi.exec()
    assert r.get("b") == "later", "an error while they run does not stop the others"


def test_a_discarded_transaction_is_one_error(web, u, r):
    for bad, said in (["GET"], "wrong number"), (["BLPOP", "l", 0], "would wait"), ([], "array"):
        body = json.dumps([["SET", "a", 1], bad])
        status, reply = ask(web, "POST", "/multi-exec", body)
        assert (status, list(reply)) == (400, ["error"]) and said in reply["error"]
    assert not r.exists("a")
    # What upstash-redis 1.8 makes of it; the lesson shows this
    multi = u.multi()
    multi.set("a", 1)
    multi.execute(["GET"])
    with pytest.raises(AttributeError):
        multi.exec()


def test_a_transaction_is_one(web, r):
    """Whoever looks in between sees nothing of it, unlike a pipeline's middle."""
    body = json.dumps([["INCR", "a"], ["INCR", "b"]] * 200)
    seen = set()

    async def look():
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with httpx.AsyncClient(headers=headers, timeout=60) as client:
            writes = [
                asyncio.create_task(client.post(f"{web.url}/multi-exec", content=body))
                for _ in range(8)
            ]
            while not all(task.done() for task in writes):
                replies = (await client.post(web.url, content='["MGET","a","b"]')).json()
                seen.add(tuple(replies["result"]))
            assert all(len(task.result().json()) == 400 for task in writes)

    asyncio.run(look())
    assert all(a == b for a, b in seen) and r.get("a") == "1600"


def test_asyncio(web, r):
    async def use():
        async with web.async_client(rest_retries=0) as u:
            assert await u.set("k", "v") is True
            assert await asyncio.gather(*(u.incr("n") for _ in range(40)))
            pipe = u.pipeline()
            pipe.get("k")
            pipe.get("n")
            assert await pipe.exec() == ["v", "40"]
            multi = u.multi()
            multi.hset("h", values={"a": 1})
            multi.hgetall("h")
            assert await multi.exec() == [1, {"a": "1"}]
            with pytest.raises(UpstashError, match=r"^WRONGTYPE"):
                await u.lpush("k", "x")

    asyncio.run(use())


def test_on_every_kind_of_server(each_kind):
    with rest.gateway(each_kind) as web:
        for encoding in ("base64", None):
            with web.client(rest_encoding=encoding) as u:
                assert u.set("k", "ä") is True and u.get("k") == "ä"
                assert u.eval("return {1, 'x'}") == [1, "x"]
                assert u.geoadd("g", (2.35, 48.85, "Paris")) == 1
                assert u.geopos("g", "Paris")[0] == pytest.approx((2.35, 48.85), abs=0.001)
                assert u.delete("k", "g") == 2


# ---------------------------------------------------------------- the documentation


@pytest.mark.parametrize(
    ("method", "path", "body", "command"),
    [
        ("GET", "/set/foo/bar/EX/100", None, ["set", "foo", "bar", "EX", "100"]),
        ("POST", "/set/foo?EX=100", "a/b c", ["set", "foo", "a/b c", "EX", "100"]),
        ("PUT", "/set/foo?EX=100&NX", "v", ["set", "foo", "v", "EX", "100", "NX"]),
        ("POST", "/info", None, ["info"]),
        ("GET", "/set/a%2Fb/c%20d%C3%A4", None, ["set", "a/b", "c dä"]),
        ("GET", "/set/a+b/x?GET", None, ["set", "a+b", "x", "GET"]),
        ("GET", "/set/foo/", None, ["set", "foo", ""]),
        ("GET", "/get/foo?_token=secret", None, ["get", "foo"]),
        ("GET", "/memory/usage?a+b=%26", None, ["memory", "usage", "a b", "&"]),
    ],
)
def test_path_style(method, path, body, command):
    where, _, query = path.partition("?")
    found = protocol.parse_path(where, query, (body or "").encode())
    assert [word.decode() for word in found] == command


def test_paths_reach_redis(web, r):
    assert ask(web, "GET", "/set/foo/bar/EX/100") == (200, {"result": "OK"})
    assert r.get("foo") == "bar" and r.ttl("foo") == 100
    binary = bytes(range(256))
    assert ask(web, "POST", "/set/raw?PX=50000", binary) == (200, {"result": "OK"})
    coded = {"Upstash-Encoding": "base64"}
    _, reply = ask(web, "GET", "/get/raw", headers=coded)
    assert base64.b64decode(reply["result"]) == binary
    assert "�" in ask(web, "GET", "/get/raw")[1]["result"]
    assert ask(web, "GET", "/set/foo/OK", headers=coded)[1] == {"result": "OK"}
    assert ask(web, "GET", "/type/foo", headers=coded)[1] == {"result": "c3RyaW5n"}
    assert ask(web, "HEAD", "/incr/n") == (200, None) and r.get("n") == "1"
    assert ask(web, "GET", "/mget/foo/nothing") == (200, {"result": ["OK", None]})
    assert ask(web, "GET", "/publish/chat/hello") == (200, {"result": 0})


def test_numbers_stay_as_they_were_written(web, r):
    assert ask(web, "POST", "/", '["SET", "n", 1.10]')[0] == 200 and r.get("n") == "1.10"
    digits = "9" * 5000
    assert ask(web, "POST", "/", f'["SET", "n", {digits}]')[0] == 200 and r.get("n") == digits
    assert ask(web, "POST", "/", '["SET", "n", true]')[0] == 200 and r.get("n") == "true"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        *(("/", body) for body in ("", "{", "{}", "[]", "7", '["SET", "a", null]', "[[]]")),
        *(("/", body) for body in ('["SET","a",NaN]', '["SET","a",{"b":1}]', "[" * 100_000)),
        *(("/", body) for body in ('[" GET", "a"]', '["CLIENT REPLY", "OFF"]', '["MULTI "]')),
        *(("/pipeline", body) for body in ("", "[]", '["GET","a"]', "{}", '[["GET","a"], 1]')),
        *(("/multi-exec", body) for body in ("", "[]", '["GET","a"]', '[["GET"]]')),
        *(("/", json.dumps(c.split())) for c in ("get", "foo bar", "incr text", "set a b zz 1")),
        *((p, "") for p in ("/get", "//", "//get/a", "/%20get/a", "/ge%00t/a", "/subscribe/chat")),
    ],
)
def test_what_is_wrong_is_a_400_with_an_error(path, body, web, r):
    r.set("text", "x")
    status, reply = ask(web, "POST", path, body)
    assert status == 400 and list(reply) == ["error"] and reply["error"]
    assert ask(web, "GET", "/ping") == (200, {"result": "PONG"})


@pytest.mark.parametrize("command", sorted(protocol.WAITS | protocol.LISTENS | protocol.TRANSACTS))
def test_what_waits_or_listens_is_refused(command, web):
    body = json.dumps([command.decode().lower(), "a", "0"])
    status, reply = ask(web, "POST", "/", body)  # for half a minute at most
    assert status == 400 and reply["error"].startswith(f"ERR {command.decode()} ")


def test_streams_may_be_read_but_not_waited_for(web, r):
    r.xadd("x", {"a": 1}, id="1-1")
    read = ["XREAD", "COUNT", "1", "STREAMS", "x", "0"]
    assert ask(web, "POST", "/", json.dumps(read))[0] == 200
    assert ask(web, "POST", "/", json.dumps(["xread", "block", 0, *read[3:]]))[0] == 400


@pytest.mark.parametrize("command", sorted(protocol.CONNECTS))
def test_shared_connections_keep_their_state(command, web):
    assert ask(web, "POST", "/", json.dumps([command.decode(), "1"]))[0] == 400


def test_nobody_debugs_on_a_shared_connection(web):
    for way in ("debug", "DEBUG"):
        status, reply = ask(web, "POST", "/", json.dumps(["script", way, "YES"]))
        assert status == 400 and "connections to Redis are shared" in reply["error"]
    assert ask(web, "POST", "/", json.dumps(["SCRIPT", "EXISTS", "0"])) == (200, {"result": [0]})


def test_a_user_who_may_not_multi_is_told_what_was_done():
    with server() as own, own.client() as client:
        client.execute_command("ACL SETUSER default -multi")
        with rest.gateway(own, token=TOKEN) as web:
            body = json.dumps([["SET", "a", 1], ["SET", "b", 2]])
            status, reply = ask(web, "POST", "/multi-exec", body)
        assert status == 400 and "carried out on its own" in reply["error"]
        assert client.mget("a", "b") == ["1", "2"]


def test_a_pipeline_answers_each_for_itself(web, r):
    rows = [["SET", "a", "x"], ["INCR", "a"], ["BLPOP", "l", 0], ["SET", "a"], ["GET", "a"]]
    status, replies = ask(web, "POST", "/pipeline", json.dumps(rows))
    assert status == 200
    assert [list(reply) for reply in replies] == [["result"]] + [["error"]] * 3 + [["result"]]
    assert replies[-1] == {"result": "x"}


# ---------------------------------------------------------------- who may


@pytest.mark.parametrize("path", ["/", "/get/a", "/pipeline", "/multi-exec", "/nothing/at/all"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"])
def test_the_token_is_asked_for_everywhere(method, path, web):
    for token in (None, "wrong", TOKEN[:-1], TOKEN + "x", "ä".encode().decode("latin-1")):
        status, reply = ask(web, method, path, '["PING"]', token=token)
        assert status == 401 and (reply is None or reply["error"].startswith("WRONGPASS"))


def test_where_the_token_may_stand(web):
    assert ask(web, "GET", f"/ping?_token={TOKEN}", token=None) == (200, {"result": "PONG"})
    assert ask(web, "POST", f"/pipeline?_token={TOKEN}", '[["PING"]]', token=None)[0] == 200
    for text, status in ((f"bearer {TOKEN}", 200), (TOKEN, 401), (f"Basic {TOKEN}", 401)):
        headers = {"Authorization": text}
        assert ask(web, "GET", "/ping", headers=headers, token=None)[0] == status, text


@pytest.mark.parametrize("method", ["DELETE", "PATCH", "OPTIONS", "FOO"])
def test_other_methods_are_405(method, web):
    assert ask(web, method, "/ping")[0] == 405


@pytest.mark.parametrize("body", [None, b"x" * 300_000])
@pytest.mark.parametrize(
    ("method", "token", "status"),
    [
        *((method, "wrong", 401) for method in ("GET", "HEAD", "POST", "DELETE")),
        *((method, TOKEN, 405) for method in ("DELETE", "PATCH", "OPTIONS")),
    ],
)
def test_a_refused_request_leaves_its_connection_open(method, token, status, body, web):
    connection = http.client.HTTPConnection("127.0.0.1", web.port, timeout=30)
    connection.connect()
    sock = connection.sock
    for _ in range(3):
        connection.request(method, "/", body, {"Authorization": f"Bearer {token}"})
        with connection.getresponse() as response:
            response.read()
        assert response.status == status
    connection.request("GET", "/ping", headers={"Authorization": f"Bearer {TOKEN}"})
    assert json.loads(connection.getresponse().read()) == {"result": "PONG"}
    assert connection.sock is sock, "it was never opened again"
    connection.close()


@pytest.mark.parametrize(("token", "status"), [("wrong", 401), (TOKEN, 405)])
def test_a_connection_that_closes_says_so(token, status, web):
    """A method that HTTP does not know is answered before its body is read."""
    connection = http.client.HTTPConnection("127.0.0.1", web.port, timeout=30)
    connection.request("FOO", "/", headers={"Authorization": f"Bearer {token}"})
    response = connection.getresponse()
    assert (response.status, response.headers["Connection"]) == (status, "close")
    connection.close()


def test_a_body_has_a_limit(lab, r):
    with rest.gateway(lab, token=TOKEN, body_limit=1000) as web:
        assert ask(web, "POST", "/set/a", b"x" * 1000)[0] == 200
        for length in (1001, 3_000_000):
            status, reply = ask(web, "POST", "/set/b", b"x" * length)
            assert status == 400
            assert reply["error"].endswith(f"Limit: 1000 bytes, Actual: {length} bytes")
        chunks = iter([b"x" * 600] * 2)  # sent without saying how long it is
        assert ask(web, "POST", "/set/b", chunks)[0] == 400
        assert ask(web, "GET", "/ping")[0] == 200
    assert not r.exists("b")


def test_listens_on_loopback_only_and_tells_nobody_its_secrets(lab, web):
    process = psutil.Process(web.pid)
    listening = [c for c in process.net_connections() if c.status == psutil.CONN_LISTEN]
    assert [c.laddr.ip for c in listening] == ["127.0.0.1"]
    assert TOKEN not in " ".join(process.cmdline()) and lab.url not in process.cmdline()


def test_replies_are_not_kept(web):
    reply = httpx.get(f"{web.url}/get/a?_token={TOKEN}", timeout=60)
    assert reply.headers["Cache-Control"] == "no-store" and "Etag" not in reply.headers


@pytest.mark.parametrize(
    "command",
    [
        *("FLUSHALL", "flushdb ASYNC", "SWAPDB 0 1", "MOVE a 1", "COPY a b DB 1 REPLACE"),
        *("CONFIG SET maxmemory 1", "CONFIG GET requirepass", "ACL SETUSER x on", "ACL LIST"),
        *("REPLICAOF 127.0.0.1 1", "SLAVEOF NO ONE", "SHUTDOWN NOSAVE", "DEBUG SLEEP 0", "SAVE"),
        *("MODULE LOAD x", "MIGRATE h 1 k 0 1", "FUNCTION FLUSH", "FAILOVER", "bgsave"),
    ],
)
def test_what_is_dangerous_is_refused(command, web, r):
    r.set("a", "kept")
    words = command.split()
    bodies = [
        ("/", json.dumps(words), 400),
        ("/" + "/".join(words), None, 400),
        ("/multi-exec", json.dumps([["SET", "a", "lost"], words]), 400),
        ("/pipeline", json.dumps([words]), 200),
    ]
    for path, body, expected in bodies:
        status, reply = ask(web, "POST", path, body)
        error = reply[0]["error"] if expected == 200 else reply["error"]
        assert status == expected and "allow_dangerous=True" in error
        assert error.startswith(f"ERR {words[0].upper()}")
    assert r.get("a") == "kept"


@pytest.mark.parametrize(
    "text",
    [
        *("redis.call('FLUSHALL')", 'return redis.pcall("flushdb")', "redis.call [[SWAPDB]]"),
        *("redis.call ( 'flushALL' )", "redis.call('SELECT', 1)"),
    ],
)
def test_a_script_that_names_what_is_dangerous_is_refused(text, web, r):
    r.set("a", "kept")
    for words in (["EVAL", text, 0], ["SCRIPT", "LOAD", text]):
        status, reply = ask(web, "POST", "/", json.dumps(words))
        assert status == 400 and "allow_dangerous=True" in reply["error"]
    assert r.get("a") == "kept"


def test_whatever_redis_calls_dangerous_is_refused_or_only_reads(web, r):
    """Redis's own list, of the server at hand."""
    only_reads = {"INFO", "KEYS", "ROLE", "LASTSAVE", "SORT", "SORT_RO"}
    only_reads |= {"SLOWLOG", "COMMANDLOG", "LATENCY"}
    found = {name.split("|")[0].upper() for name in r.execute_command("ACL CAT dangerous")}
    assert {"FLUSHALL", "CONFIG", "ACL", "REPLICAOF"} <= found
    for name in found - only_reads:
        body = json.dumps([name, *(["DELUSER", "x"] if name == "ACL" else [])])
        assert "ERR " + name in ask(web, "POST", "/", body)[1]["error"]
    for name in only_reads:
        with pytest.raises(KeyError):
            protocol.DANGEROUS[name.encode()]


def test_what_is_dangerous_can_be_allowed():
    with (
        server() as own,
        own.client() as client,
        rest.gateway(own, token=TOKEN, allow_dangerous=True) as web,
    ):
        client.set("a", 1)
        body = json.dumps(["EVAL", "return redis.call('FLUSHALL')", 0])
        assert ask(web, "POST", "/", body) == (200, {"result": "OK"})
        assert not client.exists("a")
        body = '["CONFIG", "SET", "maxmemory", "100mb"]'
        assert ask(web, "POST", "/", body) == (200, {"result": "OK"})
        assert ask(web, "GET", "/client/list")[0] == 400, "connections are still shared"


# ---------------------------------------------------------------- memory


def memory_mb(web):
    return psutil.Process(web.pid).memory_info().rss / 2**20


def unread(web, requests):
    """Clients that ask and never read: their sockets."""
    sockets = []
    for body in requests:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", web.port))
        head = f"POST / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
        sock.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        sockets.append(sock)
    return sockets


def test_clients_that_never_read_cost_a_bounded_memory(lab, r):
    """50 answers of 3 MB: a few wait to be read, and are dropped when others need room."""
    r.set("big", "x" * 3_000_000)
    r.config_resetstat()
    with rest.gateway(lab, token=TOKEN, reply_limit=3 * 2**20) as web:
        ask(web, "GET", "/ping")
        before, most = memory_mb(web), 0.0
        sockets = unread(web, ['["GET", "big"]'] * 50)

        def all_were_asked():
            nonlocal most
            most = max(most, memory_mb(web))
            return r.info("commandstats").get("cmdstat_get", {"calls": 0})["calls"] == 50

        assert within(120, all_were_asked)
        status, reply = ask(web, "GET", "/get/big")
        most = max(most, memory_mb(web))
        assert status == 200 and len(reply["result"]) == 3_000_000
        assert most - before < 180
        for sock in sockets:
            sock.close()


def test_who_never_reads_is_disconnected(lab, r):
    r.set("big", "x" * 8_000_000)
    with rest.gateway(lab, token=TOKEN) as web:
        ask(web, "GET", "/get/big")
        process = psutil.Process(web.pid)
        alone = process.num_fds()
        (sock,) = unread(web, ['["GET", "big"]'])
        assert within(60, lambda: process.num_fds() > alone)
        assert within(60, lambda: process.num_fds() <= alone)
        got = 0
        with contextlib.suppress(ConnectionError):
            while chunk := sock.recv(2**20):
                got += len(chunk)
        assert got < 8_000_000
        sock.close()


def test_bodies_that_do_not_end_cost_a_bounded_memory(lab, r):
    """300 bodies of 900 kB without their end: most are not read until there is room for them."""
    part = b"x" * 900_000
    with rest.gateway(lab, token=TOKEN) as web:
        ask(web, "GET", "/ping")
        before = memory_mb(web)
        sockets = [socket.create_connection(("127.0.0.1", web.port)) for _ in range(300)]
        left = dict.fromkeys(sockets, part)
        head = f"POST /set/a HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
        for sock in sockets:
            sock.sendall(f"{head}Content-Length: 1000000\r\n\r\n".encode())
            sock.setblocking(False)

        def sent():
            for sock, data in left.items():
                with contextlib.suppress(BlockingIOError):
                    left[sock] = data[sock.send(data) :] if data else data
            return sum(not data for data in left.values()) >= app.LARGE_BODIES

        assert within(60, sent)
        assert ask(web, "GET", "/ping") == (200, {"result": "PONG"}), "what is small goes on"
        assert memory_mb(web) - before < 130
        for sock in sockets:
            sock.close()
        assert within(60, lambda: ask(web, "POST", "/set/b", part) == (200, {"result": "OK"}))


def test_a_reply_has_a_limit(lab, r):
    r.set("k", "x" * 1000)
    r.rpush("numbers", *range(20_000))
    with rest.gateway(lab, token=TOKEN, reply_limit=10_000) as web:
        assert ask(web, "GET", "/get/k")[0] == 200
        for path, body in (
            ("/", '["LRANGE", "numbers", 0, -1]'),
            ("/pipeline", json.dumps([["GET", "k"]] * 20)),
            ("/multi-exec", json.dumps([["GET", "k"]] * 20)),
        ):
            status, reply = ask(web, "POST", path, body)
            assert status == 400 and "Limit: 10000 bytes" in reply["error"]
            assert ask(web, "GET", "/get/k") == (200, {"result": "x" * 1000})


# ---------------------------------------------------------------- when things go wrong


def test_redis_away_and_back():
    with server() as private, rest.gateway(private, token=TOKEN) as web:
        assert ask(web, "GET", "/incr/n")[0] == 200
        private.kill()
        for path, body in (
            ("/incr/n", None),
            ("/pipeline", '[["PING"]]'),
            ("/multi-exec", '[["PING"]]'),
        ):
            status, reply = ask(web, "POST", path, body)
            assert status == 500 and reply["error"].startswith("ERR Redis is away")
        with web.client() as u, pytest.raises(UpstashError, match="away"):
            u.incr("n")  # at once: an answer that is JSON is not tried again
        private.restart()
        assert ask(web, "GET", "/incr/n") == (200, {"result": 1})


def test_a_password_that_needs_escaping():
    with server(password="p@ss/w:rd") as private, rest.gateway(private) as web:
        assert web.client().ping() == "PONG"


def test_replies_never_meet_another_request(web, r):
    """Clients that hang up in the middle of a pipeline leave nothing behind for others."""
    body = json.dumps([["ECHO", "a" * 1000]] * 500).encode()
    for _ in range(10):
        with socket.create_connection(("127.0.0.1", web.port)) as sock:
            head = f"POST /pipeline?_token={TOKEN} HTTP/1.1\r\nHost: x\r\n"
            sock.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    for k in range(50):
        assert ask(web, "GET", f"/echo/{k}") == (200, {"result": str(k)})


def test_a_few_connections_serve_many(lab, r):
    with rest.gateway(lab, token=TOKEN) as web:

        async def use():
            headers = {"Authorization": f"Bearer {TOKEN}"}
            async with httpx.AsyncClient(headers=headers, timeout=60) as client:
                return await asyncio.gather(
                    *(client.get(f"{web.url}/echo/{k}") for k in range(200))
                )

        before = r.info("stats")["total_connections_received"]
        replies = asyncio.run(use())
        assert [reply.json()["result"] for reply in replies] == [str(k) for k in range(200)]
        opened = r.info("stats")["total_connections_received"] - before
        assert 1 <= opened <= app.CONNECTIONS


def test_who_waits_for_a_connection_is_not_told_that_redis_is_away(lab, monkeypatch):
    """100 share 8 connections, 0.25 s each: the last waits longer than Redis may take."""
    monkeypatch.setattr(app, "ANSWER_TIMEOUT_S", 2.0)

    async def use():
        backend = app.Backend(far.url, 2**20)
        began = time.monotonic()
        found = await asyncio.gather(*(backend.ask([[b"ECHO", b"%d" % k]]) for k in range(100)))
        return found, time.monotonic() - began

    with link(lab, rtt_ms=250) as far:
        found, took = asyncio.run(use())
    assert took > app.ANSWER_TIMEOUT_S
    assert found == [[b"%d" % k] for k in range(100)]


@pytest.mark.drill
def test_200_clients_hear_no_false_away(lab, r, figure):
    """6,000 requests over connections that stay open."""

    def client(me):
        connection = http.client.HTTPConnection("127.0.0.1", web.port, timeout=120)
        found = []
        for k in range(30):
            connection.request("GET", f"/echo/{me}-{k}", headers=headers)
            found.append(json.loads(connection.getresponse().read()).get("result") == f"{me}-{k}")
        connection.close()
        return found

    headers = {"Authorization": f"Bearer {TOKEN}"}
    with rest.gateway(lab, token=TOKEN) as web, ThreadPoolExecutor(200) as pool:
        right = [one for found in pool.map(client, range(200)) for one in found]
    figure(clients=200, requests=len(right), answered_wrongly=right.count(False))
    assert all(right) and len(right) == 6000


def test_who_waits_for_a_redis_that_hangs_is_told_so(monkeypatch):
    """Nothing comes back at all: whoever waits for a connection hears it, and nothing was sent."""
    monkeypatch.setattr(app, "ANSWER_TIMEOUT_S", 0.5)
    with server() as private, private.client() as client:

        async def use():
            backend = app.Backend(private.url, 2**20)
            client.execute_command("CLIENT PAUSE 60000 WRITE")
            return await asyncio.gather(
                *(backend.ask([[b"INCR", b"n"]]) for _ in range(3 * app.CONNECTIONS)),
                return_exceptions=True,
            )

        errors = asyncio.run(asyncio.wait_for(use(), 60))
        assert all(isinstance(error, redis.TimeoutError) for error in errors)
        waited = [error for error in errors if isinstance(error, app.NotSent)]
        assert len(waited) >= app.CONNECTIONS and "was not sent" in str(waited[0])


def test_kill_and_restart_on_the_same_port(lab):
    with rest.gateway(lab) as web, web.client(rest_retries=0) as u:
        url = web.url
        u.set("k", "v")
        web.kill()
        with pytest.raises(httpx.TransportError):
            u.get("k")
        web.restart()
        assert web.url == url and u.get("k") == "v"


def test_a_lost_reply_is_counted_twice(web, r):
    """upstash-redis tries again what was sent; the lesson shows this. Twice is what it does."""
    with web.client(rest_retry_interval=0) as u:
        u.ping()
        real, cut = u._http._client.post, []

        def lose_the_first(*args, **kwargs):
            reply = real(*args, **kwargs)
            if not cut:
                cut.append(reply)
                raise httpx.ReadError("the connection was cut")
            return reply

        u._http._client.post = lose_the_first
        assert u.incr("orders") == 2


def test_gone_with_its_owner():
    program = """
import os, redis_lab as lab
from redis_lab import rest
private = lab.server()
web = rest.gateway(private)
print(web.pid, flush=True)
if os.fork() == 0:  # holds the pipe open
    os.close(1); import time; time.sleep(10); os._exit(0)
os.kill(os.getpid(), 9)
"""
    said = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, timeout=30)
    assert said.returncode == -signal.SIGKILL
    pid = int(said.stdout.split()[0])
    assert within(60, lambda: gone(pid))


def test_what_it_says_when_asked_for_the_impossible(lab):
    for token in ("", "two words", "ä"):
        with pytest.raises(LabError, match="token"):
            rest.gateway(lab, token=token)
    with pytest.raises(LabError, match="Server or a URL"):
        rest.gateway(lab.client())
    with pytest.raises(LabError, match="did not start"):
        rest.gateway(lab, port=lab.port)


# ---------------------------------------------------------------- the owner's side


def test_behind_the_same_distance(lab, web, r):
    r.set("k", "v")
    with (
        link(lab, rtt_ms=30) as far,
        web.behind(far) as away,
        away.client() as u,
        far.client() as t,
    ):
        for get in (u.get, t.get):
            taken = []

            def one_round_trip(get=get, taken=taken):
                """The first call connects, and one may be late on a busy machine."""
                start = time.perf_counter()
                assert get("k") == "v"
                taken.append(time.perf_counter() - start)
                return far.delay_ms <= taken[-1] * 1000 < 56

            assert within(60, one_round_trip), taken
            assert min(taken) * 1000 >= far.delay_ms > 20


def test_behind_no_distance_is_the_gateway_itself(lab, web):
    with link(lab, rtt_ms=0) as far, web.behind(far) as here:
        assert here is web


def test_removes_its_prefix_only(lab, r):
    with rest.gateway(lab, prefix="mine:") as web:
        for k in range(1200):
            r.set(f"mine:{k}", 1)
        r.set("theirs", 1)
        assert web.remove() == 1200 and r.keys() == ["theirs"] and web.remove() == 0


def test_the_service_when_it_is_named(web, monkeypatch):
    monkeypatch.delenv(rest.URL, raising=False)
    monkeypatch.delenv(rest.TOKEN, raising=False)
    assert rest.service(web) is web
    monkeypatch.setenv(rest.URL, web.url + "/")
    with pytest.raises(LabError, match="both"):
        rest.service(web)
    monkeypatch.setenv(rest.TOKEN, TOKEN)
    found = rest.service(web)
    assert found.url == web.url and found.prefix != web.prefix
    assert found.client().ping() == "PONG"


@pytest.mark.parametrize(
    ("url", "token", "words"),
    [
        ("rediss://default:hunter2@name.upstash.io:6379", TOKEN, "should be the service's address"),
        ("https://:hunter2@name.upstash.io", TOKEN, "should be the service's address"),
        ("https://name.upstash.io/?_token=hunter2", TOKEN, "should be the service's address"),
        ("HERE", "hunter2", "that takes this token"),
        ("HERE", "hunter2 \N{PILE OF POO}", "that takes this token"),
        ("http://127.0.0.1:1", "hunter2", "Nothing answers"),
        ("SILENT", "hunter2", "Nothing answers"),
        ("DRIBBLING", "hunter2", "Nothing answers"),
        ("REDIS", "hunter2", "Nothing answers"),
    ],
)
def test_a_service_that_is_none_is_one_clear_line_without_a_secret(
    url, token, words, web, lab, monkeypatch
):
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def dribble():
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                while url == "DRIBBLING":
                    connection.sendall(b"H")
                    time.sleep(0.2)
                time.sleep(10)

        if url in ("SILENT", "DRIBBLING"):
            threading.Thread(target=dribble, daemon=True).start()
        there = f"http://127.0.0.1:{listener.getsockname()[1]}"
        places = {"HERE": web.url, "SILENT": there, "DRIBBLING": there}
        places["REDIS"] = f"http://127.0.0.1:{lab.port}"
        monkeypatch.setenv(rest.URL, places.get(url, url))
        monkeypatch.setenv(rest.TOKEN, token)
        began = time.monotonic()
        with pytest.raises(LabError, match=words) as raised:
            rest.service(web)
        assert_prompt(time.monotonic() - began)
        assert "hunter2" not in "".join(traceback.format_exception(raised.value))


def test_exchanges_count_what_crosses_the_wire(u):
    u.ping()
    with rest.exchanges(u) as seen:
        u.set("k", "v")
        with pytest.raises(UpstashError):
            u.execute(["GET"])
    first, second = seen
    assert (first.method, first.path, first.status) == ("POST", "/", 200)
    assert first.sent == '["SET","k","v"]' and json.loads(first.received) == {"result": "OK"}
    assert second.status == 400 and "wrong number" in second.received
    assert 200 < first.bytes_out < 600 and 100 < first.bytes_in < 400
    u.ping()
    assert len(seen) == 2


def test_the_bytes_of_an_exchange_are_those_sent(lab):
    """Counted by a socket that answers once and keeps what it got."""
    reply = b'{"result": "PONG"}'
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 18\r\n\r\n"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with upstash_redis.Redis(f"http://127.0.0.1:{port}", "x") as u:
            got = []

            def answer():
                sock, _ = listener.accept()
                with sock:
                    while b'["PING"]' not in b"".join(got):
                        got.append(sock.recv(65536))
                    sock.sendall(head + reply)

            thread = threading.Thread(target=answer)
            thread.start()
            with rest.exchanges(u) as seen:
                u._http._client.post(u._url, headers=u._headers, json=["PING"])
            thread.join()
    assert seen[0].bytes_out == len(b"".join(got))
    assert seen[0].bytes_in == len(head + reply)


# ---------------------------------------------------------------- the patterns


def test_the_patterns_run_over_http(u, r):
    client = rest.Adapted(u)
    cache = Cache(client, "c", lambda key: int(key) ** 2, ttl_s=60)
    assert [cache.get("12"), cache.get("12"), cache.counts["load"]] == [144, 144, 1]
    cache.invalidate("12", 2)
    assert r.hget("c:12", "value") is None and r.hget("c:12", "floor") == "2"
    for kind in (FixedWindow, SlidingLog, SlidingCounter, Gcra):
        limiter = kind(client, kind.__name__, limit=2, window_s=3600)
        assert [limiter.allow("ada").allowed for _ in range(3)] == [True, True, False]
    sessions = Sessions(client, "s", idle_s=60, absolute_s=600)
    before = sessions.load(sessions.start(data={"cart": ["lamp"]}))
    after = sessions.load(sessions.login(before, "ada"))
    assert after.user == "ada" and after.data == {"cart": ["lamp"]}
    assert sessions.load(before.id) is None and len(sessions.all_of("ada")) == 1
    assert sessions.revoke_all("ada") == 1 and sessions.load(after.id) is None
    once = Idempotency(client, "i", lease_s=5, ttl_s=60)
    assert isinstance(once.begin("key", "request"), Yours)


def test_patterns_and_tcp_share_their_data(u, r):
    over_tcp = Sessions(r, "s", idle_s=60, absolute_s=600)
    over_http = Sessions(rest.Adapted(u), "s", idle_s=60, absolute_s=600)
    assert over_http.load(over_tcp.start("ada", {"n": 1})).data == {"n": 1}


def test_the_patterns_run_over_asyncio_http(web, r):
    async def use():
        async with web.async_client(rest_retries=0) as u:
            limiter = AsyncGcra(rest.Adapted(u), "g", limit=2, window_s=3600)
            found = [(await limiter.allow("ada")).allowed for _ in range(3)]
            sessions = AsyncSessions(rest.Adapted(u), "s", idle_s=60, absolute_s=600)
            session = await sessions.load(await sessions.start("ada", {"n": 1}))
            return found, session.data

    assert asyncio.run(use()) == ([True, True, False], {"n": 1})


def test_a_script_is_one_request_once_it_is_known(u, r):
    r.script_flush()
    script = rest.Adapted(u).register_script("return ARGV[1]")
    for requests in (2, 1):
        with rest.exchanges(u) as seen:
            assert script(args=["x"]) == "x"
        assert len(seen) == requests


def test_a_gateway_that_is_away_is_what_when_away_is_for(lab):
    with rest.gateway(lab) as web, web.client(rest_retries=0) as u:
        limiter = Gcra(rest.Adapted(u), "g", limit=2, window_s=60, when_away="open")
        web.kill()
        assert limiter.allow("ada").away
        strict = Gcra(rest.Adapted(u), "g", limit=2, window_s=60)
        with pytest.raises(redis.ConnectionError):
            strict.allow("ada")


def test_the_client_is_as_the_lesson_says(web):
    """No timeout, one retry after three seconds, bytes refused, telemetry unless told."""
    fresh = upstash_redis.Redis(web.url, TOKEN)
    assert fresh._http._client.timeout == httpx.Timeout(None)
    assert (fresh._http._retries, fresh._http._retry_interval) == (1, 3)
    assert any(name.startswith("Upstash-Telemetry") for name in fresh._headers)
    with web.client() as u:
        assert not any(name.startswith("Upstash-Telemetry") for name in u._headers)
    with pytest.raises(TypeError):
        fresh.set("k", b"bytes")


# ---------------------------------------------------------------- a token that may only read

ONLY_READS = [["GET", "s"], ["HGETALL", "h"], ["STRLEN", "s"], ["XRANGE", "x", "-", "+"], ["PING"]]
ONLY_READS += [["TTL", "s"], ["OBJECT", "ENCODING", "s"], ["LRANGE", "l", 0, -1], ["EXISTS", "s"]]
NOT_ONLY = [["SET", "s", 1], ["DEL", "s"], ["GETDEL", "s"], ["EXPIRE", "s", 1], ["KEYS", "*"]]
NOT_ONLY += [["SCAN", 0], ["EVAL", "return 1", 0], ["EVAL_RO", "return 1", 0], ["PUBLISH", "c", 1]]
NOT_ONLY += [["SORT_RO", "l"], ["CONFIG", "GET", "*"], ["GETEX", "s", "EX", 1], ["SADD", "t", 1]]


def test_a_read_only_token_only_reads(web, r):
    r.set("s", "text")
    r.hset("h", "f", 1)
    before = {key: r.dump(key) for key in r.scan_iter()}
    as_reader = {"token": web.ro_token}
    for command in ONLY_READS:
        status, said = ask(web, "POST", "/", json.dumps(command), **as_reader)
        assert status == 200, (command, said)
        assert said == ask(web, "POST", "/", json.dumps(command))[1]
    for command in NOT_ONLY:
        status, said = ask(web, "POST", "/", json.dumps(command), **as_reader)
        assert status == 400 and ("NOPERM" in said["error"] or "refused" in said["error"]), command
    mixed = json.dumps([["GET", "s"], ["SET", "s", "other"], ["GET", "s"]])
    status, said = ask(web, "POST", "/pipeline", mixed, **as_reader)
    assert status == 200 and [next(iter(one)) for one in said] == ["result", "error", "result"]
    status, said = ask(web, "POST", "/multi-exec", mixed, **as_reader)
    assert status == 400 and "read-only" in said["error"]
    assert ask(web, "GET", "/set/s/other", **as_reader)[0] == 400
    assert {key: r.dump(key) for key in r.scan_iter()} == before


def test_no_command_that_writes_passes_for_one_that_reads(each_kind):
    """By the server's own words, whatever it is."""
    with each_kind.client() as client:
        categories = {
            name.lower().encode()
            for group in ("write", "dangerous", "admin", "scripting")
            for name in client.execute_command("ACL CAT", group)
        }
        raw = each_kind.client(decode_responses=False, protocol=2)
        table = raw.connection_pool.get_connection()
        table.send_command("COMMAND")
        reads = {name.lower() for name in protocol.read_only_commands(table.read_response())}
    assert b"get" in reads and len(reads) > 60
    assert not reads & categories


def test_the_services_client_with_a_read_only_token(web, r):
    r.set("s", "text")
    with upstash_redis.Redis(web.url, web.ro_token, allow_telemetry=False) as reader:
        assert reader.get("s") == "text"
        with pytest.raises(UpstashError, match="NOPERM SET is refused"):
            reader.set("s", "other")


# ---------------------------------------------------------------- replies in RESP2


def resp2(web, path, commands, **headers) -> tuple[int, str, bytes]:
    headers = {"Upstash-Response-Format": "resp2", "Authorization": f"Bearer {TOKEN}", **headers}
    said = httpx.post(web.url + path, content=json.dumps(commands), headers=headers)
    return said.status_code, said.headers["Content-Type"], said.content


def test_replies_in_resp2_are_what_redis_sends(web, r, lab):
    r.hset("h", mapping={"a": 1, "b": "zwei\r\n"})
    r.rpush("l", b"\x00\xff", "", "OK")
    several = [["SET", "s", "é"], ["GET", "s"], ["GET", "none"], ["HGETALL", "h"], ["INCR", "n"]]
    several += [["LRANGE", "l", 0, -1], ["INCR", "s"], ["EVAL", "return {1, {'x'}, false}", 0]]
    sent = b"".join(
        b"*%d\r\n" % len(words)
        + b"".join(b"$%d\r\n%b\r\n" % (len(w), w) for w in (str(word).encode() for word in words))
        for words in several
    )
    status, kind, body = resp2(web, "/pipeline", several)
    assert (status, kind) == (200, "application/octet-stream")
    r.delete("n")
    with socket.create_connection(("127.0.0.1", lab.port), timeout=10) as direct:
        direct.sendall(sent)
        expected = b""
        while len(expected) < len(body):
            expected += direct.recv(4096)
    # One bulk string of those may be sent as the simple string OK
    assert body == expected.replace(b"$2\r\nOK\r\n", b"+OK\r\n")


def test_resp2_of_one_command_and_of_errors(web, r):
    assert resp2(web, "/", ["PING"]) == (200, "application/octet-stream", b"$4\r\nPONG\r\n")
    status, _, body = resp2(web, "/", ["GET"])
    assert status == 400 and body.startswith(b"-ERR wrong number") and body.endswith(b"\r\n")
    status, _, body = resp2(web, "/", ["PING"], Authorization="Bearer guessed")
    assert status == 401 and body.startswith(b"-WRONGPASS")
    status, _, body = resp2(web, "/", ["PING"], **{"Upstash-Encoding": "base64"})
    assert status == 400 and b"resp2" in body
    status, kind, body = resp2(web, "/multi-exec", [["PING"]])
    assert (status, kind, json.loads(body)) == (200, "application/json", [{"result": "PONG"}])
    assert ask(web, "GET", "/ping", headers={"Upstash-Response-Format": "xml"})[0] == 400


# ---------------------------------------------------------------- too many clients


def test_a_client_too_many_is_told_so_and_may_come_back(lab, r):
    with rest.gateway(lab, token=TOKEN, max_clients=3) as web, contextlib.ExitStack() as stack:
        inside = [
            stack.enter_context(
                contextlib.closing(http.client.HTTPConnection("127.0.0.1", web.port, timeout=30))
            )
            for _ in range(3)
        ]
        headers = {"Authorization": f"Bearer {TOKEN}"}

        def ping(connection):
            connection.request("GET", "/ping", headers=headers)
            with connection.getresponse() as said:
                return said.status, dict(said.getheaders()), json.loads(said.read())

        assert [ping(one)[0] for one in inside] == [200] * 3
        for _ in range(150):  # more than are told so at a time
            outside = http.client.HTTPConnection("127.0.0.1", web.port, timeout=30)
            status, said, body = ping(outside)
            outside.close()
            assert (status, said["Connection"], said["Retry-After"]) == (503, "close", "1")
            assert "3 clients are connected" in body["error"]
        assert [ping(one)[0] for one in inside] == [200] * 3, "who is inside notices nothing"
        inside.pop().close()
        assert within(60, lambda: pings(web))


def test_a_crowd_beyond_its_files_does_not_silence_it(lab, r):
    """Silent clients by the hundred, and a gateway that may open but few files."""
    held = []
    with rest.gateway(lab, token=TOKEN, max_clients=20) as web:
        try:
            for _ in range(300):
                held.append(socket.create_connection(("127.0.0.1", web.port), timeout=30))
            files = psutil.Process(web.pid)
            assert within(60, lambda: files.num_fds() < 20 + app.TURNED_AWAY + app.OWN_FILES)
        finally:
            for each in held:
                each.close()
        assert within(60, lambda: pings(web))
