"""Sessions: two clocks, no revival, no id that survives, and all of a user's ended in one step."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import subprocess
import threading
import time

import pytest
import redis
from adversary import LOST, Migration, alone, deliver, flaky, undeclared
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from processes import environment, within, without_ttl

from redis_lab.judging import NotYet
from redis_lab.lessons import sessions as exercises
from redis_lab.patterns import session as module
from redis_lab.patterns.session import AsyncSessions, Revoked, Session, Sessions
from redis_lab.wiretap import wire


@pytest.fixture(scope="module")
def lab(each_kind):
    return each_kind


@pytest.fixture
def sessions(r):
    return Sessions(r, "s", idle_s=60, absolute_s=600)


@pytest.mark.parametrize("value", [None, 0, "", False, [], {"a": [1, None, "ü"]}, 1.5, "x" * 10**5])
@pytest.mark.parametrize("decode", [True, False])
def test_data_survive(lab, r, value, decode):
    with lab.client(decode_responses=decode) as client:
        sessions = Sessions(client, "s", idle_s=60, absolute_s=600)
        id = sessions.start("ada", {"a": value})
        assert sessions.save(id, {"b": value})
        assert sessions.load(id) == Session(id, "ada", {"a": value, "b": value})
        assert list(sessions.all_of("ada")) == [module._hash_id(id)]
        assert sessions.revoke_all("ada") == 1


def test_ids_are_new_and_only_their_hash_is_stored(r, sessions):
    ids = {sessions.start("ada", {"n": n}) for n in range(200)}
    assert len(ids) == 200
    stored = [*r.scan_iter("*"), *r.zrange("s:{ada}", 0, -1)]
    stored += [str(r.hgetall(key)) for key in r.scan_iter("s:{ada}:*")]
    assert not [id for id in ids if any(id.split(".")[1] in text for text in stored)]


def test_the_id_never_crosses_the_wire(lab):
    with lab.client() as client, lab.client().monitor() as monitor:
        sessions = Sessions(client, "s", idle_s=60, absolute_s=600)
        id = sessions.start("ada", {"a": 1})
        sessions.load(id), sessions.save(id, {"a": 2}), sessions.end(id)
        client.echo("that was all")  # what no script contains, should one be sent
        seen = []
        while "that was all" not in (line := monitor.next_command()["command"]):
            seen.append(line)
    assert len(seen) > 4 and not [line for line in seen if id.split(".")[1] in line]


@pytest.mark.parametrize(
    "id",
    ["", ".", "ada", "ada.", ".x", "}{", "ada.{b}", "ö", "\udc80", "a" * 10**5, "ada." + "x" * 22],
)
def test_foreign_ids_open_nothing_and_make_nothing(r, sessions, id):
    assert sessions.load(id) is None
    assert not sessions.save(id, {"a": 1}) and not sessions.end(id)
    assert not list(r.scan_iter("*"))


def test_round_trips(r, sessions):
    visit = sessions.load(sessions.start())
    calls = {
        lambda: sessions.start("ada"): 1,
        lambda: sessions.load(visit.id): 1,
        lambda: sessions.save(visit.id, {"a": 1}): 1,
        lambda: sessions.all_of("ada"): 1,
        lambda: sessions.generation("ada"): 1,
        lambda: sessions.revoke_all("ada", keep=sessions.start("ada")): 2,
        lambda: sessions.login(visit, "ada"): 2,
        lambda: sessions.end(visit.id): 1,
        lambda: sessions.revoke_all("ada"): 1,
    }
    for call, trips in calls.items():
        call()
        with wire(r) as w:
            call()
        assert w.round_trips == w.commands == trips


def test_login_rotates_and_keeps_what_is_ones_own(sessions):
    visit = sessions.load(sessions.start(data={"cart": [1]}))
    ada = sessions.load(sessions.login(visit, "ada"))
    assert ada.user == "ada" and ada.data == {"cart": [1]} and ada.id != visit.id
    assert sessions.load(visit.id) is None
    again = sessions.load(sessions.login(ada, "ada"))
    assert again.data == {"cart": [1]} and sessions.load(ada.id) is None
    bob = sessions.load(sessions.login(again, "bob"))
    assert (bob.user, bob.data) == ("bob", {}) and sessions.load(again.id) is None
    assert sessions.all_of("ada") == {}
    assert sessions.load(sessions.login(None, "carl")).data == {}


def test_a_crash_between_the_steps_of_a_login(r, sessions, monkeypatch):
    """Nobody is logged in, the old id is over, and the cart is still there for the next try."""
    visit = sessions.load(sessions.start(data={"cart": [1]}))

    def crash(**_: object) -> str:
        raise RuntimeError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(sessions, "_start", crash)
        with pytest.raises(RuntimeError):
            sessions.login(visit, "ada")
    assert sessions.load(visit.id) is None and sessions.all_of("ada") == {}
    assert not sessions.save(visit.id, {"cart": [2]})
    assert sessions.load(sessions.login(visit.id, "ada")).data == {"cart": [1]}
    assert not without_ttl(r)


def test_what_is_saved_until_the_login_goes_along(sessions):
    """Somebody loads a session, another request saves the cart, and only then comes the login."""
    visit = sessions.load(sessions.start(data={"cart": []}))
    assert sessions.save(visit.id, {"cart": ["lamp"], "seen": 1})
    ada = sessions.load(sessions.login(visit, "ada"))
    assert ada.data == {"cart": ["lamp"], "seen": 1}
    assert not sessions.save(visit.id, {"cart": ["late"]})


def test_a_login_in_flight_does_not_survive_revoke_all(sessions):
    """The password is checked, then changed and all sessions revoked, then the session begins."""
    for begin in (
        lambda generation: sessions.login(None, "ada", generation=generation),
        lambda generation: sessions.start("ada", generation=generation),
    ):
        generation = sessions.generation("ada")
        sessions.load(begin(generation))  # nothing came between
        sessions.revoke_all("ada")
        with pytest.raises(Revoked):
            begin(generation)
        assert sessions.all_of("ada") == {}
        assert sessions.load(begin(sessions.generation("ada")))


def test_generations_only_go_up(r, sessions):
    """Also when the server has lost the index, or its clock goes back."""
    id = sessions.start("ada")
    seen = [int(sessions.generation("ada"))]
    for _ in range(3):
        sessions.revoke_all("ada")
        seen.append(int(sessions.generation("ada")))
    r.zadd("s:{ada}", {"generation": seen[-1] + 10**9})  # set by a clock that was ahead
    sessions.revoke_all("ada")
    seen += [seen[-1] + 10**9, int(sessions.generation("ada"))]
    assert seen == sorted(set(seen))
    r.delete("s:{ada}")
    sessions.revoke_all("ada")
    assert int(sessions.generation("ada")) > seen[3] and sessions.load(id) is None


def test_what_was_revoked_does_not_come_back_when_the_generation_expires(r, sessions):
    """A process with a shorter absolute lifetime revokes; the number outlives every session."""
    Sessions(r, "s", idle_s=9000, absolute_s=9000).start("ada")
    Sessions(r, "s", idle_s=1, absolute_s=1).revoke_all("ada")
    assert r.pttl("s:{ada}") > 8_000_000
    sessions.start("ada")
    assert r.pttl("s:{ada}") > 8_000_000


def test_users_ids_do_not_meet(sessions):
    ada, other = sessions.start("ada"), sessions.start("ada.b")
    swapped = f"ada.b.{ada.split('.')[1]}"
    assert sessions.load(swapped) is None
    assert sessions.revoke_all("ada") == 1
    assert sessions.load(other).user == "ada.b"


def test_two_clocks_in_real_time(r):
    short = Sessions(r, "s", idle_s=0.3, absolute_s=0.7)
    used, alone, began = short.start("ada"), short.start("bob"), time.monotonic()
    assert within(60, lambda: not short.load(used))
    assert time.monotonic() - began > 0.65
    assert short.load(alone) is None and not short.save(used, {"a": 1})
    assert within(60, lambda: not list(r.scan_iter("*")))


def test_a_throttled_touch(r):
    sessions = Sessions(r, "s", idle_s=60, absolute_s=600, touch_every_s=20)
    id = sessions.start("ada", {"a": 1})
    [key, index] = sessions.keys(id)

    def writes() -> int:
        return r.info("persistence")["rdb_changes_since_last_save"]

    for left_ms, touched in ((60_000, False), (41_000, False), (39_000, True)):
        r.pexpire(key, left_ms)
        before = writes()
        assert sessions.load(id).data == {"a": 1}
        assert (writes() > before) is touched
        assert (r.pttl(key) > 59_000) is (touched or left_ms == 60_000)
    r.pexpire(key, 41_000)
    sessions.save(id, {"b": 1})  # writes anyway
    assert r.pttl(key) > 59_000 and r.zscore(index, next(iter(r.zrange(index, 0, 0)))) > 0


def test_no_call_prolongs_the_absolute_clock(r, sessions):
    id = sessions.start("ada")
    key, index = sessions.keys(id)
    ends = int(r.hget(key, "_ends"))
    longer = Sessions(r, "s", idle_s=10**6, absolute_s=10**6)
    assert longer.load(id) and longer.save(id, {"a": 1})
    assert r.pexpiretime(key) == ends
    longer.start("ada")
    assert 10**9 - 5000 < r.pttl(index) <= 10**9
    sessions.start("ada")  # a shorter one does not shorten the index
    assert r.pttl(index) > 10**8


def test_the_index_forgets_what_has_ended(r, sessions):
    """Of itself, as soon as the idle time is over; not only after the absolute lifetime."""
    brief = Sessions(r, "s", idle_s=0.05, absolute_s=600)
    ids = [sessions.start("ada") for _ in range(2)]
    brief.start("ada")
    assert within(60, lambda: len(sessions.all_of("ada")) == 2)
    assert set(sessions.all_of("ada")) == set(map(module._hash_id, ids))
    sessions.load(ids[0])
    assert r.zcard("s:{ada}") == 2
    assert sessions.revoke_all("ada") == 2


def test_a_write_in_a_race_with_logout_and_expiry_never_revives(lab, r, sessions):
    over, ids = threading.Event(), [sessions.start("ada")]

    def writer() -> None:
        with lab.client() as own:
            mine = Sessions(own, "s", idle_s=60, absolute_s=600)
            while not over.is_set():
                mine.save(ids[0], {"a": 1})
                mine.load(ids[0])

    threads = [threading.Thread(target=writer) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for k in range(200):
            ids[0] = id = sessions.start("ada")
            key = sessions.keys(id)[0]
            if k % 3 == 0:
                sessions.revoke_all("ada")
            elif k % 3 == 1:
                sessions.end(id)
            else:
                r.pexpireat(key, 1)
            assert sessions.load(id) is None
    finally:
        over.set()
        for thread in threads:
            thread.join()
    sessions.revoke_all("ada")
    assert sessions.all_of("ada") == {} and not without_ttl(r)


SHOP = """
    import random, redis
    from alone import Sessions
    sessions = Sessions(redis.Redis.from_url({url!r}), "k", idle_s=60, absolute_s=600)
    luck = random.Random({seed})
    while True:
        user = luck.choice(["ada", "bob"])
        visit = sessions.load(sessions.start(data={{"cart": [1]}}))
        id = sessions.login(visit, user)
        sessions.save(id, {{"cart": [1, 2]}})
        if luck.random() < 0.4:
            sessions.end(id)
        if luck.random() < 0.01:
            sessions.revoke_all(user)
        print("a turn", flush=True)
"""


def test_killed_processes_leave_no_session_outside_the_index(lab, r):
    crowd = [
        subprocess.Popen(
            alone("session", SHOP.format(url=lab.url, seed=k)),
            env=environment(),
            stdout=subprocess.PIPE,
        )
        for k in range(4)
    ]
    for k, process in enumerate(crowd):
        process.stdout.readline()
        time.sleep(0.02 + 0.007 * k)
        process.kill()
        process.communicate()
    sessions = Sessions(r, "k", idle_s=60, absolute_s=600)
    keys = list(r.scan_iter("*", count=1000))
    assert len(keys) > 3 and not without_ttl(r)
    for user in ("ada", "bob"):
        generation = sessions.generation(user)
        alive = {
            key.rpartition(":")[2]
            for key in r.scan_iter(f"k:{{{user}}}:*", count=1000)
            if (r.hget(key, "_generation"), r.hget(key, "_ended")) == (generation, None)
        }
        assert alive == set(sessions.all_of(user))
        assert sessions.revoke_all(user) == len(alive)
        assert sessions.all_of(user) == {}


def test_script_flush_and_restart(lab, r):
    with lab.client() as client:
        sessions = Sessions(client, "s", idle_s=60, absolute_s=600)
        id = sessions.start("ada", {"a": 1})
        client.script_flush()
        assert sessions.load(id).data == {"a": 1}
        lab.restart()  # keeps nothing
        assert sessions.load(id) is None and not sessions.save(id, {"a": 2})
        assert sessions.load(sessions.start("ada")).user == "ada"


def test_asyncio(lab):
    async def all_calls() -> None:
        async with redis.asyncio.Redis.from_url(lab.url) as client:  # replies as bytes
            await client.flushall()
            sessions = AsyncSessions(client, "s", idle_s=60, absolute_s=600)
            visit = await sessions.load(await sessions.start(data={"cart": ["ü"]}))
            ada = await sessions.load(await sessions.login(visit, "ada"))
            assert (ada.user, ada.data) == ("ada", {"cart": ["ü"]})
            assert await sessions.load(visit.id) is None
            assert await sessions.save(ada.id, {"a": 1})
            other = await sessions.login(None, "ada")
            assert len(await sessions.all_of("ada")) == 2
            assert await sessions.revoke_all("ada", keep=other) == 1
            assert not await sessions.save(ada.id, {"a": 2})
            assert await sessions.end(other) and not await sessions.end(other)
            generation = await sessions.generation("ada")
            await sessions.login(visit.id, "ada", generation=generation)
            await sessions.revoke_all("ada")
            with pytest.raises(Revoked):
                await sessions.start("ada", generation=generation)
            with pytest.raises(TypeError, match="there is AsyncSessions"):
                Sessions(client, "s", idle_s=60, absolute_s=600)
        with lab.client() as sync, pytest.raises(TypeError, match=r"needs a client of redis\.asyn"):
            AsyncSessions(sync, "s", idle_s=60, absolute_s=600)

    asyncio.run(all_calls())


# ---------------------------------------------------------------- lost, late, and on the way


def test_a_start_that_arrives_late_revives_nothing(lab, r, sessions):
    for finish in (
        lambda id: sessions.end(id),
        lambda id: sessions.revoke_all("ada"),
        lambda id: sessions.login(id, "ada"),
    ):
        with flaky(lab) as client:
            sent = client.connection_pool.connection_class.sent
            id = Sessions(client, "s", idle_s=60, absolute_s=600).start("ada", {"a": 1})
            late = sent[-1]
        finish(id)
        deliver(lab, late)
        assert sessions.load(id) is None
    sessions.revoke_all("ada")
    assert sessions.all_of("ada") == {}


def test_a_start_that_arrives_twice_undoes_no_save(lab, sessions):
    with flaky(lab) as client:
        sent = client.connection_pool.connection_class.sent
        id = Sessions(client, "s", idle_s=60, absolute_s=600).start("ada", {"a": 1})
        late = sent[-1]
    sessions.save(id, {"a": 2})
    deliver(lab, late)
    assert sessions.load(id).data == {"a": 2}


def test_answers_when_the_reply_was_lost(lab, sessions):
    calls = {
        "end": lambda own, id: own.end(id),
        "revoke_all": lambda own, id: own.revoke_all("ada") == 3,
        "login": lambda own, id: own.load(own.login(id, "ada")).data == {"a": 1},
    }
    for name, call in calls.items():
        sessions.revoke_all("ada")
        id, *_ = (sessions.start("ada", {"a": 1}) for _ in range(3))
        sessions.login(None, "eve"), sessions.end("none")
        with flaky(lab, LOST) as client:
            own = Sessions(client, "s", idle_s=60, absolute_s=600)
            assert call(own, id), name
        assert not sessions.end(id), "and once more is another call"


@pytest.mark.parametrize("missing", ["del", "zrem", "hset", "zadd"])
def test_a_refusal_in_the_middle_hides_no_session(lab, r, sessions, missing):
    id = sessions.start("ada")
    rights = f"~s:* +@read +@write +@scripting +@connection +time -{missing}"
    r.execute_command("ACL", "SETUSER", "shop", "reset", "on", ">pw", *rights.split())
    with lab.client(username="shop", password="pw") as client:
        limited = Sessions(client, "s", idle_s=60, absolute_s=600)
        for call in (lambda: limited.end(id), lambda: limited.revoke_all("ada")):
            with contextlib.suppress(redis.ResponseError):
                call()
            if sessions.load(id):
                assert module._hash_id(id) in sessions.all_of("ada")
    r.execute_command("ACL", "DELUSER", "shop")
    sessions.revoke_all("ada")
    assert sessions.load(id) is None


def test_the_rights_that_the_docstring_names(lab, r):
    rights = "+@read +@write +@scripting +@connection +time"
    assert rights in Sessions.__doc__
    r.execute_command("ACL", "SETUSER", "shop", "reset", "on", ">pw", "~s:*", *rights.split())
    with lab.client(username="shop", password="pw") as client:
        sessions = Sessions(client, "s", idle_s=60, absolute_s=600)
        id = sessions.login(sessions.start(data={"a": 1}), "ada")
        assert sessions.load(id) and sessions.save(id, {"b": 1}) and sessions.all_of("ada")
        assert sessions.revoke_all("ada", keep=id) == 0 and sessions.end(id)
    r.execute_command("ACL", "DELUSER", "shop")


def test_what_scripts_touch_is_declared(lab, sessions):
    visit, id = sessions.start(), sessions.start("ada")
    with undeclared(lab) as keys:
        id = sessions.login(visit, "ada")
        sessions.load(id), sessions.save(id, {"a": 1}), sessions.all_of("ada")
        sessions.revoke_all("ada", keep=id), sessions.end(id), sessions.revoke_all("ada")
    assert keys == set()


def test_ten_thousand_fields(sessions):
    data = {f"f{k}": k for k in range(10_000)}
    id = sessions.start("ada", data)
    assert sessions.save(id, data) and sessions.load(id).data == data


@pytest.mark.parametrize("rounds", [1, pytest.param(20, marks=pytest.mark.drill)])
@pytest.mark.parametrize("moved", ["the index", "half of the sessions", "nothing yet"])
def test_revoked_while_the_slot_moves(moving, moved, rounds, figure):
    """`revoke_all`, repeated until it returns without an error: no session may live on."""
    for k in range(rounds):
        user = f"{moved}{k}".replace(" ", "")
        with moving.client() as client:
            sessions = Sessions(client, "m", idle_s=60, absolute_s=600)
            ids = [sessions.start(user) for _ in range(20)]
            migration = Migration(moving, sessions.index(user))
            if moved == "the index":
                migration.move(sessions.index(user))
            elif moved == "half of the sessions":
                migration.move(*(sessions.keys(id)[0] for id in ids[::2]))
            revoked = False
            with contextlib.suppress(redis.RedisError):
                sessions.revoke_all(user)
                revoked = True
            migration.finish()
        with moving.client() as client:
            sessions = Sessions(client, "m", idle_s=60, absolute_s=600)
            if not revoked:
                sessions.revoke_all(user)
            assert [id for id in ids if sessions.load(id)] == []
            assert sessions.all_of(user) == {}
    figure(moved_slots=rounds, sessions_revoked=20 * rounds, of_them_alive=0)


@pytest.mark.drill
@pytest.mark.timeout(900)
def test_revoked_at_a_random_moment_of_a_move(moving, figure):
    """20 moves of 100 sessions each; `revoke_all` is repeated until it returns without an error."""
    chance, alive = random.Random(11), 0
    for k in range(20):
        with moving.client() as client:
            sessions = Sessions(client, "d", idle_s=600, absolute_s=600)
            ids = [sessions.start(f"u{k}") for _ in range(100)]
            migration = Migration(moving, sessions.index(f"u{k}"))

            def move(migration: Migration = migration) -> None:
                while keys := migration.keys():
                    migration.move(*chance.sample(keys, min(5, len(keys))))
                migration.finish()

            mover = threading.Thread(target=move)
            mover.start()
            time.sleep(chance.uniform(0, 0.05))

            def revoked(sessions: Sessions = sessions, user: str = f"u{k}") -> bool:
                with contextlib.suppress(redis.RedisError):
                    sessions.revoke_all(user)
                    return True
                return False

            assert within(60, revoked)
            mover.join()
        with moving.client() as client:
            sessions = Sessions(client, "d", idle_s=600, absolute_s=600)
            alive += sum(sessions.load(id) is not None for id in ids)
    figure(moved_slots=20, sessions_revoked=2000, of_them_alive=alive)
    assert alive == 0


def test_on_a_cluster(three):
    with three.client() as client:
        sessions = Sessions(client, "s", idle_s=60, absolute_s=600)
        visits = [sessions.load(sessions.start(data={"n": n})) for n in range(20)]
        assert len({client.keyslot(sessions.keys(visit.id)[0]) for visit in visits}) > 10
        for n, visit in enumerate(visits):
            user = f"u{n % 5}"
            assert sessions.load(sessions.login(visit, user)).data == {"n": n}
        for n in range(5):
            assert len(sessions.all_of(f"u{n}")) == sessions.revoke_all(f"u{n}") == 4


@pytest.mark.parametrize(
    "bad",
    [
        {"prefix": ""},
        {"prefix": "a{b}"},
        {"idle_s": 0},
        {"idle_s": 700},
        {"absolute_s": -1},
        {"absolute_s": float("inf")},
        {"absolute_s": 10**17},
        {"idle_s": float("nan")},
        {"touch_every_s": 60},
        {"touch_every_s": -1},
    ],
)
def test_arguments_that_make_no_sense(r, bad):
    with pytest.raises(ValueError, match=r"needs a prefix|idle_s"):
        Sessions(r, **{"prefix": "s", "idle_s": 60, "absolute_s": 600, **bad})


@pytest.mark.parametrize("user", ["}", "a b", "ö", "a;b", "x" * 65, "a{b"])
def test_users_that_do_not_fit(r, sessions, user):
    for call in (sessions.start, sessions.revoke_all, sessions.all_of):
        with pytest.raises(ValueError, match="letters, digits"):
            call(user)
    for empty in (sessions.revoke_all, sessions.all_of, lambda user: sessions.login(None, user)):
        with pytest.raises(ValueError, match="letters, digits"):
            empty("")
    assert not list(r.scan_iter("*"))


@pytest.mark.parametrize("data", [{"_born": 1}, {"": 1}, {1: 1}])
def test_names_that_do_not_fit(sessions, data):
    id = sessions.start("ada")
    with pytest.raises(ValueError, match="Names of fields"):
        sessions.save(id, data)


@pytest.mark.parametrize("value", [{1, 2}, object(), b"x", float("nan")])
def test_only_json(sessions, value):
    with pytest.raises(ValueError, match="only what JSON can"):
        sessions.start("ada", {"a": value})
    with pytest.raises(ValueError, match="at least one field"):
        sessions.save(sessions.start("ada"), {})


USERS = st.sampled_from(["", "ada", "bob"])


class Machine(RuleBasedStateMachine):
    """Against a model: which ids open what. An id that ended never opens anything again."""

    server = None

    def __init__(self) -> None:
        super().__init__()
        self.r = Machine.server.client()
        self.r.flushall()
        self.sessions = Sessions(self.r, "m", idle_s=60, absolute_s=600)
        self.model: dict[str, Session] = {}
        self.ids: list[str] = []
        self.run_out: set[str] = set()  # by the test, of which the index cannot know

    def begun(self, id: str, user: str, data: dict) -> None:
        assert id not in self.ids
        self.ids.append(id)
        self.model[id] = Session(id, user, data)

    def any_id(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(self.ids)) if self.ids else ".none"

    @rule(user=USERS, n=st.integers())
    def start(self, user: str, n: int) -> None:
        self.begun(self.sessions.start(user, {"n": n}), user, {"n": n})

    @rule(data=st.data())
    def load(self, data: st.DataObject) -> None:
        id = self.any_id(data)
        assert self.sessions.load(id) == self.model.get(id)

    @rule(data=st.data(), name=st.sampled_from("nab"), value=st.one_of(st.none(), st.text()))
    def save(self, data: st.DataObject, name: str, value: object) -> None:
        id = self.any_id(data)
        assert self.sessions.save(id, {name: value}) is (id in self.model)
        if id in self.model:
            self.model[id].data[name] = value

    @rule(data=st.data(), user=st.sampled_from(["ada", "bob"]))
    def login(self, data: st.DataObject, user: str) -> None:
        old = self.sessions.load(self.any_id(data))
        assert (old is None) or old == self.model[old.id]
        new = self.sessions.login(old, user)
        keep = old and old.user in ("", user)
        self.begun(new, user, dict(old.data) if keep else {})
        if old:
            del self.model[old.id]

    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        id = self.any_id(data)
        assert self.sessions.end(id) is (self.model.pop(id, None) is not None)

    @rule(data=st.data())
    def its_time_runs_out(self, data: st.DataObject) -> None:
        id = self.any_id(data)
        self.r.pexpireat(self.sessions.keys(id)[0], 1)
        self.model.pop(id, None)
        self.run_out.add(module._hash_id(id))

    @rule(user=st.sampled_from(["ada", "bob"]), data=st.data(), keeps=st.booleans())
    def revoke_all(self, user: str, data: st.DataObject, keeps: bool) -> None:
        keep = self.any_id(data) if keeps else ""
        gone = [id for id, each in self.model.items() if each.user == user and id != keep]
        kept = {module._hash_id(keep)} if keep in self.model else set()
        listed = set(self.sessions.all_of(user)) - kept
        assert self.sessions.revoke_all(user, keep) == len(listed) >= len(gone)
        for id in gone:
            del self.model[id]

    @invariant()
    def what_is_there_is_what_should_be(self) -> None:
        for user in ("ada", "bob"):
            mine = {module._hash_id(i) for i, each in self.model.items() if each.user == user}
            assert set(self.sessions.all_of(user)) - self.run_out == mine

    @invariant()
    def nothing_outlives_its_clocks(self) -> None:
        for key in self.r.scan_iter("*", count=1000):
            ends = self.r.pexpiretime(key)
            assert self.r.pttl(key) > 0
            if self.r.type(key) == "hash" and self.r.hexists(key, "_born"):
                born, at_most = map(int, self.r.hmget(key, "_born", "_ends"))
                assert at_most == born + 600_000 and ends <= at_most
                assert self.r.pttl(key) <= 60_000

    def teardown(self) -> None:
        self.r.close()


@pytest.mark.parametrize("examples", [8, pytest.param(300, marks=pytest.mark.drill)])
def test_against_a_model(lab, examples, figure):
    Machine.server = lab
    quick = settings(
        max_examples=examples,
        stateful_step_count=20,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Machine, settings=quick)
    figure(histories=examples, of_up_to_20_calls_unlike_the_model=0)


# ---------------------------------------------------------------- exercises


def saving(check="EXISTS", write=True, expire=1800, reply="1", gone="0"):
    body = f"if redis.call('{check}', KEYS[1]) == 0 then return {gone} end\n" if check else ""
    body += "redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])\n" if write else ""
    body += f"redis.call('EXPIRE', KEYS[1], {expire})\n" if expire else ""
    return lambda r, key, field, value: bool(r.eval(body + f"return {reply}", 1, key, field, value))


def look_then_write(r, key, field, value):
    if not r.exists(key):
        return False
    r.hset(key, field, value)
    r.expire(key, 1800)
    return True


def watched(r, key, field, value):
    with r.pipeline() as pipe:
        pipe.watch(key)
        if not pipe.exists(key):
            return False
        pipe.multi()
        pipe.hset(key, field, value)
        pipe.expire(key, 1800)
        try:
            pipe.execute()
        except redis.WatchError:
            return False
        return True


def test_save_is_accepted(learner):
    assert exercises.save(learner, saving()).startswith("right: 200 sessions")


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (saving(write=False), "new cart is not in it"),
        (saving(expire=0), "sign of life"),
        (saving(expire=60), "sign of life"),
        (saving(check=""), "for another half an hour"),
        (saving(reply="0"), "say True"),
        (saving(gone="1"), "say True"),
        (look_then_write, "room for a logout"),
        (watched, "right, in [0-9]+ round trips"),
    ],
)
def test_save_explains_what_is_wrong(learner, wrong, hint):
    with pytest.raises(NotYet, match=hint):
        exercises.save(learner, wrong)


def logging_in(r, id, user, *, new=None, keep=True, end=True, ex=1800, mind=True, name=True):
    data = json.loads(r.get(f"check:{id}") or "{}") if keep else {}
    if mind and data.get("user", user) != user:
        data = {}
    new = module.secrets.token_urlsafe(16) if new is None else new(id)
    r.set(f"check:{new}", json.dumps(data | ({"user": user} if name else {})), ex=ex)
    if end:
        r.delete(f"check:{id}")
    return new


def test_login_is_accepted(learner):
    assert exercises.login(learner, logging_in).startswith("right")


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ({"new": lambda id: id, "end": False}, "planted it"),
        ({"name": False}, "not logged in"),
        ({"keep": False}, "cart was lost"),
        ({"end": False}, "must end at login"),
        ({"ex": None}, "no time to live"),
        ({"new": lambda id: id + "2"}, "must not be guessed"),
        ({"mind": False}, "Bob's cart"),
    ],
)
def test_login_explains_what_is_wrong(learner, wrong, hint):
    with pytest.raises(NotYet, match=hint):
        exercises.login(learner, lambda r, id, user: logging_in(r, id, user, **wrong))


def test_login_wants_an_id(learner):
    with pytest.raises(NotYet, match="goes into the cookie"):
        exercises.login(learner, lambda r, id, user: None)


def test_a_touch_sends_each_command_as_often_as_the_others(r):
    """No comparison of two clocks decides whether the list of sessions gets another TTL."""
    sessions = Sessions(r, "s", idle_s=60, absolute_s=3600)
    session, _ = sessions.start("ada"), r.config_resetstat()
    for _ in range(300):
        assert sessions.load(session)
    counted = {name: of["calls"] for name, of in r.info("commandstats").items()}
    assert counted["cmdstat_pexpireat"] == counted["cmdstat_zadd"] > 0
