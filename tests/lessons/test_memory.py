"""The lesson on memory: its exercises, and what its text says that no cell checks."""

from __future__ import annotations

import pytest

from redis_lab.judging import NotYet
from redis_lab.lessons import memory as exercises
from redis_lab.servers.choose import server


def measured(client, write, count, sample=2000):
    write(client, 0)
    before = exercises._read_used_memory(client)
    for n in range(1, sample):
        write(client, n)
    return count * (exercises._read_used_memory(client) - before) / (sample - 1)


def by_memory_usage(client, write, count):
    write(client, 0)
    return count * sum(client.memory_usage(key) for key in client.scan_iter())


def test_estimate():
    assert exercises.estimate(None, measured)
    wrong = {
        by_memory_usage: "too low",
        lambda *args: 2 * measured(*args): "too high",
        lambda *args: measured(*args, sample=5000): "2000 are allowed",
    }
    for answer, hint in wrong.items():
        with pytest.raises(NotYet, match=hint):
            exercises.estimate(None, answer)


def bucketed(size, field=lambda n, size: n % size):
    def add(client, n):
        return client.hincrby(f"check:counter:{n // size}", field(n, size), 1)

    def total(client, n):
        return int(client.hget(f"check:counter:{n // size}", field(n, size)) or 0)

    return add, total


def as_key(client, n):
    return client.incr(f"check:counter:{n}")


def read_add_write(client, n):
    count = int(client.hget("check:counter", n) or 0)
    client.hset("check:counter", n, count + 1)


def test_counters():
    assert exercises.counters(None, bucketed(100))
    total = bucketed(100)[1]
    wrong = {
        (as_key, lambda client, n: int(client.get(f"check:counter:{n}") or 0)): "as fields",
        bucketed(100_000): "hashtables",
        bucketed(100, lambda n, size: n % 7): "share a field",
        (read_add_write, total): "an addition is 2 commands",
    }
    for answer, hint in wrong.items():
        with pytest.raises(NotYet, match=hint):
            exercises.counters(None, answer)


def test_memory_usage_leaves_out_the_table_of_keys(each_kind):
    with server(kind=each_kind.kind) as private, private.client() as r:
        before = exercises._read_used_memory(r)
        r.eval("for n = 1, 50000 do redis.call('SET', 'k:' .. n, '12345678') end", 0)
        each = (exercises._read_used_memory(r) - before) / 50_000
        assert r.memory_usage("k:44444") < each


def test_no_limit_for_ordinary_clients_by_default(each_kind):
    with server(kind=each_kind.kind) as private, private.client() as r:
        limits = r.config_get("client-output-buffer-limit")["client-output-buffer-limit"]
        assert "normal 0 0 0" in limits
