"""notebooks/from_node.md: every line is run, by ioredis, @upstash/redis and redis-py.

Each reply must be the one that the page shows after its arrow, and after each section the server
must hold the same data, whichever of the three clients wrote it.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest
import redis

from redis_lab import notebooks, rest

PAGE = notebooks.notebooks_folder() / "from_node.md"
PACKAGES = Path(__file__).parent / "node/package.json"
BLOCK = re.compile(r"^```(js ioredis|js upstash|python)\n(.*?)^```$", flags=re.M | re.S)
CLIENTS = ("js ioredis", "js upstash", "python")


def sections() -> dict[str, dict[str, str]]:
    """Heading → the block of each client."""
    parts = PAGE.read_text().split("\n## ")[1:]
    return {part.partition("\n")[0]: dict(BLOCK.findall(part)) for part in parts}


SECTIONS = sections()
CONNECT, *TOPICS = SECTIONS


def statements(block: str) -> list[tuple[str, str | None]]:
    """The statements of a block, each with the reply that the page shows for it, if any."""
    found: list[list[str]] = []
    for line in block.splitlines():
        if found and (not line.strip() or line.startswith((" ", ")", "except"))):
            found[-1].append(line)
        elif line.strip():
            found.append([line])
    pairs = []
    for lines in found:
        code, _, shown = "\n".join(lines).rstrip().partition(" → ")
        pairs.append((re.sub(r"\s*(//|#)$", "", code), shown or None))
    return pairs


# ---------------------------------------------------------------- the three clients


@pytest.fixture(scope="module")
def gateway(lab):
    """The REST protocol in front of the module's server."""
    with rest.gateway(lab) as started:
        yield started


@pytest.fixture(scope="session")
def packages(tmp_path_factory) -> Path:
    """A folder in which node finds the two clients."""
    if not shutil.which("node") or not shutil.which("npm"):
        pytest.skip("node and npm are not on PATH")
    folder = tmp_path_factory.mktemp("node")
    shutil.copy(PACKAGES, folder)
    said = subprocess.run(
        ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=180,
    )
    if said.returncode:
        pytest.skip(f"npm could not install the clients: {said.stderr.strip()[-200:]}")
    return folder


# After each section it waits for a line, so that what was written can be looked at.
TURNS = """
import { createInterface } from "node:readline";
const turns = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
"""


def program_of(client: str) -> str:
    """All sections of a client; each prints the replies that the page shows, then an empty line."""
    lines = [SECTIONS[CONNECT][client], TURNS]
    for topic in TOPICS:
        lines.append("await (async () => {")
        for code, shown in statements(SECTIONS[topic][client]):
            code = code.rstrip(";")
            lines.append(f"console.log(JSON.stringify({code}));" if shown else f"{code};")
        lines.append("})();\nconsole.log();\nawait turns.next();")
    if client == "js ioredis":
        lines.append("redis.disconnect();")
    return "\n".join(lines)


@pytest.fixture(scope="module")
def by_node(lab, gateway, packages):
    """Runs all sections of a client in one node: for each the replies and what it has written."""
    env = {"REDIS_URL": lab.url, rest.URL: gateway.url, rest.TOKEN: gateway.token}

    @cache
    def run(client: str) -> dict[str, tuple[list[object], dict[str, tuple]]]:
        program, found = packages / f"{client[3:]}.mjs", {}
        program.write_text(program_of(client))
        with (
            lab.client() as r,
            open(packages / "stderr", "w+") as errors,
            subprocess.Popen(
                ["node", program.name],
                cwd=packages,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=os.environ | env,
            ) as node,
        ):
            for topic in TOPICS:
                replies = []
                while (line := node.stdout.readline()) != "\n":
                    assert line, f"{topic}: {(packages / 'stderr').read_text()[-2000:]}"
                    replies.append(json.loads(line))
                found[topic] = replies, content(r)
                r.flushall()  # before it goes on
                node.stdin.write("\n")
                node.stdin.flush()
            node.communicate(timeout=60)
            assert node.returncode == 0, (packages / "stderr").read_text()[-2000:]
        return found

    return run


def by_python(topic: str, r: redis.Redis) -> list[object]:
    replies = []
    scope = {"r": r, "redis": redis}
    for code, shown in statements(SECTIONS[topic]["python"]):
        if shown:
            replies.append(eval(code, scope))
        else:
            exec(code, scope)
    return replies


def content(r: redis.Redis) -> dict[str, tuple]:
    """Everything on the server: type, value and whether a clock runs. Texts that are JSON count
    as what they say, since spaces are the client's affair."""
    read = {
        "string": lambda key: json_or_text(r.get(key)),
        "hash": r.hgetall,
        "list": lambda key: r.lrange(key, 0, -1),
        "zset": lambda key: r.zrange(key, 0, -1, withscores=True),
    }
    return {key: (r.type(key), read[r.type(key)](key), r.ttl(key) > 0) for key in r.scan_iter("*")}


def json_or_text(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text


# ---------------------------------------------------------------- the tests


def test_the_page_shows_all_three_everywhere():
    for heading, blocks in SECTIONS.items():
        assert set(blocks) == set(CLIENTS), heading
        assert heading == CONNECT or all(
            any(shown for _, shown in statements(block)) for block in blocks.values()
        )


def test_the_everyday_calls_are_there():
    text = PAGE.read_text()
    for call in (
        *('"EX", 60', "ex: 60", "ex=60", "incr(", "hset(", "hgetall(", "zadd(", "zrevrange("),
        *("lpush(", "brpop(", "publish(", "subscribe(", "pipeline(", "exec(", "multi(", "eval("),
        "session:",
    ):
        assert call in text, call


def test_the_links_lead_to_lessons():
    links = re.findall(r"→ \[.+?\]\((.+?)\)", PAGE.read_text())
    assert len(set(links)) >= 8
    assert all((PAGE.parent / link).exists() for link in links)


@pytest.mark.parametrize("topic", TOPICS)
def test_python(topic, r):
    wanted = [shown for _, shown in statements(SECTIONS[topic]["python"]) if shown]
    replies = by_python(topic, r)
    assert [repr(reply) for reply in replies] == [repr(ast.literal_eval(w)) for w in wanted]


@pytest.mark.parametrize("topic", TOPICS)
@pytest.mark.parametrize("client", CLIENTS[:2])
def test_node(client, topic, r, by_node):  # `r` has emptied the server
    wanted = [json.loads(s) for _, s in statements(SECTIONS[topic][client]) if s]
    replies, written = by_node(client)[topic]
    assert replies == wanted
    r.flushall()
    by_python(topic, r)
    assert written == content(r), "the clients leave different data behind"


def test_connecting_as_the_page_says(lab, monkeypatch):
    monkeypatch.setenv("REDIS_URL", lab.url)
    scope: dict = {}
    exec(SECTIONS[CONNECT]["python"], scope)
    with scope["r"] as client:
        client.set("here", "text")
        assert client.get("here") == "text"
