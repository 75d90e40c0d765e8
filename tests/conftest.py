"""The servers that most tests talk to: real ones, started once a module."""

from __future__ import annotations

import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from processes import NATIVE

from redis_lab.measure.validity import TooBusy
from redis_lab.servers.choose import server
from redis_lab.servers.topology import cluster

# In the background of a script (`make test &`) a shell lets Ctrl-C be ignored, and every process
# started from there inherits that; the tests that interrupt one need it heard.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

BEGAN = time.monotonic()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--budget-s", type=float, help="start no further test after so many seconds (make drills)"
    )


def pytest_runtest_setup(item: pytest.Item) -> None:
    budget_s = item.config.getoption("--budget-s")
    if budget_s is not None and time.monotonic() - BEGAN > budget_s:
        pytest.skip(f"not run: the budget of {budget_s:g} s is used up; the order is random")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item):
    """What a busy machine keeps from being measured is neither passed nor failed."""
    try:
        return (yield)
    except TooBusy as busy:
        pytest.skip(f"not tested: {item.name}: {busy}")


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
