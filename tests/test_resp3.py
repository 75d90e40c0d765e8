"""A connection written by hand, against a real server."""

from __future__ import annotations

import pytest

from redis_lab.resp3 import RawLine


@pytest.fixture
def line(lab):
    made = RawLine(lab.host, lab.port)
    yield made
    made.socket.close()


def test_a_reply_is_returned_and_what_was_pushed_before_it_is_kept(line, r):
    line.ask("CLIENT", "TRACKING", "ON")
    r.set("a", 1)
    assert line.ask("GET", "a") == "1"
    r.set("a", 2)
    assert line.ask("INCR", "b") == 1  # the server has sent the invalidation before this reply
    assert line.pushed == [["invalidate", ["a"]]]


def test_listening_takes_all_that_has_arrived(line, r):
    line.ask("CLIENT", "TRACKING", "ON")
    for key in ("a", "b"):
        line.ask("GET", key)
    r.mset({"a": 3, "b": 3})  # two messages, which the server sends together
    line.listen(wait_s=5)
    assert sorted(line.pushed) == [["invalidate", ["a"]], ["invalidate", ["b"]]]
    line.listen()
    assert len(line.pushed) == 2


def test_a_connection_that_the_server_has_closed_raises(line, r):
    r.client_kill_filter(_id=line.ask("CLIENT", "ID"))
    with pytest.raises(ConnectionError, match="has closed the connection"):
        line.listen(wait_s=5)
