"""The lesson on protocol and transport: its exercises and its figures."""

from __future__ import annotations

import io
import socket
from collections.abc import Callable
from typing import Any

import redis

from redis_lab.figures import Chart, DotPlot, Lines
from redis_lab.judging import NotYet, exercise, vary, vary_word
from redis_lab.servers.choose import server

FIGURES: dict[str, Chart] = {
    "protocol_where": DotPlot(
        title="Where the time of one GET goes",
        x="p50_us",
        xlabel="time (µs, log scale)",
    ),
    "protocol_transport": DotPlot(
        title="Which way there, which protocol, which parser",
        x="p50_us",
        xlabel="time for one call (µs, log scale)",
    ),
    "protocol_payload": Lines(
        title="A GET of ten bytes to ten megabytes",
        x="bytes",
        y="p50_us",
        by="way",
        theory="theory_us",
        theory_label="a small GET + bytes / bandwidth, both measured on their own",
        xlabel="bytes of the value",
        ylabel="time for one GET (µs)",
    ),
}


def _read_reply(stream: io.BufferedReader) -> object:
    """One RESP2 reply."""
    kind, rest = (head := stream.readline())[:1], head[1:-2]
    if kind == b"+":
        return rest.decode()
    if kind == b":":
        return int(rest)
    if kind == b"-":
        return RuntimeError(rest.decode())
    if kind not in (b"$", b"*"):
        raise NotYet(f"a reply that begins with {kind!r} was given to the reader of RESP2.")
    if rest == b"-1":
        return None
    if kind == b"$":
        return stream.read(int(rest) + 2)[:-2]
    return [_read_reply(stream) for _ in range(int(rest))]


@exercise(
    hints=(
        "A word may be a number or bytes, which have no `len` as text. And is the length of a "
        "text with umlauts the number of its letters?",
        "Lengths on the wire count bytes. So make bytes of every word first "
        "(`str(word).encode()`, unless it is bytes already), and work with bytes only from "
        "there.",
        'Build `b"*%d\\r\\n" % len(words)`, and after it, for each word, its length and the '
        'word: `b"$%d\\r\\n%s\\r\\n" % (len(w), w)`. Join them with `b"".join`.',
    )
)
def encode(_: redis.Redis, answer: Callable[..., bytes]) -> str:
    words: list[tuple[object, bytes]] = [
        (lamp := vary_word("lamp"), lamp.encode()),
        ("", b""),
        ("a\r\nb c", b"a\r\nb c"),
        (number := vary(42, 100, 99_999), b"%d" % number),
        ("Löwe 獅子", "Löwe 獅子".encode()),
        (b"\xff\x00", b"\xff\x00"),
    ]
    with server() as private:
        for word, right in words:
            try:
                sent = answer("ECHO", word)
            except (TypeError, AttributeError, UnicodeError) as error:
                raise NotYet(
                    f"for the word {word!r} your function raised {type(error).__name__}: {error}. "
                    "Words may be numbers and bytes too; make bytes of each first."
                ) from error
            if not isinstance(sent, bytes):
                raise NotYet(
                    f"your function returned {type(sent).__name__}; the wire carries bytes."
                )
            with socket.create_connection((private.host, private.port)) as line:
                line.sendall(sent)
                line.settimeout(2)
                try:
                    reply = _read_reply(line.makefile("rb"))
                except TimeoutError:
                    raise NotYet(
                        f"the server still waits for the rest of {sent!r}. It was promised more "
                        "bytes, or more words, than came."
                    ) from None
                except ValueError:
                    reply = None
            if reply != right:
                echo = reply if isinstance(reply, bytes) else str(reply)
                raise NotYet(
                    f"{word!r} became {sent!r}, and the server says {echo!r}. A length counts "
                    "bytes; a letter may have several."
                )
        for command, echoed in ((("PING",), "PONG"), (("LPOS", "check:no", "a", "RANK", 1), None)):
            sent = answer(*command)
            with socket.create_connection((private.host, private.port)) as line:
                line.sendall(sent)
                line.settimeout(2)
                try:
                    reply = _read_reply(line.makefile("rb"))
                except (TimeoutError, ValueError):
                    reply = b"nothing that can be read"
            if reply != echoed:
                raise NotYet(
                    f"{' '.join(map(str, command))} became {sent!r}, and the server says "
                    f"{reply!r}. The first number says how many words come."
                )
    return f"right: {len(words)} words came back as they were sent"


@exercise(
    hints=(
        "What stands inside a map or a list can be of the new kinds as well. `old` does not "
        "know those. Who must read the inner parts?",
        "Read the parts of maps, sets and lists with `read3` itself. So you also have to read "
        "lists (`*`) yourself, as `old` would read their parts as RESP2. Everything else goes "
        "to `old`.",
        "Look at the first byte; if it is none of `% ~ , _ # *`, return `old(stream)`. "
        "Otherwise take the line: `rest = stream.readline()[1:-2]`. A map reads `int(rest)` "
        "pairs, a set and a list read `int(rest)` parts, `,` is `float(rest)`, `_` is None, "
        'and `#` is True if `rest` is `b"t"`.',
    )
)
def read3(_: redis.Redis, answer: Callable[[io.BufferedReader, Callable], object]) -> str:
    cases: list[tuple[bytes, object]] = [
        (b"$4\r\nlamp\r\n", b"lamp"),
        (b"*2\r\n:1\r\n$1\r\nx\r\n", [1, b"x"]),
        (b"%2\r\n$1\r\na\r\n:1\r\n$1\r\nb\r\n:2\r\n", {b"a": 1, b"b": 2}),
        (b"~2\r\n:1\r\n:2\r\n", {1, 2}),
        (b",1.5\r\n", 1.5),
        (b"_\r\n", None),
        (b"#t\r\n", True),
        (b"#f\r\n", False),
        (b"%1\r\n+x\r\n~1\r\n,0.5\r\n", {"x": {0.5}}),
        (b"*2\r\n_\r\n%1\r\n+k\r\n#t\r\n", [None, {"k": True}]),
    ]
    for raw, right in cases:
        stream: Any = io.BufferedReader(io.BytesIO(raw))
        try:
            got = answer(stream, _read_reply)
        except NotYet as hint:
            raise NotYet(
                f"{raw!r}: {hint} What is inside a list or a map must be read by the "
                "new reader again, and a list may hold a map."
            ) from None
        except Exception as error:
            raise NotYet(f"{raw!r} raised {type(error).__name__}: {error}.") from error
        if got != right or type(got) is not type(right):
            raise NotYet(f"{raw!r} is {right!r}; your answer is {got!r}.")
        if stream.read():
            raise NotYet(f"a part of {raw!r} was left unread; the next reply would begin there.")
    return f"right: {len(cases)} replies, some inside others"
