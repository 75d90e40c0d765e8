"""What `compare` offers outside the lessons: setups, asyncio, a reference, files and figures."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading

import pytest
import redis
import redis.asyncio
from matplotlib.figure import Figure

from redis_lab import bench, results
from redis_lab.errors import LabError
from redis_lab.measure.bench import BASELINE, EFFORTS, Arm, InvalidRun, compare, run_async


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setenv("REDIS_LAB_EFFORT", "quick")


@pytest.fixture
def asynchronous(lab):
    """An asynchronous client that nothing but the arms' own event loop has used."""
    client = redis.asyncio.Redis.from_url(lab.url, decode_responses=True)
    yield client
    run_async(client.aclose())


def measuring() -> bool:
    """Whether the caller is in the measured part of a comparison."""
    return not gc.isenabled()


# ---------------------------------------------------------------- setups


def test_a_setup_runs_before_each_block_and_knows_its_calls(r):
    told, popped = [], []

    def fill(calls: int) -> None:
        if measuring():
            told.append(calls)
        r.delete("jobs")
        r.rpush("jobs", *range(calls))

    def pop() -> object:
        job = r.lpop("jobs")
        if measuring():
            popped.append(job)
        return job

    found = compare({"LPOP": pop}, client=r, setup=fill)
    blocks, size = found["LPOP"].shape
    assert told == [size] * blocks + [1], "each block, and the one call after the last"
    assert popped == [str(k) for k in range(size)] * blocks + ["0"], "never an empty list"
    row = found.rows[0]
    assert (row["round_trips"], row["commands"]) == (1, 1), "DEL and RPUSH are not the arm's"


def test_without_its_setup_that_run_is_void(r):
    r.rpush("jobs", 1, 2, 3)
    with pytest.raises(InvalidRun):
        compare({"LPOP": lambda: r.lpop("jobs")}, client=r)


def test_an_arm_may_have_a_setup_of_its_own(r):
    ran = {"own": 0, "common": 0}

    def count(name: str):
        def setup(calls: int) -> None:
            ran[name] += measuring()
            r.set(name, calls)

        return setup

    arms = {"a": Arm(lambda: r.get("own"), setup=count("own")), "b": lambda: r.get("common")}
    blocks = len(compare(arms, client=r, setup=count("common"))["a"])
    assert ran == {"own": blocks + 1, "common": blocks + 1}


def test_misses_in_a_setup_are_not_the_arms(r):
    def setup(calls: int) -> None:
        r.get("absent")
        r.set("present", 1)

    compare({"GET": lambda: r.get("present")}, client=r, setup=setup)
    with pytest.raises(InvalidRun, match="reads missed"):
        compare({"EXISTS": lambda: r.exists("absent")}, client=r, setup=setup)


def test_a_stranger_is_noticed_beside_a_setup(r, lab):
    """The server's count is taken around each setup, and nothing else is forgiven."""
    with lab.client() as stranger:
        seen = []

        def call() -> object:
            if measuring() and not seen:
                seen.append(stranger.incr("strange"))
            return r.get("k")

        with pytest.raises(InvalidRun, match="something else"):
            compare({"GET": call}, client=r, setup=lambda calls: r.set("k", 1))
    assert seen == [1]


def test_a_setup_takes_none_of_the_arms_time(r):
    """It sleeps, and the calls that follow it take next to nothing."""
    pause = threading.Event()
    found = compare({"a": int}, baseline=False, setup=lambda calls: pause.wait(0.05) or None)
    assert found.median_us("a") < 50_000 / 2


# ---------------------------------------------------------------- asyncio


def test_coroutine_functions_are_arms(r, asynchronous):
    r.mset({"k": 1, "l": 2})
    loops = set()

    async def get() -> object:
        loops.add(asyncio.get_running_loop())
        return await asynchronous.get("k")

    async def both() -> object:
        loops.add(asyncio.get_running_loop())
        return await asyncio.gather(asynchronous.get("k"), asynchronous.get("l"))

    arms = {
        "sync": lambda: r.get("k"),
        "GET": Arm(get, client=asynchronous),
        "two at once": Arm(both, client=asynchronous),
        "a coroutine": Arm(lambda: asynchronous.get("k"), client=asynchronous),
    }
    found = compare(arms, client=r)
    assert [row["commands"] for row in found.rows] == [1, 1, 2, 1, None]
    assert found.rows[1]["round_trips"] == 1
    assert found.rows[-1]["arm"] == BASELINE
    assert all((found[name] > 0).all() for name in arms)
    found = compare({"GET": Arm(get, client=asynchronous)}, client=r)
    assert len(loops) == 1, "of this process, whichever arm and comparison"


def test_the_event_loops_cost_is_stated(r, asynchronous):
    async def nothing() -> None:
        pass

    found = compare({"a": nothing}, baseline=False)
    assert found.loop_ns > 0
    assert "event loop" in found.notes and "event loop" in found._repr_html_()
    assert found.facts()["loop_ns"] == round(found.loop_ns)
    plain = compare({"a": int}, baseline=False)
    assert plain.loop_ns is None and "event loop" not in plain.notes
    assert "loop_ns" not in plain.facts()


def test_inside_a_running_event_loop_as_in_a_notebook(asynchronous):
    async def ping() -> object:
        return await asynchronous.ping()

    async def cell() -> bench.Comparison:
        return compare({"PING": ping}, baseline=False)

    assert (asyncio.run(cell())["PING"] > 0).all()


def test_an_asynchronous_arm_that_misses_or_varies_voids_the_run(r, asynchronous):
    r.set("k", 1)

    async def miss() -> object:
        return await asynchronous.get("absent")

    with pytest.raises(InvalidRun, match="nil"):
        compare({"a": Arm(miss, client=asynchronous)}, client=r)

    async def vary() -> object:
        if measuring():
            await asynchronous.incr("n")
        return await asynchronous.get("k")

    for client in (asynchronous, None):  # counted through either client
        with pytest.raises(InvalidRun, match="The server counted"):
            compare({"a": Arm(vary, client=client)}, client=r)


def test_an_asynchronous_setup(r, asynchronous):
    async def fill(calls: int) -> None:
        await asynchronous.rpush("jobs", *range(calls))

    async def pop() -> object:
        return await asynchronous.lpop("jobs")

    found = compare({"LPOP": Arm(pop, client=asynchronous, setup=fill)}, client=r)
    assert found.rows[0]["commands"] == 1


def test_a_client_of_another_event_loop_is_explained(lab):
    client = redis.asyncio.Redis.from_url(lab.url)

    async def ping() -> object:
        return await client.ping()

    async def elsewhere() -> None:
        await client.ping()
        with pytest.raises(LabError, match="another event loop"):
            compare({"PING": ping}, baseline=False)
        await client.aclose()

    asyncio.run(elsewhere())


def test_asynchronous_clients_where_they_cannot_be_counted(asynchronous):
    with pytest.raises(LabError, match="belongs to its arm"):
        compare({"a": asynchronous.ping}, client=asynchronous)
    cluster = redis.asyncio.RedisCluster(host="127.0.0.1")
    with pytest.raises(LabError, match="cluster"):
        compare({"a": Arm(cluster.ping, client=cluster)})


CTRL_C = """
import asyncio
from redis_lab import bench
async def sleep():
    print("in an arm", flush=True)
    await asyncio.sleep(60)
bench.compare({"a": sleep}, baseline=False)
"""


def test_ctrl_c_interrupts_an_asynchronous_arm():
    child = subprocess.Popen(
        [sys.executable, "-c", CTRL_C],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert child.stdout.readline().strip() == "in an arm"
        os.kill(child.pid, signal.SIGINT)
        _, trouble = child.communicate(timeout=60)
    finally:
        child.kill()
        child.communicate()
    assert trouble.strip().endswith("KeyboardInterrupt")


# ---------------------------------------------------------------- reference and effort


def test_ratios_are_against_the_reference():
    def spin(turns: int):
        return lambda: sum(range(turns))

    arms = {"one": spin(500), "eight": spin(4000), "four": spin(2000)}
    found = compare(arms, baseline=False, reference="four")
    ratios = found.to_frame()["ratio"]
    assert ratios["four"] == 1 and ratios["one"] < 1 < ratios["eight"]
    assert ratios["one"] == found.ratio("one", "four")
    assert "against four" in found.table().columns and found.table().loc["four"].iloc[-1] == ""
    assert "against the first" in compare(arms, baseline=False).table().columns
    with pytest.raises(LabError, match=r"no arm 'five'.*one, eight, four"):
        compare(arms, reference="five")


def test_the_effort_is_an_argument_and_the_variable_its_default(monkeypatch):
    found = compare({"a": int}, baseline=False, effort="full", seconds=0.01)
    assert len(found["a"]) == EFFORTS["full"].blocks != EFFORTS["quick"].blocks
    assert found.facts()["effort"] == "full"
    monkeypatch.setenv("REDIS_LAB_EFFORT", "full")
    found = compare({"a": int}, baseline=False, effort="quick")
    assert len(found["a"]) == EFFORTS["quick"].blocks
    assert found.facts()["effort"] == "quick"
    with pytest.raises(LabError, match="effort=heroic is none of quick, full"):
        compare({"a": int}, effort="heroic")


def test_the_former_name_of_the_baseline(r):
    r.set("k", 1)
    assert BASELINE in compare({"a": lambda: r.get("k")}, client=r).arms
    for off in ({"floor": False}, {"baseline": False}):
        assert BASELINE not in compare({"a": lambda: r.get("k")}, client=r, **off).arms


def test_an_exception_names_its_arm():
    def fail() -> None:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine") as error:
        compare({"good": int, "bad": fail}, baseline=False)
    assert error.value.__notes__ == ["arm 'bad'"]


# ---------------------------------------------------------------- what comes out


def test_to_frame_has_the_numbers(r):
    r.set("k", 1)
    found = compare({"GET": lambda: r.get("k")}, client=r)
    frame = found.to_frame()
    assert list(frame.index) == ["GET", BASELINE]
    assert frame.loc["GET", "p50_us"] == found.median_us("GET")
    assert frame.loc["GET", "p50_low_us"] <= frame.loc["GET", "p50_us"]
    assert frame.loc["GET", "round_trips"] == 1


def test_save_writes_what_load_and_compare_read(r, tmp_path):
    r.set("k", 1)
    paths = []
    for name in ("one", "two"):
        found = compare({"GET": lambda: r.get("k")}, client=r)
        paths.append(found.save(tmp_path / f"{name}.json", title="A GET"))
    one, two = map(results.load, paths)
    assert paths[0] == tmp_path / "one.json"
    assert (one.experiment, one.title) == ("one", "A GET")
    assert one.environment["transport"] == "TCP loopback" and one.environment["effort"] == "quick"
    assert set(one.histograms) == {"GET", BASELINE}
    assert list(results.compare_results(one, two)["what"]) == ["GET", BASELINE]


def test_save_without_a_server_or_after_it_has_gone(tmp_path):
    path = compare({"a": int}, baseline=False).save(str(tmp_path / "a.json"))
    assert results.load(path).rows[0]["arm"] == "a"
    from redis_lab.servers.choose import server

    with server() as gone, gone.client() as client:
        found = compare({"PING": client.ping}, client=client)
    assert "server" not in results.load(found.save(tmp_path / "b.json")).environment


def test_save_says_why_it_could_not(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(LabError, match="could not be written"):
        compare({"a": int}, baseline=False).save(tmp_path / "file" / "a.json")


def test_plot_shows_each_arms_median(r, tmp_path):
    r.set("k", 1)
    found = compare({"GET": lambda: r.get("k"), "one block": Arm(int, client=None)}, client=r)
    figure = found.plot(tmp_path / "arms.png")
    assert isinstance(figure, Figure)
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == list(found.arms)
    points = axes.lines[0].get_xdata()
    assert list(points) == [pytest.approx(found.median_us(name)) for name in found.arms]
    low, high = axes.get_xlim()
    assert sum(low <= tick <= high for tick in axes.get_xticks()) >= 3
    assert "µs" in axes.get_xlabel()
    assert (tmp_path / "arms.png").read_bytes().startswith(b"\x89PNG")
    found.plot(tmp_path / "arms.svg")
    assert b"<svg" in (tmp_path / "arms.svg").read_bytes()
    with pytest.raises(LabError, match=r"arms\.doc"):
        found.plot(tmp_path / "arms.doc")
