"""`redis-lab machine`: everyday commands on each server, and the rules for files to publish."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path

import pytest

from redis_lab.errors import LabError
from redis_lab.machines import check_machines, choose_kinds, load_machines, measure_machine
from redis_lab.measure import everyday, results
from redis_lab.servers.choose import private_kind

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {
    **{"cpu": "A processor", "cores": 2, "memory_gb": 8, "system": "Linux 6", "effort": "full"},
    **{"server": "Valkey", "server_version": "9.1.2", "python": "3.11.7", "redis_py": "8.1.0"},
}


def one_run(n: int, names=tuple(everyday.COMMANDS), **changed) -> dict:
    """A run as a file holds it, of times that were not measured."""
    rows = [
        {
            **{"arm": name, "calls": 100, "p50_us": 50.0 + n, "p50_low_us": 49.0},
            **{"p50_high_us": 60.0, "block_medians_us": [50.0 + n, 51.0 + n]},
        }
        for name in names
    ]
    return {
        "rows": rows,
        "environment": {**ENVIRONMENT, "when": f"2026-11-2{n}T00:00:00+00:00", **changed},
        "histograms": {},
    }


def write(folder: Path, runs: list[dict], name: str = "valkey-9.1.2.json", machine: str = "box"):
    file = folder / machine / name
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {"experiment": "everyday", "title": "everyday", "notes": [], "format": 2}
    file.write_text(json.dumps(content | {"runs": runs}))
    return file


def test_a_file_that_can_be_published(tmp_path):
    write(tmp_path, [one_run(n) for n in range(5)])
    assert check_machines(tmp_path) == []
    [(machine, path, result)] = load_machines(tmp_path)
    assert (machine, path.name, len(result.runs)) == ("box", "valkey-9.1.2.json", 5)


FIVE = [one_run(n) for n in range(5)]
FEW = [one_run(n, tuple(everyday.COMMANDS)[1:]) for n in range(5)]


@pytest.mark.parametrize(
    ("runs", "name", "machine", "said"),
    [
        (FIVE[:4], "valkey-9.1.2.json", "box", "4 runs; add some until there are 5"),
        (FIVE, "valkey-9.1.1.json", "box", "the file's name would be valkey-9.1.2.json"),
        (FIVE, "valkey-9.1.2.json", "My Box", "small letters"),
        (FEW, "valkey-9.1.2.json", "box", "it lacks GET"),
        ([one_run(n, effort="quick") for n in range(5)], "valkey-9.1.2.json", "box", "not full"),
        ([one_run(n, cpu=None) for n in range(5)], "valkey-9.1.2.json", "box", "not say: cpu"),
        (
            [one_run(n, log="/home/ada/x") for n in range(5)],
            *("valkey-9.1.2.json", "box", "it shows a path"),
        ),
    ],
    ids=["few runs", "name", "machine", "commands", "effort", "environment", "path"],
)
def test_a_file_that_cannot_be_published_is_told_why(tmp_path, runs, name, machine, said):
    write(tmp_path, runs, name, machine)
    [wrong] = check_machines(tmp_path)
    assert said in wrong and wrong.startswith(f"{machine}/{name}: ")


def test_files_of_two_machines_in_one_folder_are_found(tmp_path):
    write(tmp_path, FIVE)
    other = copy.deepcopy(FIVE)
    for run in other:
        run["environment"] |= {"cores": 64, "server_version": "8.1.0"}
    write(tmp_path, other, "valkey-8.1.0.json")
    [wrong] = check_machines(tmp_path)
    assert wrong == "box/valkey-9.1.2.json: another machine than the folder's other files"


def test_a_file_that_is_no_result_is_named(tmp_path):
    write(tmp_path, FIVE).write_text("{")
    [wrong] = check_machines(tmp_path)
    assert "not a result of the lab" in wrong


def test_what_is_committed_can_be_published():
    assert check_machines(ROOT / "data" / "machines") == []


def test_a_real_run_and_one_more(tmp_path):
    kind = private_kind()
    how = {"seconds": 0.01, "effort": "quick", "folder": tmp_path}
    [path] = measure_machine("a-box", [kind], 1, **how)
    before = results.load(path)
    assert [row["arm"] for row in before.rows][:-1] == list(everyday.COMMANDS)
    assert measure_machine("a-box", [kind], 1, **how) == [path]
    both = results.load(path)
    assert len(both.runs) == 2 and both.runs[0].rows == before.rows
    said = "\n".join(check_machines(tmp_path))
    assert "2 runs" in said and "quick" in said


def test_bad_names_are_refused_before_anything_is_started(tmp_path):
    with pytest.raises(LabError, match="small letters"):
        measure_machine("../box", choose_kinds(), 1, folder=tmp_path)
    with pytest.raises(LabError, match="no server of kind 'redis9'"):
        choose_kinds(["redis9"])
    with pytest.raises(LabError, match="no server of kind 'url'"):
        choose_kinds(["url"])
    assert os.listdir(tmp_path) == []
