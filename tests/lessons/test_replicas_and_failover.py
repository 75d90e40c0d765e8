"""The lesson on replicas and failover: its exercises, and what no cell of it checks."""

from __future__ import annotations

import contextlib

import pytest
import redis
from processes import NATIVE, within

from redis_lab.judging import NotYet
from redis_lab.lessons import replicas_and_failover as exercises
from redis_lab.servers.topology import is_linked, replicated, wait_until


@pytest.fixture
def quick(monkeypatch):
    """Redis 7 is linked in a tenth of a second, Valkey 9 in one."""
    monkeypatch.setenv("REDIS_LAB_SERVER", "path" if NATIVE["path"] else "embedded")


def one_pipeline(primary, key, value):
    with primary.pipeline(transaction=False) as pipe:
        pipe.set(key, value)
        pipe.wait(1, 200)
        return pipe.execute()[-1] >= 1


def one_connection(primary, key, value):
    with primary.client() as alone:
        alone.set(key, value)
        return alone.wait(1, 200) >= 1


def set_only(primary, key, value):
    return primary.set(key, value)


def two_connections(primary, key, value):
    primary.set(key, value)
    return primary.wait(1, 200) >= 1


def both_needed(primary, key, value):
    with primary.pipeline(transaction=False) as pipe:
        pipe.set(key, value)
        pipe.wait(2, 200)
        return pipe.execute()[-1] >= 2


def without_end(primary, key, value):
    with primary.pipeline(transaction=False) as pipe:
        pipe.set(key, value)
        pipe.wait(1, 0)
        return pipe.execute()[-1] >= 1


def taken_back(primary, key, value):
    if not one_pipeline(primary, key, value):
        primary.delete(key)
        return False
    return True


def nothing(primary, key, value):
    return True


@pytest.mark.parametrize("answer", [one_pipeline, one_connection])
def test_write_safely(answer, quick):
    assert "round trips" in exercises.write_safely(None, answer)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (set_only, "True at once"),
        (two_connections, "on the same one"),
        (both_needed, "that is enough"),
        (without_end, "0 means for ever"),
        (taken_back, "The value stays"),
        (nothing, "not the value"),
    ],
)
def test_write_unsafely(answer, hint, quick, monkeypatch):
    monkeypatch.setattr(exercises, "PATIENCE_S", 1)
    with pytest.raises(NotYet, match=hint):
        exercises.write_safely(None, answer)


def test_settings(quick):
    def right(seconds):
        return {"min-replicas-to-write": 1, "min_replicas_max_lag": seconds - 2}

    assert "NOREPLICAS" in exercises.settings(None, right)
    wrong = {
        lambda s: {"min_replicas_max_lag": s}: "never looked at",
        lambda s: {"min_replicas_to_write": 1, "min_replicas_max_lag": s}: "on top of max-lag",
        lambda s: {"min_replicas_to_write": 2, "min_replicas_max_lag": s - 2}: "stops writes",
        lambda s: {"min_replicas_to_write": 1, "min_replicas_max_lag": 0}: "switches",
        lambda s: {"min_replicas_to_write": 1, "min_replicas_max_lag": 1}: "stricter than asked",
        lambda s: {"min_replicas_to_write": 1, "appendonly": True}: "not needed",
    }
    for answer, hint in wrong.items():
        with pytest.raises(NotYet, match=hint):
            exercises.settings(None, answer)


def test_a_primary_that_keeps_its_data_does_not_empty_its_replica(native):
    with replicated(1, appendonly=True) as made, made.primary.client() as primary:
        copy = made.replicas[0].client()
        primary.mset({f"order:{n}": "paid" for n in range(1000)})
        assert primary.wait(1, 5000) == 1
        made.primary.kill()
        made.primary.restart()

        def back() -> bool:
            return primary.info("replication")["connected_slaves"] == 1 and is_linked(copy)

        wait_until(back, 15, "The return")
        assert (primary.dbsize(), copy.dbsize()) == (1000, 1000)


def test_silence_is_bounded_by_max_lag_and_two_seconds(native):
    with (
        replicated(1, min_replicas_to_write=1, min_replicas_max_lag=1) as made,
        made.primary.client() as primary,
    ):
        wait_until(lambda: primary.info("replication")["min_slaves_good_slaves"] == 1, 10, "Health")
        with made.replicas[0].stalled():
            taken = []

            def refused() -> bool:
                with primary.pipeline() as pipe:
                    pipe.set("order", "paid").info("replication")
                    try:
                        taken.append(pipe.execute()[1]["slave0"]["lag"])
                    except redis.ResponseError:
                        return True
                return False

            assert within(60, refused)
            # By the server's own clock: max-lag, and up to a second each for the replica's next
            # report and for the server's next look
            assert taken and max(taken) <= 1 + 2


def test_waitaof_asks_about_disks_and_wait_about_memory():
    with replicated(1) as made, made.primary.client() as primary:
        primary.set("order", "paid")
        assert primary.wait(1, 5000) == 1
        with contextlib.suppress(redis.ResponseError):  # before Redis 7.2 there is none
            assert primary.waitaof(0, 1, 100) == [0, 0]  # neither keeps a log
