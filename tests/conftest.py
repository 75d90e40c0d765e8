"""The servers that most tests talk to: real ones, started once a module."""

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

# In the background of a script (`make test &`) a shell lets Ctrl-C be ignored, `nohup` does so with
# SIGHUP, and every process started from there inherits that; tests that send one need it heard.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# As nohup does with the end of the terminal: still ignored here, but not in what is started here.
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
    """What a busy machine keeps from being measured is neither passed nor failed."""
    try:
        returned = yield
    except TooBusy as busy:
        pytest.skip(f"not tested: {item.name}: {busy}")
    if item.get_closest_marker("drill") and "figure" not in dict(item.user_properties):
        pytest.fail("a drill reports what it counted: figure(kills=60, jobs_lost=0)")
    return returned


@pytest.fixture
def figure(request: pytest.FixtureRequest):
    """Note what a drill has counted, for the table at the end: `figure(kills=60, jobs_lost=0)`.

    A number stands before its name there, so the name is a noun in the plural.
    """

    def note(**counts: int | float | str) -> None:
        if request.node.get_closest_marker("drill"):
            request.node.user_properties.append(("figure", counts))

    return note


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    found: dict[str, dict] = {}
    ended = ("passed", "failed", "skipped")  # a busy machine skips what it was too slow for
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
    """A server of the kind that a user gets here."""
    with server() as started:
        yield started


@pytest.fixture(scope="module", params=[kind for kind, here in NATIVE.items() if here])
def each_kind(request: pytest.FixtureRequest):
    """One native server after the other, of each kind that this machine has."""
    with server(kind=request.param) as started:
        yield started


@pytest.fixture(params=[kind for kind, here in NATIVE.items() if here])
def native(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch):
    """What is started in the test is of one native kind after the other; its name."""
    monkeypatch.setenv("REDIS_LAB_SERVER", request.param)
    return request.param


@pytest.fixture(scope="session")
def one_cluster():
    """Three primaries, started once, since Redis makes them wait two seconds; see `three`."""
    with cluster(3) as nodes:
        yield nodes


@pytest.fixture
def three(one_cluster):
    """A cluster of three primaries, all of them empty; for tests that leave its nodes alone."""
    for node in one_cluster.nodes:
        with node.client() as client:
            client.flushall()
    return one_cluster


@pytest.fixture
def r(lab):
    """A client of the module's server, which is empty."""
    with lab.client() as client:
        client.flushall()
        yield client


@pytest.fixture
def during_a_stall(lab):
    """Calls a function while the server stands still, and again as redis-py sees fit; its result.

    The client must have a socket_timeout well below half a second, and retries.
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
    """The client that a learner's answer is run with; a check leaves nothing behind there."""
    r.set("bystander", 1)
    yield r
    assert set(r.scan_iter()) == {"bystander"}  # SCAN may return a key twice
