"""Run one learner's exercise cells and report what their checks say; a program for `grade`.

The job is a line of JSON on standard input: the cells to run, the import statements of the lesson,
the seed of the checks' data, and the limit of memory. Each outcome is a line of JSON on standard
output; what the cells print is discarded.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def main() -> None:
    job = json.loads(sys.stdin.readline())
    report = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nowhere, standard)
    limit_memory(job["memory_mb"])

    from IPython.core.interactiveshell import InteractiveShell

    import redis_lab as lab
    from redis_lab import judging, lessons, teach
    from redis_lab.judging import NotYet
    from redis_lab.servers.choose import announced_client

    judging.reseed(job["seed"])

    def say(exercise: str, outcome: str, reason: str) -> None:
        line = {"exercise": exercise, "outcome": outcome, "reason": reason}
        print(json.dumps(line), file=report, flush=True)

    def check(exercise: str, answer: object) -> None:
        try:
            client: Any = announced_client()  # None where there is no server
            say(exercise, "right", lessons.find_check(exercise)(client, answer))
        except NotYet as hint:
            say(exercise, hint.outcome, str(hint))

    shell: Any = InteractiveShell.instance()
    shell.showtraceback = lambda *_, **__: None
    for module in (lab, teach):
        vars(module)["check"] = check
    shell.run_cell(f"import redis_lab as lab\nr = lab.connect(one_server=True)\n{job['imports']}")
    for cell in job["cells"]:
        done: Any = shell.run_cell(cell["source"])
        trouble = done.error_before_exec or done.error_in_exec
        if trouble is not None:
            for exercise in cell["exercises"]:
                say(exercise, "raised", f"{type(trouble).__name__}: {trouble}")
    print(json.dumps({"done": True}), file=report, flush=True)


def limit_memory(megabytes: int) -> None:
    """Limit the memory of this process and of those that it starts, if the system can do that."""
    try:
        import resource
    except ImportError:
        return
    wanted = megabytes * 2**20
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    if most == resource.RLIM_INFINITY or wanted < most:
        resource.setrlimit(resource.RLIMIT_AS, (wanted, wanted))


if __name__ == "__main__":
    main()
