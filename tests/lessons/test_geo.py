"""The geo lesson: its exercises' checks, and what its prose leans on."""

from __future__ import annotations

import pytest
import redis

from redis_lab.judging import NotYet
from redis_lab.lessons import geo

SCRIPT = """
redis.call('GEOADD', KEYS[1], ARGV[2], ARGV[3], ARGV[1])
redis.call('ZADD', KEYS[2], ARGV[4], ARGV[1])
for _, courier in ipairs(redis.call('ZRANGE', KEYS[2], '-inf', ARGV[4] - 60, 'BYSCORE')) do
  redis.call('ZREM', KEYS[1], courier)
  redis.call('ZREM', KEYS[2], courier)
end
"""
CLOCKS = "redis.call('EXPIRE', KEYS[1], 60) redis.call('EXPIRE', KEYS[2], 60)"
KEYS = ("check:couriers", "check:couriers:seen")


def search(radius: float, **more):
    def nearest(r, key, lon, lat, k):
        return r.geosearch(
            key, longitude=lon, latitude=lat, radius=radius, unit="km", **{"count": k} | more
        )

    return nearest


def test_nearest_is_accepted(learner):
    assert "2,005" in geo.nearest(learner, search(500, sort="ASC"))


def everything(r, key, lon, lat, k):
    found = r.geosearch(key, longitude=lon, latitude=lat, radius=500, unit="km", sort="ASC")
    return found[:k]


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (search(500, any=True), "ANY stops"),
        (search(5, sort="ASC"), "too small for the country"),
        (search(500, sort="DESC"), "ANY stops"),
        (lambda *args: search(500, sort="ASC")(*args)[::-1], "not the nearest first"),
        (search(500, sort="ASC", withdist=True), "should be a list of names"),
        (everything, "whole town"),
        (lambda *args: None, "only 0 of the five"),
    ],
)
def test_nearest_explains_what_is_wrong(learner, answer, hint):
    with pytest.raises(NotYet, match=hint):
        geo.nearest(learner, answer)


def scripted(body: str):
    return lambda r, courier, lon, lat, now: r.eval(body, 2, *KEYS, courier, lon, lat, now)


def expiring(r, courier, lon, lat, now):
    r.geoadd(KEYS[0], (lon, lat, courier))
    r.expire(KEYS[0], 60)


def in_two_trips(r, courier, lon, lat, now):
    with r.pipeline() as pipe:
        pipe.geoadd(KEYS[0], (lon, lat, courier))
        pipe.zadd(KEYS[1], {courier: now})
        pipe.expire(KEYS[0], 60)
        pipe.expire(KEYS[1], 60)
        pipe.zrange(KEYS[1], "-inf", now - 60, byscore=True)
        silent = pipe.execute()[-1]
    if silent:
        r.zrem(KEYS[0], *silent)
        r.zrem(KEYS[1], *silent)


def forgets_at_once(r, courier, lon, lat, now):
    r.delete(KEYS[0])
    r.geoadd(KEYS[0], (lon, lat, courier))


def stands_still(r, courier, lon, lat, now):
    r.eval(SCRIPT + CLOCKS, 2, *KEYS, courier, 10.0, lat, now)


def test_report_is_accepted(learner):
    assert "one round trip" in geo.report(learner, scripted(SCRIPT + CLOCKS))


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (expiring, "time to live for the whole key"),
        (in_two_trips, "round trips"),
        (forgets_at_once, "both couriers belong"),
        (stands_still, "not where it reported last"),
        (scripted(SCRIPT), "stays for ever"),
        (scripted(SCRIPT + CLOCKS.replace("60", "25")), "must stay: give both keys a longer"),
        (
            scripted(SCRIPT.replace("KEYS[2], ARGV[4]", "KEYS[2], 'NX', ARGV[4]", 1) + CLOCKS),
            "41 seconds",
        ),
    ],
)
def test_report_explains_what_is_wrong(learner, answer, hint):
    with pytest.raises(NotYet, match=hint):
        geo.report(learner, answer)


def test_latitudes_are_refused_from_85_degrees_on(r):
    r.geoadd("geo", (0, 85.05, "north"))
    with pytest.raises(redis.ResponseError, match="invalid longitude,latitude"):
        r.geoadd("geo", (0, 85.06, "too far north"))
    with pytest.raises(redis.ResponseError, match="invalid longitude,latitude"):
        r.geoadd("geo", (180.1, 0, "too far east"))


def test_a_place_is_removed_as_a_member(r):
    r.geoadd("geo", (1, 2, "here"))
    assert r.zrem("geo", "here") == 1 and not r.exists("geo")


def test_there_is_no_georem(r):
    with pytest.raises(redis.ResponseError, match="unknown command"):
        r.execute_command("GEOREM", "geo", "here")
