"""A result survives the disk, tells on nobody, and two of them compare honestly."""

from __future__ import annotations

import base64
import getpass
import json
import os
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
from redis_lab.measure.results import Result
from redis_lab.servers import choose
from redis_lab.servers.base import DEFAULTS
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
    result = results.of("trip", measured, title="There and back µ", notes=["n"])
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
    result = results.of("plain", rows, title="t", seed=np.int32(7))
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
from redis_lab.measure.results import Result
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
            child.wait(10)
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
    assert "small.json could not be written" in said.stdout and "untouched" in said.stdout
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
        found = results.environment(client, seed=3)
    assert found["server"] == here.product and found["server_version"] == here.version
    assert found["transport"] == "TCP loopback"
    assert found["protocol"] in ("RESP2", "RESP3") and "Parser" in found["parser"]
    assert found["cores"] == os.cpu_count() and found["cpu"]
    assert found["effort"] == "quick" and found["seed"] == 3
    json.dumps(results.to_plain(found))


def test_environment_of_the_server_behind_connect(monkeypatch):
    with server(hz=50) as here, here.client() as client:
        monkeypatch.setattr(choose, "_default", (here, ""))
        found = results.environment(client)
        assert found["server_config"] == {**DEFAULTS, "hz": 50}
        assert found["server_affinity"] == results.get_affinity(psutil.Process(here.pid))
        with server() as other, other.client() as elsewhere:
            assert results.environment(elsewhere)["server_config"] is None


def test_environment_of_other_transports():
    with server() as here, here.client(protocol=2) as two:
        assert results.environment(two)["protocol"] == "RESP2"
        with redis.Redis.from_url(here.unix_url, protocol=3) as three:
            found = results.environment(three)
            assert (found["transport"], found["protocol"]) == ("Unix socket", "RESP3")
            assert found["server_config"] is None, "not the server behind connect()"


def test_environment_tells_on_nobody(elsewhere):
    secret = "Pa55-w0rd-never-shown"
    with server(password=secret) as locked, locked.client() as client:
        measured = bench.compare({"PING": client.ping}, client=client)
        result = results.of("locked", measured, title="t", client=client)
        directory = str(locked.directory)
    text = results.save(result).read_text()
    assert secret not in text and directory not in text
    assert str(Path.home()) not in text or str(Path.home()) == "/"
    values = [str(value).lower() for value in result.environment.values()]
    for word in (socket.gethostname().lower(), getpass.getuser().lower()):
        assert not any(word == v or (len(word) > 4 and word in v) for v in values)


# ---------------------------------------------------------------- two runs


def test_two_runs_of_the_same_code_mostly_show_no_difference():
    random = np.random.default_rng(0)
    said = []
    for _ in range(100):
        one, two = (100 * random.lognormal(0, 0.05, 30) for _ in range(2))
        said += results.compare(of_medians(a=one), of_medians(a=two))["says"].tolist()
    assert said.count("no difference seen") >= 85


def test_a_run_laid_beside_itself_shows_no_difference():
    for medians in ([5.0, 5.5, 5.2, 5.1], [5.0] * 4):
        one = of_medians(a=medians)
        assert results.compare(one, one).loc[0, "says"] == "no difference seen"


def test_an_arm_made_three_times_slower_is_said_to_be():
    def run(turns: int) -> Result:
        measured = bench.compare({"same": spin(500), "changed": spin(turns)}, floor=False)
        return results.of("runs", measured, title="t")

    frame = results.compare(run(1000), run(3000)).set_index("what")
    assert 1.4 < frame.loc["changed", "ratio"] < 9
    assert frame.loc["changed", "says"].endswith("× the time")
    assert 0.3 < frame.loc["same", "ratio"] < 3.3


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
    frame = results.compare(old, new).set_index("what")
    assert list(frame.index) == ["a, depth 9", "a, depth 1"]
    assert frame.loc["a, depth 9", "ratio"] == 2
    assert frame.loc["a, depth 1", "says"] == "no difference seen"


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
        results.compare(old, new)
