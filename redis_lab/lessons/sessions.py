"""The lesson on sessions: its exercises and its figures."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import redis

from redis_lab.figures import Chart, DotPlot, Lines
from redis_lab.judging import NotYet, exercise
from redis_lab.wiretap import wire

FIGURES: dict[str, Chart] = {
    "sessions_life": Lines(
        title="How long does a session have left?",
        x="seconds",
        y="left_s",
        by="session",
        theory="theory",
        theory_label="min(idle, absolute − age)",
        xscale="linear",
        yscale="linear",
        xlabel="time since it began (s)",
        ylabel="time to live (s)",
    ),
    "sessions_beside": DotPlot(
        title="Whose request is this?",
        x="p50_us",
        xlabel="time for one answer (µs, log scale)",
        meanings={
            "GET, no clock": "baseline",
            "SQLite, two clocks": "theirs",
            "signed cookie": "theirs",
        },
    ),
}

ENDS = 200  # how many sessions end while another client writes to them


@exercise(
    hints=(
        "Between EXISTS and HSET the session may end. HSET then makes it anew, without a user. "
        "The look and the write must be one step.",
        "A script is one step: return 0 if EXISTS says 0; otherwise HSET, EXPIRE with 1800, "
        "and return 1.",
        "`r.register_script(SAVE)(keys=[key], args=[field, value])` returns 1 or 0; make a "
        "bool of it. In the script, field and value are ARGV[1] and ARGV[2].",
    )
)
def save(r: redis.Redis, answer: Callable[[redis.Redis, str, str, str], bool]) -> str:
    try:
        return _judge_save(r, answer)
    finally:
        _delete_keys(r)


def _judge_save(r: redis.Redis, answer: Callable) -> str:
    key = "check:live"
    r.hset(key, mapping={"user": '"ada"', "cart": "1"})
    r.expire(key, 60)
    saved = answer(r, key, "cart", "2")
    if r.hgetall(key) != {"user": '"ada"', "cart": "2"}:
        raise NotYet("a live session was saved, and the new cart is not in it.")
    if r.ttl(key) == -1:
        raise NotYet("the live session has lost its time to live.")
    if not 1700 < r.ttl(key) <= 1800:
        raise NotYet("a save is a sign of life: the session should live 1800 seconds from now.")
    saved_ended = answer(r, "check:ended", "cart", "1")
    if r.exists("check:ended"):
        life = "without a TTL" if r.ttl("check:ended") == -1 else "for another half an hour"
        raise NotYet(
            f"a session that had ended is back, {life}, with a cart and no user. "
            "HSET makes a key where there is none."
        )
    if not saved or saved_ended:
        raise NotYet("say True when it was saved and False when the session was over.")
    revived = _revive_in_race(r, answer)
    if revived:
        raise NotYet(
            f"{ENDS} sessions ended while they were written to, and some came back. Between the "
            "look and the write there is room for a logout. A script leaves none."
        )
    with wire(r) as w:
        answer(r, key, "cart", "3")
    if w.round_trips != 1:
        raise NotYet(f"right, in {w.round_trips} round trips. One is enough.")
    return f"right: {ENDS} sessions ended during a save, none came back, and one round trip"


def _revive_in_race(r: redis.Redis, answer: Callable) -> int:
    """End a session exactly between two commands of the answer, and also from a thread."""
    between = _revive_between_trips(r, answer)
    key, over = "check:race", threading.Event()
    trouble: list[Exception] = []

    def writer() -> None:
        try:
            while not over.is_set():
                answer(r, key, "cart", "1")
        except Exception as error:  # raised in the caller's thread
            trouble.append(error)

    thread = threading.Thread(target=writer)
    thread.start()
    revived = 0
    for _ in range(ENDS):
        r.hset(key, mapping={"user": '"ada"'})
        r.expire(key, 60)
        r.delete(key)
        revived += r.exists(key)
    over.set()
    thread.join()
    if trouble:
        raise trouble[0]
    return between + revived + r.exists(key)


def _revive_between_trips(r: redis.Redis, answer: Callable) -> int:
    """Let the session end before the second, third, … round trip of the answer, one at a time."""
    pool, key, revived = r.connection_pool, "check:between", 0
    for at in range(1, 4):
        r.hset(key, mapping={"user": '"ada"'})
        r.expire(key, 60)
        ended: list[bool] = []
        meddled: Any = redis.Redis(connection_pool=pool)
        meddled.execute_command = _make_meddler(r, key, at, ended, meddled.execute_command)
        answer(meddled, key, "cart", "1")
        revived += bool(ended) and r.exists(key)
        r.delete(key)
    return revived


def _make_meddler(r: redis.Redis, key: str, at: int, ended: list, execute: Callable) -> Callable:
    calls = 0

    def execute_command(*args: object, **options: object) -> object:
        nonlocal calls
        if calls == at:
            r.delete(key)
            ended.append(True)
        calls += 1
        return execute(*args, **options)

    return execute_command


@exercise(
    hints=(
        "The id stays the same, so anyone who knew it before the login is logged in now. "
        "And whose cart may be in that session?",
        "Make a new id with `secrets.token_urlsafe(16)`, store the session under it, delete "
        "the old one, and return the new id. If the old session belongs to another user, begin "
        "with an empty one.",
        '`data.get("user", user) != user` is True only if somebody else is logged in there: '
        "then set `data = {}`. Nobody's cart, or her own, goes with her.",
    )
)
def login(r: redis.Redis, answer: Callable[[redis.Redis, str, str], str]) -> str:
    try:
        return _judge_login(r, answer)
    finally:
        _delete_keys(r)


def _judge_login(r: redis.Redis, answer: Callable) -> str:
    def begin(id: str, **data: object) -> None:
        r.set(f"check:{id}", json.dumps(data), ex=60)

    begin("planted", cart=["lamp"])
    new = answer(r, "planted", "ada")
    if not isinstance(new, str):
        raise NotYet("return the id that goes into the cookie.")
    if new == "planted":
        raise NotYet(
            "the id is the one from before the login. Whoever planted it in Ada's browser is now "
            "logged in as well."
        )
    session = json.loads(r.get(f"check:{new}") or "{}")
    if session.get("user") != "ada":
        raise NotYet("under the new id Ada is not logged in.")
    if session.get("cart") != ["lamp"]:
        raise NotYet("Ada's cart was lost on the way.")
    if r.exists("check:planted"):
        raise NotYet("the old id still opens a session. It must end at login.")
    left = r.ttl(f"check:{new}")
    if left == -1:
        raise NotYet("the new session has no time to live.")
    if not 1500 <= left <= 1800:
        raise NotYet(f"a session lives 1800 seconds from the login, as before, not {left}.")
    begin("again", cart=["lamp"])
    others = {answer(r, "again", "ada"), answer(r, "gone", "ada")}
    if len(others | {new}) < 3 or min(map(len, others)) < 22:
        raise NotYet(
            "an id must not be guessed: secrets.token_urlsafe(16) gives 128 random bits, in 22 "
            "characters, and others each time."
        )
    begin("bobs", user="bob", cart=["ring"])
    handed = json.loads(r.get(f"check:{answer(r, 'bobs', 'ada')}") or "{}")
    if handed.get("user") != "ada":
        raise NotYet("Ada logged in at Bob's browser, and is not logged in as Ada.")
    if "ring" in handed.get("cart", []):
        raise NotYet(
            "Ada logged in where Bob was still logged in, and was handed Bob's cart. Only what "
            "was nobody's, or her own, goes with her."
        )
    if r.exists("check:bobs"):
        raise NotYet("Ada logged in at Bob's browser, and Bob's old id still opens his session.")
    begin("hers", user="ada", cart=["pen"])
    again = json.loads(r.get(f"check:{answer(r, 'hers', 'ada')}") or "{}")
    if again.get("cart") != ["pen"]:
        raise NotYet("Ada logged in once more, and her own cart is gone. Only Bob's must not come.")
    return "right: a new id, the cart came along, the old id opens nothing"


def _delete_keys(r: redis.Redis) -> None:
    r.delete(*r.scan_iter("check:*", count=1000), "check:")
