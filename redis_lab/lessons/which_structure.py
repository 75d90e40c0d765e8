"""The lesson on choosing a structure: its exercises and its figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import redis

from redis_lab.figures import Chart, DotPanels, Panel
from redis_lab.judging import NotYet, exercise
from redis_lab.wiretap import wire

FIGURES: dict[str, Chart] = {
    "structures": DotPanels(
        title="Remembering a visitor, in ten structures",
        panels=(
            Panel(
                title="memory",
                xlabel="bytes for each visitor",
                points={"bytes": "bytes_each"},
            ),
            Panel(
                title="add one",
                xlabel="time for each command (µs)",
                points={"one by one": "add_one_us", "pipelined": "add_pipelined_us"},
            ),
            Panel(
                title="ask for one",
                xlabel="time for each command (µs)",
                points={"one by one": "ask_one_us", "pipelined": "ask_pipelined_us"},
            ),
        ),
    ),
}

# The page to come back to; the lesson fills in the bytes and the links
TABLE = """
| the question | structure | ask with | cost | bytes each | lesson |
|---|---|---|---|---:|---|
| What is the value of x? How often has it happened? | string | GET, INCR | O(1) | {string:.1f} | [1] |
| What is this one property of x? | hash | HGET | O(1) | {hash:.1f} | [2] |
| What came last? What is next? | list | LRANGE 0 9, LPOP | O(m) | {list:.1f} | [3] |
| Is x in it? Who is in both? | set | SISMEMBER, SINTER | O(1), O(n·sets) | {set:.1f} | [4] |
| The top ten? What is my rank? | sorted set | ZRANGE, ZREVRANK | O(log n + m) | {sorted set:.1f} | [5] |
| What happened since? Who works on it? | stream | XREAD, XREADGROUP | O(m) | {stream:.1f} | [6] |
| How many different ones, roughly? | HyperLogLog | PFCOUNT | O(1) | {HyperLogLog:.1f} | [7] |
| Was number x here that day? How many were? | bitmap | GETBIT, BITCOUNT | O(1), O(n) | {bitmap:.1f} | [7] |
| What is near? | geo | GEOSEARCH | O(n + log m) | {geo:.1f} | [8] |
| Who is listening? Tell them, now. | pub/sub | PUBLISH | O(listeners) | keeps none | [9] |
"""  # noqa: E501
LESSONS = (
    *("strings", "hashes", "lists", "sets", "sorted_sets", "streams"),
    *("hyperloglog_and_bitmaps", "geo", "pubsub"),
)

STRUCTURES = (
    *("string", "hash", "list", "set", "sorted set", "stream", "HyperLogLog", "bitmap", "geo"),
    "pub/sub",
)
# question: the structure that answers it, and why
CHOICES = {
    "the ten products a user looked at last": (
        {"list"},
        "the order of arrival is the answer, and the oldest may be cut off: LPUSH and LTRIM",
    ),
    "name, price and stock of a product, each changing on its own": (
        {"hash"},
        "in one text, two who change different properties overwrite each other",
    ),
    "how many different people came today, give or take a per cent": (
        {"HyperLogLog"},
        "nobody asks who they were, so there is no need to keep them: PFADD and PFCOUNT",
    ),
    "the ten best sellers, and the rank of each product": (
        {"sorted set"},
        "it must be kept in order while the numbers change",
    ),
    "who bought this lamp and that chair": ({"set"}, "it is an intersection: SINTER"),
    "orders to be packed, none lost if a packer dies": (
        {"stream"},
        "somebody must remember who has taken what and not finished: a consumer group",
    ),
    "the couriers within five kilometres": ({"geo"}, "near in two directions: GEOSEARCH"),
    "wrong passwords in the last minute": (
        {"string", "sorted set"},  # a sorted set of times, for a window that slides
        "it is one number with a time to live: INCR, and EXPIRE with NX",
    ),
}


@exercise(
    hints=(
        "For each question, think of what must come back: one value, some fields, the newest "
        "few, a number of different things, a rank, a member of two groups, work to be "
        "confirmed, or what is near.",
        "The table at the beginning of the lesson has a row for each. If the order of arrival "
        "counts, it is a list; if members of two groups are compared, a set; if there is a "
        "score, a sorted set; if the number may be a little wrong, a HyperLogLog.",
        "Work that must survive its worker needs a structure that remembers what was delivered "
        "and not yet confirmed. And one question does fit a string: a counter with a time to "
        "live.",
    )
)
def choose(_: redis.Redis, answer: Mapping[str, str]) -> str:
    if set(answer) != set(CHOICES):
        raise NotYet("keep the eight questions as they are, and change the structures only.")
    unknown = [name for name in answer.values() if name not in STRUCTURES]
    if unknown:
        raise NotYet(f"there is no {unknown[0]!r}; there are {', '.join(STRUCTURES)}.")
    wrong = [question for question, name in answer.items() if name not in CHOICES[question][0]]
    if wrong:
        right = len(CHOICES) - len(wrong)
        raise NotYet(
            f"{right} of {len(CHOICES)} fit. For one, {wrong[0]!r}: {CHOICES[wrong[0]][1]}."
        )
    return "right: eight questions, eight structures made for them"


@exercise(
    hints=(
        "Three questions, three structures: one that counts different users without storing "
        "them, one that ranks pages, one that keeps an order. And three commands sent one by "
        "one are neither one round trip nor all or nothing.",
        "PFADD counts without storing the names. LPUSH puts the latest page in front, and "
        "LTRIM cuts the list to five. Every key needs an EXPIRE of 86,400 seconds. A pipeline "
        "with MULTI does all of it at once.",
        "Inside `with r.pipeline() as pipe:` (without `transaction=False`) queue `pfadd`, "
        "`zincrby`, `lpush`, `ltrim(key, 0, 4)` and an `expire` for each of the three keys, "
        "then `pipe.execute()`.",
    )
)
def viewed(r: redis.Redis, answer: Callable[[redis.Redis, str, str], object]) -> str:
    visitors, top, last = "check:visitors", "check:top", "check:last:ada"
    keys = [visitors, top, last, *(f"check:last:u{k}" for k in range(50))]
    try:
        for k in range(50):
            answer(r, f"u{k}", "home")
        for page in ("a", "b", "c", "d", "e", "f"):
            answer(r, "ada", page)
        with wire(r) as counted:
            answer(r, "ada", "a")
        kinds = [str(r.type(key)) for key in (visitors, top, last)]
        if kinds[0] == "set":
            raise NotYet(
                "check:visitors is a set. It answers, but stores every single name; the "
                "question was only how many. Which structure counts without keeping?"
            )
        if kinds != ["string", "zset", "list"]:
            raise NotYet(
                "a HyperLogLog, a sorted set and a list are wanted; TYPE says "
                f"{', '.join(kinds)}. (To TYPE a HyperLogLog is a string.)"
            )
        try:
            people = r.pfcount(visitors)
        except redis.ResponseError as error:
            raise NotYet("check:visitors is a plain string and no HyperLogLog: PFADD.") from error
        best, latest = r.zrange(top, 0, 1, desc=True, withscores=True), r.lrange(last, 0, -1)
        clocks = [r.ttl(key) for key in keys]
    finally:
        r.delete(*keys)
    if not 49 <= people <= 53:
        raise NotYet(f"51 people looked at something, and PFCOUNT says {people}.")
    if [tuple(pair) for pair in best] != [("home", 50.0), ("a", 2.0)]:
        raise NotYet(f"the most viewed should be home with 50 and a with 2, and are {best}.")
    if latest[:5] != ["a", "f", "e", "d", "c"]:
        raise NotYet(f"Ada's last pages are a, f, e, d, c; check:last:ada holds {latest}.")
    if len(latest) > 5:
        raise NotYet(
            f"Ada's list has {len(latest)} pages and grows with each. LTRIM cuts it to five."
        )
    if counted.round_trips > 1:
        raise NotYet(
            f"all of it is right, in {counted.round_trips} round trips. None of the commands "
            "needs the reply of another, so they can share a pipeline."
        )
    if not counted.by_command.keys() & {"MULTI", "EVAL", "EVALSHA", "FCALL"}:
        raise NotYet(
            "one round trip, but the commands are only sent together: the server may be stopped "
            "between two of them, and a key is left without its time to live. All or nothing is a "
            "transaction: pipeline() without transaction=False."
        )
    if any(left == -1 for left in clocks):
        raise NotYet("right, but a key has no time to live and stays for ever.")
    if any(not 86_000 < left <= 86_400 for left in clocks):
        raise NotYet("right, but a day has 86,400 seconds.")
    return f"right: three questions prepared for in one round trip, {counted.commands} commands"
