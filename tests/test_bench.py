"""The harness measures what it says, and refuses when it cannot."""

from __future__ import annotations

import contextlib
import gc
import itertools
import shutil
import threading
import time

import numpy as np
import psutil
import pytest
import redis

from redis_lab import bench, claims
from redis_lab.errors import LabError
from redis_lab.measure import stats, validity
from redis_lab.measure.arms import ArmRun
from redis_lab.measure.bench import (
    FLOOR,
    Arm,
    Comparison,
    InvalidRun,
    TooBusy,
    block_interval,
    compare,
)
from redis_lab.servers.choose import server


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setenv("REDIS_LAB_EFFORT", "quick")


@pytest.fixture
def r(r):
    r.mset({f"k:{i}": i for i in range(200)})
    return r


needs_benchmark = pytest.mark.skipif(
    not (shutil.which("redis-benchmark") or shutil.which("valkey-benchmark")),
    reason="redis-benchmark is not on PATH",
)


def spin(turns: int):
    def call() -> None:
        for _ in range(turns):
            pass

    return call


def of_samples(**samples: np.ndarray) -> Comparison:
    """A comparison of samples that nobody measured."""
    watched = [ArmRun(name, Arm(int), None) for name in samples]
    return Comparison(watched, list(samples.values()), 50.0)


# ---------------------------------------------------------------- taking turns


def order_of_calls(seed: int, blocks: int = 40, size: int = 3) -> list[tuple[str, ...]]:
    """Which arm was called in which block, turn by turn."""
    called = []
    watched = [ArmRun(n, Arm(lambda n=n: called.append(n)), None) for n in "abc"]
    samples = [np.zeros((blocks, size), dtype=np.int64) for _ in watched]
    bench.run_blocks(watched, samples, seed, "test")
    assert all((s > 0).all() for s in samples)
    assert all(each.calls == blocks * size for each in watched)
    runs = [called[i : i + size] for i in range(0, len(called), size)]
    assert all(len(set(run)) == 1 for run in runs), "a block is one arm's"
    return [tuple(run[0] for run in runs[i : i + 3]) for i in range(0, len(runs), 3)]


def test_turns_are_random_seeded_and_fair():
    turns = order_of_calls(seed=1)
    assert all(sorted(turn) == ["a", "b", "c"] for turn in turns)
    assert len(set(turns)) >= 4, "of six possible orders most must occur in forty turns"
    assert turns == order_of_calls(seed=1)
    assert turns != order_of_calls(seed=2)


def test_every_sample_is_one_call_and_blocks_have_one_shape():
    calls = 0

    def call() -> None:
        nonlocal calls
        calls += 1

    found = compare({"one": call, "two": spin(50)}, floor=False)
    work = bench.effort()
    assert found["one"].dtype == np.int64
    assert len(found["one"]) == len(found["two"]) == work.blocks
    # A busy machine has it measured again; each time, a few calls come first, to find its pace
    times, few = divmod(calls, found["one"].size)
    assert 1 <= times <= validity.TRIES and few <= 10 * times
    assert [row["calls"] for row in found.rows] == [found["one"].size, found["two"].size]
    assert all(len(row["block_medians_us"]) == work.blocks for row in found.rows)


def test_slow_arms_get_fewer_turns_but_never_too_few(monkeypatch):
    monkeypatch.setenv("REDIS_LAB_EFFORT", "full")
    found = compare({"slow": lambda: time.sleep(0.004)}, floor=False, seconds=0.02)
    work = bench.EFFORTS["full"]
    assert work.fewest_blocks <= len(found["slow"]) < work.blocks
    found = compare({"slower": lambda: time.sleep(0.02)}, floor=False, seconds=0.001)
    assert found["slower"].shape == (work.fewest_blocks, 1)


def test_collector_is_off_inside_and_back_afterwards():
    states, frozen = [], []

    def call() -> None:
        states.append(gc.isenabled())
        if not states[-1] and not frozen:  # counting what is frozen takes a while
            frozen.append(gc.get_freeze_count())

    compare({"a": call}, floor=False)
    assert not states[-1] and frozen[0] > 0
    assert gc.isenabled() and gc.get_freeze_count() == 0


def test_collector_is_back_after_an_exception():
    inside = []
    countdown = itertools.count()

    def call() -> None:
        if next(countdown) == 30:
            inside.append(gc.isenabled())
            raise ValueError("thirty")

    with pytest.raises(ValueError, match="thirty"):
        compare({"a": call}, floor=False)
    assert inside == [False]
    assert gc.isenabled() and gc.get_freeze_count() == 0


def test_a_collector_that_was_off_stays_off():
    gc.disable()
    try:
        with bench.quiet_collector():
            assert not gc.isenabled()
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_harness_cost_is_measured_and_shown():
    found = compare({"a": spin(10)}, floor=False)
    assert 1 < found.harness_ns < 100_000
    assert f"{found.harness_ns:.0f} ns" in found._repr_html_()


# ---------------------------------------------------------------- percentiles and histograms


@pytest.mark.parametrize(("q", "enough"), [(90, 1000), (95, 2000), (99, 10_000), (99.9, 100_000)])
def test_percentile_needs_a_hundred_samples_beyond_it(q, enough):
    samples = np.random.default_rng(0).lognormal(10, 1, (10, enough // 10)).astype(np.int64)
    found = of_samples(enough=samples, few=samples[:, 1:])
    assert found.percentile_us("enough", q) == pytest.approx(np.percentile(samples, q) / 1e3)
    assert found.percentile_us("few", q) is None


def test_median_is_always_told_and_a_hidden_p99_is_a_dash():
    found = of_samples(a=np.array([[3000, 1000], [2000, 2000]]))
    assert found.median_us("a") == 2.0
    assert found.rows[0]["p99_us"] is None
    assert found.table().loc["a", "p99 µs"] == "–"


def test_histogram_holds_every_sample_and_agrees_with_numpy():
    samples = np.random.default_rng(1).lognormal(11, 0.8, (20, 1000)).astype(np.int64)
    histogram = of_samples(a=samples).histogram("a")
    assert histogram.get_total_count() == samples.size
    for q in (1, 25, 50, 90, 99, 99.5):
        exact = np.percentile(samples, q, method="inverted_cdf")
        assert histogram.get_value_at_percentile(q) == pytest.approx(exact, rel=2e-3)


def test_histograms_of_two_runs_add_up():
    random = np.random.default_rng(2)
    one, two = (random.lognormal(m, 0.5, (10, 1000)).astype(np.int64) for m in (9, 12))
    found = of_samples(one=one, two=two)
    both = found.histogram("one")
    both.add(found.histogram("two"))
    assert both.get_total_count() == one.size + two.size
    together = np.concatenate([one.ravel(), two.ravel()])
    for q in (10, 50.5, 75, 99):
        exact = np.percentile(together, q, method="inverted_cdf")
        assert both.get_value_at_percentile(q) == pytest.approx(exact, rel=2e-3)


def test_what_a_histogram_cannot_hold_is_an_error_not_a_gap():
    with pytest.raises(InvalidRun, match="more than can be recorded"):
        of_samples(a=np.array([[1000, 2 * stats.LONGEST_NS]])).histogram("a")
    assert of_samples(a=np.array([[0, 0, 5]])).histogram("a").get_total_count() == 3


# ---------------------------------------------------------------- intervals and verdicts


def test_block_interval_covers_the_true_median_and_a_naive_one_does_not():
    runs, blocks, size, phi = 200, 30, 40, 0.9
    random = np.random.default_rng(3)
    covered = {"blocks": 0, "naive": 0}
    widths = {"blocks": [], "naive": []}
    for _ in range(runs):
        shocks = random.normal(0, 0.1, blocks * size)
        log = np.zeros_like(shocks)
        log[0] = shocks[0] / np.sqrt(1 - phi**2)
        for i in range(1, len(log)):
            log[i] = phi * log[i - 1] + shocks[i]
        samples = 100 * np.exp(log)  # its median is 100
        for name, shape in (("blocks", (blocks, size)), ("naive", (-1, 1))):
            low, high = block_interval(
                lambda s: float(np.median(s)), samples.reshape(shape), resamples=100
            )
            covered[name] += low <= 100 <= high
            widths[name].append(high - low)
    assert 0.85 <= covered["blocks"] / runs <= 1
    assert covered["naive"] / runs < 0.75
    assert np.median(widths["naive"]) < 0.6 * np.median(widths["blocks"])


def test_ratios_are_paired_so_that_drift_cancels():
    random = np.random.default_rng(4)
    drift = np.linspace(1, 3, 30)[:, None]  # the machine slows down to a third
    slow = 2000 * drift * random.normal(1, 0.01, (30, 50))
    fast = 1000 * drift * random.normal(1, 0.01, (30, 50))
    found = of_samples(fast=fast, slow=slow)
    low, high = found.ratio_interval("slow", "fast")
    assert 1.95 < low <= found.ratio("slow", "fast") <= high < 2.05
    row = found.rows[1]
    assert row["p50_high_us"] / row["p50_low_us"] > 1.15, "the medians themselves did drift"


def test_interval_of_a_single_block_is_unknown():
    assert np.isnan(block_interval(np.median, np.ones((1, 50)), resamples=10)).all()


@pytest.mark.parametrize(
    ("low", "high", "says"),
    [
        (0.5, 2.0, "too noisy to tell"),
        (float("nan"), 1.0, "too noisy to tell"),
        (0.9, 1.1, "no difference seen"),
        (1.0, 1.0, "no difference seen"),
        (1.0, 1.05, "no difference seen"),
        (0.95, 1.0, "no difference seen"),
        (0.0, 1.2, "too noisy to tell"),
        (1.8, 2.2, "1.80 to 2.20 × the time"),
        (0.25, 0.5, "2.00 to 4.00 × faster"),
        (2.0, 5.0, "2.00 to 5.00 × the time"),
    ],
)
def test_verdict(low, high, says):
    assert bench.judge_ratio(low, high) == says


def seen_in_three_tries(arms: dict, holds) -> bool:
    """Other tests run on the same two cores, so that one run may be too disturbed to tell."""
    return any(holds(compare(arms, floor=False, seconds=0.2)) for _ in range(3))


def test_longer_work_is_called_slower():
    def holds(found) -> bool:
        assert found.rows[0]["verdict"] == ""
        slower = found.rows[1]["verdict"].endswith("× the time")
        return slower and 2 < found.ratio("four times", "once") < 8

    assert seen_in_three_tries({"once": spin(2000), "four times": spin(8000)}, holds)


def test_the_same_work_is_not_called_different():
    def holds(found) -> bool:
        low, high = found.ratio_interval("the same", "one")
        return low < 1.1 and high > 1 / 1.1

    assert seen_in_three_tries({"one": spin(2000), "the same": spin(2000)}, holds)


# ---------------------------------------------------------------- invariants


def test_a_healthy_run_counts_what_a_call_does(r):
    found = compare({"GET": lambda: r.get("k:1"), "MGET": lambda: r.mget("k:1", "k:2")}, client=r)
    get, mget, floor = found.rows
    assert (get["round_trips"], get["commands"]) == (1, 1)
    assert (mget["round_trips"], mget["commands"]) == (1, 1)
    assert floor["arm"] == FLOOR and floor["round_trips"] is None
    floor_us = found[FLOOR].min() / 1000
    assert floor_us < found.median_us("GET"), "no client goes below the bare socket"


@pytest.mark.parametrize(
    "call",
    [
        lambda r: r.get("absent"),
        lambda r: r.mget("k:1", "absent"),
        lambda r: r.exists("absent"),
    ],
    ids=["nil", "nil in a list", "a counted miss"],
)
def test_a_miss_voids_the_run_unless_it_is_expected(r, call):
    with pytest.raises(InvalidRun):
        compare({"a": lambda: call(r)}, client=r)
    compare({"a": Arm(lambda: call(r), may_miss=True)}, client=r)


def test_a_key_that_goes_away_meanwhile_voids_the_run(r):
    gone = []

    def call() -> object:
        if not gone and not gc.isenabled():  # the blocks have begun
            port = r.get_connection_kwargs()["port"]
            with redis.Redis.from_url(f"redis://127.0.0.1:{port}") as other:
                gone.append(other.delete("k:1"))
        return r.get("k:1")

    with pytest.raises(InvalidRun):
        compare({"a": call}, client=r)
    assert gone == [1]


def test_commands_that_vary_void_the_run_unless_said(r):
    turn = itertools.count()

    def call() -> object:
        return r.get("k:1") if next(turn) % 3 else r.set("k:1", "1")

    with pytest.raises(InvalidRun, match="The server counted"):
        compare({"a": call}, client=r)
    compare({"a": Arm(call, steady=False)}, client=r)


def test_a_second_client_on_the_server_voids_the_run(r, lab):
    stop = threading.Event()

    def hammer() -> None:
        with lab.client() as other:
            while not stop.is_set():
                other.incr("hammered")

    thread = threading.Thread(target=hammer)
    thread.start()
    try:
        with pytest.raises(InvalidRun, match="something else"):
            compare({"GET": lambda: r.get("k:1")}, client=r)
    finally:
        stop.set()
        thread.join()


def test_an_arm_with_a_client_of_its_own_is_counted_there(r):
    with server() as elsewhere, elsewhere.client() as other:
        other.set("k", "v")
        arms = {"here": lambda: r.get("k:1"), "there": Arm(lambda: other.get("k"), client=other)}
        found = compare(arms, client=r)
        assert [row["commands"] for row in found.rows[:2]] == [1, 1]
        arms["lost"] = Arm(lambda: other.get("k"))  # counted on the wrong server
        with pytest.raises(InvalidRun):
            compare({"lost": Arm(lambda: r.get("k:1"), client=other), **arms}, client=r)


def test_time_between_calls_is_found():
    watched = [ArmRun("a", Arm(int), None)]
    samples = [np.full((10, 100), 10_000, dtype=np.int64)]  # 10 ms in all
    own = 50.0
    honest = [[1_005_000] * 10]
    assert not bench.find_idle_time(watched, samples, honest, own)
    interrupted = [[1_005_000] * 9 + [1_005_000 + 10_000_000]]  # a time slice of another process
    assert not bench.find_idle_time(watched, samples, interrupted, own)
    stolen = [[1_005_000] * 9 + [1_005_000 + 40_000_000]]  # 40 ms that no call explains
    assert "between calls" in bench.find_idle_time(watched, samples, stolen, own)


def test_a_run_that_a_busy_machine_spoils_is_repeated(monkeypatch, tmp_path):
    monkeypatch.setattr(validity, "wait_until_calm", lambda: waits.append(1))
    waits: list[int] = []

    def measure(spoilt: int):
        if len(waits) < spoilt:
            raise TooBusy(f"held up {len(waits) + 1} times.", found="the last one")
        return "good"

    def again(spoilt: int):
        try:
            return validity.retry_while_busy(lambda: measure(spoilt), "GET")
        except TooBusy as error:  # else this test would be skipped
            pytest.fail(f"given up: {error}")

    assert again(0) == "good" and not waits
    assert again(2) == "good" and len(waits) == 2
    waits.clear()
    with pytest.raises(TooBusy, match=r"GET: not measured here.* held up 3 times.*Close") as error:
        validity.retry_while_busy(lambda: measure(99), "GET")
    assert len(waits) == 2 and error.value.found == "the last one"

    monkeypatch.setenv(claims.FILE, str(tmp_path / "told"))
    monkeypatch.setattr(claims, "missing", [])
    waits.clear()
    assert validity.retry_while_busy(lambda: measure(99), "GET") == "the last one"
    assert claims.read_claims(tmp_path / "told") == [
        {"measurement": "GET", "reason": "held up 3 times."}
    ]
    assert claims.missing == ["GET"]


def test_a_comparison_that_was_held_up_says_so(r, monkeypatch):
    """Each block is followed by a pause that no call explains: what a busy machine looks like."""
    monkeypatch.setattr(validity, "wait_until_calm", lambda: None)
    plain, tries = bench.time_calls, itertools.count()

    def held_up(call, out, clock=bench.perf_counter_ns):
        plain(call, out, clock)
        if call is get and next(tries) < spoilt:
            threading.Event().wait(0.05)

    def get() -> object:
        return r.get("k:1")

    monkeypatch.setattr(bench, "time_calls", held_up)
    blocks = bench.effort().blocks
    spoilt = blocks  # the whole first run, and nothing of the second
    found = compare({"GET": get}, client=r)
    assert not found.doubt and next(tries) >= 2 * blocks
    spoilt = 99 * blocks
    monkeypatch.setattr(validity, "TRIES", 1)
    with pytest.raises(TooBusy, match="GET: not measured here") as error:
        compare({"GET": get}, client=r)
    assert bench.NOT_MEASURED in repr(error.value.found)
    assert bench.NOT_MEASURED in error.value.found._repr_html_()
    assert error.value.found.rows[0]["round_trips"] == 1, "counts hold all the same"


@pytest.mark.parametrize("wrong", [ValueError("mine"), None], ids=["ours", "the server's"])
def test_an_error_inside_an_arm_is_raised_and_the_client_lives(r, wrong):
    countdown = itertools.count()

    def call() -> object:
        if next(countdown) == 25:
            with r.pipeline() as pipe:
                pipe.get("k:1")
                if wrong:
                    raise wrong
                return pipe.execute_command("NOSUCHCOMMAND").execute()
        return r.get("k:1")

    with pytest.raises(ValueError if wrong else redis.ResponseError):
        compare({"a": call}, client=r, seconds=20)  # enough calls, however slow the machine
    assert r.get("k:2") == "2"
    assert len(compare({"a": lambda: r.get("k:1")}, client=r).rows) == 2


def test_arms_that_make_no_sense():
    with pytest.raises(LabError, match="at least one arm"):
        compare({})
    with pytest.raises(LabError, match="not callable"):
        compare({"GET": "value"})


def test_effort_is_one_of_two_words(monkeypatch):
    monkeypatch.setenv("REDIS_LAB_EFFORT", "heroic")
    with pytest.raises(LabError, match="heroic"):
        compare({"a": spin(10)}, floor=False)
    monkeypatch.delenv("REDIS_LAB_EFFORT")
    assert bench.effort_name() == "quick"


# ---------------------------------------------------------------- calibration


def test_bare_ping_with_a_password_and_with_a_user():
    with server(password="s3cr3t word") as locked, locked.client() as client:
        with bench.bare_ping(client) as ping:
            assert ping() == b"+PONG\r\n"
        client.acl_setuser("reader", enabled=True, passwords=["+pw"], commands=["+@all"])
        with (
            redis.Redis(port=locked.port, username="reader", password="pw") as reader,
            bench.bare_ping(reader) as ping,
        ):
            assert ping() == b"+PONG\r\n"
        with (
            redis.Redis(port=locked.port, password="wrong") as stranger,
            pytest.raises(InvalidRun),
            bench.bare_ping(stranger),
        ):
            pass


def test_bare_ping_on_a_unix_socket(lab):
    with redis.Redis.from_url(lab.unix_url) as client, bench.bare_ping(client) as ping:
        assert ping() == b"+PONG\r\n"


def test_bare_ping_leaves_tls_alone(lab):
    with redis.Redis(port=lab.port, ssl=True) as client, bench.bare_ping(client) as ping:
        assert ping is None


@needs_benchmark
@pytest.mark.parametrize("transport", ["TCP", "Unix socket"])
def test_redis_benchmark_agrees_in_order_of_magnitude(r, lab, transport):
    url = lab.unix_url if transport == "Unix socket" else lab.url
    with redis.Redis.from_url(url) as client:
        theirs = bench.redis_benchmark(client, "GET", "k:1", requests=5000)
        ours = compare({"GET": lambda: client.get("k:1")}, client=client)
        # A wrong unit would be a factor of a thousand, a busy machine may be one of a hundred
        assert 1 / 200 < theirs["p50_us"] / ours.median_us("GET") < 200
        assert theirs["p50_us"] <= theirs["p99_us"]
        deep = bench.redis_benchmark(client, "GET", "k:1", requests=20_000, depth=50)
        assert deep["per_second"] > theirs["per_second"], "depth helps"
        assert set(deep) == {"per_second", "server_busy", "generator_busy"}
        assert 0 < deep["server_busy"] <= 1 and 0 < deep["generator_busy"] < 2


def test_redis_benchmark_is_none_where_it_would_show_the_password():
    with server(password="hush") as locked, locked.client() as client:
        assert bench.redis_benchmark(client, "GET", "k") is None


@needs_benchmark
def test_redis_benchmark_that_fails_says_why(r):
    with pytest.raises(LabError, match="redis-benchmark failed"):
        bench.redis_benchmark(r, "NOSUCHCOMMAND")


def test_redis_benchmark_is_none_without_the_program(r, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert bench.redis_benchmark(r, "GET", "k:1") is None


def test_footprint_sees_what_the_server_holds():
    with server() as fresh, fresh.client() as client:
        found = bench.footprint(client, lambda: client.set("big", "x" * 8_000_000))
    assert found["seconds"] > 0
    assert 4 < found["server_mb"] < 80


def test_footprint_sees_what_the_client_holds(r):
    room = bench.peak_resident_bytes() - psutil.Process().memory_info().rss
    found = bench.footprint(r, lambda: b"x" * (room + 50_000_000))
    assert 40 < found["client_mb"] < 80


# ---------------------------------------------------------------- pipelines


def get(target: object, i: int) -> object:
    return target.get(f"k:{i}")


def test_three_ways_give_the_same_replies(r):
    arms = bench.three_arms(r, get, 20, server="x")
    replies = [arm.call() for arm in arms.values()]
    assert replies[0] == replies[1] == replies[2] == [str(i) for i in range(20)]
    assert all(
        arm.units == 20 and arm.columns == {"depth": 20, "server": "x"} for arm in arms.values()
    )
    with pytest.raises(LabError):
        bench.three_arms(r, get, 0)


def test_pipelines_count_their_round_trips(r):
    rows = bench.pipelines(
        r,
        get,
        (1, 10),
        variadic=lambda n: r.mget([f"k:{i}" for i in range(n)]),
        seconds=0.02,
        place="here",
    )
    trips = {(row["arm"], row["depth"]): (row["round_trips"], row["commands"]) for row in rows}
    assert trips == {
        ("loop", 1): (1, 1),
        ("pipeline", 1): (1, 1),
        ("MULTI/EXEC", 1): (1, 3),
        ("variadic", 1): (1, 1),
        ("loop", 10): (10, 10),
        ("pipeline", 10): (1, 10),
        ("MULTI/EXEC", 10): (1, 12),
        ("variadic", 10): (1, 1),
    }
    assert all(row["place"] == "here" for row in rows)
    by = {(row["arm"], row["depth"]): row for row in rows}
    row = by["pipeline", 10]
    assert row["per_unit_us"] == pytest.approx(row["p50_us"] / 10)
    assert row["p50_us"] < by["loop", 10]["p50_us"], "one round trip is faster than ten"


def test_a_loop_that_would_take_too_long_is_left_out(r):
    rows = bench.pipelines(r, get, (1, 5), longest_loop_s=0, seconds=0.01)
    assert [row["arm"] for row in rows if row["depth"] == 1] == ["loop", "pipeline", "MULTI/EXEC"]
    assert [row["arm"] for row in rows if row["depth"] == 5] == ["pipeline", "MULTI/EXEC"]


def test_nothing_is_left_on_the_connection(r):
    """After all that the same client still gets its own replies, in order."""
    with contextlib.suppress(InvalidRun):
        compare({"a": lambda: r.get("absent")}, client=r)
    assert r.mget("k:3", "k:4") == ["3", "4"]


# ---------------------------------------------------------------- memory


def test_growth_counts_what_memory_usage_leaves_out():
    def write(client: redis.Redis) -> None:
        with client.pipeline(transaction=False) as pipe:
            for k in range(5000):
                pipe.set(f"key:{k}", 1, ex=3600)
            pipe.execute()
        own.append(sum(client.memory_usage(f"key:{k}") for k in range(0, 5000, 50)) * 50)

    own: list[int] = []
    grown = bench.growth(write)
    assert grown > own[0] + 5000 * 2 * 8, "a pointer in each of two tables, at the least"
    assert bench.growth(lambda client: client.ping()) < 1000 < grown / 100


def test_growth_does_not_count_the_buffers_of_the_writer():
    def read_much(client: redis.Redis) -> None:
        client.set("a", "x" * 1_000_000)
        for _ in range(20):
            client.get("a")

    assert 1_000_000 < bench.growth(read_much) < 1_200_000
