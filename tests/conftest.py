"""The servers that most tests use: real ones, each started once for a module."""

from __future__ import annotations

import gc
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from drill_figures import lines, page
from processes import NATIVE

from redis_lab.measure.validity import TooBusy
from redis_lab.servers.choose import server
from redis_lab.servers.topology import cluster

# In a script's background (`make test &`) the shell makes processes ignore Ctrl-C, and `nohup`
# makes them ignore SIGHUP. Child processes inherit this, so it is undone here, for tests that send
# these signals.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# SIGHUP, as under nohup, is still ignored here, but not in child processes.
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda *_: None)

BEGAN = time.monotonic()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--budget-s", type=float, help="start no further test after so many seconds (make drills)"
    )
    parser.addoption("--drill-figures", type=Path, help="write what the drills counted to a file")
    parser.addoption("--kills", type=int, default=3, help="of each command, in its drill")
    parser.addoption("--kill-seed", type=int, help="the seed of their moments; random if not given")


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Python's garbage collector leaves thousands of tests alone: now, and each time it runs.

    Each comparison of arms runs it, and would otherwise take a quarter of a second for them.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    budget_s = item.config.getoption("--budget-s")
    if budget_s is not None and time.monotonic() - BEGAN > budget_s:
        pytest.skip(f"not run: the budget of {budget_s:g} s is used up; the order is random")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item):
    """A measurement that fails because the machine is busy neither passes nor fails."""
    try:
        returned = yield
    except TooBusy as busy:
        pytest.skip(f"not tested: {item.name}: {busy}")
    if item.get_closest_marker("drill") and "figure" not in dict(item.user_properties):
        pytest.fail("a drill reports what it counted: figure(kills=60, jobs_lost=0)")
    return returned


@pytest.fixture
def figure(request: pytest.FixtureRequest):
    """Record a drill's counts, for the table at the end: `figure(kills=60, jobs_lost=0)`. The table
    shows the number before the name, so the name is a plural noun.
    """

    def note(**counts: int | float | str) -> None:
        if request.node.get_closest_marker("drill"):
            request.node.user_properties.append(("figure", counts))

    return note


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    found: dict[str, dict] = {}
    ended = ("passed", "failed", "skipped")  # skipped: too slow, on a busy machine
    for report in (each for how in ended for each in terminalreporter.getreports(how)):
        for name, counts in getattr(report, "user_properties", ()):
            if name == "figure":
                drill = report.nodeid.removeprefix("tests/").replace(".py::", ": ")
                found.setdefault(drill, {}).update(counts)
    if not found:
        return
    terminalreporter.section("what the drills counted")
    for name, counted in lines(found):
        terminalreporter.write_line(f"{name}: {counted}")
    if file := terminalreporter.config.getoption("--drill-figures"):
        file.write_text(page(found, len(terminalreporter.getreports("skipped"))))
        terminalreporter.write_line(f"written to {file}")


@pytest.fixture(scope="module")
def lab():
    """A server of the kind that a user gets on this machine."""
    with server() as started:
        yield started


@pytest.fixture(scope="module", params=[kind for kind, here in NATIVE.items() if here])
def each_kind(request: pytest.FixtureRequest):
    """A native server of each kind that this machine has, one after the other."""
    with server(kind=request.param) as started:
        yield started


@pytest.fixture(params=[kind for kind, here in NATIVE.items() if here])
def native(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch):
    """Servers started in the test are of each native kind in turn; returns the kind's name."""
    monkeypatch.setenv("REDIS_LAB_SERVER", request.param)
    return request.param


@pytest.fixture(scope="session")
def one_cluster():
    """Three primaries, started once, because Redis needs two seconds for this; see `three`."""
    with cluster(3) as nodes:
        yield nodes


@pytest.fixture
def three(one_cluster):
    """A cluster of three empty primaries, for tests that do not stop or change its nodes."""
    for node in one_cluster.nodes:
        with node.client() as client:
            client.flushall()
    return one_cluster


@pytest.fixture(scope="session")
def moving():
    """Another cluster of three, for tests that move its slots; each uses keys of its own."""
    with cluster(3) as nodes:
        yield nodes


@pytest.fixture
def r(lab):
    """A client of the module's server, which is empty at the start of the test."""
    with lab.client() as client:
        client.flushall()
        yield client


@pytest.fixture
def during_a_stall(lab):
    """Call a function while the server is stopped, so that redis-py sends again; returns the
    result. The client needs retries and a socket_timeout well below half a second.
    """

    def call_it(call):
        with ThreadPoolExecutor(1) as thread:
            with lab.stalled():
                called = thread.submit(call)
                time.sleep(0.5)
            return called.result()

    return call_it


@pytest.fixture
def learner(r):
    """The client that a learner's answer is run with; a check must leave no keys there."""
    r.set("bystander", 1)
    yield r
    assert set(r.scan_iter()) == {"bystander"}  # SCAN may return a key twice
