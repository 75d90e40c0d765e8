"""A result survives the disk, tells on nobody, and two of them compare honestly."""

from __future__ import annotations

import base64
import functools
import getpass
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import redis
from hdrh.histogram import HdrHistogram

from redis_lab import bench, results
from redis_lab.errors import LabError
from redis_lab.measure import environment
from redis_lab.measure.results import Result, Run
from redis_lab.measure.runs import median_of
from redis_lab.measure.stats import interval_over_runs, ratio_over_runs
from redis_lab.servers import choose
from redis_lab.servers.choose import server


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    """Results go to a folder of the test's own."""
    monkeypatch.setenv("REDIS_LAB_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("REDIS_LAB_EFFORT", "quick")
    return tmp_path


def spin(turns: int):
    def call() -> None:
        for _ in range(turns):
            pass

    return call


def small(experiment: str = "small", size: int = 1) -> Result:
    rows = [{"arm": "a", "p50_us": 1.5, "text": "x" * size}]
    return Result(experiment, "A small one", rows)


def of_medians(**medians: list[float]) -> Result:
    rows = [{"arm": name, "block_medians_us": list(m)} for name, m in medians.items()]
    return Result("e", "t", rows)


# ---------------------------------------------------------------- there and back


def test_what_was_measured_comes_back():
    measured = bench.compare({"one": spin(200), "two": spin(400)}, floor=False)
    result = results.make_result("trip", measured, title="There and back µ", notes=["n"])
    path = results.save(result)
    assert results.load(path) == result == results.load(str(path))
    assert [row["arm"] for row in result.rows] == ["one", "two"]
    assert result.environment["harness_ns"] == round(measured.harness_ns)
    histogram = HdrHistogram.decode(base64.b64decode(result.histograms["one"]))
    assert histogram.get_total_count() == measured["one"].size
    median = histogram.get_value_at_percentile(50) / 1e3
    assert median == pytest.approx(measured.median_us("one"), rel=0.01)


def test_numbers_are_plain_json():
    rows = [
        {"arm": "a", "n": np.int64(3), "x": np.float64(1 / 3), "bad": float("nan"), "y": (1, 2)}
    ]
    result = results.make_result("plain", rows, title="t", seed=np.int32(7))
    text = results.save(result).read_text()
    assert json.loads(text)["rows"] == [
        {"arm": "a", "n": 3, "x": 0.333333, "bad": None, "y": [1, 2]}
    ]
    assert "NaN" not in text and text.endswith("}\n")
    assert result.environment["seed"] == 7


def test_quick_and_full_go_to_different_folders(monkeypatch, elsewhere):
    assert results.save(small()).parent == elsewhere / "data" / "local"
    monkeypatch.setenv("REDIS_LAB_EFFORT", "full")
    assert results.save(small()).parent == elsewhere / "data" / "results"


def test_data_folder_is_the_checkouts_by_default(monkeypatch):
    monkeypatch.delenv("REDIS_LAB_DATA")
    assert results.data_folder() == Path(__file__).resolve().parents[1] / "data"


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "3", "{}", '{"format": 1}', '{"format": 1, "surprise": 2}', b"\xff\xfe\x00"],
)
def test_a_damaged_file_is_called_damaged(elsewhere, content):
    path = elsewhere / "bad.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(LabError, match=r"bad\.json is not a result"):
        results.load(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("experiment", 3), ("title", None), ("rows", 3), ("rows", {"a": 1}), ("rows", [1])),
        *(("environment", []), ("notes", "one"), ("notes", [1]), ("histograms", [])),
        *(("histograms", {"a": 1}), ("rows", [{"block_medians_us": "fast"}])),
        ("rows", [{"block_medians_us": [1, "2"]}]),
    ],
)
def test_a_field_of_another_type_is_called_damaged(elsewhere, name, value):
    path = results.save(small())
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    with pytest.raises(LabError, match=r"small\.json is not a result"):
        results.load(path)


def test_a_file_of_nothing_but_brackets_is_called_damaged(elsewhere):
    path = elsewhere / "bad.json"
    path.write_text("[" * 200_000 + "]" * 200_000)
    with pytest.raises(LabError, match=r"bad\.json is not a result"):
        results.load(path)


def test_an_older_result_that_says_how_it_is_drawn_is_read(elsewhere):
    path = results.save(small())
    assert '"figure"' not in path.read_text()
    older = path.read_text().replace('"rows"', '"figure": {"kind": "ladder"},\n "rows"')
    path.write_text(older)
    assert results.load(path) == small()


def test_another_format_is_refused(elsewhere):
    path = results.save(small())
    path.write_text(path.read_text().replace('"format": 1', '"format": 99'))
    with pytest.raises(LabError, match="format 99"):
        results.load(path)


def test_absent_and_unreadable_files(elsewhere):
    with pytest.raises(LabError, match="There is no result"):
        results.load(elsewhere / "absent.json")
    with pytest.raises(LabError, match="could not be read"):
        results.load(elsewhere)


# ---------------------------------------------------------------- whole or not at all

SAVER = """
import sys
from pathlib import Path
from redis_lab import results
from redis_lab.measure import environment
from redis_lab.measure.results import Result, Run
from redis_lab.measure.runs import median_of
from redis_lab.measure.stats import interval_over_runs, ratio_over_runs
turn = 0
while True:
    turn += 1
    rows = [{"arm": "a", "turn": turn, "text": str(turn % 10) * 2_000_000}]
    results.save(Result("loop", "t", rows), Path(sys.argv[1]))
    print(turn, flush=True)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["SIGKILL", "Ctrl-C"])
def test_a_save_cut_short_leaves_a_whole_file(elsewhere, how):
    for delay in (0.0, 0.003, 0.011):
        child = subprocess.Popen(
            [sys.executable, "-c", SAVER, str(elsewhere)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        try:
            child.stdout.readline()
            time.sleep(delay)
            child.send_signal(how)
            child.wait(60)
        finally:
            child.kill()
            child.stdout.close()
        (row,) = results.load(elsewhere / "loop.json").rows
        assert row["text"] == str(row["turn"] % 10) * 2_000_000
        if how == signal.SIGINT:
            assert [path.name for path in elsewhere.iterdir()] == ["loop.json"]


@pytest.mark.skipif(sys.platform == "win32", reason="limits of file size are POSIX's")
def test_a_full_disk_leaves_the_old_file(elsewhere):
    """A limit of file size stands for the full disk: the same OSError from the same write."""
    results.save(small(), elsewhere)
    before = (elsewhere / "small.json").read_bytes()
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from redis_lab import results; from redis_lab.errors import LabError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
        "try:\n"
        "    rows = [{'text': 'x' * 1_000_000}]\n"
        "    results.save(results.Result('small', 't', rows), Path(sys.argv[1]))\n"
        "except LabError as error: print(error)\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", code, str(elsewhere)], capture_output=True, text=True
    )
    assert said.returncode == 0, said.stderr
    assert "small.json could not be written" in said.stdout and "unchanged" in said.stdout
    assert (elsewhere / "small.json").read_bytes() == before
    assert [path.name for path in elsewhere.iterdir()] == ["small.json"]


def test_a_folder_that_cannot_be_made_is_explained(elsewhere):
    (elsewhere / "file").write_text("in the way")
    with pytest.raises(LabError, match="could not be written"):
        results.save(small(), elsewhere / "file" / "below")


def test_a_result_is_readable_by_others(elsewhere):
    assert results.save(small()).stat().st_mode & 0o044 == 0o044


# ---------------------------------------------------------------- environment


def test_environment_says_what_the_numbers_depend_on():
    with server() as here, here.client() as client:
        found = results.describe_environment(client, seed=3)
    assert found["server"] == here.product and found["server_version"] == here.version
    assert found["transport"] == "TCP loopback"
    assert found["protocol"] in ("RESP2", "RESP3") and "Parser" in found["parser"]
    assert found["cores"] == os.cpu_count() and found["cpu"]
    assert found["effort"] == "quick" and found["seed"] == 3
    json.dumps(results.to_plain(found))


def test_environment_of_the_server_behind_connect(monkeypatch):
    with server(hz=50) as here, here.client() as client:
        monkeypatch.setattr(choose, "_default", (here, ""))
        found = results.describe_environment(client)
        assert found["server_config"] == {**USUAL, "hz": "50"}
        assert found["server_affinity"] == results.get_affinity(psutil.Process(here.pid))


USUAL = {"save": "", "bind": "127.0.0.1"}


def test_environment_of_a_private_server_says_what_was_changed():
    """Also after its start, and by another client than the one that asks."""
    with server(maxmemory="50mb") as here, here.client(decode_responses=False) as client:
        client.config_set("hz", 33)
        client.config_set("maxmemory-policy", "allkeys-lfu")
        found = results.describe_environment(client)["server_config"]
        changed = {"maxmemory": "52428800", "hz": "33", "maxmemory-policy": "allkeys-lfu"}
        assert found == USUAL | changed
        assert results.describe_environment(client)["server_affinity"] is not None


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores cannot be chosen here")
def test_servers_are_pinned_where_that_is_declared(monkeypatch):
    mine = sorted(os.sched_getaffinity(0))
    monkeypatch.setenv("REDIS_LAB_SERVER_CORES", str(mine[-1]))
    with server() as here, here.client() as client:
        found = results.describe_environment(client)
        assert found["server_affinity"] == mine[-1:] == found["pinned"]["server"]
        threads = psutil.Process(here.pid).threads()
        assert all(os.sched_getaffinity(thread.id) == {mine[-1]} for thread in threads)
        assert found["client_affinity"] == mine == found["pinned"]["client"]
    monkeypatch.delenv("REDIS_LAB_SERVER_CORES")
    assert results.describe_environment()["pinned"] is None


def test_what_the_system_does_not_say_is_unknown(monkeypatch, tmp_path):
    names = ("governor", "turbo", "frequency_mhz", "cgroup", "virtualisation", "huge_pages")
    assert set(names) <= set(results.describe_environment())
    monkeypatch.setattr(environment, "CPU", tmp_path)
    monkeypatch.setattr(environment, "read_text", lambda path: None)
    monkeypatch.setattr(environment.psutil, "cpu_freq", lambda: None, raising=False)
    found = environment.describe_machine()
    assert [found[name] for name in names[:4]] == [None] * 4 and found["huge_pages"] is None


def test_what_the_system_says_is_read(monkeypatch, tmp_path):
    files = {
        "cpu0/cpufreq/scaling_governor": "powersave\n",
        "cpu1/cpufreq/scaling_governor": "performance\n",
        "intel_pstate/no_turbo": "1\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(environment, "CPU", tmp_path)
    found = environment.describe_machine()
    assert (found["governor"], found["turbo"]) == ("performance, powersave", False)
    assert environment.find_chosen("always [madvise] never") == "madvise"


def test_tools_are_named_with_their_versions():
    assert results.describe_environment()["tools"]["hiredis"]


def test_environment_of_other_transports():
    with server() as here, here.client(protocol=2) as two:
        assert results.describe_environment(two)["protocol"] == "RESP2"
        with redis.Redis.from_url(here.unix_url, protocol=3) as three:
            found = results.describe_environment(three)
            assert (found["transport"], found["protocol"]) == ("Unix socket", "RESP3")
            assert found["server_config"] == USUAL


def test_environment_tells_on_nobody(elsewhere):
    secret = "Pa55-w0rd-never-shown"
    with server(password=secret) as locked, locked.client() as client:
        measured = bench.compare({"PING": client.ping}, client=client)
        result = results.make_result("locked", measured, title="t", client=client)
        directory = str(locked.directory)
    text = results.save(result).read_text()
    assert secret not in text and directory not in text
    assert str(Path.home()) not in text or str(Path.home()) == "/"
    values = [str(value).lower() for value in result.environment.values()]
    for word in (socket.gethostname().lower(), getpass.getuser().lower()):
        assert not any(word == v or (len(word) > 4 and word in v) for v in values)


# ---------------------------------------------------------------- two runs


def merged(runs: list[Result]) -> Result:
    return functools.reduce(results.merge, runs)


class Machine:
    """Where runs differ by far more than the blocks of one run, as on a real machine.

    Each run has an effect of its own on all its arms (placement, neighbours) and one on each arm
    (memory layout).
    """

    def __init__(self, seed: int, between: float = 0.15, each: float = 0.05) -> None:
        self.random, self.between, self.each = np.random.default_rng(seed), between, each

    def run(self, **levels: float) -> Result:
        whole = self.random.normal(0, self.between)
        return of_medians(
            **{
                name: level
                * np.exp(whole + self.random.normal(0, self.each))
                * self.random.lognormal(0, 0.01, 30)
                for name, level in levels.items()
            }
        )

    def result(self, runs: int, **levels: float) -> Result:
        return Result("e", "t", [], runs=[self.run(**levels).runs[0] for _ in range(runs)])


SAME = {f"arm {n}": 100.0 for n in range(10)}


def share_that_differs(frames: list) -> float:
    said = [word for frame in frames for word in frame["says"]]
    return sum("the time" in word or "faster" in word for word in said) / len(said)


@pytest.mark.parametrize("runs", [5, 8])
def test_the_same_thing_measured_twice_is_not_said_to_differ(runs):
    """Blocks of one run would say so of most pairs: see the next test."""
    machine = Machine(seed=runs)
    pairs = [
        results.compare_results(machine.result(runs, **SAME), machine.result(runs, **SAME))
        for _ in range(40)
    ]
    assert share_that_differs(pairs) <= 0.05
    alone = [
        results.compare_results(machine.result(runs, a=1.0), machine.result(runs, a=1.0))
        for _ in range(300)
    ]
    assert share_that_differs(alone) <= 0.08, "one row: no correction makes up for a wrong interval"


def test_resampled_blocks_would_say_that_the_same_thing_differs():
    machine = Machine(seed=1)
    differ = 0
    for _ in range(100):
        a, b = (np.array(machine.run(a=1.0).rows[0]["block_medians_us"]) for _ in range(2))
        low, high = bench.block_interval(
            lambda x, y: float(np.median(x) / np.median(y)), a, b, resamples=100, paired=False
        )
        differ += not low <= 1 <= high
    assert differ > 50


def test_the_calibration_script_finds_a_verdict_that_is_too_sure(monkeypatch):
    """Run by hand on a machine at rest; here its arithmetic, over simulated runs."""
    file = Path(__file__).resolve().parents[1] / "benchmarks/compare_calibration.py"
    spec = importlib.util.spec_from_file_location("compare_calibration", file)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr(script, "MOST_SPLITS", 12)
    whole = Machine(seed=6).result(10, **{f"arm {n}": 100.0 for n in range(8)})
    rows, arms, *_, blocks = script.shares(whole).values()
    assert max(rows, arms) <= 0.05 and blocks > 0.5
    ways = list(script.splits(6))
    assert len(ways) == 10 and all(sorted([*one, *two]) == list(range(6)) for one, two in ways)


def test_a_real_difference_is_found():
    machine = Machine(seed=4)
    faster = {**SAME, "arm 3": 50.0}
    frame = results.compare_results(machine.result(8, **SAME), machine.result(8, **faster))
    told = frame.set_index("what")["says"]
    assert told["arm 3"].endswith("× faster")
    assert share_that_differs([frame]) == 0.1, "and no other"
    slower = results.compare_results(machine.result(8, **faster), machine.result(8, **SAME))
    assert slower.set_index("what")["says"]["arm 3"].endswith("× the time")


@pytest.mark.parametrize(("first", "second"), [(1, 1), (1, 9), (9, 1), (4, 9)])
def test_too_few_runs_cannot_tell(first, second):
    machine = Machine(seed=0)
    frame = results.compare_results(machine.result(first, a=10.0), machine.result(second, a=90.0))
    few = min(first, second)
    (row,) = frame.to_dict("records")
    assert row["says"] == ("one run cannot tell" if few == 1 else f"{few} runs cannot tell")
    assert row["interval"] == "–" and row["ratio"] > 5 and row["runs"] == f"{first}, {second}"


def test_a_result_laid_beside_itself_shows_no_difference():
    for result in (
        Machine(seed=3, between=0.02).result(5, a=5.0),
        merged([small_run(n) for n in range(5)]),
    ):
        assert results.compare_results(result, result).loc[0, "says"] == "no difference seen"


def small_run(n: int) -> Result:
    """All alike, except for when they were measured."""
    result = of_medians(a=[5.0, 5.0])
    result.environment["when"] = f"2026-01-01T00:00:0{n}+00:00"
    return result


def test_longer_tables_need_larger_differences():
    """The correction for many pairs: the same row, alone and among nineteen others."""
    machine = Machine(seed=9)
    long = [machine.result(6, a=1.0, **{f"b{n}": 1.0 for n in range(19)}) for _ in "ab"]
    short = [Result("e", "t", [], runs=[Run(run.rows[:1]) for run in one.runs]) for one in long]
    few, many = (
        [
            float(n)
            for n in re.findall(r"\d+\.\d+", results.compare_results(*pair).loc[0, "interval"])
        ]
        for pair in (short, long)
    )
    assert many[0] < 0.95 * few[0] and few[1] < 0.95 * many[1]


@pytest.mark.parametrize("pairs", [1, 20])
def test_the_interval_of_a_ratio_is_welchs(pairs):
    """Held against SciPy's, of samples that differ in size and spread."""
    from scipy.stats import ttest_ind  # slow to import

    random = np.random.default_rng(2)
    a, b = random.lognormal(3, 0.1, 5), random.lognormal(3.3, 0.4, 9)
    welch = ttest_ind(np.log(b), np.log(a), equal_var=False)
    bounds = welch.confidence_interval(1 - 0.05 / pairs)
    ratio, low, high = ratio_over_runs(a, b, pairs)
    assert np.log([low, high]) == pytest.approx([bounds.low, bounds.high])
    assert np.log(ratio) == pytest.approx(np.log(b).mean() - np.log(a).mean())


# ---------------------------------------------------------------- runs in one result


def rows_of(level: float, depth: int = 1) -> list[dict]:
    return [
        {
            "arm": "GET",
            "depth": depth,
            "p50_us": level,
            "p50_low_us": level - 1,
            "p50_high_us": level + 1,
            "ratio": level / 10,
            "ratio_low": level / 20,
            "ratio_high": level / 5,
            "verdict": "as one run had it",
            "p99_us": None,
            "block_medians_us": [level, level],
        }
    ]


def one_run(level: float, **environment: object) -> Result:
    where = {"cpu": "A", "cores": 2, "when": f"2026-01-01T00:00:{level:02.0f}+00:00"}
    return Result("e", "t", rows_of(level), {**where, **environment})


LEVELS = (10, 12, 9, 11, 13)


def test_runs_are_merged_and_come_back(elsewhere):
    result = merged([one_run(level, seed=n) for n, level in enumerate(LEVELS)])
    assert [run.rows for run in result.runs] == [rows_of(level) for level in LEVELS]
    assert [run.seed for run in result.runs] == [0, 1, 2, 3, 4]
    assert len({run.when for run in result.runs}) == 5
    assert results.load(results.save(result)) == result
    again = results.load(results.save(result)).merge(one_run(20))
    assert len(again.runs) == 6 and again.table.attrs["runs"] == 6


def test_an_interval_over_runs_is_students(elsewhere):
    """By hand: the mean of the logarithms and 2.776 of its standard errors, four degrees."""
    (row,) = merged([one_run(level) for level in LEVELS]).rows
    logs = np.log(LEVELS)
    half = 2.776445 * logs.std(ddof=1) / np.sqrt(5)
    assert row["p50_us"] == pytest.approx(np.exp(logs.mean()))
    assert row["p50_low_us"] == pytest.approx(np.exp(logs.mean() - half))
    assert row["p50_high_us"] == pytest.approx(np.exp(logs.mean() + half))
    assert row["ratio_low"] == pytest.approx(row["p50_low_us"] / 10)
    assert row["verdict"] == "no difference seen" and row["depth"] == 1 and row["p99_us"] is None
    assert row["run_medians_us"] == list(LEVELS) and "block_medians_us" not in row


def test_the_interval_covers_the_truth_and_that_of_resampled_blocks_does_not():
    covered = {"runs": 0, "blocks": 0}
    for turn in range(150):
        machine = Machine(seed=turn)
        runs = [machine.run(a=100.0) for _ in range(5)]
        row = merged(runs).rows[0]
        values = [median_of(run.rows[0]) for run in runs]
        mean, low, high = interval_over_runs(values)
        covered["runs"] += low <= 100 <= high
        assert low <= mean <= high and row["run_medians_us"] == pytest.approx(values, abs=1e-3)
        blocks = np.array(runs[0].rows[0]["block_medians_us"])
        low, high = bench.block_interval(np.median, blocks[:, None], resamples=100)
        covered["blocks"] += low <= 100 <= high
    assert covered["runs"] >= 0.88 * 150 and covered["blocks"] < 0.3 * 150


def test_few_runs_have_a_range_and_no_verdict():
    (row,) = merged([one_run(10), one_run(12)]).rows
    assert (row["p50_low_us"], row["p50_high_us"]) == (10, 12)
    assert row["verdict"] == "2 runs cannot tell"


def test_the_environment_is_what_the_runs_have_in_common():
    environment = merged([one_run(10, load_1_min=0.1), one_run(12, load_1_min=0.2)]).environment
    assert environment["cpu"] == "A" and environment["runs"] == 2
    assert environment["load_1_min"] == [0.1, 0.2]
    assert environment["when"].endswith("10+00:00")


def test_histograms_of_runs_add_up():
    runs = [
        results.make_result("e", bench.compare({"a": spin(200)}, floor=False), title="t")
        for _ in range(2)
    ]
    counts = [
        HdrHistogram.decode(base64.b64decode(result.histograms["a"])).get_total_count()
        for result in (*runs, results.merge(*runs))
    ]
    assert counts[2] == counts[0] + counts[1]


def test_rows_that_a_run_lacks_are_left_out():
    shorter = one_run(12)
    longer = one_run(10)
    longer.rows.append({"arm": "loop", "block_medians_us": [1, 1]})
    for pair in ((longer, shorter), (shorter, longer)):
        assert [row["arm"] for row in results.merge(*pair).rows] == ["GET"]


def test_rows_that_each_run_has_sorted_are_matched_by_their_arms():
    def sorted_run(*arms: str) -> Result:
        rows = [{"arm": arm, "p50_us": 10.0 + n} for n, arm in enumerate(arms)]
        return Result("e", "t", [*rows, *rows_of(10)], {"when": "".join(arms)})

    rows = results.merge(sorted_run("a", "b"), sorted_run("b", "a")).rows
    assert [row["arm"] for row in rows] == ["a", "b", "GET"]
    assert (rows[0]["p50_low_us"], rows[0]["p50_high_us"]) == (10, 11)


def test_events_of_a_timeline_are_those_of_the_first_run():
    first = Result("e", "t", [{"lane": "a", "at": 1.0}, {"lane": "a", "at": 2.0}], {"when": "1"})
    second = Result("e", "t", [{"lane": "a", "at": 3.0}], {"when": "2"})
    both = results.merge(first, second)
    assert both.rows == first.rows and both.environment["shown"] == "first run"
    assert both.table.attrs["runs"] == 1 and len(both.runs) == 2


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (Result("f", "t", rows_of(12)), "two experiments"),
        (one_run(12, cpu="B"), "on another machine: cpu is 'A' in one and 'B' there"),
        (one_run(12, cores=4), "on another machine: cores"),
        (one_run(12, server_version="9"), "under other conditions: server_version"),
        (one_run(12, effort="quick"), "under other conditions: effort"),
        (one_run(10, server_version="8", effort="full"), "counted twice"),
    ],
)
def test_what_is_no_further_run_is_refused(other, words):
    with pytest.raises(LabError, match=words):
        one_run(10, server_version="8", effort="full").merge(other)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("runs", 3), ("runs", []), ("runs", [1]), ("runs", [{}]), ("runs", [{"rows": 1}])),
        ("runs", [{"rows": [], "surprise": 1}]),
        ("runs", [{"rows": [{"block_medians_us": "fast"}]}]),
        ("surprise", 1),
    ],
)
def test_damaged_runs_are_called_damaged(elsewhere, name, value):
    path = results.save(merged([one_run(10), one_run(12)]))
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    with pytest.raises(LabError, match=r"e\.json is not a result"):
        results.load(path)


def test_a_file_of_one_run_is_as_it_always_was(elsewhere):
    content = json.loads(results.save(one_run(10)).read_text())
    fields = ["experiment", "title", "rows", "environment", "notes", "histograms", "format"]
    assert list(content) == fields and content["format"] == 1


# ---------------------------------------------------------------- rows of two results


def test_rows_are_matched_by_what_was_varied():
    def row(arm: str, depth: int, level: float) -> dict:
        return {
            "arm": arm,
            "depth": depth,
            "p50_us": level,
            "block_medians_us": [level, level * 1.1],
        }

    old = Result("e", "t", [row("a", 1, 10), row("a", 9, 100), row("gone", 1, 5)])
    new = Result("e", "t", [row("a", 9, 200), row("a", 1, 10), row("new", 1, 5)])
    frame = results.compare_results(old, new).set_index("what")
    assert list(frame.index) == ["a, depth 9", "a, depth 1"]
    assert frame.loc["a, depth 9", "ratio"] == 2
    assert frame.loc["a, depth 1", "ratio"] == 1


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (of_medians(a=[1, 2]), of_medians(b=[1, 2])),
        (of_medians(a=[1, 2]), of_medians(a=[])),
        (of_medians(a=[1, 2]), of_medians(a=[1])),
        (small(), small()),
    ],
    ids=["other arms", "not in blocks", "a single block", "rows of one's own"],
)
def test_nothing_in_common_is_an_error(old, new):
    with pytest.raises(LabError, match="in common"):
        results.compare_results(old, new)
