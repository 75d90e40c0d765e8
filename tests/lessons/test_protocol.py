"""The lesson on the protocol: its exercises, and what its text says that no cell checks."""

from __future__ import annotations

import socket

import pytest
import redis

from redis_lab.judging import NotYet
from redis_lab.lessons import protocol as exercises
from redis_lab.servers.choose import server


def right(*words):
    words = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words)


def letters_counted(*words):
    parts = [f"*{len(words)}"]
    for word in words:
        word = word.decode("latin1") if isinstance(word, bytes) else str(word)
        parts += [f"${len(word)}", word]
    return ("\r\n".join(parts) + "\r\n").encode()


def test_encode():
    assert exercises.encode(None, right)
    wrong = {
        lambda *words: (" ".join(map(str, words)) + "\r\n").encode(): "the server says",
        letters_counted: "a letter may have several",
        lambda *words: right(*words).decode("latin1"): "the wire carries bytes",
        lambda *words: right(*(word.encode() for word in words)): "numbers and bytes too",
        lambda *words: right(*words, "more").replace(b"$4\r\nmore\r\n", b""): "still waits",
    }
    for answer, hint in wrong.items():
        with pytest.raises(NotYet, match=hint):
            exercises.encode(None, answer)


def read3(stream, old, nested=True, unread=b""):
    again = (lambda: read3(stream, old)) if nested else (lambda: old(stream))
    kind = stream.peek(1)[:1]
    if kind in unread or kind not in (b"%", b"~", b",", b"_", b"#", b"*"):
        return old(stream)
    rest = stream.readline()[1:-2]
    if kind == b"%":
        return {again(): again() for _ in range(int(rest))}
    if kind == b"~":
        return {again() for _ in range(int(rest))}
    if kind == b"*":
        return [again() for _ in range(int(rest))]
    return {b",": lambda: float(rest), b"_": lambda: None, b"#": lambda: rest == b"t"}[kind]()


def test_read3():
    assert exercises.read3(None, read3)
    wrong = {
        lambda stream, old: read3(stream, old, nested=False): "by the new reader again",
        lambda stream, old: read3(stream, old, unread=b"*"): "a list may hold a map",
        lambda stream, old: old(stream): "RESP2",
        lambda stream, old: dict(found) if (found := read3(stream, old)) == {1, 2} else found: (
            "raised TypeError"
        ),
        lambda stream, old: str(read3(stream, old)): "; your answer is ",
    }
    for answer, hint in wrong.items():
        with pytest.raises(NotYet, match=hint):
            exercises.read3(None, answer)


def test_a_subscribed_connection_takes_commands_under_resp3_only(each_kind):
    def ask(line, *words):
        line.sendall(right(*words))
        return line.recv(1000)

    with server(kind=each_kind.kind) as private:
        with socket.create_connection((private.host, private.port)) as line:
            ask(line, "SUBSCRIBE", "news")
            assert ask(line, "GET", "page").startswith(b"-")
        with socket.create_connection((private.host, private.port)) as line:
            ask(line, "HELLO", 3)
            ask(line, "SUBSCRIBE", "news")
            assert ask(line, "GET", "page") == b"_\r\n"


def test_the_parser_that_the_lesson_names_is_there(lab):
    from redis.connection import _RESP3Parser

    with redis.Redis.from_url(lab.url, parser_class=_RESP3Parser) as r:
        connection = r.connection_pool.get_connection()
        assert isinstance(connection._parser, _RESP3Parser)
        r.connection_pool.release(connection)
        assert r.ping()
