"""The lesson on client-side caching: its exercises, and what its text says that no cell checks."""

from __future__ import annotations

import socket

import hiredis
import pytest
import redis
from processes import NATIVE
from redis.cache import CacheConfig

from redis_lab.judging import NotYet
from redis_lab.lessons import client_side_caching as exercises
from redis_lab.servers.choose import kind_named, server


def on_push(copies, message):
    if message[0] == "invalidate":
        for name in list(copies) if message[1] is None else message[1]:
            copies.pop(name, None)


def test_on_push():
    assert exercises.on_push(None, on_push)
    wrong = {
        lambda copies, message: [copies.pop(name) for name in message[1] or []]: "KeyError",
        lambda copies, message: [
            copies.pop(n, None) for n in message[1] or []
        ]: "no copy is valid any",
        lambda copies, message: copies.clear(): "should leave b",
        lambda copies, message: None: "should leave b",
        lambda copies, message: on_push(copies, ["invalidate", *message[1:]]): "of a channel",
    }
    for answer, hint in wrong.items():
        with pytest.raises(NotYet, match=hint):
            exercises.on_push(None, answer)


def reading(*options, caching=()):
    def answer(ask, hot, cold):
        ask("CLIENT", "TRACKING", "ON", *options)
        for k, name in enumerate([*cold, *hot]):
            if (caching == "first" and name == hot[0]) or (caching == "each" and name in hot):
                ask("CLIENT", "CACHING", "YES")
            ask("GET", name)
            del k

    return answer


def test_read_all():
    assert exercises.read_all(None, reading("OPTIN", caching="each"))
    wrong = {
        reading(): "remembers 1005 keys",
        reading("BCAST"): "BCAST reports every write",
        reading("OPTIN"): "0 changes were reported",
        reading("OPTIN", caching="first"): "next command only",
        reading(caching="each"): "the server says",
        lambda ask, hot, cold: [ask("GET", name) for name in hot]: "your code made 5 GETs",
    }
    for answer, hint in wrong.items():
        with pytest.raises(NotYet, match=hint):
            exercises.read_all(None, answer)


LAST = b"that was all"


def test_noloop_spares_the_news_of_ones_own_writes(each_kind):
    def told(line):
        reader, found = hiredis.Reader(), []
        line.settimeout(20)
        while LAST not in found:
            reader.feed(line.recv(1000))
            while (got := reader.gets()) is not False:
                found.append(got)
        return sum(isinstance(each, hiredis.PushNotification) for each in found)

    with server(kind=each_kind.kind) as private:
        for options, expected in (((), 1), (("NOLOOP",), 0)):
            with socket.create_connection((private.host, private.port)) as line:
                for words in (
                    ("HELLO", 3),
                    ("CLIENT", "TRACKING", "ON", *options),
                    ("GET", "page"),
                    ("SET", "page", "x"),
                ):
                    line.sendall(hiredis.pack_command(words))
                line.sendall(hiredis.pack_command(("ECHO", LAST)))
                assert told(line) == expected


def test_redis_py_serves_from_its_own_cache_what_it_may():
    """What the lesson says of it: single reads, but no missing key, pipeline or script."""
    if not NATIVE["redis8"]:
        pytest.skip(kind_named("redis8").probe()[1])
    with server(kind="redis8") as eight, eight.client() as r:
        r.set("page", "x")

        def gets(read):
            r.config_resetstat()
            for _ in range(3):
                read()
            return r.info("commandstats")["cmdstat_get"]["calls"]

        with eight.client(cache_config=CacheConfig()) as cached:
            script = cached.register_script("return redis.call('GET', KEYS[1])")
            assert gets(lambda: cached.get("page")) == 1
            assert gets(lambda: cached.get("nothing")) == 3
            assert gets(lambda: cached.pipeline(transaction=False).get("page").execute()) == 3
            assert gets(lambda: script(keys=["page"])) == 3


def test_redis_py_refuses_to_cache_for_valkey(each_kind):
    if each_kind.product == "Redis" and tuple(map(int, each_kind.version.split("."))) >= (7, 4):
        pytest.skip("it does not refuse this one: see the test above")
    with pytest.raises(redis.ConnectionError, match=r"7\.4"):
        each_kind.client(cache_config=CacheConfig()).get("page")
