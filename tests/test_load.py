"""The load generator: what it sends, its two clocks, and what it refuses to report."""

from __future__ import annotations

import base64
import importlib.util
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from collections import Counter
from importlib.util import find_spec

import numpy as np
import psutil
import pytest
import redis
from hdrh.histogram import HdrHistogram
from processes import gone, within

from redis_lab import load, results
from redis_lab.errors import LabError
from redis_lab.judging import NotYet
from redis_lab.lessons import load as exercises
from redis_lab.measure import _generator, locust_user, validity, ycsb
from redis_lab.measure.baseline import get_endpoint, redis_benchmark
from redis_lab.measure.load import find_generators_share
from redis_lab.measure.validity import InvalidRun
from redis_lab.servers.choose import server


def generators(of: int | None = None) -> list[psutil.Process]:
    return [
        process
        for process in psutil.Process(of).children(recursive=True)
        if not gone(process.pid)
        and any(word.endswith("_generator.py") for word in process.cmdline())
    ]


@pytest.fixture(autouse=True)
def little_patience(monkeypatch):
    """On a busy machine nothing is tried again: what these tests look at does not depend on it.

    And what a test does to the server meanwhile, it does once.
    """
    monkeypatch.setattr(validity, "TRIES", 1)


def open_loop(*args, **options) -> load.Load:
    """What a run measured, also where a busy machine has spoilt its times: its counts hold."""
    try:
        return load.open_loop(*args, **options)
    except load.TooBusy as spoilt:
        return spoilt.found


def calls(r, command):
    return r.info("commandstats").get(f"cmdstat_{command}", {}).get("calls", 0)


@pytest.mark.parametrize("arrivals", ["poisson", "constant"])
@pytest.mark.parametrize("processes", [1, 2])
def test_every_request_is_sent_once_and_at_its_time(r, arrivals, processes):
    r.set("page", "x" * 50)
    r.config_resetstat()
    got = open_loop(
        r, "GET", "page", rate_per_s=400, seconds=1, processes=processes, arrivals=arrivals
    )
    assert calls(r, "get") - 2 == got.warm_up + len(got.done), "twice to see how long a reply is"
    assert 20 <= got.warm_up <= 60 and got.due.min() >= 0, "a tenth more, and left out"
    assert got.errors == 0
    assert (np.diff(got.due) >= 0).all()
    assert (got.sent >= got.due).all() and (got.done > got.sent).all()
    assert (got.times_ns() >= got.times_ns("service")).all()
    assert abs(got.offered_per_s - 400) < (80 if arrivals == "poisson" else 1)
    if arrivals == "constant":
        assert set(np.diff(got.due)) <= {2_500_000, 2_499_999, 2_500_001}
    assert generators() == []


def test_the_two_clocks_part_when_connections_are_taken(r, lab):
    """A stall of the server with two connections: two were sent into it, the rest wait."""
    r.set("page", "x")
    r.config_resetstat()

    def stall() -> None:
        with lab.client() as other:
            assert within(60, lambda: calls(other, "get") > 50)
        with lab.stalled():
            time.sleep(0.4)  # the subject: requests are due meanwhile

    stalls = threading.Thread(target=stall)
    stalls.start()
    got = open_loop(r, "GET", "page", rate_per_s=300, seconds=1.5, connections=2)
    stalls.join()
    slow = {clock: int((got.times_ns(clock) > 100e6).sum()) for clock in load.CLOCKS}
    assert slow["response"] > 40  # 300 a second for 0.3 s, were nothing else slow
    assert 5 * slow["service"] < slow["response"]


class VirtualServer:
    """A clock of its own, and a server at the other end of real sockets that lives by it.

    It answers each request after `service_ns`, but none before `stalled_until_ns`. A look at the
    clock takes `clock_ns`, and so does all the work of the generator between two looks.
    """

    def __init__(
        self, connections: int, service_ns: int, stalled_until_ns: int = 0, clock_ns: int = 1_000
    ) -> None:
        self.clock_ns = clock_ns
        self.ns, self.service_ns, self.stalled_until_ns = 0, service_ns, stalled_until_ns
        pairs = [socket.socketpair() for _ in range(connections)]
        self.ends = dict(pairs)
        self.ready_at: dict[socket.socket, int] = {}

    def now(self) -> int:
        self.ns += self.clock_ns
        return self.ns

    def sleep(self, seconds: float) -> None:
        self.ns += int(seconds * 1e9)

    def select(self, busy: list[socket.socket], _w: object, _x: object, seconds: float):
        for one in busy:
            self.ready_at.setdefault(one, max(self.ns, self.stalled_until_ns) + self.service_ns)
        until = self.ns + int(seconds * 1e9)
        self.ns = max(self.ns, min([until, *self.ready_at.values()]))
        answered = [one for one in busy if self.ready_at[one] <= self.ns]
        for one in answered:
            del self.ready_at[one]
            self.ends[one].sendall(self.ends[one].recv(100))
        return answered, [], []


def virtual_run(monkeypatch, there: VirtualServer, due: np.ndarray) -> tuple[dict, load.Load]:
    """The unmodified generator against a virtual server; its report, and the run."""
    monkeypatch.setattr(_generator, "now", there.now)
    monkeypatch.setattr(_generator, "begin", there.now)
    monkeypatch.setattr(_generator, "select", there)
    # The generator's alone: threads of other tests may sleep, too
    clock = types.SimpleNamespace(sleep=there.sleep, process_time=time.process_time)
    monkeypatch.setattr(_generator, "time", clock)
    settings = {
        "requests": [(load.to_base64(b"PING"), 4)],
        "turns": load.to_base64(load.ONE_TURN.tobytes()),
        "due": load.to_base64(due.tobytes()),
        "patience_ns": 10**10,
    }
    head, columns = _generator.open_loop(settings, list(there.ends))
    due, sent, done, flags = (np.array(column) for column in columns)
    own = flags & _generator.OWN
    for one, other in there.ends.items():
        one.close()
        other.close()
    assert head["finished"] == len(due) and (done > sent).all()
    rate = 1e9 * len(due) / due.max()
    idle = head["idle"]
    lag = (sent - due)[own == 1]
    found = load.Load(rate, due, sent, done, lag, 0, 1.0, idle, connections=len(there.ends))
    assert own[due < 1_000_000].any(), "the first were sent while connections were free"
    return head, found


@pytest.mark.parametrize("connections", [1, 2, 8])
def test_a_stall_of_the_server_is_not_the_generators_fault(monkeypatch, connections):
    """Who waits behind earlier requests had no free connection, even where one is free by now."""
    there = VirtualServer(connections, service_ns=40_000, stalled_until_ns=50_000_000)
    due = np.arange(0, 100_000_000, 50_000)  # 20,000 a second
    _, found = virtual_run(monkeypatch, there, due)
    assert ((found.sent - found.due) > 10_000_000).sum() > 500, "the stall was not felt"
    assert found.lag_ns.max() < 1_000_000
    assert found.generator_idle > 0.2 and find_generators_share(found) == ""


def test_a_generator_at_its_limit_is_found_out(monkeypatch):
    """The server is fast; the generator takes 20 µs between two looks at the clock."""
    due = np.arange(0, 50_000_000, 12_500)  # 80,000 a second
    _, found = virtual_run(monkeypatch, VirtualServer(16, 5_000, clock_ns=20_000), due)
    assert found.generator_idle < load.IDLE
    assert "fell behind" in find_generators_share(found)


def synthetic(
    response_us: float, lag_us: float, tail_lag_us: float = 0.0, idle: float = 0.9
) -> load.Load:
    """20,000 requests; one in fifty has the lag of the tail, and waits for it."""
    n = 20_000
    lag = np.full(n, lag_us * 1e3)
    lag[:: n // 400] += tail_lag_us * 1e3
    due = np.arange(n) * 1_000_000
    done = due + response_us * 1e3 + (lag - lag_us * 1e3)
    return load.Load(1000, due, due + lag, done, lag, 0, 1.0, idle, connections=8)


@pytest.mark.parametrize(
    ("run", "void"),
    [
        (synthetic(100, 5), False),
        (synthetic(100, 30), True),
        (synthetic(100_000, 30), False),
        (synthetic(100_000, 30_000), True),
        (synthetic(100, 5, idle=0.01), True),
    ],
    ids=["little", "a third", "the same of more", "a third of more", "never idle"],
)
def test_the_generators_lag_is_judged_by_what_is_reported(run, void):
    assert bool(find_generators_share(run)) is void


def test_a_percentile_that_the_generator_made_is_not_reported():
    run = synthetic(1000, 5, tail_lag_us=900)
    assert find_generators_share(run) == ""
    assert run.percentile_us(50) == pytest.approx(1000)
    assert run.percentile_us(99) is None
    assert synthetic(1000, 5).percentile_us(99) == pytest.approx(1000)
    assert run.row()["lag_p99_us"] > 800 and run.row()["generator_idle"] == 0.9


def test_a_run_that_ends_in_a_backlog_is_no_one_distribution(r):
    """The server is asked for some ten times what it can do."""
    slow = "local n = 0 for k = 1, 100000 do n = n + 1 end return n"
    run = open_loop(r, "EVAL", slow, 0, rate_per_s=10_000, seconds=0.05, connections=4)
    assert run.ends_in_backlog and run.backlog > 100
    row = run.row()
    assert row["p50_us"] is None and np.isnan(row["mean_us"]) and row["backlog"] == run.backlog
    assert "still waiting" in repr(run) and run.histogram().get_total_count() == len(run.done)


def test_a_stall_in_the_middle_is_no_backlog_at_the_end(monkeypatch):
    there = VirtualServer(8, service_ns=40_000, stalled_until_ns=20_000_000)
    _, found = virtual_run(monkeypatch, there, np.arange(0, 100_000_000, 50_000))
    assert not found.ends_in_backlog and found.percentile_us(50) is not None
    there = VirtualServer(8, service_ns=40_000, stalled_until_ns=100_000_000)
    _, found = virtual_run(monkeypatch, there, np.arange(0, 100_000_000, 50_000))
    assert found.ends_in_backlog and found.percentile_us(50) is None


@pytest.mark.parametrize("options", [{"protocol": 3}, {"protocol": 2, "decode_responses": False}])
def test_the_servers_own_clock_stands_beside_the_clients(lab, options):
    """How long it executed each command, whatever the protocol of the client."""
    with lab.client(**options) as client:
        client.set("page", "x")
        client.config_resetstat()
        for _ in range(50):
            client.get("page")
        client.eval("local n = 0 for k = 1, 200000 do n = n + 1 end return n", 0)
        found = load.read_server_latency(client)
    get, slow = found["GET"], found["EVAL"]
    assert (get["calls"], slow["calls"]) == (50, 1)
    assert max(get["histogram_us"].values()) == 50 and max(slow["histogram_us"].values()) == 1
    assert 0 < get["p50_us"] <= get["p99_us"] <= get["p999_us"]
    assert slow["p50_us"] > get["p50_us"] and slow["p50_us"] <= 2 * max(slow["histogram_us"])


def test_a_saved_load_keeps_its_histograms(r):
    run = open_loop(r, "PING", rate_per_s=800, seconds=0.5)
    result = results.make_result("load", run, title="t", client=r)
    assert [row["arm"] for row in result.rows] == list(result.histograms)
    for encoded in result.histograms.values():
        assert HdrHistogram.decode(base64.b64decode(encoded)).get_total_count() == len(run.done)
    assert result.environment["connections"] == 16
    more = results.make_result("load", [{"a": 1}], title="t", histograms={"mine": run.histogram()})
    assert list(more.histograms) == ["mine"]


def test_histograms_add_up(r):
    r.set("page", "x")
    got = open_loop(r, "GET", "page", rate_per_s=800, seconds=1)
    histogram = got.histogram()
    assert histogram.get_total_count() == len(got.done)
    assert histogram.get_value_at_percentile(50) == pytest.approx(
        np.percentile(got.times_ns(), 50), rel=0.02
    )
    assert got.percentile_us(99) is None  # eight samples beyond it are not enough
    row = got.row(columns="more")
    assert row["calls"] == len(got.done) and row["columns"] == "more"


def test_what_nobody_can_send_is_not_reported(r):
    """The generator falls behind; or, where other processes hold up the server, the server does."""
    r.set("page", "x")
    try:
        run = load.open_loop(r, "GET", "page", rate_per_s=1e6, seconds=0.03, connections=64)
    except InvalidRun as void:
        assert "fell behind" in str(void)
    else:
        assert run.ends_in_backlog and run.percentile_us(50) is None
    assert generators() == []


def test_saturation_counts_what_the_server_counted(r):
    r.set("page", "x" * 20)
    r.config_resetstat()
    got = load.saturate(r, "GET", "page", depth=50, connections=8, processes=2, seconds=0.5)
    counted = calls(r, "get")
    # What was under way at the end is not in the result: up to two batches a connection
    assert counted * 0.5 < got.per_second * 0.5 <= counted * 1.1
    assert 0 < got.server_busy <= 1 and 0 < got.generator_busy <= 1.05


def test_the_servers_cpu_time_is_that_of_the_command(r):
    """It belongs to the requests of this run, and the machine may be busy otherwise."""
    spin = "local n = 0 for k = 1, ARGV[1] do n = n + 1 end return n"
    short, long = (
        open_loop(r, "EVAL", spin, 0, loops, rate_per_s=50, seconds=0.5)
        for loops in (100_000, 1_000_000)
    )
    assert long.server_cpu_us > 3 * short.server_cpu_us > 0
    assert long.server_busy == pytest.approx(long.offered_per_s * long.server_cpu_us / 1e6)


def test_half_of_redis_benchmark_at_the_least(r):
    r.set("page", "x" * 20)
    same = {"depth": 50, "connections": 16}
    if redis_benchmark(r, "GET", "page", requests=100) is None:
        pytest.skip("redis-benchmark is not on PATH")
    ratios = []
    for _ in range(3):
        ours = load.saturate(r, "GET", "page", **same, processes=2, seconds=0.5)
        theirs = redis_benchmark(r, "GET", "page", **same, requests=500_000)
        ratios.append(ours.per_second / theirs["per_second"])
    assert max(ratios) > 0.5


@pytest.mark.parametrize(
    "busy, said",
    [
        ((0.9, 0.3), "server"),
        ((0.3, 0.9), "generator"),
        ((0.9, 0.9), "both"),
        ((0.1, 0.2), "neither"),
    ],
)
def test_who_was_at_the_limit(busy, said):
    assert load.Saturation(1000, *busy).saturated == said


def test_with_a_password_and_a_database():
    with server(password="se cret/#") as private, private.client() as r:
        r.select(0)
        other = redis.Redis.from_url(private.url.replace("/0", "/3"), decode_responses=True)
        other.set("page", "x")
        got = open_loop(other, "GET", "page", rate_per_s=200, seconds=0.3)
        assert got.errors == 0 and len(got.done) > 20
        unix = redis.Redis.from_url(private.unix_url)
        unix.set("page", "x")
        assert load.saturate(unix, "GET", "page", depth=10, seconds=0.2).per_second > 100


@pytest.mark.parametrize(
    "how, words",
    [
        ({"rate_per_s": 0}, "positive rate"),
        ({"seconds": 0}, "positive"),
        ({"arrivals": "now and then"}, "poisson"),
        ({"connections": 1, "processes": 2}, "connection for each"),
        ({"rate_per_s": 0.001, "seconds": 0.1, "arrivals": "poisson"}, "no request at all"),
    ],
)
def test_bad_arguments(r, how, words):
    r.set("page", "x")
    with pytest.raises(LabError, match=words):
        load.open_loop(r, "GET", "page", **{"rate_per_s": 10, "seconds": 0.1, **how})


def test_commands_that_cannot_be_sent(r, three):
    with pytest.raises(LabError, match="Which command"):
        load.saturate(r)
    with pytest.raises(LabError, match="unknown command"):
        load.saturate(r, "GIVE", "page")
    r.set("count", 8)
    with pytest.raises(LabError, match="differ in length"):
        load.saturate(r, "INCR", "count")
    with pytest.raises(LabError, match="one node"):
        load.saturate(three.client(), "GET", "page")
    with pytest.raises(LabError, match="does not answer"):
        load.saturate(redis.Redis(port=1, retry=None), "GET", "page")
    with pytest.raises(LabError, match="two clocks"):
        open_loop(r, "GET", "count", rate_per_s=100, seconds=0.1).times_ns("wall")


def test_a_server_that_hangs_up(r):
    with server(maxclients=1) as full, full.client() as client:
        client.ping()
        with pytest.raises(LabError, match=r"closed the connection: .*max number|does not answer"):
            load.saturate(client, "GET", "page")
    with server(password="right") as own, own.client() as client:
        client.config_set("requirepass", "changed")
        with pytest.raises(LabError, match=r"refuses the connection: .*WRONGPASS"):
            load.saturate(client, "GET", "page")


def test_fewer_requests_than_processes(r):
    r.set("page", "x")
    options = {"rate_per_s": 1, "seconds": 1, "processes": 3, "arrivals": "constant"}
    got = open_loop(r, "GET", "page", **options)
    assert len(got.done) == 1 and got.errors == 0


def test_where_a_url_says_little():
    for url in ("redis://", "redis://localhost", "redis://localhost/2"):
        where = get_endpoint(redis.Redis.from_url(url))
        assert (where["host"], where["port"]) == ("localhost", 6379)
    assert get_endpoint(redis.Redis.from_url("unix:///a/b"))["path"] == "/a/b"


# Answers with a value twenty times, then with nil, then with an error
WORSE = """
local n = redis.call('INCR', KEYS[1])
if n <= 20 then return 'a value' elseif n <= 40 then return false end
return redis.error_reply('no more')
"""


def test_errors_among_the_replies(r):
    """The first replies are good, later ones are nil and then errors: counted, nothing hangs."""
    got = open_loop(r, "EVAL", WORSE, 1, "asked", rate_per_s=200, seconds=0.5)
    assert len(got.done) > 50
    # Twenty are good: two were to see how long a reply is, the others may be in the warm-up
    assert len(got.done) - 18 <= got.errors <= len(got.done)


def test_replies_that_get_shorter_end_a_batch(r, monkeypatch):
    monkeypatch.setattr(load, "TIMEOUT_S", 1.0)
    with pytest.raises(InvalidRun, match="replies got shorter"):
        load.saturate(r, "EVAL", WORSE, 1, "asked", depth=10, seconds=1)


def test_ctrl_c_leaves_no_process(lab, tmp_path):
    script = tmp_path / "long.py"
    script.write_text(
        "import redis, sys\n"
        "from redis_lab import load\n"
        "r = redis.Redis.from_url(sys.argv[1])\n"
        "r.set('page', 'x')\n"
        "print('go', flush=True)\n"
        "load.open_loop(r, 'GET', 'page', rate_per_s=100, seconds=30, processes=2)\n"
    )
    process = subprocess.Popen(
        [sys.executable, script, lab.url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        assert process.stdout.readline().strip() == b"go"
        assert within(60, lambda: len(generators(process.pid)) == 2)
        started = generators(process.pid)
        os.kill(process.pid, signal.SIGINT)
        process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode != 0
    assert not psutil.wait_procs(started, timeout=20)[1]


# ---------------------------------------------------------------- Locust


# Not imported here: that would patch this process's sockets and threads
NEEDS_LOCUST = pytest.mark.skipif(not find_spec("locust"), reason="locust is not installed")


@NEEDS_LOCUST
def test_locust_makes_the_same_load(r):
    """A master and two workers, held against the generator of our own on the same server."""
    r.set("page", "x" * 20)
    r.config_resetstat()
    told = {"rate_per_s": 200, "seconds": 1.5, "workers": 2}  # 1.5 becomes 2
    (theirs,) = locust_user.distributed(r, "GET", b"page", **told)
    counted = calls(r, "get")
    assert counted * 0.9 < theirs["calls"] <= counted
    ours = open_loop(r, "GET", "page", rate_per_s=200, seconds=2, processes=2).row("service")
    assert theirs["errors"] == ours["errors"] == 0
    assert set(theirs) <= set(ours)  # one result format
    for row in (ours, theirs):
        assert 0.5 < row["achieved_per_s"] / row["offered_per_s"] < 1.5
        assert row["p50_us"] is None or 0 < row["p50_us"] <= row["max_us"]
    assert theirs["p50_us"]


@NEEDS_LOCUST
def test_locust_says_what_is_wrong(r, monkeypatch):
    r.lpush("jobs", 1)
    with pytest.raises(LabError, match="requests failed"):
        locust_user.distributed(r, "GET", "jobs", rate_per_s=20, seconds=1, users=1, workers=1)
    with pytest.raises(LabError, match="positive rate"):
        locust_user.distributed(r, "GET", "jobs", rate_per_s=0, seconds=1)
    with pytest.raises(LabError, match="cannot use TLS"):
        tls = redis.Redis.from_url("rediss://localhost")
        locust_user.distributed(tls, "GET", "jobs", rate_per_s=20, seconds=1)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(LabError, match=r"pip install 'redis-lab\[locust\]'"):
        locust_user.distributed(r, "GET", "jobs", rate_per_s=20, seconds=1)


# ---------------------------------------------------------------- exercises


def with_the_omitted(latencies, interval, first=1):
    found = list(latencies)
    for latency in latencies:
        missing = latency - first * interval
        while missing > 0:
            found.append(missing)
            missing -= interval
    return found


def test_corrected():
    assert exercises.corrected(None, with_the_omitted)
    wrong = {
        lambda latencies, interval: list(latencies): "are missing",
        lambda latencies, interval: with_the_omitted(latencies, interval, 0): "too many",
        lambda latencies, interval: [
            each for x in latencies for each in [x] * max(1, -(-x // interval))
        ]: "the less it waits",
    }
    for answer, hint in wrong.items():
        with pytest.raises(NotYet, match=hint):
            exercises.corrected(None, answer)


def test_rate_for():
    assert exercises.rate_for(None, lambda s, w: 1000 / s * 2 * w / (s + 2 * w))
    wrong = {
        lambda s, w: 1000 / s: "without end",
        lambda s, w: 1000 * w / s / (s + w): "M/M/1",
        lambda s, w: 500 / s: "ρ = 2w",
    }
    for answer, hint in wrong.items():
        with pytest.raises(NotYet, match=hint):
            exercises.rate_for(None, answer)


def test_a_schedule_names_the_requests_that_were_due_meanwhile():
    begin = time.perf_counter() - 1.05  # ten a second, and the caller comes a second late
    schedule = load.Schedule(10)
    schedule.due = begin
    missed = schedule.wait()
    assert len(missed) >= 10
    assert missed == pytest.approx([begin + k / 10 for k in range(len(missed))])
    assert time.perf_counter() >= begin + len(missed) / 10, "the next one comes when it is due"


def test_a_schedule_begins_with_its_first_call_and_misses_nothing_then():
    assert load.Schedule(1000).wait() == []


@pytest.mark.parametrize("rate", [0, -1, float("nan")])
def test_a_schedule_without_a_rate(rate):
    with pytest.raises(LabError, match="positive rate"):
        load.Schedule(rate)


@pytest.fixture
def stored(r):
    ycsb.load_records(r, 50)
    return r


def test_a_record_is_what_ycsb_says_and_expires(stored):
    record = stored.hgetall("ycsb:user7")
    assert sorted(record) == [f"field{n}" for n in range(10)]
    assert {len(value) for value in record.values()} == {100}
    assert len(list(stored.scan_iter("ycsb:*", count=1000))) == 50
    assert all(0 < stored.ttl(key) <= 3600 for key in stored.scan_iter("ycsb:*", count=1000))


@pytest.mark.parametrize(
    ("name", "updates"), [("ycsb-a", 0.5), ("ycsb-b", 0.05), ("ycsb-c", 0), ("ycsb-f", 1 / 3)]
)
def test_the_shares_of_a_workload(name, updates):
    mix = ycsb.make_mix(name, 50)
    kinds = mix.kinds_of(len(mix.turns))
    assert (kinds == 1).mean() == pytest.approx(updates, abs=0.02)
    keys = Counter(mix.commands[turn][1][1] for turn in mix.turns)
    probabilities = np.sort(load_zipf(50))[::-1]
    found = np.array([n for _, n in keys.most_common()]) / len(mix.turns)
    assert found == pytest.approx(probabilities, abs=0.02), "the popular ones follow Zipf's law"


def load_zipf(n: int) -> np.ndarray:
    weights = 1 / np.arange(1, n + 1) ** 0.99
    return weights / weights.sum()


def test_a_read_modify_write_reads_and_then_writes_the_same_record():
    mix = ycsb.make_mix("ycsb-f", 50)
    for before, turn in itertools.pairwise(mix.turns):
        kind, command = mix.commands[turn]
        if kind == 1:
            assert mix.commands[before] == (0, ("HGETALL", command[1]))


def test_a_mix_at_a_rate_is_executed_as_it_says(stored):
    stored.config_resetstat()
    mix = ycsb.make_mix("ycsb-a", 50)
    found = open_loop(stored, mix, rate_per_s=400, seconds=0.5, processes=2)
    assert found.errors == 0 and len(found.kind) == len(found.due)
    stats = stored.info("commandstats")
    done = len(found.due) + found.warm_up
    probes = 4  # two of each kind
    calls = {name: stats[f"cmdstat_{name}"]["calls"] for name in ("hgetall", "hset")}
    assert sum(calls.values()) >= done + probes
    every, *by_kind = found.rows_by_kind()
    assert [row["arm"] for row in by_kind] == ["read", "update"]
    assert sum(row["calls"] for row in by_kind) == every["calls"] == len(found.due)
    assert stored.hlen("ycsb:user0") == 10, "an update adds no field"


@pytest.mark.parametrize("depth", [1, 7])
def test_a_mix_saturates_and_its_replies_are_counted(stored, depth):
    stored.config_resetstat()
    mix = ycsb.make_mix("ycsb-b", 50)
    most = load.saturate(stored, mix, depth=depth, connections=3, processes=2, seconds=0.2)
    assert most.per_second > 0
    stats = stored.info("commandstats")
    reads, updates = (stats[f"cmdstat_{name}"]["calls"] for name in ("hgetall", "hset"))
    assert updates > 0 and updates / (reads + updates) == pytest.approx(0.05, abs=0.04)


def test_replies_of_one_kind_that_differ_in_length_are_refused(r):
    r.set("short", "x"), r.set("long", "x" * 100)
    mix = load.Mix(("get",), [(0, ("GET", "short")), (0, ("GET", "long"))], load.ONE_TURN)
    with pytest.raises(LabError, match="differ in length"):
        load.saturate(r, mix, seconds=0.1)


@pytest.mark.parametrize("name", ["ycsb-d", "ycsb-e", "ycsb-z", ""])
def test_a_workload_that_is_not_there(name):
    with pytest.raises(LabError, match="There is no workload") as raised:
        ycsb.make_mix(name, 10)
    assert (ycsb.LEFT_OUT.get(name, "") in str(raised.value)) and "ycsb-a" in str(raised.value)


@pytest.mark.parametrize("records", [0, -1])
def test_a_workload_without_records(r, records):
    with pytest.raises(LabError, match="at least one record"):
        ycsb.load_records(r, records)
    with pytest.raises(LabError, match="at least one record"):
        ycsb.make_mix("ycsb-a", records)
