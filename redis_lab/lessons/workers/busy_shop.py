"""A process that logs in, saves and logs out until it is killed, of the lesson on sessions.

`busy_shop.py URL`
"""

from __future__ import annotations

import sys

import redis

from redis_lab.patterns.session import Sessions


def main(url: str) -> None:
    sessions = Sessions(redis.Redis.from_url(url), "k", idle_s=60, absolute_s=600)
    while True:
        visit = sessions.load(sessions.start(data={"cart": [1]}))
        ids = [sessions.login(visit, "ada") for _ in range(3)]
        sessions.save(ids[0], {"cart": [1, 2]})
        sessions.end(ids[1])
        print("a turn", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
