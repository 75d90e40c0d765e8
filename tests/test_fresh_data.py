"""The checks' data: the lesson's own each time, and others where learners are graded.

An answer that looks up what the solution returned for the lesson's data is right there, and wrong
with other data.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import inspect
import textwrap
from collections import Counter

import pytest

import redis_lab
from redis_lab import copies, grade, judging, lessons, teach
from redis_lab.judging import NotYet

list(lessons._load_modules())  # imports them all
NAMES = sorted(judging.EXERCISES)
# These ask for knowledge, and the answer is the same for everybody
QUESTIONS = {
    "connections.rules",
    "idempotency.safe_to_repeat",
    "start_here.round_trips",
    "which_structure.choose",
}
SLOW = {
    "cluster.values",
    "memory.estimate",
    "with_asyncio.fetch",
}  # they start servers, or write a lot
SEEDS = (5, 2**31)
NEEDED = 36  # checks that draw


def draws(name: str) -> bool:
    """Whether a check's own source draws data."""
    source = textwrap.dedent(inspect.getsource(judging.EXERCISES[name].__wrapped__))
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return any(ast.unparse(call.func) in ("vary", "vary_word") for call in calls)


DRAWING = [name for name in NAMES if draws(name)]


@pytest.fixture(autouse=True)
def _own_data_afterwards():
    yield
    judging.reseed(0)


def solution(name: str, client: object) -> object:
    """What the committed solution hands to `lab.check`."""
    handed: list[object] = []

    class Lab:
        def __getattr__(self, attribute: str) -> object:
            return getattr(redis_lab, attribute)

        def check(self, _: str, answer: object) -> None:
            handed.append(answer)

    scope: dict[str, object] = {}
    for cell in copies.read_notebook(teach.lesson_of(name).find())["cells"]:
        if cell["cell_type"] == "code":
            for statement in grade.imports_of("".join(cell["source"])):
                exec(statement, scope)
            if name == "start_here.round_trips" and "def morning" in "".join(cell["source"]):
                break
    scope |= {"lab": Lab(), "r": client}
    exec(teach.solution_of(name), scope)
    return handed[0]


def over(answer, wrap):
    """An answer with each function in it wrapped."""
    if type(answer) is tuple:
        return tuple(over(part, wrap) for part in answer)
    return wrap(answer) if callable(answer) else answer


def key_of(args: tuple) -> str:
    """What a learner who looks things up sees: the arguments that are data."""
    data = (str, bytes, int, float, list, tuple, dict, type(None))
    return repr([str(each) for each in args if isinstance(each, data) or hasattr(each, "shape")])


def memorized(answer, client, name):
    """An answer that returns what the solution returned for the lesson's data, by its arguments."""
    seen: dict[str, list[object]] = {}

    def listening(function):
        def later(args, value):
            with contextlib.suppress(TypeError):  # a client, or another thing that cannot be kept
                value = copy.deepcopy(value)
            seen.setdefault(key_of(args), []).append(value)
            return value

        async def awaited(*args):
            return later(args, await function(*args))

        def call(*args):
            return later(args, function(*args))

        return awaited if inspect.iscoroutinefunction(function) else call

    judging.EXERCISES[name](client, over(answer, listening))

    def make():
        """With a place of its own in what was seen."""
        asked: Counter[str] = Counter()

        def known(args):
            values = seen.get(key_of(args), [None])
            asked[key_of(args)] += 1
            return values[min(asked[key_of(args)], len(values)) - 1]

        def reciting(function):
            async def awaited(*args):
                return known(args)

            return awaited if inspect.iscoroutinefunction(function) else lambda *args: known(args)

        return over(answer, reciting)

    return make


def judge(name, client, answer) -> str | None:
    """None if the answer is right, or the hint."""
    try:
        judging.EXERCISES[name](client, answer)
    except NotYet as hint:
        return str(hint)
    return None


def hold(name, client) -> bool:
    """The solution is right with any data; returns whether a memorized one is with the lesson's."""
    judging.reseed(0)
    answer = solution(name, client)
    make = memorized(answer, client, name)
    own = judge(name, client, make()) is None
    for seed in SEEDS:
        judging.reseed(seed)
        assert judge(name, client, answer) is None
        assert judge(name, client, make()), f"the lesson's own numbers pass with seed {seed}"
    return own


@pytest.mark.parametrize("name", sorted(set(DRAWING) - SLOW))
def test_the_lessons_numbers_are_right_in_the_lesson_only(name, r):
    hold(name, r)


def test_a_check_that_judges_only_what_is_returned_draws_its_data():
    """The drill below finds those by trying; this notes how many there are."""
    assert len(DRAWING) >= NEEDED and not QUESTIONS & set(DRAWING)


@pytest.mark.drill
def test_no_check_is_satisfied_by_the_lessons_numbers(learner, figure):
    """Also where a check draws none: the answer has something to do that no number replaces."""
    right_by_heart = 0
    for name in sorted(set(NAMES) - QUESTIONS):
        if name in DRAWING:
            right_by_heart += hold(name, learner)
            continue
        if name == "transactions_and_scripts.set_if_higher":
            continue  # its solution is a script, made by a cell before it
        judging.reseed(0)
        make = memorized(solution(name, learner), learner, name)
        assert judge(name, learner, make()), name
    figure(exercises=len(NAMES), drawing=len(DRAWING), by_heart_in_the_lesson=right_by_heart)


def test_the_same_seed_draws_the_same(r):
    def hint(seed):
        judging.reseed(seed)
        return judge("pipelines.cart_total", r, lambda r, cart: 1)

    assert hint(9) == hint(9) != hint(10)
    assert hint(0) == hint(0) == "the total should be 26461 cents, and was 1."


def test_what_is_drawn_is_never_the_lessons_own():
    judging.reseed(3)

    @judging.exercise(hints=())
    def drawing(_: object, answer: int) -> str:
        assert judging.vary(2, 2, 3) == 3
        assert 0.5 <= judging.vary(0.1, 0.5, 0.7) <= 0.7
        assert judging.vary_word("lamp").startswith("lamp-")
        return "right"

    try:
        assert drawing(None, 1) == "right"
    finally:
        for table in (judging.EXERCISES, judging.HINTS):
            del table["test_fresh_data.drawing"]
