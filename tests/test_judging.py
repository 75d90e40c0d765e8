"""What all checks of exercises have in common: they are found, and they survive any answer."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import time
import typing
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import redis

from redis_lab import errors, judging, lessons, teach
from redis_lab.errors import LabError
from redis_lab.judging import CheckFailed, Endless, NotYet, exercise
from redis_lab.lessons import with_asyncio as lessons_asyncio
from redis_lab.servers.choose import server

list(lessons._load_modules())  # imports them all
NAMES = sorted(judging.EXERCISES)
NOTEBOOKS = Path(__file__).parents[1] / "notebooks"

WRONG = {"None": None, "0": 0, "an empty str": "", "an object": object()}
# These start several servers or write a lot; a drill gives them all of the answers
SLOW = (
    "cluster.values",
    "memory.estimate",
    "replicas_and_failover.write_safely",
    "serverless_http.encode",
    "serverless_http.place_order",
    "with_asyncio.fetch",
)


NO_FUNCTIONS = ("connections.rules", "idempotency.safe_to_repeat", "which_structure.choose")


def shaped(name, function):
    """The function in the form in which the notebook hands over an answer."""
    if name == "start_here.round_trips":
        return {"morning": function, "answer": 3}
    return (function, function) if name == "memory.counters" else function


def wants_await(name):
    return "Awaitable" in str(typing.get_type_hints(judging.EXERCISES[name].__wrapped__)["answer"])


def refused(name, client, answer):
    """The hint with which a check refuses an answer."""
    with pytest.raises(NotYet) as hint:
        judging.EXERCISES[name](client, answer)
    return str(hint.value)


def returning(name, value):
    async def answer_later(*args, **options):
        return value

    def answer(*args, **options):
        return value

    return shaped(name, answer_later if wants_await(name) else answer)


def test_every_exercise_of_the_notebooks_has_its_check_and_no_check_is_without_one():
    told = set()
    for path in NOTEBOOKS.rglob("*.ipynb"):
        for cell in json.loads(path.read_text())["cells"]:
            told |= set(re.findall(r'lab\.check\("([\w.]+)"', "".join(cell["source"])))
    assert told == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_an_answer_that_returns_nothing_of_use_is_refused_with_a_hint(name, learner):
    for value in (WRONG["None"],) if name in SLOW else WRONG.values():
        refused(name, learner, returning(name, value))


@pytest.mark.drill
@pytest.mark.parametrize("name", SLOW)
def test_the_slow_checks_refuse_all_of_them(name, learner, figure):
    values = [*WRONG.values(), True, [], {}, -1.5, b"x", [None]]
    for value in values:
        refused(name, learner, returning(name, value))
    figure(wrong_answers=len(values), accepted=0)


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(NO_FUNCTIONS)))
def test_what_is_no_function_is_refused_as_such(name, learner):
    for value in WRONG.values():
        hint = refused(name, learner, value)
        assert f"your answer is {value!r}" in hint and "; it should be " in hint


@pytest.mark.parametrize("name", NO_FUNCTIONS)
def test_what_should_be_a_text_or_a_dictionary_and_is_not_is_refused(name, learner):
    for value in [*WRONG.values(), lambda: None]:
        refused(name, learner, value)


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(NO_FUNCTIONS) - set(SLOW)))
def test_an_exception_in_an_answer_is_the_answers(name, learner):
    def answer(*args, **options):
        raise ZeroDivisionError("mine")

    hint = refused(name, learner, shaped(name, answer))
    assert "raised ZeroDivisionError" in hint and "mine" in hint
    if name not in ("client_side_caching.on_push", "protocol.read3"):  # these say with which input
        assert f"in line {answer.__code__.co_firstlineno + 1}: mine" in hint


# ---------------------------------------------------------------- hints and solutions


def words_of(code: str) -> str:
    return " ".join(code.split())


def test_every_exercise_has_two_or_three_hints_and_none_is_the_whole_answer():
    for name in NAMES:
        hints, answer = judging.HINTS[name], teach.solution_of(name)
        assert 2 <= len(hints) <= 3 and len(set(hints)) == len(hints), name
        body = [
            words_of(line)
            for line in answer.splitlines()
            if line.strip() and not re.match(r"(async )?def |lab\.check|from |import ", line)
        ]
        for hint in hints:
            assert 30 < len(hint) < 500 and hint[-1] in ".?)", (name, hint)
            plain = words_of(hint).replace("`", "")
            assert not body or not all(line in plain for line in body), (name, hint)


def test_hints_come_one_after_the_other_and_say_how_many_are_left(monkeypatch):
    monkeypatch.setattr(teach, "_shown", Counter())
    hints = judging.HINTS["locks.release"]
    for number in (1, 2, 3, 3):
        shown = teach.hint("locks.release")
        assert f"**Hint {number} of 3.** {hints[number - 1]}" in shown._repr_markdown_()
        left = f"has {3 - number} more" if number < 3 else "the last one"
        assert left in shown._repr_markdown_()
        assert max(map(len, repr(shown).splitlines())) <= errors.WIDTH
    assert "Hint 1 of" in repr(teach.hint("start_here.on_average"))
    with pytest.raises(LabError, match="no exercise"):
        teach.hint("locks.nothing")


def test_the_solution_is_the_committed_one():
    shown = teach.solution("locks.release")
    assert repr(shown) == shown._repr_markdown_() and shown.text.startswith("```python\n")
    assert 'lab.check("locks.release", release)\n```' in shown.text
    with pytest.raises(LabError, match="no exercise"):
        teach.solution("locks.nothing")


def test_what_is_shown_as_the_solution_was_right_when_it_was_committed():
    """`redis-lab validate` runs these cells, and compares what they print."""
    outputs = {}
    for path in NOTEBOOKS.rglob("*.ipynb"):
        for cell in json.loads(path.read_text())["cells"]:
            if cell["cell_type"] == "code":
                said = "".join("".join(output.get("text", "")) for output in cell["outputs"])
                outputs["".join(cell["source"])] = said
    for name in NAMES:
        assert outputs[teach.solution_of(name)].startswith("✓ right"), name


# ---------------------------------------------------------------- whose fault


@pytest.fixture
def marked():
    """`@exercise` for a check that is forgotten after the test."""
    before = dict(judging.EXERCISES)
    yield exercise
    judging.EXERCISES.clear()
    judging.EXERCISES.update(before)


def test_a_fault_of_the_check_is_not_blamed_on_the_answer(marked):
    @marked(hints=())
    def broken(_: redis.Redis, answer: typing.Callable[[], int]) -> str:
        return f"{answer() / 0}"

    with pytest.raises(CheckFailed, match=r"ZeroDivisionError.*fault of the workbook.*report"):
        broken(None, lambda: 3)
    with pytest.raises(NotYet, match=r"returned None; it should return a whole number\. Is"):
        broken(None, lambda: None)


def test_a_server_that_is_gone_is_nobodys_fault(marked):
    @marked(hints=())
    def lonely(client: redis.Redis, answer: typing.Callable[[], int]) -> str:
        answer()
        raise redis.ConnectionError("refused")

    with pytest.raises(LabError, match="gone: refused") as error:
        lonely(None, lambda: 3)
    assert not isinstance(error.value, CheckFailed)


def test_a_key_of_another_type_is_the_answers(marked, r):
    @marked(hints=())
    def listed(client: redis.Redis, answer: typing.Callable[[redis.Redis], object]) -> str:
        answer(client)
        return str(client.lrange("check:list", 0, -1))

    with pytest.raises(NotYet, match="another type"):
        listed(r, lambda r: r.set("check:list", 1))
    assert listed(r, lambda r: (r.delete("check:list"), r.rpush("check:list", 1))) == "['1']"


def test_an_exception_keeps_its_author_on_the_way_through_a_library(marked):
    @marked(hints=())
    def sorting(_: redis.Redis, answer: typing.Callable[[int], int]) -> str:
        return str(sorted([2, 1], key=answer))

    with pytest.raises(NotYet, match=r"raised TypeError: .* takes 0 positional arguments but 1"):
        sorting(None, lambda: 1)
    with pytest.raises(NotYet, match=r"raised ValueError in line \d+: invalid literal"):
        sorting(None, lambda n: int("x"))
    assert sorting(None, lambda n: n) == "[1, 2]"


# ---------------------------------------------------------------- what does not end


def spin(*_):
    while True:
        pass


def swallow(*_):
    while True:
        with contextlib.suppress(Exception):
            time.sleep(0.001)


def ask_for_ever(r, *_):
    while True:
        r.get("check:never")


def pop_for_ever(r, *_):
    r.blpop("check:never", timeout=0)


def sleep_for_ever(*_):
    time.sleep(1000)


@pytest.mark.parametrize("answer", [spin, swallow, ask_for_ever, pop_for_ever, sleep_for_ever])
def test_an_answer_that_does_not_end_is_stopped_and_the_server_stays_usable(
    learner, monkeypatch, answer
):
    monkeypatch.setattr(judging, "LIMIT_S", 0.2)
    with pytest.raises(Endless, match=r"had not ended after 0.2 s, and was stopped\. It was in"):
        judging.EXERCISES["strings.replace"](learner, answer)
    monkeypatch.undo()
    solved = lambda r, key, value: r.set(key, value, xx=True, keepttl=True)  # noqa: E731
    assert judging.EXERCISES["strings.replace"](learner, solved).startswith("right")
    assert signal.getsignal(signal.SIGURG) in (signal.SIG_DFL, signal.SIG_IGN, None)


async def await_for_ever(*_):
    await asyncio.sleep(1000)


async def spin_in_a_loop(*_):
    spin()


@pytest.mark.parametrize("answer", [await_for_ever, spin_in_a_loop])
def test_a_coroutine_that_does_not_end_is_stopped(marked, r, monkeypatch, answer):
    monkeypatch.setattr(judging, "LIMIT_S", 0.2)

    @marked(hints=())
    def awaiting(_: redis.Redis, answer: typing.Callable[[], typing.Awaitable[int]]) -> str:
        return str(lessons_asyncio._run_in_new_loop(answer()))

    with pytest.raises(Endless):
        awaiting(r, answer)


def cannot_be_interrupted(*_):
    time.sleep(3)


@pytest.mark.parametrize("answer", [spin, ask_for_ever, pop_for_ever, cannot_be_interrupted])
def test_answers_in_threads_are_stopped(marked, r, monkeypatch, answer):
    monkeypatch.setattr(judging, "LIMIT_S", 0.2)
    monkeypatch.setattr(judging._TimeLimit, "PATIENCE", 5)

    @marked(hints=())
    def crowded(client: redis.Redis, answer: typing.Callable[..., int]) -> str:
        with ThreadPoolExecutor(3) as pool:
            return str(list(pool.map(lambda _: answer(client), range(3))))

    with pytest.raises(Endless):
        crowded(r, answer)
    assert r.ping()


def test_an_answer_that_takes_its_time_is_let_alone(marked, r, monkeypatch):
    monkeypatch.setattr(judging, "LIMIT_S", 20)

    @marked(hints=())
    def patient(_: redis.Redis, answer: typing.Callable[[], int]) -> str:
        return f"right: {answer()}"

    assert patient(r, lambda: time.sleep(0.3) or 7) == "right: 7"


LOOP = "while true do redis.call('GET', 'check:never') end"
WRITES = "redis.call('SET', KEYS[1], 1) while true do end"


def test_a_script_that_does_not_end_is_killed():
    with (
        server(busy_reply_threshold=50) as private,
        private.client(socket_timeout=0.5) as client,
    ):
        client.set("check:left", 1)
        with pytest.raises(Endless, match="your script did not end, and was stopped"):
            judging.EXERCISES["strings.replace"](client, lambda r, *_: r.eval(LOOP, 0))
        assert list(client.scan_iter()) == []


def test_a_script_that_has_written_and_does_not_end_costs_the_server(monkeypatch, capsys):
    """Nothing else stops it; `connect()` starts another."""
    monkeypatch.setattr(judging, "LIMIT_S", 0.5)
    with server(busy_reply_threshold=50) as private, private.client() as client:
        monkeypatch.setattr(teach, "announced_client", lambda: client)
        monkeypatch.setattr(teach, "server_behind", lambda _: private)
        teach.check("strings.replace", lambda r, key, _: r.eval(WRITES, 1, key))
        said = " ".join(capsys.readouterr().out.split())
        assert "your script does not end" in said and "Run r = lab.connect() again." in said
        assert not private.listens()


def test_the_line_is_the_learners_and_leaving_is_an_exception_like_another(learner):
    def leaves(r, key, value):
        r.set(key, value)
        raise SystemExit(3)

    line = leaves.__code__.co_firstlineno + 2
    assert f"raised SystemExit in line {line}: 3" in refused("strings.replace", learner, leaves)


def test_what_was_called_instead_of_handed_over_is_said(learner):
    said = refused("strings.replace", learner, True)
    assert said.endswith(
        'Hand over the function itself, without calling it: lab.check("strings.replace", its_name).'
    )


def test_only_what_is_marked_is_found():
    assert lessons.find_check("hashes.reserve") is judging.EXERCISES["hashes.reserve"]
    for name in ("hashes.left_in", "hashes.Reserve", "hashes", "..hashes.reserve", ""):
        with pytest.raises(LabError, match="no exercise"):
            lessons.find_check(name)


@pytest.mark.parametrize(
    ("value", "wanted", "right"),
    [
        (1, float, True),
        (np.float64(1), float, True),
        (np.int64(1), int, True),
        ("1", float, False),
        (1.5, int, False),
        (None, float | None, True),
        ([1, "x"], list[int], False),
        ("abc", typing.Sequence[str], False),
        (["abc"], typing.Sequence[str], True),
        ({1: 2}, dict[int, int], True),
        ({1: None}, dict[int, int], False),
        ((1, "a"), tuple[int, str], True),
        ((1,), tuple[int, str], False),
        (len, typing.Callable[..., int], True),
        (None, typing.Any, True),
        (0, None, False),
    ],
)
def test_what_fits_an_annotation(value, wanted, right):
    assert judging._fits_type(value, wanted) is right
