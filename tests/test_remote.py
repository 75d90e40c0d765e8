"""The shop behind a server: the same answers, one round trip a statement, nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import psutil
import pytest
from processes import environment, gone, script, within

import redis_lab as lab
from redis_lab.errors import LabError
from redis_lab.remote import remote_shop


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REDIS_LAB_DATA", str(tmp_path_factory.mktemp("data")))
        with lab.source.shop("small") as opened:
            yield opened


@pytest.fixture(scope="module")
def near(shop):
    with remote_shop(shop, 0) as opened:
        yield opened


QUESTIONS = {
    "user": (lambda shop: shop.user(42), 1),
    "nobody": (lambda shop: shop.user(10**9), 1),
    "page": (lambda shop: shop.product_page(1), 3),
    "no page": (lambda shop: shop.product_page(10**9), 1),
    "best sellers": (lambda shop: shop.best_sellers(1, "2025-11", limit=3), 1),
    "dashboard": (lambda shop: shop.dashboard(), 2),
    "sql": (lambda shop: shop.sql("SELECT :n + 1 AS n, 'ü\n' AS text", {"n": 1}), 1),
    "count": (lambda shop: shop.count("orders"), 1),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_same_answers_and_one_round_trip_a_statement(shop, near, question):
    ask, statements = QUESTIONS[question]
    before = near.round_trips
    assert ask(near) == ask(shop)
    assert near.round_trips - before == statements


def test_the_distance_is_added_to_each_statement(shop):
    with remote_shop(shop, 20) as far:
        began = time.monotonic()
        far.product_page(1)
        assert time.monotonic() - began > 3 * 0.010  # of 0.020: the machine may be busy
        assert far.achieved_rtt_ms > 10 and "behind a server, " in repr(far)


@pytest.mark.parametrize("write", ["DELETE FROM products", "SELCT", "SELECT 1; SELECT 2"])
def test_it_only_reads_and_goes_on_after_an_error(shop, near, write):
    with pytest.raises(LabError, match=r"The shop's server says .*It only reads"):
        near.sql(write)
    with pytest.raises(LabError, match="read-only"):
        near.set_price(1, 100)
    assert near.count("products") == shop.count("products") > 0


def test_a_server_that_ended_is_said(shop):
    with remote_shop(shop, 0) as far:
        os.kill(far._server.pid, signal.SIGKILL)
        with pytest.raises(LabError, match=r"has ended\. Make another"):
            far.user(1)
    with pytest.raises(LabError, match=r"has ended\. Make another"):
        far.user(1)
    with pytest.raises(LabError, match="a RemoteShop of its own"):
        far.reopen()


def test_a_distance_that_is_none_leaves_no_process(shop):
    before = psutil.Process().children()
    with pytest.raises(LabError, match="is not a distance"):
        remote_shop(shop, -1)
    assert within(60, lambda: set(psutil.Process().children()) <= set(before))


OWNER = """
import os, signal
import redis_lab as lab
far = lab.remote_shop(lab.source.shop("small"), 1)
print(far._server.pid, far._link.pid, flush=True)
signal.pause()
"""


def test_it_ends_with_an_owner_that_is_killed(shop):
    folder = str(shop.file.parent)
    owner = subprocess.Popen(
        script(OWNER), env=environment(REDIS_LAB_DATA=folder), stdout=subprocess.PIPE, text=True
    )
    try:
        server, relay = map(int, owner.stdout.readline().split())
    finally:
        owner.kill()
        owner.communicate()
    assert within(60, lambda: gone(server) and gone(relay))
