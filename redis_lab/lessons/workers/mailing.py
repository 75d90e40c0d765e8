"""Workers of the lesson on lists: they take jobs from `mails`, and two of them die with one.

`python mailing.py pop URL` pops a job and dies, `python mailing.py move URL` moves one and dies.
`python mailing.py work URL` prints `ready`, then works until nothing is left.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import redis


def pop_mail_and_die(r: Any) -> None:
    """Pop a job, and die before the mail is sent."""
    job = r.lpop("mails")
    os.kill(os.getpid(), signal.SIGKILL)
    r.rpush("sent", job)


def move_mail_and_die(r: Any) -> None:
    """Move a job to those in work, and die before the mail is sent."""
    job = r.lmove("mails", "in-work", "LEFT", "RIGHT")
    os.kill(os.getpid(), signal.SIGKILL)
    r.rpush("sent", job)


def send_mails(r: Any) -> None:
    """Do all jobs, so that each is in one list at any moment."""
    print("ready", flush=True)
    while job := r.blmove("mails", "in-work", 0.5, "LEFT", "RIGHT"):  # waits half a second at most
        # here the mail would be sent
        with r.pipeline() as pipe:
            pipe.lrem("in-work", 1, job).rpush("sent", job).execute()


if __name__ == "__main__":
    how, url = sys.argv[1:]
    work = {"pop": pop_mail_and_die, "move": move_mail_and_die, "work": send_mails}[how]
    work(redis.Redis.from_url(url))
