"""The lesson on leaderboards: its exercises and its figures."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import redis

from redis_lab.figures import Chart, DotPlot, Lines
from redis_lab.judging import NotYet, exercise, vary
from redis_lab.wiretap import wire

FIGURES: dict[str, Chart] = {
    "leaderboard": Lines(
        title="A page around me, and the ten best of a week",
        x="members",
        y="p50_us",
        by="what",
        panels="panel",
        theory="theory_us",
        theory_label="rows × price of one row on the smallest board",
        xlabel="members of the board",
        ylabel="time for one answer (µs)",
        meanings={
            "Leaderboard": "ours",
            "RANK() OVER": "theirs",
            "GROUP BY": "theirs",
        },
    ),
    "leaderboard_beside": DotPlot(
        title="A board of ten thousand, compared with SQLite",
        x="p50_us",
        xlabel="time for one answer (µs, log scale)",
        meanings={
            "add: SQLite, both tables": "theirs",
            "ten best: SQLite, index": "theirs",
            "around me: SQLite, RANK() OVER": "theirs",
        },
    ),
}

ROUNDS, MOST_SOLVED, MOST_MINUTES = 8, 1_000_000, 99_999
Pairs = Sequence[Sequence]


@exercise(
    hints=(
        "The week's board takes part in its own sum, so the second call counts everything "
        "again. And nobody gives it a time to live.",
        "ZUNIONSTORE takes all seven days at once and replaces what was in the target. After "
        "it come EXPIRE and ZRANGE; none of them waits for another's reply.",
        'In one pipeline: `zunionstore("check:week", days)`, `expire`, and the `zrange` with '
        "`desc=True, withscores=True` from your code. The last reply is the answer.",
    )
)
def weekly(r: redis.Redis, answer: Callable[[redis.Redis, list[str], int], Pairs]) -> str:
    chance = random.Random(vary(8, 9, 1_000_000))
    days = [f"check:day:{k}" for k in range(10)]
    points = {
        day: {f"p{chance.randrange(60)}": 1 + chance.randrange(9) for _ in range(40)}
        for day in days
        if day != "check:day:3"  # nobody played
    }

    def right(chosen: list[str], n: int) -> list[tuple[str, int]]:
        total = sum((Counter(points.get(day, {})) for day in chosen), Counter())
        return sorted(total.items(), key=lambda pair: (pair[1], pair[0]), reverse=True)[:n]

    def compare(when: str, chosen: list[str], n: int = 5) -> None:
        got = [(member, int(score)) for member, score in answer(r, list(chosen), n)]
        wanted = right(chosen, n)
        if len(got) != len(wanted) and got[:1] == wanted[:1]:
            raise NotYet(f"asked for the {n} best, you return {len(got)}.")
        if got[:1] == wanted[:1] and got != wanted:
            raise NotYet(f"{when}, the {n} best should be {wanted}, and are {got}.")
        if got != wanted:
            yours, best = _describe_leader(got), _describe_leader(wanted)
            raise NotYet(f"{when}, the best is {yours}; it should be {best}.")

    first, second = days[:7], days[2:9]
    try:
        with r.pipeline() as pipe:
            for day, scores in points.items():
                pipe.zadd(day, scores)
                pipe.expire(day, 600)
            pipe.execute()
        compare("asked for the first time", first)
        compare("asked for the same week again", first)
        compare("asked for another week", second)
        compare("asked for fewer", second, n=2)
        r.zincrby(days[8], 50, "p7")
        points[days[8]]["p7"] = points[days[8]].get("p7", 0) + 50
        compare("asked again after p7 got 50 points more", second)
        left = [key for key in r.scan_iter("check:*", count=1000) if key not in points]
        lasting = [key for key in left if r.ttl(key) == -1]
        with wire(r) as counted:
            answer(r, list(first), 5)
    finally:
        r.delete("check:", *r.scan_iter("check:*", count=1000))
    if lasting:
        raise NotYet(
            f"the answers are right, and {lasting[0]} has no time to live: each week leaves a "
            "board for ever, although it could be computed again from its days."
        )
    if counted.round_trips > 1:
        raise NotYet(
            f"right, in {counted.round_trips} round trips. Merging, the time to live and reading "
            "do not wait for each other's answers: one pipeline."
        )
    return "right: no day counted twice, nothing left for ever, one round trip"


def _describe_leader(board: Pairs) -> str:
    return f"{board[0][0]} with {board[0][1]}" if board else "nobody"


@exercise(
    hints=(
        "One round is right. In the sum of eight rounds, up to 8 × 99,999 minutes are "
        "subtracted. Is that still less than what one solved problem is worth?",
        "The weight of one problem must be larger than all minutes of eight rounds together. "
        "And the whole sum, 8 × 1,000,000 problems times the weight, must stay below 2**53, or "
        "doubles lose digits.",
        "8 × 99,999 is 799,992. Choose a weight above that and below 2**53 / 8,000,000, which "
        "is about a thousand million; a power of two reads well.",
    )
)
def contest(r: redis.Redis, answer: Callable[[int, int], float]) -> str:
    better = [  # (solved, minutes), the better team first
        ((vary(3, 4, 99), 50), (2, 10)),
        ((2, 10), (2, 11)),
        ((1, MOST_MINUTES), (0, 0)),
        ((MOST_SOLVED, 0), (MOST_SOLVED, 1)),
        ((MOST_SOLVED, MOST_MINUTES - 1), (MOST_SOLVED, MOST_MINUTES)),
    ]
    # The results of two teams in eight rounds, the better one first
    slow = [(1, MOST_MINUTES)] + [(0, MOST_MINUTES)] * (ROUNDS - 1)
    totals = [
        ("one solved in all the time there is", slow, "none solved", [(0, 0)] * ROUNDS),
        (
            "everything solved in no time",
            [(MOST_SOLVED, 0)] * ROUNDS,
            "the same a minute later",
            [(MOST_SOLVED, 0)] * (ROUNDS - 1) + [(MOST_SOLVED, 1)],
        ),
    ]
    rounds = [f"check:round:{k}" for k in range(ROUNDS)]
    try:
        for ahead, behind in better:
            _replace_scores(
                r, "check:one", {"a": float(answer(*ahead)), "b": float(answer(*behind))}
            )
            if not _is_a_first(r, "check:one"):
                raise NotYet(
                    f"{_describe_result(ahead)} should stand above {_describe_result(behind)}, and "
                    f"the scores are {answer(*ahead)!r} and {answer(*behind)!r}"
                    f"{_explain_tie(answer, ahead, behind)}."
                )
        for better_name, many, worse_name, few in totals:
            for key, one, other in zip(rounds, many, few, strict=True):
                _replace_scores(r, key, {"a": float(answer(*one)), "b": float(answer(*other))})
            r.zunionstore("check:sum", rounds)
            if not _is_a_first(r, "check:sum"):
                raise NotYet(
                    f"each round is right, and the sum of {ROUNDS} is not: {better_name} should "
                    f"stand above {worse_name}. How many minutes can there be in all, is there "
                    "room for them below one solved, and is the whole sum still below 2**53?"
                )
    finally:
        r.delete("check:one", "check:sum", *rounds)
    return f"right: in a round and in the sum of {ROUNDS}, from 0 to {MOST_SOLVED:,} solved"


def _replace_scores(r: redis.Redis, key: str, scores: dict[str, float]) -> None:
    r.delete(key)
    r.zadd(key, scores)


def _is_a_first(r: redis.Redis, key: str) -> bool:
    scores: Any = r.zrange(key, 0, -1, desc=True, withscores=True)
    first, second = scores
    return first[0] == "a" and first[1] > second[1]


def _describe_result(result: tuple[int, int]) -> str:
    return f"{result[0]:,} solved in {result[1]:,} minutes"


def _explain_tie(answer: Callable[[int, int], float], *results: tuple[int, int]) -> str:
    one, other = (float(answer(*result)) for result in results)
    return ": the same, once they are doubles" if one == other else ""
