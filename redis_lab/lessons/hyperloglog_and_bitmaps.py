"""The lesson on HyperLogLog and bitmaps: its exercises and its figures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import redis

from redis_lab.figures import Chart, DotPlot, Lines
from redis_lab.judging import NotYet, exercise, vary
from redis_lab.wiretap import wire

FIGURES: dict[str, Chart] = {
    "hyperloglog_memory": Lines(
        title="What it takes to count distinct visitors",
        x="visitors",
        y="bytes",
        theory="theory",
        theory_label="12,304 bytes; visitors ÷ 8",
        xlabel="distinct visitors",
        ylabel="memory (bytes)",
        meanings={
            "SQLite table": "theirs",
        },
    ),
    "hyperloglog_error": Lines(
        title="How far off is a HyperLogLog?",
        x="visitors",
        y="error_percent",
        yscale="linear",
        bands=(("sigma_low", "sigma_high"), ("two_sigma_low", "two_sigma_high")),
        bands_label="grey: ±0.81 % and ±1.62 %",
        meanings={"set, bitmap, SQL": "baseline"},
        xlabel="distinct visitors",
        ylabel="error of the count (%)",
    ),
    "bitmaps": DotPlot(
        title="How many different users came in January?",
        x="p50_us",
        xlabel="time for one answer (µs, log scale)",
        meanings={
            "SQL: count(DISTINCT), local file": "theirs",
        },
    ),
}


@contextmanager
def _remove_new_keys(r: redis.Redis) -> Iterator[Callable[[], set[str]]]:
    """Yield a function that returns the new keys, and remove these at the end."""
    before = set(r.scan_iter(count=1000))

    def new() -> set[str]:
        return set(r.scan_iter(count=1000)) - before

    try:
        yield new
    finally:
        if keys := new():
            r.delete(*keys)


def _find_without_ttl(r: redis.Redis, keys: Iterable[str]) -> str:
    """The names of the keys without a time to live."""
    return ", ".join(sorted(key for key in keys if r.ttl(key) == -1))


def _set_bits(r: redis.Redis, key: str, users: Iterable[int]) -> None:
    pipe = r.pipeline(transaction=False)
    for user in users:
        pipe.setbit(key, user, 1)
    pipe.execute()


@exercise(
    hints=(
        "If you add up the days, a visitor who came on two days is counted twice. The question "
        "is about all days together.",
        "PFCOUNT takes several keys, and counts what is in their union. It needs no key to "
        "store that union.",
        "`r.pfcount` takes the keys as separate arguments: unpack the list with a star.",
    )
)
def visitors(r: redis.Redis, answer: Callable[[redis.Redis, list[str]], int]) -> str:
    days = [f"2031-03-{day:02}" for day in range(1, 8)]
    # 300 visitors come each day, most of whom came the day before; on the last day there are none
    new_ones = vary(100, 120, 200)
    came = [range(new_ones * k, new_ones * k + 300) for k in range(6)]
    people = 5 * new_ones + 300
    keys = {f"check:visitors:{day}" for day in days[:6]}
    with _remove_new_keys(r) as new:
        for day, users in zip(days, came, strict=False):
            r.pfadd(f"check:visitors:{day}", *users)
        with wire(r) as counted:
            count = answer(r, [f"check:visitors:{day}" for day in days])
        more = new() - keys
        changed = [day for day in sorted(keys) if abs(r.pfcount(day) - 300) > 30]
        none = answer(r, [f"check:visitors:{days[6]}"])
    if count is None:
        raise NotYet("nothing came back. How many different visitors were there?")
    if count > 1500:
        raise NotYet(
            f"{people} different people came, and you say {count:,}: a visitor of two days is "
            "counted twice. One command counts several keys together."
        )
    if abs(count - people) > 0.04 * people:
        raise NotYet(f"{people} different people came, and you say {count:,}. Are all days in it?")
    if more:
        raise NotYet(
            f"the number is right, and a key is left: {', '.join(sorted(more))}. "
            "Nobody asked for one. PFCOUNT alone can do what PFMERGE and PFCOUNT do."
        )
    if changed:
        raise NotYet(
            f"the number is right, and {changed[0]} has changed: its own count "
            "is wrong now. PFMERGE writes into its first key; PFCOUNT alone needs "
            "none."
        )
    if counted.round_trips > 1:
        raise NotYet(
            f"the number is right, in {counted.round_trips} round trips. PFCOUNT takes many keys."
        )
    if none != 0:
        raise NotYet(f"on a day when nobody came, there was nobody: 0, and not {none!r}.")
    return "right: seven days in one round trip, nobody counted twice, no key left behind"


@exercise(
    hints=(
        "The number is right. But BITOP makes a key like any other, and nobody removes it. And "
        "what if two callers use the same key at the same moment?",
        "Remove the key once it has been counted, with UNLINK. BITOP, BITCOUNT and UNLINK must "
        "run without another client in between: that is a transaction.",
        "Queue `bitop`, `bitcount` and `unlink` in `r.pipeline()`, which wraps them in MULTI "
        "and EXEC. The number is the second of the replies.",
    )
)
def retained(r: redis.Redis, answer: Callable[[redis.Redis, str, str], int]) -> str:
    monday, tuesday, friday = (f"check:active:{day}" for day in ("mon", "tue", "fri"))
    days = {monday, tuesday, friday}
    with _remove_new_keys(r) as new:
        up_to = vary(1000, 1200, 2900)
        _set_bits(r, monday, range(1, up_to, 2))  # odd
        _set_bits(r, tuesday, range(0, 3000, 3))  # multiples of three, and further up
        _set_bits(r, friday, [1, 3, 2999])
        before = {day: r.bitcount(day) for day in days}
        with wire(r) as counted:
            count = answer(r, monday, tuesday)
        stays = _find_without_ttl(r, new() - days)
        other = answer(r, tuesday, friday)
        after = {day: r.bitcount(day) for day in days}
    if before != after:
        raise NotYet("a day has changed. BITOP's first key is where the answer goes.")
    if count == other == 375:
        raise NotYet("375 bytes is what BITOP replies: the answer's length. Count its bits.")
    both = len(range(3, up_to, 6))
    if (count, other) != (both, 1):
        raise NotYet(
            f"{both} came on both days, and you say {count}; of the other two 1, not {other}."
        )
    if stays:
        raise NotYet(
            f"the numbers are right, and {stays} stays for ever: BITOP makes "
            "a key like any other. Remove it when its bits are counted, or give it a short life."
        )
    if counted.round_trips > 1:
        raise NotYet(
            f"the numbers are right, in {counted.round_trips} round trips. A crash between them "
            "leaves the key behind. No command waits for another's reply: use one pipeline."
        )
    if not counted.by_command.keys() & {"MULTI", "EVAL", "EVALSHA", "FCALL"}:
        raise NotYet(
            "the numbers are right, in one round trip; but two callers at once write into the same "
            "key, and one may run between the other's BITOP and BITCOUNT. MULTI keeps them apart."
        )
    return "right: one round trip, no client in between, and no key is left for ever"


@exercise(
    hints=(
        "BITOP NOT only inverts as many bytes as its key has. If the second day is shorter, "
        "all users beyond its end are missing. Can you find the number without NOT?",
        "The users of the first day only are those of the first day, minus those of both days. "
        "Each of these two numbers is a BITCOUNT.",
        'Queue `bitcount(first)`, the `bitop("AND", "came:lost", first, second)`, its '
        "`bitcount` and the `unlink`, and subtract the second count from the first.",
    )
)
def lost(r: redis.Redis, answer: Callable[[redis.Redis, str, str], int]) -> str:
    a, b, c = vary(200, 210, 400), vary(20, 21, 40), vary(100, 110, 190)
    cases = {
        "lengths alike": (range(0, 4 * a, 2), range(0, 4 * a, 4), a),
        "second longer": (range(0, 4 * b, 2), range(0, 4000, 4), b),
        "second shorter": (range(0, 4000, 2), range(0, 4 * b, 4), 2000 - b),
        "nobody on the second day": (range(0, c), (), c),
    }
    monday, tuesday = "check:active:mon", "check:active:tue"
    counts, stays = {}, ""
    for name, (first, second, _) in cases.items():
        with _remove_new_keys(r) as new:
            _set_bits(r, monday, first)
            _set_bits(r, tuesday, second)
            counts[name] = answer(r, monday, tuesday)
            if (r.bitcount(monday), r.bitcount(tuesday)) != (len(first), len(second)):
                raise NotYet("a day has changed. BITOP's first key is where the answer goes.")
            stays = stays or _find_without_ttl(r, new() - {monday, tuesday})
    for name, (*_, right) in cases.items():
        if counts[name] == right:
            continue
        if name == "lengths alike":
            raise NotYet(f"{right} came on the first day only, and you say {counts[name]}.")
        raise NotYet(
            f"right while both days are equally long. Now ({name}) {right} came on the first "
            f"day only, and you say {counts[name]}. BITOP NOT ends where its key ends: what is "
            "beyond is not turned into ones. Try without NOT: who came on the first day, minus who "
            "came on both."
        )
    if stays:
        raise NotYet(f"right, and {stays} stays for ever.")
    return "right: for days of any length, and no key is left for ever"
