"""The lesson on anti-patterns: its exercises, and what its text says that no cell checks."""

from __future__ import annotations

import pytest
import redis

from redis_lab.judging import NotYet
from redis_lab.lessons import anti_patterns as exercises
from redis_lab.servers.choose import server


def pages(client, **match):
    cursor = None
    while cursor != 0:
        cursor, names = client.scan(cursor or 0, count=500, **match)
        yield names


def biggest(client):
    sizes = {}
    for names in pages(client):
        with client.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.memory_usage(name)
            sizes.update(zip(names, pipe.execute(), strict=True))
    return max(sizes, key=sizes.get)


def longest_string(client):
    names = [name for page in pages(client) for name in page]
    return max(names, key=lambda name: client.type(name) == "string" and client.strlen(name))


def test_biggest_key():
    assert exercises.biggest_key(None, biggest)
    wrong = {
        lambda client: max(client.keys(), key=client.memory_usage): "KEYS",
        longest_string: "does not take the most memory",
        lambda client: max(client.scan_iter(), key=client.memory_usage): "in a pipeline",
    }
    for answer, hint in wrong.items():
        with pytest.raises(NotYet, match=hint):
            exercises.biggest_key(None, answer)


def deleting(match="{}*", command="unlink", count=None):
    def answer(client, prefix):
        gone = 0
        for names in pages(client, match=match.format(prefix)):
            if names:
                gone += getattr(client, command)(*names)
        return gone if count is None else count

    return answer


def all_at_once(client, prefix):
    return client.unlink(*[name for page in pages(client, match=prefix + "*") for name in page])


def one_by_one(client, prefix):
    return sum(client.unlink(name) for page in pages(client, match=prefix + "*") for name in page)


def test_delete_prefix():
    assert exercises.delete_prefix(None, deleting())
    wrong = {
        lambda client, prefix: client.delete(*client.keys(prefix + "*")): "KEYS again",
        lambda client, prefix: client.flushdb(): "do not begin",
        deleting(match="*{}*"): "do not begin",
        lambda client, prefix: 0: "still there",
        deleting(command="delete"): "DEL of a big key",
        all_at_once: "1 UNLINK",
        one_by_one: "many names at once",
        deleting(count=1): "your answer is 1",
    }
    for answer, hint in wrong.items():
        with pytest.raises(NotYet, match=hint):
            exercises.delete_prefix(None, answer)


def test_a_user_without_the_dangerous_commands(each_kind):
    with server(kind=each_kind.kind) as private, private.client() as r:
        r.execute_command("ACL SETUSER app on nopass ~* +@all -@dangerous")
        with private.client(username="app", password="") as app:
            assert app.set("page:1", "x")
            for command in ("KEYS *", "FLUSHALL", "CONFIG GET maxmemory"):
                with pytest.raises(redis.exceptions.NoPermissionError):
                    app.execute_command(*command.split())
            assert list(app.scan_iter("page:*")) == ["page:1"]
