"""Two listeners of the lesson on pub/sub: one to a channel, one to a stream.

`listeners.py URL hear` or `listeners.py URL follow`. Each writes down what it receives, in a list.
"""

from __future__ import annotations

import sys
from typing import Any

import redis


def hear(r: Any) -> None:
    """Write down each message of the channel."""
    news = r.pubsub()
    news.subscribe("events")
    for message in news.listen():
        if message["type"] == "subscribe":
            print("ready", flush=True)
        else:
            r.rpush("got:pub/sub", message["data"])


def follow(r: Any) -> None:
    """Write down each entry of the stream, together with the id of the last."""
    print("ready", flush=True)
    while True:
        place = r.get("place") or "0"
        [[_, entries]] = r.xread({"events:log": place}, block=0)
        with r.pipeline() as pipe:
            pipe.rpush("got:stream", *[fields["n"] for _, fields in entries])
            pipe.set("place", entries[-1][0])
            pipe.execute()


if __name__ == "__main__":
    url, how = sys.argv[1:]
    listen = {"hear": hear, "follow": follow}[how]
    listen(redis.Redis.from_url(url, decode_responses=True, socket_timeout=None))
