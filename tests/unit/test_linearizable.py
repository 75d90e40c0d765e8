"""The linearizability checker, on histories whose answer is known."""

from __future__ import annotations

import itertools
import random

import pytest

from redis_lab.drill.history import EVER, FifoQueue, Mutex, Op, Register, linearizable


def op(who: str, name: str, start: float, end: float = EVER, value=None, result=None) -> Op:
    return Op(who, name, "k", start, end, value, result)


def write(who, value, start, end=EVER):
    return op(who, "write", start, end, value)


def read(who, result, start, end=EVER):
    return op(who, "read", start, end, result=result)


REGISTERS = {
    "one after the other": (True, [write("a", 1, 0, 1), read("b", 1, 2, 3)]),
    "a stale read": (False, [write("a", 1, 0, 1), write("a", 2, 2, 3), read("b", 1, 4, 5)]),
    "while it is written, both": (True, [write("a", 1, 0, 9), read("b", 1, 1, 2)]),
    "while it is written, neither": (True, [write("a", 1, 0, 9), read("b", 0, 1, 2)]),
    "new, then old": (
        False,
        [write("a", 1, 0, 9), read("b", 1, 1, 2), read("c", 0, 3, 4)],
    ),
    "old, then new": (True, [write("a", 1, 0, 9), read("b", 0, 1, 2), read("c", 1, 3, 4)]),
    "a write that never returned may have happened": (True, [write("a", 1, 0), read("b", 1, 5, 6)]),
    "or not": (True, [write("a", 1, 0), read("b", 0, 5, 6), read("b", 0, 7, 8)]),
    "but not undo itself": (False, [write("a", 1, 0), read("b", 1, 5, 6), read("b", 0, 7, 8)]),
    "a value from nowhere": (False, [write("a", 1, 0, 1), read("b", 3, 2, 3)]),
    "two readers disagree on the order of two writes": (
        False,
        [
            *(write("a", 1, 0, 1), write("b", 2, 0, 1)),
            *(read("c", 1, 2, 3), read("d", 2, 4, 5), read("c", 1, 6, 7)),
        ],
    ),
}


@pytest.mark.parametrize("case", REGISTERS)
def test_register(case):
    expected, ops = REGISTERS[case]
    for order in itertools.permutations(ops):  # in whatever order they were written down
        assert linearizable(order, Register(0)) is expected


def acquire(who, start, end=EVER, result=True):
    return op(who, "acquire", start, end, who, result)


def release(who, start, end=EVER, result=True):
    return op(who, "release", start, end, who, result)


def expire(who, start):
    return op(who, "expire", start, EVER, who)


MUTEXES = {
    "in turn": (True, [acquire("a", 0, 1), release("a", 2, 3), acquire("b", 4, 5)]),
    "two holders": (False, [acquire("a", 0, 1), acquire("b", 2, 3), release("a", 4, 5)]),
    "the lease was over": (True, [acquire("a", 0, 1), expire("a", 2), acquire("b", 3, 4)]),
    "not yet": (False, [acquire("a", 0, 1), acquire("b", 3, 4), expire("a", 5)]),
    "a refusal is always allowed": (True, [acquire("a", 0, 1, None)]),
    "released too late, and it says so": (
        True,
        [acquire("a", 0, 1), expire("a", 2), acquire("b", 3, 4), release("a", 5, 6, False)],
    ),
    "released by somebody else": (
        False,
        [acquire("a", 0, 1), release("b", 2, 3), acquire("b", 4, 5)],
    ),
    "a release that never returned": (
        True,
        [acquire("a", 0, 1), release("a", 2), acquire("b", 4, 5)],
    ),
}


@pytest.mark.parametrize("case", MUTEXES)
def test_mutex(case):
    expected, ops = MUTEXES[case]
    assert linearizable(ops, Mutex()) is expected


def test_fences_rise():
    def turns(*fences):
        for k, fence in enumerate(fences):
            yield acquire(f"c{k}", 4 * k, 4 * k + 1, fence)
            yield release(f"c{k}", 4 * k + 2, 4 * k + 3)

    assert linearizable(list(turns(1, 5, 6)), Mutex(fenced=True))
    assert linearizable(list(turns(1, 5, 5)), Mutex(fenced=True)) is False
    assert linearizable(list(turns(1, 6, 5)), Mutex(fenced=True)) is False
    assert linearizable(list(turns(1, 6, 5)), Mutex())


def put(who, value, start, end=EVER):
    return op(who, "put", start, end, value)


def take(who, result, start, end=EVER):
    return op(who, "take", start, end, result=result)


QUEUES = {
    "in order": (True, [put("a", 1, 0, 1), put("a", 2, 2, 3), take("b", 1, 4, 5)]),
    "out of order": (False, [put("a", 1, 0, 1), put("a", 2, 2, 3), take("b", 2, 4, 5)]),
    "two puts at a time": (True, [put("a", 1, 0, 3), put("c", 2, 0, 3), take("b", 2, 4, 5)]),
    "taken twice": (False, [put("a", 1, 0, 1), take("b", 1, 2, 3), take("c", 1, 2, 3)]),
    "taken before it was put": (False, [take("b", 1, 0, 1), put("a", 1, 2, 3)]),
    "empty, and it is not": (False, [put("a", 1, 0, 1), take("b", None, 2, 3)]),
    "empty while it is put": (True, [put("a", 1, 0, 5), take("b", None, 2, 3)]),
    "a take that never returned may have it": (
        True,
        [put("a", 1, 0, 1), take("b", None, 2), take("c", None, 4, 5)],
    ),
}


@pytest.mark.parametrize("case", QUEUES)
def test_queue(case):
    expected, ops = QUEUES[case]
    assert linearizable(ops, FifoQueue()) is expected


def test_against_brute_force():
    """Random small histories of a register: the same answer as trying every order."""
    chance, answers = random.Random(5), []
    for _ in range(300):
        ops = []
        for k in range(5):
            start = chance.uniform(0, 3)
            end = start + chance.uniform(0, 3)
            who, value = f"c{k}", chance.randrange(2)
            ops.append((write if chance.random() < 0.5 else read)(who, value, start, end))

        def explains(order) -> bool:
            state = 0
            for k, one in enumerate(order):
                if any(other.end < one.start for other in order[k + 1 :]):
                    return False
                if one.name == "read" and one.result != state:
                    return False
                state = one.value if one.name == "write" else state
            return True

        expected = any(map(explains, itertools.permutations(ops)))
        assert linearizable(ops, Register(0)) is expected
        answers.append(expected)
    assert {True, False} == set(answers)


def test_memory_keeps_it_from_trying_everything():
    """Twelve writes at a time and a read of what nobody wrote: 12! orders, few states."""
    ops = [write(f"c{k}", k, 0, 9) for k in range(12)] + [read("r", 99, 10, 11)]
    assert linearizable(ops, Register(0)) is False
    assert linearizable(ops, Register(0), most_states=10) is None
