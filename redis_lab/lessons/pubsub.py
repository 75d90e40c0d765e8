"""The lesson on pub/sub: its exercises and its figures."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import redis
from redis.client import PubSub

from redis_lab.figures import Chart, Lines
from redis_lab.judging import NotYet, exercise
from redis_lab.wiretap import wire

FIGURES: dict[str, Chart] = {
    "pubsub": Lines(
        title="How long until the last subscriber has it?",
        x="subscribers",
        y="p50_us",
        by="what",
        theory="theory_us",
        theory_label="one subscriber + others × price of one",
        xlabel="subscribers",
        ylabel="time since PUBLISH was sent (µs)",
    ),
    "pubsub_loss": Lines(
        title="Killed after 300, back at 701",
        x="published",
        y="arrived",
        xscale="linear",
        yscale="linear",
        xlabel="events published",
        ylabel="events that have arrived",
        meanings={
            "published": "baseline",
            "stream": "acknowledged",
            "pub/sub": "lost",
        },
    ),
}

KEY, CHANNEL = "check:price", "check:prices"
LONGEST_S = 3.0
ENOUGH_CALLS = 300
WORDS, PATIENCE_S = ["lamp", "", "chair", "0", "table"], 0.5


class _FollowedClient(redis.Redis):
    """A client on another client's pool; it calls `after(command)` after each single command."""

    def __init__(self, client: redis.Redis, after: Callable[[str], None]) -> None:
        super().__init__(connection_pool=client.connection_pool)
        self.after = after

    def execute_command(self, *args: object, **options: object) -> object:
        reply = super().execute_command(*args, **options)
        self.after(str(args[0]).upper())
        return reply


def _subscribe(r: redis.Redis, *channels: str) -> PubSub:
    p = r.pubsub()
    p.subscribe(*channels)
    for _ in channels:
        p.get_message(timeout=LONGEST_S)
    return p


def _read_messages(p: PubSub, quiet_s: float = 0.1) -> list[dict]:
    """The remaining messages of `p`, until there are no more."""
    messages = []
    while message := p.get_message(timeout=quiet_s):
        messages.append(message)
    return messages


@exercise(
    hints=(
        "A listener that hears the message reads the key at once. Which of the two commands "
        "must come first? And what if the process dies between them?",
        "First SET, then PUBLISH. To get both or neither, put them into a transaction; PUBLISH "
        "works inside MULTI.",
        "In `with r.pipeline() as pipe:` queue the `set`, then the `publish`, then "
        "`pipe.execute()`.",
    )
)
def announce(r: redis.Redis, answer: Callable[[redis.Redis, str, str, str], object]) -> str:
    at_once: list[object] = []

    def after(command: str) -> None:
        if command == "PUBLISH":  # the subscriber reads the price at once
            at_once.append(r.get(KEY))

    listener = _subscribe(r, CHANNEL)
    try:
        r.set(KEY, "old", ex=100)
        client = _FollowedClient(r, after)
        with wire(client) as counted:
            answer(client, KEY, CHANNEL, "new")
        value, messages = r.get(KEY), _read_messages(listener)
    finally:
        listener.close()
        r.delete(KEY)
    if not messages:
        raise NotYet("the listener heard nothing. Which command tells it?")
    if value != "new":
        raise NotYet(
            f"the news is out, and under the key there is still {value!r}. "
            "A listener who comes late has only the key to look at."
        )
    if at_once and at_once[0] != "new":
        raise NotYet(
            "a quick listener heard the news, looked under the key, and found the old value. "
            "First the state, then the news; or both at once."
        )
    if len(messages) > 1:
        raise NotYet(f"the listener heard it {len(messages)} times. Once will do.")
    if counted.round_trips > 1:
        raise NotYet(
            "right order, two round trips, and a gap between them. If the process dies in it, the "
            "price is new, but no message was sent. How do you get both or neither?"
        )
    if not {"MULTI", "EVAL", "EVALSHA", "FCALL"} & set(counted.by_command):
        raise NotYet(
            "one round trip, but a plain pipeline is not atomic: other clients' commands may run "
            "in between. pipeline() without transaction=False wraps the two in MULTI and EXEC."
        )
    return "right: state and news atomically, in one round trip"


@exercise(
    hints=(
        "The price may change right after you have read it and before you are subscribed. In "
        "which order is there no such gap?",
        "Subscribe first, then read the key. But `subscribe` only sends the command. The "
        "subscription holds from the moment at which the server confirms it.",
        "After `p.subscribe(channel)` take one message with `p.get_message(timeout=5)`: it is "
        "the confirmation. Then return `r.get(key)`.",
    )
)
def join(r: redis.Redis, answer: Callable[[redis.Redis, PubSub, str, str], str | None]) -> str:
    changes: list[str] = []

    def change(command: str = "GET") -> None:
        """The price changes right after it was first read."""
        if command == "GET" and not changes:
            changes.append("new")
            r.set(KEY, "new", ex=100)
            r.publish(CHANNEL, "new")

    p = r.pubsub()
    try:
        r.set(KEY, "old", ex=100)
        state = answer(_FollowedClient(r, change), p, KEY, CHANNEL)
        if not p.subscribed:
            raise NotYet("afterwards nobody is subscribed, so the next change will not be heard.")
        change()
        messages = _read_messages(p)
    finally:
        p.close()
        r.delete(KEY)
    if state is None:
        raise NotYet("you listen, but do not say what the price is now. Return what is in the key.")
    texts = [message["data"] for message in messages if message["type"] == "message"]
    newest = (texts or [state])[-1]
    if newest != "new":
        raise NotYet(
            f"the price changed right after you had read {state!r}, and you were not listening "
            "yet: you will believe in the old price until the next change. In which order is "
            "there no gap?"
        )
    if any(message["type"] == "subscribe" for message in messages):
        raise NotYet(
            "the order is right, but nothing has checked that the subscription is active. The "
            "SUBSCRIBE may still be on its way while you read. Its confirmation says when it "
            "has arrived."
        )
    return "right: listening first, then looking; what changed in between was heard"


class _CallCounter:
    """Counts how often `get_message` of one PubSub is called."""

    def __init__(self, p: PubSub) -> None:
        self.calls, self.original = 0, p.get_message
        counted: Any = p  # whose method is replaced
        counted.get_message = self

    def __call__(self, *args: Any, **options: Any) -> dict | None:
        self.calls += 1
        return self.original(*args, **options)


def _make_client(r: redis.Redis) -> redis.Redis:
    """A client of the same server with a pool of its own.

    An answer that waits for ever stays in its thread, and must not share a connection with the
    learner's next commands.
    """
    pool = r.connection_pool
    kind = type(pool)
    return redis.Redis(
        connection_pool=kind(connection_class=pool.connection_class, **pool.connection_kwargs)
    )


def _start_thread(call: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    """Start `call`; its result, or its exception, is put into the list."""
    outcome: list[object] = []

    def run() -> None:
        try:
            outcome.append(call())
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, outcome


def _publish_words(r: redis.Redis, words: list[str], pause_s: float = 0.03) -> threading.Thread:
    """Publish some words, one after the other, from a thread of its own."""

    def run() -> None:
        for word in words:
            time.sleep(pause_s)
            r.publish(CHANNEL, word)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@exercise(
    hints=(
        "`get_message` without a timeout looks once and returns None if nothing is there. And "
        'not everything that it returns is a message: look at its `"type"`.',
        "`get_message(timeout=timeout_s)` waits. If it returns None then, there was silence "
        "for so long: give up. Confirmations have the type `subscribe`; only `message` and "
        "`pmessage` count.",
        "Loop while you have fewer than `n`: take a message with the timeout; at None, break; "
        'append its `"data"` if the type is right. Return the list.',
    )
)
def collect(r: redis.Redis, answer: Callable[[PubSub, int, float], list[str] | None]) -> str:
    client = _make_client(r)
    p = client.pubsub()
    try:
        p.subscribe(CHANNEL, "check:another")  # two confirmations are on their way
        asked = _check_collect_all(r, p, answer)
        _check_collect_few(r, p, answer)
    finally:
        p.close()
        client.close()
    if asked > ENOUGH_CALLS:
        raise NotYet(
            f"right, but you asked {asked:,} times for {len(WORDS)} messages: a busy loop "
            "instead of a wait. get_message(timeout=...) sleeps until something comes."
        )
    return f"right: {len(WORDS)} messages, confirmations passed over, and no waiting for ever"


def _check_collect_all(r: redis.Redis, p: PubSub, answer: Callable) -> int:
    """One more message comes than was requested. Returns how often `p` was read."""
    calls = _CallCounter(p)
    speaker = _publish_words(r, [*WORDS, "one more"])
    try:
        got = answer(p, len(WORDS), PATIENCE_S)
    except TypeError as error:
        raise NotYet(
            "get_message gave you None, and you took it for a message. None only means: "
            "nothing to hand over just now."
        ) from error
    finally:
        speaker.join()
    asked = calls.calls
    if not isinstance(got, list):
        raise NotYet(f"the answer should be a list of messages, not {type(got).__name__}.")
    if any(isinstance(word, int) for word in got):
        raise NotYet(
            f"you collected {got}. The numbers are no messages: the server confirms each "
            "subscription first. Look at message['type']."
        )
    if "" not in got and len(got) >= len(WORDS) - 1:
        raise NotYet(f"you collected {got}. One message was empty, and a message all the same.")
    if len(got) < len(WORDS):
        raise NotYet(
            f"{len(got)} of {len(WORDS)} messages. A get_message without timeout looks once and "
            "does not wait; and a single None is not the end. How long may it take until the next?"
        )
    rest = [message["data"] for message in _read_messages(p)]
    if got != WORDS or rest != ["one more"]:
        raise NotYet(f"asked for {len(WORDS)}, you took {got} and left {rest}.")
    return asked


def _check_collect_few(r: redis.Redis, p: PubSub, answer: Callable) -> None:
    """Three messages are requested, and two come."""
    thread, outcome = _start_thread(lambda: answer(p, 3, PATIENCE_S))
    _publish_words(r, WORDS[:2]).join()
    thread.join(LONGEST_S)
    if thread.is_alive():
        _publish_words(r, WORDS).join()  # let the call end
        thread.join(LONGEST_S)
        raise NotYet(
            "two messages came, three were asked for, and your code still waits for the third. "
            "Nobody promises that it will come: give up after timeout_s of silence."
        )
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    if outcome[0] != WORDS[:2]:
        raise NotYet(f"two messages came and three were asked for: you returned {outcome[0]}.")
