"""The invalidation lesson: its exercises' checks."""

from __future__ import annotations

import pytest

from redis_lab.judging import NotYet
from redis_lab.lessons import invalidation


def right(commit, cache, key, cents):
    cache.invalidate(key, commit(cents))


def deletes_first(commit, cache, key, cents):
    cache.client.delete(f"{cache.prefix}:{key}")
    commit(cents)


def deletes_after(commit, cache, key, cents):
    commit(cents)
    cache.client.delete(f"{cache.prefix}:{key}")


def deletes_twice(commit, cache, key, cents):
    deletes_first(commit, cache, key, cents)
    cache.client.delete(f"{cache.prefix}:{key}")


def old_version(commit, cache, key, cents):
    cache.invalidate(key, commit(cents) - 1)


def announces_first(commit, cache, key, cents):
    cache.invalidate(key, 2)
    commit(cents)


def commits_only(commit, cache, key, cents):
    commit(cents)


def test_update_is_accepted(learner):
    assert "three readers" in invalidation.update(learner, right)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (deletes_first, "First the commit, then the cache"),
        (commits_only, "First the commit, then the cache"),
        (deletes_after, "announce the version"),
        (deletes_twice, "announce the version"),
        (old_version, "announce the version"),
        (lambda *_: None, "should be 250"),
    ],
)
def test_update_explains_what_is_wrong(learner, answer, hint):
    with pytest.raises(NotYet, match=hint):
        invalidation.update(learner, answer)


def test_announcing_before_the_commit_is_not_stale_for_good(learner):
    """The floor is a promise about versions: made early it keeps the old value out as well."""
    assert "three readers" in invalidation.update(learner, announces_first)


def one_by_one(waiting, announce):
    while waiting:
        announce(*waiting[0])
        waiting.pop(0)


def strikes_first(waiting, announce):
    while waiting:
        announce(*waiting.pop(0))


def swallows(waiting, announce):
    while waiting:
        key, version = waiting.pop(0)
        try:
            announce(key, version)
        except ConnectionError:
            continue


def all_at_the_end(waiting, announce):
    for item in waiting:
        announce(*item)
    waiting.clear()


def newest_first(waiting, announce):
    while waiting:
        announce(*waiting[-1])
        waiting.pop()


def never_strikes(waiting, announce):
    for item in waiting:
        announce(*item)


def test_deliver_is_accepted():
    assert "none lost" in invalidation.deliver(None, one_by_one)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (strikes_first, "is lost"),
        (swallows, "is lost"),
        (all_at_the_end, "off the list"),
        (newest_first, "oldest first"),
        (never_strikes, "still wait"),
    ],
)
def test_deliver_explains_what_is_wrong(answer, hint):
    with pytest.raises(NotYet, match=hint):
        invalidation.deliver(None, answer)
