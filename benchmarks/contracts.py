"""Hold libraries that people install to the contracts of `redis-lab drill`, and ours beside them.

    pip install -r benchmarks/contracts-requirements.txt
    python benchmarks/contracts.py docs/contracts.md

What was found is kept beside the page, in contracts.json. Names of classes after the page drill
these again, and keep what was found of the others; `--redraw` only writes the page. How each
library is used: `rivals/`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from subprocess import run
from typing import Any

HERE = Path(__file__).parent
SEED, KILLS = 12, 100
OURS = "redis_lab.drill.ours"
TRIED = [
    ("lock", "rivals.locks:RedisPyLock"),
    ("lock", "rivals.locks:PythonRedisLock"),
    ("lock", "rivals.locks:PotteryRedlock"),
    ("lock", f"{OURS}:Lock"),
    ("limiter", "rivals.limiters:LimitsMovingWindow"),
    ("limiter", "rivals.limiters:LimitsFixedWindow"),
    ("limiter", "rivals.limiters:LimitsSlidingWindowCounter"),
    ("limiter", "rivals.limiters:SlowApi"),
    ("limiter", f"{OURS}:SlidingLog"),
    ("limiter", f"{OURS}:FixedWindow"),
    ("limiter", f"{OURS}:SlidingCounter"),
    ("limiter", f"{OURS}:Gcra"),
    ("cache", "rivals.caches:DogpileCache"),
    ("cache", "rivals.caches:Cashews"),
    ("cache", "rivals.caches:AioCache"),
    ("cache", "rivals.caches:FastApiCache"),
    ("cache", "rivals.caches:DjangoRedis"),
    ("cache", f"{OURS}:Cache"),
    ("queue", "rivals.queues:Rq"),
    ("queue", "rivals.queues:Dramatiq"),
    ("queue", "rivals.queues:Taskiq"),
    ("queue", "rivals.queues:Celery"),
    ("queue", f"{OURS}:ListQueue"),
    ("queue", f"{OURS}:StreamQueue"),
    ("session", f"{OURS}:Sessions"),
    ("once", f"{OURS}:Once"),
]

MEANS = {
    "two holders": "Two clients held the same lock at the same time, both within their leases.",
    "no order of holders": "No order of the calls explains who got the lock and who did not.",
    "lost updates": (
        "A holder stood still for longer than its lease, somebody else got the lock, and both "
        "wrote what they had made of the same reading: one of the writes is gone. The lock did "
        "what it can; only a store that checks a fence can refuse the late write."
    ),
    "over the limit": "More was let through in a span of one window than the limiter says.",
    "locked out": "A name was refused although nobody had asked for two windows.",
    "stale after invalidate": (
        "A reader got a value that had been deleted before it asked: somebody who had loaded the "
        "old row stored it after the deletion, or the deletion never reached Redis. It stays until "
        "the TTL ends."
    ),
    "no order of reads": (
        "A reader saw the new value and later the old one, or two readers disagree for good."
    ),
    "loads for one miss": (
        "Two clients loaded the same missing row at the same time. With a thousand clients and a "
        "slow query that is a stampede."
    ),
    "absences loaded": "A row that does not exist was loaded again at every read.",
    "jobs lost": (
        "A job was put, the call succeeded, and nobody ever worked on it: it was in the reply that "
        "got lost, or in the hands of a worker that died, and nothing brought it back."
    ),
    "done twice": "A job was handed out again after its worker had said that it was done.",
    "two at one job": "Two workers had the same job at the same time, both within their leases.",
    "out of order": "Without any fault, jobs were not handed out in the order of the puts.",
    "poison rounds": (
        "A job that kills its worker, or makes it fail, was handed out again without end."
    ),
    "sessions revived": "A session was found after it had been ended.",
    "sessions lost": "A session was not found although nobody had ended it.",
    "effects repeated": "The work was done again after its result had been returned.",
    "two at work": "Two were at the same work at the same time, both within their leases.",
    "two answers": "The same key got two different results.",
    "hung": "When all faults were over, something still did not get on by itself.",
    "errors not in the contract": (
        "A call raised an error that its documentation does not name; for a cache, any error, for "
        "it has the source to turn to."
    ),
    "keys without TTL": "A key was left that stays in Redis for ever.",
}


# What is behind it, for whoever wants to mend it: shown where the promise was seen broken
NOTES = {
    ("Taskiq", "jobs lost"): (
        "taskiq-redis looks for abandoned messages only after it has received a new one "
        "(`RedisStreamBroker.listen`). If nothing new comes, an abandoned message stays pending. "
        "On a busy queue it is brought back."
    ),
    ("Celery", "jobs lost"): (
        "kombu takes a message from the list (a worker with BRPOP, the drill with RPOP), and "
        "writes it to its unacknowledged messages in the next round trip. If the reply is lost, or "
        "the worker dies in between, the message is in neither."
    ),
    ("Celery", "errors not in the contract"): (
        "after a lost reply, kombu connects again, and publishes on a channel that it has closed: "
        "AttributeError."
    ),
    ("Celery", "done twice"): (
        "a put that is sent again after a lost reply makes a second job, also with the same "
        "`task_id`."
    ),
    ("Rq", "done twice"): (
        "a worker that stood still for longer than its lease finishes the job all the same, after "
        "rq has put it in line again."
    ),
    ("Dramatiq", "done twice"): (
        "a put that redis-py sends again after a lost reply makes a second entry of the same "
        "message."
    ),
    ("AioCache", "absences loaded"): "`@cached_stampede` takes a stored None for a miss.",
    ("AioCache", "loads for one miss"): (
        "its lock waits for the holder only in the holder's own process."
    ),
}


def drill_one(kind: str, address: str) -> dict[str, Any]:
    """In a process of its own: what a drill of one class found, and of which version."""
    from redis_lab.drill import drill

    module, _, name = address.partition(":")
    made = getattr(importlib.import_module(module), name)
    package = getattr(made, "package", "redis-lab")
    report = drill(address, kind, seed=SEED, kills=KILLS)
    if report.interrupted:
        raise KeyboardInterrupt
    return {
        **report.to_json(),
        "package": package,
        "version": version(package),
        "client": version("redis"),
        "says": getattr(made, "says", {}),
        "date": time.strftime("%d %B %Y"),
    }


def tell(kind: str, address: str) -> dict[str, Any] | None:
    """Drill it; None if that failed, which is printed."""
    started = time.monotonic()
    command = [sys.executable, __file__, "--one", kind, address]
    ended = run(command, capture_output=True, text=True, cwd=HERE)
    took = f"{time.monotonic() - started:.0f} s"
    if ended.returncode:
        print(f"{address}: failed after {took}\n{ended.stderr[-2000:]}", flush=True)
        return None
    print(f"{address}: {took}", flush=True)
    return json.loads(ended.stdout.splitlines()[-1])


# ---------------------------------------------------------------- the page


def name_of(found: dict[str, Any]) -> str:
    return found["target"].partition(":")[2]


def anchor(found: dict[str, Any], promise: str) -> str:
    """The heading of a witness, and its address in the page."""
    return f"{name_of(found)}: {promise}"


def linked(found: dict[str, Any], promise: str) -> str:
    if promise not in found["witnesses"]:
        return promise
    head = anchor(found, promise).lower()
    return f"[{promise}](#{re.sub(r'[^a-z0-9 _-]', '', head).replace(' ', '-')})"


def seen(line: dict[str, Any]) -> bool:
    """Whether the promise was broken, promised or not."""
    return bool(line.get("broken", line["stepped"] or line["raced"]))


def short_table(results: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| kind | class | library | broken | not promised, and seen | held |",
        "| - | - | - | - | - | - |",
    ]
    for found in results:
        rows = found["lines"].values()
        broken = [linked(found, row["promise"]) for row in rows if row["verdict"] == "BROKEN"]
        other = [
            linked(found, row["promise"])
            for row in rows
            if row["verdict"] == "not promised" and seen(row)
        ]
        held = sum(row["verdict"] == "holds" for row in rows)
        library = f"{found['package']} {found['version']}"
        cells = [
            *(found["kind"], name_of(found), library),
            f"**{', '.join(broken)}**" if broken else "–",
            ", ".join(other) or "–",
            f"{held} of {len(rows)}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def meanings(results: list[dict[str, Any]]) -> list[str]:
    lines = []
    for promise, meaning in MEANS.items():
        who = [
            f"[{name_of(found)}](#{linked(found, promise).partition('(#')[2]}"
            if promise in found["witnesses"]
            else name_of(found)
            for found in results
            if promise in found["lines"] and seen(found["lines"][promise])
        ]
        if who:
            lines.append(f"- **{promise}**: {meaning} Seen: {', '.join(who)}.")
            lines += [
                f"  - {name}: {note}"
                for (name, promised), note in NOTES.items()
                if promised == promise and any(f"[{name}]" in one or name == one for one in who)
            ]
    return lines


def unpromised(results: list[dict[str, Any]]) -> list[str]:
    lines = ["| class | promise | what its documentation says |", "| - | - | - |"]
    for found in results:
        for promise, (sentence, page) in found["says"].items():
            words = f'"{sentence}" ([page]({page}))' if sentence else "does not mention it"
            lines.append(f"| {name_of(found)} | {promise} | {words} |")
    return lines


def share(count: float, of: int, line: dict[str, Any]) -> str:
    if not of:
        return "–"
    unit = line.get("unit") or ("s" if line["promise"] == "hung" else "")
    return f"{count:g} {unit}" if unit else f"{count:g} in {of}"


def long_table(results: list[dict[str, Any]], kind: str) -> list[str]:
    lines = ["| class | promise | step by step | in the race | verdict |", "| - | - | - | - | - |"]
    for found in results:
        if found["kind"] != kind:
            continue
        first = f"{name_of(found)} ({found['package']} {found['version']})"
        for row in found["lines"].values():
            promise = row["promise"]
            stepped = share(row["stepped"], row["stepped_of"], row)
            raced = share(row["raced"], row["raced_of"], row)
            lines.append(f"| {first} | {promise} | {stepped} | {raced} | {row['verdict']} |")
            first = ""
    return lines


def witnesses(results: list[dict[str, Any]]) -> list[str]:
    from redis_lab.drill.report import timeline
    from redis_lab.drill.stepping import Step, Witness

    parts = []
    for found in results:
        for promise, witness in found["witnesses"].items():
            if promise not in found["lines"]:
                continue
            steps = [Step(**step) for step in witness["steps"]]
            text = timeline(Witness(witness["title"], steps, witness["because"]))
            parts += [
                f"\n### {anchor(found, promise)}\n",
                f"{witness['title'].capitalize()}. Again: `{found['command']}`\n",
                f"```\n{text}\n```",
            ]
    return parts


HEAD = """\
# What libraries keep of the contracts

[`redis-lab drill`](drill.md) plays each class step by step, and then races four processes with \
{kills} kills and a server that stalls, restarts, is full and loses replies. This page holds to it \
what people install, and the patterns of this workbook. Each library is configured as its own \
documentation advises where processes share the work, with times as short as it takes; the \
adapters in [`benchmarks/rivals/`](../benchmarks/rivals/__init__.py) say how, and their authors \
can run them and get the same.

- **Broken**: it was seen, and the class promises that it does not happen.
- **Not promised, and seen**: the same, but [its documentation does not promise it](#not-promised).
- **Held**: tried so often and not seen. That is no proof.

{short}

Written by `python benchmarks/contracts.py docs/contracts.md`, after \
`pip install -r benchmarks/contracts-requirements.txt`, on {date}, on {server}, with redis-py \
{client}, from seed {seed}. One run each, on a machine of two cores that others used too. \
Step by step the same seed gives the same result; the counts of the race differ from run to run.

## What that means

{means}

## Not promised

{says}

## What is not here

- **The worker loops.** A queue's worker owns its loop, and cannot be played step by step. So the \
drill calls what the worker calls, in its order: rq's worker methods, dramatiq's consumer, \
taskiq's `listen`, and kombu's channel for Celery. The real workers of rq and Celery are in the \
lesson on [queues](../notebooks/patterns/18_queue.ipynb).
- **arq.** Its maintainers only maintain it (python-arq/arq#510), and its current release asks for \
redis-py before 6; dramatiq and taskiq stand here instead.
{older}- **Times.** The machine was busy; nothing here says how fast a library is, but for its \
[round trips](#round-trips).

## Round trips

Of each call, when scripts are loaded and connections made (`python benchmarks/round_trips.py`). A \
queue's take includes the look for abandoned jobs, as the drill calls it; workers of rq and Celery \
look more rarely.

{trips}
"""

BEFORE_CLOCKS = """\
- **Clocks that jump, and poison jobs.** The drill has had them only since these runs; what they \
do to the classes here is not counted yet.
"""

TABLES = """
## Every count

"3 in 400" is: broken 3 times, in 400 orders, calls or keys.
"""


def write(page: Path, results: list[dict[str, Any]]) -> None:
    """The page, from what was found so far."""
    import round_trips

    dates = sorted({found["date"] for found in results})
    newest = any("poison rounds" in found["lines"] for found in results)
    head = HEAD.format(
        older="" if newest else BEFORE_CLOCKS,
        short="\n".join(short_table(results)),
        means="\n".join(meanings(results)),
        says="\n".join(unpromised(results)),
        trips="\n".join(round_trips.table(TRIED)),
        date=" and ".join(dates),
        server=" and ".join(sorted({found["server"] for found in results})),
        client=" and ".join(sorted({found["client"] for found in results})),
        kills=KILLS,
        seed=SEED,
    )
    lines = [head, TABLES]
    for kind in dict(TRIED):
        lines += [f"\n### {kind}\n", *long_table(results, kind)]
    lines += ["\n## Witnesses\n\nThe shortest course of events that broke each promise."]
    lines += witnesses(results)
    page.write_text("\n".join(lines) + "\n")


def main() -> None:
    """Drill what is asked for; write the page after each."""
    sys.path.insert(0, str(HERE))
    asks = argparse.ArgumentParser(description=__doc__)
    asks.add_argument("page", type=Path, nargs="?")
    asks.add_argument("names", nargs="*")
    asks.add_argument("--redraw", action="store_true")
    asks.add_argument("--jobs", type=int, default=1)
    asks.add_argument("--one", nargs=2, metavar=("KIND", "ADDRESS"))
    given = asks.parse_args()
    if given.one:
        print("\n" + json.dumps(drill_one(*given.one), default=str, ensure_ascii=False))
        return
    kept_in = given.page.with_suffix(".json")
    kept = json.loads(kept_in.read_text()) if kept_in.exists() else {}

    def keep(kind: str, address: str) -> None:
        if found := tell(kind, address):
            kept[address] = found
            ordered = {name: kept[name] for _, name in TRIED if name in kept}
            kept_in.write_text(json.dumps(ordered, indent=1, ensure_ascii=False) + "\n")

    wanted = [
        (kind, address)
        for kind, address in TRIED
        if not given.redraw and (not given.names or address.partition(":")[2] in given.names)
    ]
    with ThreadPoolExecutor(given.jobs) as pool:
        list(pool.map(lambda one: keep(*one), wanted))
    write(given.page, [kept[address] for _, address in TRIED if address in kept])


if __name__ == "__main__":
    main()
