"""What turns a notebook into a teach."""

from __future__ import annotations

import inspect
import json

import pytest
from IPython.display import Image, Markdown
from processes import run

from redis_lab import claims, figures, lessons, results, teach
from redis_lab.errors import LabError, wrap_lines
from redis_lab.measure.results import Result


def test_a_prediction_is_laid_beside_measurement_and_theory():
    guess = teach.predict(here=2, far_away=100)
    assert repr(guess) == "noted: here 2, far_away 100"
    shown = guess.reveal(here=2.2, far_away=1000, theory={"here": 2})
    assert shown.rows == [
        ("here", "2", "2.2", "2", "close"),
        ("far away", "100", "1,000", "–", "10 times too low"),
    ]
    text = repr(shown)
    assert all(head in text for head in shown.heads)
    html = shown._repr_html_()
    assert html.count("<tr>") == 3 and "10 times too low" in html


def test_what_was_not_measured_is_a_dash():
    shown = teach.predict(a=2, b=0, c=-1).reveal(b=5, c=5)
    assert [row[2] for row in shown.rows] == ["–", "5", "5"]
    assert [row[3] for row in shown.rows] == ["–", "–", "–"]
    assert "theory" not in shown.heads, "there is none"


@pytest.mark.parametrize(
    ("guess", "measured", "says"),
    [
        (10, 10, "close"),
        (10, 12, "close"),
        (10, 8.1, "close"),
        (10, 5, "2 times too high"),
        (5, 10, "2 times too low"),
        (1, 2512, "2,500 times too low"),
    ],
)
def test_how_far_off_a_guess_was(guess, measured, says):
    assert teach._describe_error(guess, measured) == says


@pytest.mark.parametrize("guess", ["ten", None, float("nan"), float("inf"), [1]])
def test_a_guess_is_a_finite_number(guess):
    with pytest.raises(LabError, match="must be a number"):
        teach.predict(x=guess)


def test_a_prediction_may_be_a_choice():
    ways = ["hash", "<set>"]
    guess = teach.predict(smaller="hash", faster="<set>", choices=ways)
    assert repr(guess) == "noted: smaller hash, faster <set>"
    shown = guess.reveal(smaller="<set>", faster="<set>", theory={"smaller": "hash"})
    assert shown.rows == [
        ("smaller", "hash", "<set>", "hash", "wrong"),
        ("faster", "<set>", "<set>", "–", "right"),
    ]
    assert "<td>&lt;set&gt;</td>" in shown._repr_html_()
    assert guess.reveal(smaller="hash").rows[1] == ("faster", "<set>", "–", "–")


@pytest.mark.parametrize("guess", ["hsh", "", 3, None, ["hash"]])
def test_a_guess_outside_of_the_choices_is_refused_in_one_line(guess):
    with pytest.raises(LabError) as refused:
        teach.predict(smaller=guess, choices=("hash", "set"))
    said = f"The guess for smaller must be one of 'hash', 'set', not {guess!r}."
    assert str(refused.value) == said


def test_what_is_revealed_must_be_among_the_choices():
    guess = teach.predict(smaller="hash", choices=("hash", "set"))
    with pytest.raises(LabError, match="'list' was not among the choices for smaller"):
        guess.reveal(smaller="list")
    with pytest.raises(LabError, match="7 was not among the choices"):
        guess.reveal(smaller="set", theory={"smaller": 7})


def test_predictions_that_make_no_sense():
    with pytest.raises(LabError, match="Predict something"):
        teach.predict()
    guess = teach.predict(x=1)
    with pytest.raises(LabError, match="y"):
        guess.reveal(y=2)
    with pytest.raises(LabError, match="z"):
        guess.reveal(x=1, theory={"z": 2})


def test_a_claim_is_ticked_or_fails(capsys, monkeypatch):
    monkeypatch.setenv(claims.STRICT, "1")
    teach.claim("two is more than one", 2 > 1)
    assert capsys.readouterr().out == "✓ two is more than one\n"
    with pytest.raises(teach.ClaimFailed, match="✗ one is more than two"):
        teach.claim("one is more than two", 1 > 2)
    assert issubclass(teach.ClaimFailed, AssertionError)
    assert capsys.readouterr().out == ""


def test_for_a_reader_a_claim_that_must_hold_shows_both_sides_and_stops_nothing(capsys):
    counted = {"trips": 3}
    teach.claim("one is enough", counted["trips"] == 1)
    said = capsys.readouterr().out
    assert said.startswith("✗ one is enough\n  3 == 1 does not hold here. It should hold on every")
    assert max(map(len, said.splitlines())) <= 80 and "please report it" in " ".join(said.split())


SHOWN = """
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
import os, sys
os.environ["REDIS_LAB_STRICT"] = "1"
import redis_lab as lab
from redis_lab import teach, judging
from redis_lab.measure.validity import InvalidRun, TooBusy
errors = [lab.LabError("one"), InvalidRun("two"), TooBusy("three"), judging.CheckFailed("four")]
try:
    teach.claim("five", 2 < 1)
except teach.ClaimFailed as error:
    errors.append(error)
for error in errors:
    try:
        try:
            {}["x"]
        except KeyError as cause:
            raise error from cause
    except Exception:
        shell.showtraceback()
        print("--")
"""


def test_ipython_shows_a_failure_as_its_sentence():
    """Not the lab's own lines, nor the chain of what led to it."""
    said = run(SHOWN)
    assert said.returncode == 0, said.stderr
    shown = said.stdout.split("--\n")
    assert "Traceback" not in said.stdout and "KeyError" not in said.stdout
    assert shown[0] == "✗ one\n" and shown[3] == "✗ four\n"
    assert shown[1].startswith("✗ two The numbers of this run mean nothing: run the cell")
    assert shown[2].startswith("✗ three The numbers")
    assert shown[4].startswith("✗ five\n")


@pytest.fixture
def announced(r, monkeypatch):
    monkeypatch.setattr(teach, "announced_client", lambda: r)


def test_a_check_needs_a_client(monkeypatch):
    monkeypatch.setattr(teach, "announced_client", lambda: None)
    with pytest.raises(LabError, match=r"lab\.connect\(\)"):
        teach.check("start_here.on_average", lambda query, get: get + 0.1 * query)


def test_a_claim_that_varies_shows_both_sides_and_stops_nothing(capsys):
    ratios = {"fast": 1.5}
    teach.claim("it is faster", ratios["fast"] > 1, varies=True)
    assert capsys.readouterr().out == "✓ it is faster\n"
    teach.claim(
        "it is three times faster",
        ratios["fast"] > 3,
        varies=True,
    )
    assert capsys.readouterr().out.startswith(
        "✗ it is three times faster\n  1.5 > 3 does not hold here. This varies from machine"
    )
    teach.claim("between", 2 < ratios["fast"] < 2**9, varies=True)
    assert "\n  2 < 1.5 < 512 does not hold here." in capsys.readouterr().out
    teach.claim("all", all(n > 2 for n in ratios.values()), varies=True)
    assert "\n  all((n > 2 for n in ratios.values())) does not" in capsys.readouterr().out


def test_under_validation_a_claim_that_varies_prints_what_is_committed(
    capsys, tmp_path, monkeypatch
):
    told = tmp_path / "claims"
    monkeypatch.setenv(claims.FILE, str(told))
    monkeypatch.setattr(claims, "missing", [])
    teach.claim("faster", 2 > 1, varies=True)
    teach.claim("three times", 2 > 3, varies=True)
    teach.claim("counted", 1 == 1)
    with pytest.raises(teach.ClaimFailed, match="✗ miscounted\n  1 == 2 does not hold"):
        teach.claim("miscounted", 1 == 2)
    assert claims.not_measured("GET", "the machine slept")
    teach.claim("faster after that", 2 > 1, varies=True)
    teach.claim("counted after that", 1 == 1)
    assert capsys.readouterr().out == (
        "✓ faster\n✓ three times\n✓ counted\n✓ faster after that\n✓ counted after that\n"
    )
    assert claims.read_claims(told) == [
        {"claim": "faster", "holds": True, "reason": ""},
        {"claim": "three times", "holds": False, "reason": "does not hold here: 2 > 3"},
        {"measurement": "GET", "reason": "the machine slept"},
        {"claim": "faster after that", "holds": True, "reason": claims.NOT_MEASURED},
    ]


def test_a_right_answer_is_praised(announced, capsys):
    teach.check("start_here.on_average", lambda query, get: get + 0.1 * query)
    assert capsys.readouterr().out.startswith("✓ right")


def test_a_wrong_answer_gets_a_hint_and_does_not_raise(announced, capsys):
    teach.check("start_here.on_average", lambda query, get: 0.9 * get + 0.1 * query)
    said = capsys.readouterr().out
    assert said.startswith("✗ not yet: ") and max(map(len, said.splitlines())) <= 80


def test_an_answer_that_raises_is_told_what_it_raised(announced, capsys):
    def on_average(query, get):
        return query / 0

    teach.check("start_here.on_average", on_average)
    line = on_average.__code__.co_firstlineno + 1
    assert (
        capsys.readouterr().out
        == wrap_lines(
            f"✗ not yet: your code raised ZeroDivisionError in line {line}: division by zero"
        )
        + "\n"
    )


@pytest.mark.parametrize("name", ["nowhere.x", "start_here.nothing", "start_here", "", "."])
def test_an_exercise_that_does_not_exist(name):
    with pytest.raises(LabError, match="no exercise"):
        teach.check(name, None)


def test_the_source_shown_is_the_source_that_runs():
    shown = teach.source(teach.claim)
    assert isinstance(shown, Markdown)
    assert shown.data == f"```python\n{inspect.getsource(teach.claim).rstrip()}\n```"


CHART = figures.DotPlot(title="Shown", x="p50_us", xlabel="latency (µs)")


@pytest.fixture
def local(tmp_path, monkeypatch):
    """Where results and plots go."""
    monkeypatch.setenv("REDIS_LAB_DATA", str(tmp_path))
    monkeypatch.setenv("REDIS_LAB_EFFORT", "quick")
    return tmp_path / "local"


def test_a_figure_is_saved_and_shown(local, monkeypatch):
    monkeypatch.setitem(lessons.load_figures(), "shown", CHART)
    image = teach.figure("shown", [{"arm": "a", "p50_us": 2.0}, {"arm": "b", "p50_us": 9}], seed=3)
    assert isinstance(image, Image)
    assert image.alt == (
        "Shown. Latency. From fast to slow: a 2 µs; b 9 µs. The last takes 4.5 times the first. "
        "(quick effort)"
    )
    assert (local / "shown.png").read_bytes() == image.data
    result = results.load(local / "shown.json")
    assert result.title == "Shown" and result.environment["seed"] == 3
    assert "figure" not in json.loads((local / "shown.json").read_text())


def test_a_figure_that_cannot_be_drawn_is_explained(local):
    with pytest.raises(LabError, match="bad cannot be drawn as DotPlot: 'p50_us'"):
        teach._save_and_show(Result("bad", "Bad", [{"arm": "a"}]), CHART)
    with pytest.raises(LabError, match="No lesson says how to draw 'unheard_of'"):
        teach.figure("unheard_of", [{"arm": "a"}])
    assert not (local / "unheard_of.json").exists()


def test_the_notebooks_reach_it_by_its_old_name_too():
    import redis_lab as lab

    assert lab.lesson is lab.teach is teach
    assert lab.figure is teach.figure and lab.show_source is lab.lesson.source
    with pytest.raises(AttributeError, match=r"lab\.plots is called lab\.figures now"):
        lab.plots  # noqa: B018
