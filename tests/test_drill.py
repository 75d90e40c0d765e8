"""The drill: it holds what holds, and catches what the lessons teach against."""

from __future__ import annotations

import functools
import json
import signal
import subprocess
import sys
import time
from random import Random

import psutil
import pytest
from processes import environment, gone, within

from redis_lab.drill import clock, contracts, deployments, drill, hold, naive, ours, stepping
from redis_lab.drill.hands import Finding
from redis_lab.drill.kinds import PLAYS
from redis_lab.drill.race import Race
from redis_lab.drill.report import (
    BROKEN,
    HOLDS,
    NOT_AT_FAILOVER,
    NOT_PROMISED,
    NOT_TESTED,
    Report,
)
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

FIRST = [pytest.param(kind, all_[0], id=kind) for kind, all_ in OURS.items()]

# What each naive form is caught at, and what must be in the shortest witness of it
NAIVE = {
    naive.Cache: (
        "cache",
        {
            "stale after invalidate": "SET c:a 1",
            "loads for one miss": "load",
            "absences loaded": "load none",
        },
    ),
    naive.Lock: ("lock", {"two holders": "DEL lock:a", "lost updates": "longer than its lease"}),
    naive.Queue: ("queue", {"jobs lost": "is killed here", "done twice": "RPUSH jobs one"}),
    naive.Limiter: ("limiter", {"locked out": "is killed here", "keys without TTL": "INCRBY"}),
    naive.CheckingLimiter: ("limiter", {"over the limit": "GET calls:a"}),
    naive.Sessions: ("session", {"sessions revived": "DEL session:"}),
    naive.Once: ("once", {"two at work": "GET once:a", "two answers": "the work"}),
    # Each of these is caught by one adversary only; see below
    naive.ClockLimiter: ("limiter", {"over the limit": "its clock jumps an hour"}),
    naive.ClockLock: ("lock", {"two holders": "its clock jumps an hour"}),
    naive.EndlessQueue: ("queue", {"poison rounds": "EVALSHA"}),
}
SLOW = [naive.ClockLock]
each_naive = pytest.mark.parametrize(
    "make",
    [pytest.param(one, marks=pytest.mark.drill if one in SLOW else ()) for one in NAIVE],
    ids=lambda make: make.__name__,
)


@functools.cache
def stepped(make):
    """What hangs is not waited for as long as on a busy machine: it is known to hang."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contracts, "GRACE_S", 0.3)
        return drill(make, NAIVE[make][0], seed=1, kills=0)


@each_naive
def test_the_naive_form_is_caught_step_by_step(make, figure):
    _, caught = NAIVE[make]
    report = stepped(make)
    figure(orders=report.orders, broken_promises=len(report.broken))
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


@pytest.mark.parametrize(("kind", "make"), FIRST)
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
    assert report.faults["kill"] == 100 and min(report.faults.values()) >= 4


@pytest.mark.drill
@pytest.mark.timeout(600)
@each_naive
def test_the_naive_form_is_caught_under_a_hundred_kills(make, figure):
    report = drill(make, NAIVE[make][0], kills=100, steps=False)
    figure(kills=report.faults["kill"], broken_promises=len(report.broken))
    assert report.broken


# ---------------------------------------------------------------- one adversary more


@pytest.mark.parametrize(
    ("make", "mode", "poison"),
    [
        pytest.param(naive.ClockLimiter, "clock", False),
        pytest.param(naive.ClockLock, "clock", False, marks=pytest.mark.drill),
        pytest.param(naive.EndlessQueue, None, True, marks=pytest.mark.drill),
    ],
)
def test_without_its_adversary_the_naive_form_holds(make, mode, poison, monkeypatch, figure):
    """So no other one catches it."""
    kind = NAIVE[make][0]
    monkeypatch.setitem(stepping.MODES, mode, lambda *args: iter(()))
    if poison:
        others = [one for one in PLAYS[kind].scenarios if "kills each worker" not in one.name]
        monkeypatch.setattr(type(PLAYS[kind]), "scenarios", others)
    report = hold(make, as_=kind, kills=0)
    figure(orders=report.orders, broken=0)
    assert report.orders > 2


def test_a_wall_clock_jumps_where_it_was_imported_by_name_too(monkeypatch):
    monkeypatch.setitem(globals(), "wall", time.time)
    before, steady = wall(), time.monotonic()  # noqa: F821
    with clock.jumping(__name__, lambda: -7200):
        assert wall() < before - 3600 and time.time() < before - 3600  # noqa: F821
        assert abs(time.time_ns() / 1e9 - time.time()) < 60
        assert time.monotonic() - steady < 3600
    assert wall is time.time and wall() >= before  # noqa: F821


class Watchful(naive.Lock):
    """Its calls fail once the clock has jumped."""

    def acquire(self, name):
        if abs(time.time() - time.monotonic() - BORN) > 45:
            raise ZeroDivisionError("the clock has jumped")
        return super().acquire(name)


BORN = time.time() - time.monotonic()


@pytest.mark.timeout(100)
def test_the_clock_of_one_worker_jumps():
    target, told = contracts.resolve(Watchful, "lock"), lambda text: None
    options = {"seed": 1, "kills": 0, "workers": 2, "progress": told}
    with (
        deployments.Single.open(False) as place,
        Race(target, PLAYS["lock"], place, **options) as race,
    ):
        race._hire(), race._hire()
        race._at_work(2)
        jumped, other = race.crew
        race._set_clock(jumped, -90)
        assert within(60, lambda: any(op.unexpected for op in race._so_far()))
        failed = {op.who for op in race._so_far() if op.unexpected}
        assert failed == {jumped} != {other}


@pytest.mark.timeout(100)
def test_a_replica_takes_over_at_the_same_address():
    with deployments.Failover.open(False) as place:
        client = deployments.open_client(**place.settings(), decode_responses=True)
        for k in range(2):
            was = place.pair.primary
            client.set(f"k{k}", "v")
            assert client.wait(1, 30_000) == 1, "the replica has it"
            place.disturb(Random(k))
            assert place.servers == [place.pair.primary] and place.pair.replica is was
            assert within(60, lambda: answers(client, f"k{k}"))  # noqa: B023
            assert client.info("replication")["connected_slaves"] == 1
        client.close()


def answers(client, key: str) -> bool:
    try:
        return client.get(key) == "v"
    except deployments.REDIS_ERRORS:
        return False


@pytest.fixture(scope="module")
def two():
    with deployments.pair() as both:
        yield both


@pytest.mark.drill
@pytest.mark.timeout(300)
@pytest.mark.parametrize("make", [naive.CountingLock, ours.Lock], ids=lambda make: make.__name__)
def test_fences_that_follow_the_clock_rise_at_a_failover_and_counted_ones_do_not(make, two, figure):
    target = contracts.resolve(make, "lock")
    report = Report.begin(target, "two servers", 1, "again", "failover")
    for mode, found, witnesses in stepping.interleavings(two, PLAYS["lock"], target, print):
        assert mode == "failover"
        report.orders += 1
        report.add(found, witnesses, raced=False, failover=True)
    figure(failovers=report.orders, broken_promises=len(report.broken))
    assert report.lines["two holders"].verdict == NOT_AT_FAILOVER
    assert report.lines["two holders"].stepped > 0, "with either"
    assert report.broken == (["lost updates"] if make is naive.CountingLock else [])
    if report.broken:
        steps = [step.text for step in report.witnesses["lost updates"].steps]
        assert any("fails over, to a replica that is one step behind" in text for text in steps)


@pytest.mark.timeout(100)
def test_a_slot_moves_with_its_keys_and_clients_stay_behind_the_relays():
    with deployments.Moving.open(False) as place:
        client = deployments.open_client(**place.settings(), decode_responses=True)
        keys = [f"{{a}}{k}" for k in range(20)]
        for key in keys:
            client.set(key, "v")
        was = place.nodes.owner("{a}")
        place.disturb(Random(1))
        assert place.nodes.owner("{a}") is not was
        assert all(answers(client, key) for key in keys)
        assert {node.port for node in client.get_nodes()} == {one.port for one in place.relays}
        client.close()


def test_what_is_not_promised_at_a_failover_is_counted():
    target = contracts.resolve(ours.Lock, "lock")
    found = [Finding("two holders", 2, 9), Finding("lost updates", 0, 9)]
    for on, verdict in (("failover", NOT_AT_FAILOVER), ("cluster", BROKEN)):
        report = Report.begin(target, "a server", 1, "again", on)
        report.add(found, {}, raced=True, failover=on == "failover")
        assert report.lines["two holders"].verdict == verdict
        assert report.lines["lost updates"].verdict == HOLDS
        assert "2 in 9" in str(report) and report.ok == (on == "failover")
        report.add(found, {}, raced=False)
        assert report.broken == ["two holders"], "in this run there was no failover"


@pytest.mark.drill
@pytest.mark.timeout(600)
@pytest.mark.parametrize("on", ["failover", "cluster"])
@pytest.mark.parametrize(("kind", "make"), FIRST)
def test_ours_holds_elsewhere(kind, make, on, figure):
    report = hold(make, as_=kind, kills=21, on=on, steps=False)
    fault = deployments.DEPLOYMENTS[on].fault
    figure(kills=report.faults["kill"], **{fault.replace(" ", "_") + "s": report.faults[fault]})
    assert report.faults[fault] == 1


@pytest.mark.drill
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("kind", "make", "on", "promise"),
    [
        ("lock", naive.CountingLock, "failover", "lost updates"),
        ("session", naive.TrustingSessions, "failover", "sessions lost"),
        ("session", naive.UndeclaredSessions, "cluster", "sessions revived"),
    ],
)
def test_the_naive_form_is_caught_elsewhere_only(kind, make, on, promise, figure, monkeypatch):
    kept = hold(make, as_=kind, kills=21)
    fault = deployments.DEPLOYMENTS[on].fault
    monkeypatch.setattr(deployments.DEPLOYMENTS[on], "faults", (fault,))  # seven, to be sure
    report = drill(make, kind, kills=21, on=on, steps=on == "failover")
    figure(kills=42, broken_promises=len(report.broken))
    assert promise in report.broken and kept.ok


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


MINE = """
from redis_lab.drill import hold, naive

class Mine(naive.Limiter):
    pass

class Atomic(naive.Limiter):
    script = '''
    local n = redis.call('INCR', KEYS[1])
    if n == 1 then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
    return n
    '''

    def allow(self, name):
        args = self.script, 1, name, int(self.window_s * 1000)
        return self.client.eval(*args) <= self.limit

def test_mine():
    hold(Mine, as_="limiter", seed=7, kills=0)

def test_atomic():
    hold(Atomic, as_="limiter", seed=7, kills=1, workers=1)
"""


def test_hold_in_the_tests_of_another_project(tmp_path):
    """The classes stand in the test's own module, which is on nobody's path."""
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --import-mode=importlib\n")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_mine.py").write_text(MINE)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        **{"cwd": tmp_path, "capture_output": True, "text": True, "timeout": 100},
        env=environment(PYTEST_DISABLE_PLUGIN_AUTOLOAD="1"),
    )
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert "locked out, keys without TTL" in done.stdout, "what is broken comes first"
    assert "ada  is killed here" in done.stdout and "--as limiter --seed 7" in done.stdout


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


class Odder(naive.Lock):
    not_promised_at_failover = ("world peace",)


@pytest.mark.parametrize("make", [Odd, Odder])
def test_a_promise_that_no_contract_knows(make):
    with pytest.raises(LabError, match="makes no promise called world peace"):
        drill(make, "lock")


def test_a_deployment_that_there_is_not():
    with pytest.raises(LabError, match="'moon': it is one of single, failover, cluster"):
        drill(naive.Lock, "lock", on="moon")


def test_every_promise_is_explained_and_has_a_name_of_its_own():
    for promises in contracts.KINDS.values():
        names = [promise.name for promise in promises]
        assert len(set(names)) == len(names) and all(promise.how for promise in promises)


def test_what_was_not_tested_is_not_said_to_hold():
    report = drill(naive.Lock, "lock", seed=1, kills=0, steps=False)
    assert {line.verdict for line in report.lines.values()} == {NOT_TESTED}
    assert BROKEN not in str(report)
