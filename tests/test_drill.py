"""The drill: it holds what holds, and catches what the lessons teach against."""

from __future__ import annotations

import functools
import json
import signal
import subprocess
import sys

import psutil
import pytest
from processes import environment, gone, within

from redis_lab.drill import contracts, drill, hold, naive, ours
from redis_lab.drill.report import BROKEN, HOLDS, NOT_PROMISED, NOT_TESTED
from redis_lab.errors import LabError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks, and stops processes")

OURS = {
    "cache": [ours.Cache, ours.CacheAside],
    "lock": [ours.Lock],
    "queue": [ours.ListQueue, ours.StreamQueue],
    "limiter": [ours.SlidingLog, ours.FixedWindow, ours.SlidingCounter, ours.Gcra],
    "session": [ours.Sessions],
    "once": [ours.Once],
}
ALL_OURS = [pytest.param(kind, one, id=one.__name__) for kind, all_ in OURS.items() for one in all_]
QUICK = [
    pytest.param(*one.values, id=one.id, marks=pytest.mark.drill if one.id == "StreamQueue" else ())
    for one in ALL_OURS
]

# What each naive form is caught at, and what must be in the shortest witness of it
NAIVE = {
    naive.Cache: ("cache", {"stale after invalidate": "SET c:a 1", "loads for one miss": "load"}),
    naive.Lock: ("lock", {"two holders": "DEL lock:a", "lost updates": "longer than its lease"}),
    naive.Queue: ("queue", {"jobs lost": "is killed here", "done twice": "RPUSH jobs one"}),
    naive.Limiter: ("limiter", {"locked out": "is killed here", "keys without TTL": "INCRBY"}),
    naive.CheckingLimiter: ("limiter", {"over the limit": "GET calls:a"}),
    naive.Sessions: ("session", {"sessions revived": "DEL session:"}),
    naive.Once: ("once", {"two at work": "GET once:a", "two answers": "the work"}),
}
each_naive = pytest.mark.parametrize("make", NAIVE, ids=lambda make: make.__name__)


@functools.cache
def stepped(make):
    """What hangs is not waited for as long as on a busy machine: it is known to hang."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contracts, "GRACE_S", 0.3)
        return drill(make, NAIVE[make][0], seed=1, kills=0)


@each_naive
def test_the_naive_form_is_caught_step_by_step(make):
    _, caught = NAIVE[make]
    report = stepped(make)
    assert not report.ok and set(caught) <= set(report.broken)
    for promise, step in caught.items():
        witness = report.witnesses[promise]
        assert any(step in each.text for each in witness.steps)
    assert f"{next(iter(caught))}: " in report.timelines()


def test_the_witness_is_a_shortest_one():
    steps = stepped(naive.Cache).witnesses["stale after invalidate"].steps
    assert [(step.who, step.text) for step in steps] == [
        ("reader", "GET c:a"),
        ("reader", "load a"),
        ("writer", "commit: a new a"),
        ("writer", "DEL c:a"),
        ("reader", "SET c:a 1 EX 60"),
    ]


@pytest.mark.parametrize(("kind", "make"), QUICK)
def test_ours_holds_step_by_step(kind, make, figure):
    report = hold(make, as_=kind, seed=1, kills=0)
    figure(orders=report.orders, broken=0)
    assert report.orders > 2
    assert {line.verdict for line in report.lines.values()} <= {HOLDS, NOT_PROMISED}


class Crashes(naive.Lock):
    def __init__(self, client) -> None:
        raise ZeroDivisionError("in the adapter")


class Raising(naive.Lock):
    def release(self, lease) -> None:
        raise ZeroDivisionError("every time")


def test_a_race_catches_what_happens_every_time():
    """Whether more is caught in so short a race is up to the machine; see the drills below."""
    with pytest.raises(AssertionError, match=r"errors not in the contract[^\n]+BROKEN"):
        hold(Raising, as_="lock", seed=3, kills=1, workers=2, steps=False)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kills", [0, 1], ids=["step by step", "in a worker"])
def test_an_adapter_that_fails_is_said(kills):
    with pytest.raises(LabError, match="ZeroDivisionError: in the adapter"):
        drill(Crashes, "lock", kills=kills, workers=1, steps=not kills)


@pytest.mark.parametrize(
    ("kind", "make"), [pytest.param(k, all_[0], id=k) for k, all_ in OURS.items()]
)
def test_ours_holds_in_a_short_race(kind, make):
    report = hold(make, as_=kind, seed=3, kills=3, workers=2, steps=False)
    assert report.faults["kill"] == 3 and report.faults["lost replies"] == 1
    assert report.lines["locked out" if kind == "limiter" else "hung"].raced_of > 0


@pytest.mark.drill
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("kind", "make"), ALL_OURS)
def test_ours_holds_under_a_hundred_kills(kind, make, figure):
    report = hold(make, as_=kind, kills=100)
    figure(kills=report.faults["kill"], faults=sum(report.faults.values()), broken=0)
    assert report.faults["kill"] == 100 and min(report.faults.values()) >= 5


@pytest.mark.drill
@pytest.mark.timeout(600)
@each_naive
def test_the_naive_form_is_caught_under_a_hundred_kills(make, figure):
    report = drill(make, NAIVE[make][0], kills=100, steps=False)
    figure(kills=report.faults["kill"], broken_promises=len(report.broken))
    assert report.broken


# ---------------------------------------------------------------- the command


def command(*args: str) -> list[str]:
    return [sys.executable, "-c", "from redis_lab.cli import main; main()", "drill", *args]


def test_the_command_prints_a_table_and_writes_json(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from redis_lab.drill import naive\n"
        "class Locked(naive.Lock):\n"
        "    not_promised = ('lost updates', 'two holders')\n"
    )
    args = ["mine:Locked", "--as", "lock", "--kills", "3", "--seed", "5", "--no-steps"]
    args += ["--json", "found.json"]
    done = subprocess.run(
        command(*args), cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    assert "lost updates" in done.stdout and NOT_PROMISED in done.stdout
    assert "redis-lab drill mine:Locked --as lock --seed 5 --kills 3 --no-steps" in done.stdout
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["ok"] and found["faults"]["kill"] == 3 and found["seed"] == 5
    assert found["lines"]["lost updates"]["verdict"] == NOT_PROMISED


def test_ctrl_c_prints_what_was_found_and_leaves_nothing_behind(tmp_path):
    args = ["redis_lab.drill.naive:Lock", "--as", "lock", "--kills", "1000", "--no-steps"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(
        command(*args), cwd=tmp_path, env=environment(TMPDIR=str(tmp_path)), **pipes
    )
    # More workers than there are at a time: some have been killed already
    assert within(90, lambda: len(list(tmp_path.glob("redis-lab-drill-*/w*.log"))) > 5)
    family = [one.pid for one in psutil.Process(process.pid).children(recursive=True)]
    process.send_signal(signal.SIGINT)
    told, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Interrupted" in told and "two holders" in told and "hung" in told
    assert len(family) > 5 and within(60, lambda: all(map(gone, family)))
    assert not list(tmp_path.glob("redis-lab-*"))


# ---------------------------------------------------------------- what it is given


@pytest.mark.parametrize(
    ("what", "kind", "says"),
    [
        ("redis_lab.drill.naive:Lock", "mutex", "no contract 'mutex'"),
        ("redis_lab.drill.naive", "lock", "not an address"),
        ("redis_lab.drill.naive:Nothing", "lock", "nothing that can be called Nothing"),
        ("no_such_module:Lock", "lock", "cannot be imported"),
        (lambda client: None, "lock", "top of a module"),
        (type("Odd", (), {"not_promised": ("world peace",)}), "lock", "top of a module"),
    ],
)
def test_what_cannot_be_drilled_is_said(what, kind, says):
    with pytest.raises(LabError, match=says):
        drill(what, kind)


class Odd(naive.Lock):
    not_promised = ("world peace",)


def test_a_promise_that_no_contract_knows():
    with pytest.raises(LabError, match="makes no promise called world peace"):
        drill(Odd, "lock")


def test_every_promise_is_explained_and_has_a_name_of_its_own():
    for promises in contracts.KINDS.values():
        names = [promise.name for promise in promises]
        assert len(set(names)) == len(names) and all(promise.how for promise in promises)


def test_what_was_not_tested_is_not_said_to_hold():
    report = drill(naive.Lock, "lock", seed=1, kills=0, steps=False)
    assert {line.verdict for line in report.lines.values()} == {NOT_TESTED}
    assert BROKEN not in str(report)
