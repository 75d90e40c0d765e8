"""The reader's log: it outlives any interruption, and says what was done and what comes next."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from redis_lab import claims, judging, logbook, teach
from redis_lab.logbook import Progress


@pytest.fixture
def log(tmp_path, monkeypatch):
    """The log's file; notes are taken as in a notebook."""
    monkeypatch.setenv("REDIS_LAB_DATA", str(tmp_path))
    monkeypatch.setenv("REDIS_LAB_WORK", str(tmp_path / "work"))
    monkeypatch.delenv(claims.FILE, raising=False)
    monkeypatch.delenv(claims.STRICT, raising=False)
    monkeypatch.setattr(logbook, "shell", lambda: None)
    return tmp_path / "local" / logbook.LOG


@pytest.fixture
def notebook(log, monkeypatch):
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell()
    monkeypatch.setattr(logbook, "shell", lambda: shell)
    return shell


WRITER = """
import sys
from redis_lab import logbook
logbook.shell = lambda: 1
for k in range(300):
    logbook.note(check=f"{sys.argv[1]}.{k}", outcome="right")
"""


def test_several_kernels_write_at_once(log):
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(n)]) for n in range(3)]
    assert [writer.wait(100) for writer in writers] == [0, 0, 0]
    assert {line["check"] for line in logbook.read_log()} == {
        f"{n}.{k}" for n in range(3) for k in range(300)
    }


def test_what_cannot_be_read_is_skipped_and_ends_no_line_but_its_own(log, notebook):
    log.parent.mkdir(parents=True)
    log.write_bytes(b'{"check": "a.b"\n\xff\xfe\n7\n[]\n{"check": ["no text"]}\n{"torn": 1')
    logbook.note(check="hashes.reserve", outcome="right")
    assert [line.get("check") for line in logbook.read_log()] == [["no text"], "hashes.reserve"]
    assert "1 of" in Progress(logbook.read_log()).summary()[0]


def test_nothing_is_written_outside_of_a_notebook_or_by_the_lab_itself(log, notebook, monkeypatch):
    for variable in (claims.FILE, claims.STRICT):
        with monkeypatch.context() as patched:
            patched.setenv(variable, "x")
            logbook.note(check="a.b", outcome="right")
    with monkeypatch.context() as patched:
        patched.setattr(logbook, "shell", lambda: None)
        logbook.note(check="a.b", outcome="right")
    assert not log.exists() and logbook.read_log() == []


def test_a_log_that_cannot_be_written_disturbs_nobody(log, notebook):
    log.mkdir(parents=True)
    logbook.note(check="a.b", outcome="right")
    assert logbook.read_log() == []


def test_checks_and_predictions_are_noted(log, notebook, monkeypatch, capsys):
    monkeypatch.setattr(teach, "announced_client", lambda: object())
    name = "start_here.on_average"
    committed = next(
        "".join(cell["source"])
        for cell in teach.copies.read_notebook(teach.lesson_of(name).find())["cells"]
        if f'lab.check("{name}"' in "".join(cell["source"])
    )
    notebook.user_ns["lab"] = teach
    for better in ("query_us", "query_us * 1", "1 / 0", "get_us + 0.1 * query_us"):
        cell = committed.replace("return query_us", f"return {better}")
        notebook.run_cell(cell).raise_error()
    outcomes = [line["outcome"] for line in logbook.read_log()]
    assert outcomes == ["untouched", "wrong", "raised", "right"]
    assert capsys.readouterr().out.count('Try it, or lab.hint("start_here.on_average")') == 1
    assert judging.Endless("").outcome == "endless"
    teach.predict(here=2, away=9).reveal(here=4, theory={"away": 1})
    (last,) = [line for line in logbook.read_log() if "prediction" in line]
    assert (last["prediction"], last["guess"], last["measured"]) == ("here", 2, 4)


def checked(name: str, outcome: str) -> dict[str, object]:
    return {"check": name, "outcome": outcome}


def guessed(guess: object, measured: object) -> dict[str, object]:
    return {"prediction": "x", "guess": guess, "measured": measured}


def test_progress_says_what_is_done_and_what_comes_next(log):
    first, second = "start_here.round_trips", "start_here.on_average"
    so_far = Progress(
        [
            checked(first, "wrong"),
            checked(first, "right"),
            checked(first, "wrong"),  # once right is right
            checked(second, "endless"),
            checked("strings.replace", "untouched"),
            checked("no.such", "right"),
        ],
        offers=["strings"],
    )
    solved, following, offer = so_far.summary()
    assert solved == f"1 of {len(every())} exercises solved, 1 more tried."
    assert following == f"Next: Start here, exercise {second}."
    assert offer == "New version of strings: redis-lab reset strings (your copy is kept)"
    assert repr(so_far).startswith(f"1 of 2   0. Start here  (tried: {second})\n")
    assert "<td>1 of 2</td>" in so_far._repr_html_()


def every() -> list[str]:
    return [name for row in Progress([]).rows for name in row.exercises]


def test_every_exercise_is_in_it_and_a_book_that_is_done_has_no_next():
    assert set(every()) == set(teach.lessons.EXERCISES) or len(every()) >= 72
    done = Progress([checked(name, "right") for name in every()])
    assert done.summary() == [f"{len(every())} of {len(every())} exercises solved, 0 more tried."]
    assert "Next: Start here" in repr(Progress([])) and "<table>" not in Progress([])._repr_html_()


def test_how_far_off_the_predictions_were():
    lines = [guessed(10, 11), guessed(1, 8), guessed(30, 10), guessed(0, 5), guessed("x", 5)]
    lines += [guessed(5, None), guessed(5, float("inf")), {"guess": 1}]
    said = Progress(lines).summary()[1]
    assert said == "3 predictions: 1 close; half of them were off by a factor of 3 or less."
    assert json.loads(json.dumps(lines[0])) == lines[0]


def test_predictions_by_choice_are_counted_apart(log, notebook):
    for guess in ("hash", "set", "set"):
        teach.predict(smaller=guess, choices=["hash", "set"]).reveal(smaller="set")
    teach.predict(times=3).reveal(times=3)
    said = Progress(logbook.read_log()).summary()
    assert said[1].startswith("1 prediction: 1 close;")
    assert said[2] == "3 predictions by choice: 2 right."
