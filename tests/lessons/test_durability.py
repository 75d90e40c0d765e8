"""The lesson on durability: its exercises, and what its text says that no cell checks."""

from __future__ import annotations

import pytest
import redis
from processes import within

from redis_lab.judging import NotYet
from redis_lab.lessons import durability as exercises
from redis_lab.servers.choose import server


def test_lost_at_most():
    def right(rules, rate):
        return rate * min(max(seconds, changes / rate) for seconds, changes in rules)

    assert exercises.lost_at_most(None, right)
    wrong = {
        lambda rules, rate: rate * min(s for s, _ in rules): "waits for both",
        lambda rules, rate: min(c for _, c in rules): "waits for both",
        lambda rules, rate: rate * max(max(s, c / rate) for s, c in rules): "ready first",
    }
    for answer, hint in wrong.items():
        with pytest.raises(NotYet, match=hint):
            exercises.lost_at_most(None, answer)


def in_place(client, key, rows):
    with client.pipeline(transaction=False) as pipe:
        pipe.delete(f"{key}:new")
        for product, quantity in rows:
            pipe.zadd(f"{key}:new", {product: quantity})
        pipe.rename(f"{key}:new", key)
        pipe.execute()


def at_once(client, key, rows):
    with client.pipeline() as pipe:
        pipe.delete(key)
        pipe.zadd(key, {product: quantity for product, quantity in rows})
        pipe.execute()


def only_added(client, key, rows):
    client.zadd(key, dict(rows))


def deleted_first(client, key, rows):
    client.delete(key)
    client.zadd(key, dict(rows))


def one_by_one(client, key, rows):
    for product, quantity in rows:
        client.zadd(f"{key}:new", {product: quantity})
    client.rename(f"{key}:new", key)


def test_refill(learner, r):
    for answer in (in_place, at_once):
        assert exercises.refill(learner, answer)
    wrong = {
        only_added: "takes nothing away",
        deleted_first: "under another name",
        one_by_one: "use a pipeline",
        lambda client, key, rows: client.delete(key): "holds 0 products",
    }
    for answer, hint in wrong.items():
        with pytest.raises(NotYet, match=hint):
            exercises.refill(learner, answer)
    assert not list(r.scan_iter(match="check:*"))


def test_writes_are_accepted_and_kept_nowhere_without_the_guard(each_kind):
    """What happens on the advice to switch stop-writes-on-bgsave-error off."""
    rules = {"save": (3600, 1_000_000), "stop_writes_on_bgsave_error": False}
    with server(kind=each_kind.kind, **rules) as private, private.client() as r:
        (private.directory / "dump.rdb").mkdir()
        (private.directory / "dump.rdb" / "in the way").touch()
        r.bgsave()
        assert within(60, lambda: not r.info("persistence")["rdb_bgsave_in_progress"])
        assert r.info("persistence")["rdb_last_bgsave_status"] == "err"
        assert r.set("order:1", "paid")
        (private.directory / "dump.rdb" / "in the way").unlink()
        (private.directory / "dump.rdb").rmdir()
        private.kill()
        private.restart()
        assert r.dbsize() == 0


def test_a_restarted_server_has_another_run_id(each_kind):
    with server(kind=each_kind.kind) as private, private.client() as r:
        before = r.info("server")["run_id"]
        private.kill()
        private.restart()
        assert r.info("server")["run_id"] != before


def test_a_log_that_is_damaged_in_its_middle_is_refused(each_kind):
    """Only a cut end is forgiven; the server says what is wrong and does not start."""
    with server(kind=each_kind.kind, appendonly=True) as private, private.client() as r:
        for n in range(3):
            r.set(f"order:{n}", "paid")
        private.kill()
        (file,) = (private.directory / "appendonlydir").glob("*.incr.aof")
        file.write_bytes(file.read_bytes().replace(b"order:1", b"order:1 and more", 1))
        with pytest.raises(Exception, match=r"(?i)bad file format|did not start"):
            private.restart()
        with pytest.raises(redis.ConnectionError):
            private.client(retry=None).ping()
