"""The transactions lesson: its exercises' checks, and what its prose leans on."""

from __future__ import annotations

import threading

import pytest
import redis
from processes import within

from redis_lab.judging import NotYet
from redis_lab.lessons import transactions_and_scripts as exercises
from redis_lab.servers.base import fail_fast
from redis_lab.servers.choose import server

# ---------------------------------------------------------------- buy

BUY = """
if tonumber(redis.call('GET', KEYS[1])) < tonumber(ARGV[1]) then return 0 end
redis.call('DECRBY', KEYS[1], ARGV[1])
redis.call('INCRBY', KEYS[2], ARGV[1])
return 1
"""


def by_script(r, stock, cart, quantity):
    return bool(r.register_script(BUY)(keys=[stock, cart], args=[quantity]))


def by_eval(r, stock, cart, quantity):
    return r.eval(BUY, 2, stock, cart, quantity) == 1


@pytest.mark.parametrize("answer", [by_script, by_eval])
def test_buy_is_accepted(learner, answer):
    assert "200 were there, 200 were sold" in exercises.buy(learner, answer)


def decided_before(r, stock, cart, quantity):
    if int(r.get(stock)) < quantity:
        return False
    with r.pipeline() as pipe:
        pipe.decrby(stock, quantity).incrby(cart, quantity)
        pipe.execute()
    return True


def written_back(r, stock, cart, quantity):
    left = int(r.get(stock))
    if left < quantity:
        return False
    r.pipeline().set(stock, left - quantity).incrby(cart, quantity).execute()
    return True


def give_back(r, stock, cart, quantity):
    """Takes first and looks afterwards: for a moment there is less than nothing."""
    left, _ = r.pipeline().decrby(stock, quantity).incrby(cart, quantity).execute()
    if left < 0:
        r.pipeline().incrby(stock, quantity).decrby(cart, quantity).execute()
    return left >= 0


def by_watch(r, stock, cart, quantity):
    def attempt(pipe):
        enough = int(pipe.get(stock)) >= quantity
        pipe.multi()
        if enough:
            pipe.decrby(stock, quantity).incrby(cart, quantity)
        return enough

    return r.transaction(attempt, stock, value_from_callable=True)


def always(r, stock, cart, quantity):
    r.pipeline().decrby(stock, quantity).incrby(cart, quantity).execute()
    return True


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (decided_before, "rival bought 3 of the 5 after reply number 1.*-1 in stock"),
        (written_back, "rival came between"),
        (give_back, "the stock was -1"),
        (by_watch, "not a piece is sold twice, in 3 round trips"),
        (always, r"2 in stock, 3 wanted: .* should be \(2, 0\)"),
        (lambda *args: by_script(*args) and None, "caller must learn"),
        (lambda *args: None, "5 in stock, 3 wanted"),
    ],
)
def test_buy_explains_what_is_wrong(learner, answer, hint):
    with pytest.raises(NotYet, match=hint):
        exercises.buy(learner, answer)


# ---------------------------------------------------------------- set_if_higher

HIGHER = """
if tonumber(ARGV[1]) <= tonumber(redis.call('GET', KEYS[1]) or '-inf') then return 0 end
redis.call('SET', KEYS[1], ARGV[1])
return 1
"""


def loads_when_missing(r, key, value):
    try:
        return r.evalsha(r.register_script(HIGHER).sha, 1, key, value)
    except redis.exceptions.NoScriptError:
        return r.eval(HIGHER, 1, key, value)


def registered(r, key, value):
    return r.register_script(HIGHER)(keys=[key], args=[value])


@pytest.mark.parametrize("answer", [registered, loads_when_missing])
def test_set_if_higher_is_accepted(learner, answer):
    assert "a restart does no harm" in exercises.set_if_higher(learner, answer)


def loaded_once():
    shas = {}

    def answer(r, key, value):
        if r not in shas:
            shas[r] = r.script_load(HIGHER)
        return r.evalsha(shas[r], 1, key, value)

    return answer


def by_name_only(r, key, value):
    return r.evalsha("0" * 40, 1, key, value)


def loaded_always(r, key, value):
    return r.evalsha(r.script_load(HIGHER), 1, key, value)


def in_two_steps(r, key, value):
    if value > int(r.get(key) or -1):
        r.set(key, value)


def as_text(r, key, value):
    text = HIGHER.replace("tonumber(ARGV[1])", "ARGV[1]").replace("tonumber(redis", "(redis")
    return r.eval(text, 1, key, value)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (by_name_only, "this server has never seen your script"),
        (loaded_once(), "until the server forgets its scripts"),
        (loaded_always, "right, in 2 round trips"),
        (in_two_steps, "somebody stored 100 after reply number 1"),
        (as_text, "10 came, the best should be 10, and is 9"),
        (lambda r, key, value: r.set(key, value), "7 came, the best should be 10"),
        (lambda r, key, value: r.eval(HIGHER, 1, key, value), "the whole text travels"),
        (lambda r, key, value: None, "9 should be stored, and there is None"),
    ],
)
def test_set_if_higher_explains_what_is_wrong(learner, answer, hint):
    with pytest.raises(NotYet, match=hint):
        exercises.set_if_higher(learner, answer)


def test_a_script_of_another_client_is_pointed_out(learner, r):
    script = r.register_script(HIGHER)
    with pytest.raises(NotYet, match="client=r"):
        exercises.set_if_higher(learner, lambda _, key, value: script(keys=[key], args=[value]))


# ---------------------------------------------------------------- what the prose leans on


def test_an_error_in_a_transaction_or_script_takes_nothing_back(each_kind):
    with each_kind.client() as r:
        r.flushall()
        r.rpush("list", 1)
        r.pipeline().set("a", 1).incr("list").set("b", 1).execute(raise_on_error=False)
        assert r.exists("a", "b") == 2
        with pytest.raises(redis.ResponseError):
            r.eval("redis.call('SET', KEYS[1], 1) redis.call('INCR', KEYS[2])", 2, "c", "list")
        assert r.exists("c")
        with pytest.raises(redis.ResponseError):
            r.pipeline().set("d", 1).execute_command("INCR").execute()
        assert not r.exists("d")


def test_pcall_hands_the_error_to_the_script(each_kind):
    with each_kind.client() as r:
        r.flushall()
        r.rpush("list", 1)
        text = "local x = redis.pcall('INCR', KEYS[1]) return x.err and 'caught' or 'fine'"
        assert r.eval(text, 1, "list") == "caught"


def test_functions_survive_with_the_data_and_scripts_do_not(each_kind):
    code = "#!lua name=lib\nredis.register_function('one', function() return 1 end)"
    with server(kind=each_kind.kind, appendonly=True) as kept, kept.client() as r:
        sha = r.script_load("return 1")
        r.function_load(code)
        kept.restart()
        assert r.fcall("one", 0) == 1
        assert r.script_exists(sha) == [False]
    with server(kind=each_kind.kind) as forgetful, forgetful.client() as r:
        r.function_load(code)
        forgetful.restart()
        assert r.function_list() == []


def test_a_script_that_has_written_cannot_be_killed(each_kind):
    endless = "redis.call('SET', KEYS[1], 1) while true do end"
    private = server(kind=each_kind.kind, busy_reply_threshold=20)
    with private, private.client(**fail_fast()) as r, private.client() as other:

        def run():
            with pytest.raises(redis.ConnectionError):
                r.eval(endless, 1, "x")

        thread = threading.Thread(target=run)
        thread.start()
        said = []

        def refused():
            """NOTBUSY until the script has run for a while, then UNKILLABLE."""
            with pytest.raises(redis.ResponseError) as error:
                other.script_kill()
            said.append(str(error.value))
            return not said[-1].startswith("NOTBUSY")

        assert within(60, refused) and said[-1].startswith("UNKILLABLE")
        private.kill()
        thread.join(10)


def test_at_least_one_gets_through_and_spoils_at_most_one_try_of_each_other(each_kind):
    """The counting argument: failed tries <= (threads - 1) x successes."""
    with each_kind.client() as r:
        r.flushall()
        tries = []

        def transfer(pipe):
            tries.append(1)
            now = int(pipe.get("n") or 0)
            pipe.multi()
            pipe.set("n", now + 1)

        def many():
            for _ in range(100):
                r.transaction(transfer, "n")

        threads = [threading.Thread(target=many) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert r.get("n") == "300"
        assert 300 <= len(tries) <= 3 * 300
