"""The load of `load.open_loop` as a Locust user, for when one generator machine is not enough.

Locust is an optional extra: `pip install "redis-lab[locust]"`. On one machine:

    rows = distributed(client, "GET", "page", rate_per_s=500, seconds=5, workers=2)

On several, run the master and the workers by hand, each with REDIS_LAB_LOAD set to what
`workload()` returns (it holds the server's URL, and so its password):

    locust -f redis_lab/measure/locust_user.py --headless --master --expect-workers 4 -u 40 -t 60s
    locust -f redis_lab/measure/locust_user.py --worker --master-host MASTER

Each user has one connection and sends at a constant pace, however long a reply takes; if it takes
longer than the pace, the next request is sent at once (`constant_pacing`). That is a closed loop
for each user, and with many users close to an open loop. Its times are service times, not response
times.
"""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import redis

VARIABLE = "REDIS_LAB_LOAD"
PERCENTILES = {"50%": "p50_us", "99%": "p99_us"}
START_TIMEOUT_S = 30.0


def workload(client: redis.Redis, *command: object, pace_s: float = 0.1) -> str:
    """The value for REDIS_LAB_LOAD: the server, the command, and how often each user sends it."""
    kwargs = client.connection_pool.connection_kwargs
    names = ("host", "port", "db", "username", "password")
    told = {key: kwargs[key] for key in names if key in kwargs}
    if kwargs.get("path"):
        told["unix_socket_path"] = kwargs["path"]
    words = [word if isinstance(word, bytes) else str(word).encode() for word in command]
    texts = [word.decode("latin-1") for word in words]  # JSON has no bytes
    return json.dumps({"server": told, "command": texts, "pace": pace_s})


def distributed(
    client: redis.Redis,
    *command: object,
    rate_per_s: float,
    seconds: float,
    users: int = 20,
    workers: int = 2,
) -> list[dict[str, object]]:
    """Run a Locust master and its workers on this machine; returns its results as rows.

    The rows are those of `load.Load.row("service")`, as far as Locust knows them: it rounds times
    above 100 ms, and keeps its own histogram of milliseconds.

    `seconds` are rounded up to whole ones.

    Raises: LabError when Locust is not installed or does not start, when requests failed, and for
    TLS.
    """
    # Not at the top of the file, because Locust imports this file, too, and needs none of these
    from redis_lab.child import TemporaryRun
    from redis_lab.errors import LabError
    from redis_lab.extras import require
    from redis_lab.servers.base import free_port
    from redis_lab.servers.guest import guard

    require("locust")
    if rate_per_s <= 0 or seconds < 1 or users < workers or workers < 1:
        raise LabError("Locust needs a positive rate, a second at least, and a user a worker.")
    if issubclass(client.connection_pool.connection_class, redis.SSLConnection):
        raise LabError(
            "The Locust user cannot use TLS. Give it a client of a server without TLS: redis://…"
        )
    guard(client, command)
    told = workload(client, *command, pace_s=users / rate_per_s)
    port = free_port()
    common = [sys.executable, "-m", "locust", "-f", __file__, "--headless", "--only-summary"]
    processes: list[subprocess.Popen] = []
    with TemporaryRun() as run:
        folder, environment = run.name, {**os.environ, **run.environment, VARIABLE: told}
        options = ["-u", users, "-r", users, "-t", f"{math.ceil(seconds)}s"]
        options += ["--csv", f"{folder}/seen"]
        options += ["--master", "--expect-workers", workers, "--master-bind-port", port]
        options += ["--master-bind-host", "127.0.0.1"]
        roles = [options] + [["--worker", "--master-port", port]] * workers
        try:
            for role in roles:
                with open(Path(folder) / f"log{len(processes)}", "w") as log:
                    process = subprocess.Popen(
                        [*common, *map(str, role)],
                        env=environment,
                        stdout=log,
                        stderr=log,
                        stdin=subprocess.DEVNULL,
                        start_new_session=True,
                        cwd=folder,
                    )
                processes.append(process)
            end = time.monotonic() + seconds + START_TIMEOUT_S
            while processes[0].poll() is None and time.monotonic() < end:
                time.sleep(0.1)
            file = Path(folder) / "seen_stats.csv"
            if processes[0].poll() is None or not file.exists():
                last_words = (Path(folder) / "log0").read_text(errors="replace").strip()
                raise LabError(f"Locust did not end as it should: {last_words[-300:]}")
            with open(file, newline="") as table:
                seen = [row for row in csv.DictReader(table) if row["Name"] != "Aggregated"]
        finally:
            for process in processes:
                process.kill()
                process.wait()
    if not seen or int(seen[0]["Request Count"]) == 0:
        raise LabError("Locust made no request. Give it more seconds or a higher rate.")
    if int(seen[0]["Failure Count"]):
        raise LabError(f"{seen[0]['Failure Count']} of Locust's requests failed.")
    return [row_of(row, rate_per_s) for row in seen]


def row_of(seen: dict[str, str], rate_per_s: float) -> dict[str, object]:
    row = {
        "arm": "locust, service time",
        "offered_per_s": rate_per_s,
        "achieved_per_s": float(seen["Requests/s"]),
        "calls": int(seen["Request Count"]),
        "errors": int(seen["Failure Count"]),
        "mean_us": 1e3 * float(seen["Average Response Time"]),
        "max_us": 1e3 * float(seen["Max Response Time"]),
    }
    return row | {name: 1e3 * float(seen[column]) for column, name in PERCENTILES.items()}


if told := os.environ.get(VARIABLE):  # Locust reads this file in a process of its own
    from locust import User, constant_pacing, task

    settings = json.loads(told)
    name, *rest = settings["command"]
    command = [name, *(word.encode("latin-1") for word in rest)]

    class RedisUser(User):
        """One connection that sends the command at a constant pace."""

        wait_time = constant_pacing(settings["pace"])

        def on_start(self) -> None:
            self.client = redis.Redis(**settings["server"])
            self.client.ping()

        @task
        def send(self) -> None:
            start, error, reply = time.perf_counter(), None, b""
            try:
                reply = self.client.execute_command(*command)
            except redis.RedisError as raised:
                error = raised
            self.environment.events.request.fire(
                request_type="redis",
                name=name,
                response_time=1e3 * (time.perf_counter() - start),
                response_length=len(reply) if isinstance(reply, bytes) else 0,
                exception=error,
                context={},
            )
