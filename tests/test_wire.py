"""wire against two independent witnesses: a relay that records the stream, and the server."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import Counter
from contextlib import contextmanager, suppress

import hiredis
import pytest
import redis
import redis.asyncio
from processes import tls_server, within
from redis._parsers import (
    _AsyncHiredisParser,
    _AsyncRESP2Parser,
    _AsyncRESP3Parser,
    _HiredisParser,
    _RESP2Parser,
    _RESP3Parser,
)

from redis_lab import LabError
from redis_lab.wiretap import Wire, _Flow, _watched, wire


class Relay:
    """A TCP relay that keeps what clients send and counts what they are sent."""

    def __init__(self, port: int) -> None:
        self.target = port
        self.sent: list[bytearray] = []
        self.bytes_in = 0
        self.lock = threading.Lock()
        self.sockets: list[socket.socket] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self.target))
            self.sockets += [near, far]
            stream = bytearray()
            self.sent.append(stream)

            def up(data: bytes, stream=stream) -> None:
                stream.extend(data)

            def down(data: bytes) -> None:
                with self.lock:
                    self.bytes_in += len(data)

            for a, b, note in ((near, far, up), (far, near, down)):
                a.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self.pump, args=(a, b, note), daemon=True).start()

    def pump(self, source: socket.socket, sink: socket.socket, note) -> None:
        try:
            while data := source.recv(65536):
                note(data)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def cut(self) -> None:
        """Break every connection, as a network would."""
        for sock in self.sockets:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.listener.close()
        self.cut()
        for sock in self.sockets:
            sock.close()

    def seen(self) -> tuple[int, int, Counter]:
        names: Counter = Counter()
        for stream in list(self.sent):
            reader = hiredis.Reader()
            reader.feed(bytes(stream))
            while (command := reader.gets()) is not False:
                names[command[0].decode().upper()] += 1
        return sum(map(len, self.sent)), self.bytes_in, names


@contextmanager
def witnessed(relay: Relay, *clients):
    """A wire whose numbers must be the relay's, to the byte."""
    out0, in0, names0 = relay.seen()
    with wire(*clients) as w:
        yield w

    def told() -> tuple:
        out1, in1, names1 = relay.seen()
        return out1 - out0, in1 - in0, names1 - names0

    def counted() -> tuple:
        h = w.handshakes
        both = w.by_command + h.by_command
        assert both.total() == w.commands + h.commands
        return w.bytes_out + h.bytes_out, w.bytes_in + h.bytes_in, both

    within(60, lambda: told() == counted())  # the relay's threads may be a moment behind
    assert told() == counted()


class ServerWitness:
    """What a server itself counted since the last look, less what the looking costs."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.request = b"*2\r\n$4\r\nINFO\r\n$5\r\nstats\r\n"
        self.reply_size = 0
        self.last = (0, 0, 0, 0)
        self.look()

    def look(self) -> tuple[int, int, int]:
        """Bytes in, bytes out and commands of everybody else (none that fails while it runs)."""
        self.sock.sendall(self.request)
        reply = b""
        while b"\r\n" not in reply or len(reply) < reply.index(b"\r\n") + 4 + int(
            reply[1 : reply.index(b"\r\n")]
        ):
            reply += self.sock.recv(65536)
        info = dict(line.split(b":", 1) for line in reply.split(b"\r\n") if b":" in line)
        names = (b"net_input_bytes", b"net_output_bytes", b"commands_processed", b"error_replies")
        now = tuple(int(info[b"total_" + name]) for name in names)
        change = [a - b for a, b in zip(now, self.last, strict=True)]
        bytes_in, bytes_out, processed, refused = change
        size, self.last, self.reply_size = self.reply_size, now, len(reply)
        # unknown and redirected commands are not "processed", but each has an error reply
        return bytes_in - len(self.request), bytes_out - size, processed + refused - 1


def totals(w: Wire) -> tuple[int, int, int]:
    h = w.handshakes
    return w.bytes_out + h.bytes_out, w.bytes_in + h.bytes_in, w.commands + h.commands


@pytest.fixture(scope="module")
def lab(each_kind):
    return each_kind


@pytest.fixture
def relay(lab):
    relay = Relay(lab.port)
    yield relay
    relay.close()


@pytest.fixture(autouse=True)
def no_leftovers():
    yield
    assert not _watched


FLAVOURS = [
    pytest.param((protocol, parser, decode), id=f"RESP{protocol}-{parser}-{kind}")
    for protocol in (2, 3)
    for parser in ("hiredis", "python")
    for decode, kind in ((True, "text"), (False, "bytes"))
]


@pytest.fixture(params=FLAVOURS)
def client(request, lab, relay):
    protocol, parser, decode = request.param
    kind = {"hiredis": _HiredisParser}.get(parser, {2: _RESP2Parser, 3: _RESP3Parser}[protocol])
    pool = redis.ConnectionPool(
        host="127.0.0.1",
        port=relay.port,
        protocol=protocol,
        decode_responses=decode,
        parser_class=kind,
    )
    with redis.Redis(connection_pool=pool) as client:
        client.flushall()
        yield client
        pool.disconnect()


def test_single_commands(client, relay):
    with witnessed(relay, client) as w:
        client.set("a", "1")
        assert client.get("a") in ("1", b"1")
        with pytest.raises(redis.ResponseError):
            client.incrby("a", "x")
    assert (w.round_trips, w.commands) == (3, 3)
    assert w.by_command == {"SET": 1, "GET": 1, "INCRBY": 1}
    assert w.handshakes.commands == w.connections == w.pushes == 0


def test_known_bytes(client, relay):
    with witnessed(relay, client) as w:
        client.ping()
    assert (w.bytes_out, w.bytes_in) == (len(b"*1\r\n$4\r\nPING\r\n"), len(b"+PONG\r\n"))


@pytest.mark.parametrize("transaction", [False, True])
def test_pipelines(client, relay, transaction):
    with witnessed(relay, client) as w:
        pipe = client.pipeline(transaction=transaction)
        for i in range(100):
            pipe.set(f"k{i}", i)
        pipe.execute()
    assert w.round_trips == 1
    assert w.commands == 100 + 2 * transaction


def test_pipeline_of_ten_thousand(client, relay):
    with witnessed(relay, client) as w:
        pipe = client.pipeline(transaction=False)
        for i in range(10_000):
            pipe.set(f"key:{i}", "x" * (i % 50))
        pipe.execute()
    assert (w.round_trips, w.by_command) == (1, {"SET": 10_000})


def test_watch(client, relay):
    with witnessed(relay, client) as w, client.pipeline() as pipe:
        pipe.watch("a")
        pipe.get("a")
        pipe.multi()
        pipe.set("a", 2)
        pipe.execute()
    assert w.round_trips == 3
    assert w.by_command == {"WATCH": 1, "GET": 1, "MULTI": 1, "SET": 1, "EXEC": 1}


def test_script_with_reload(client, relay):
    client.script_flush()
    script = client.register_script("return redis.call('INCR', KEYS[1])")
    with witnessed(relay, client) as w:
        script(keys=["n"])
    assert w.by_command == {"EVALSHA": 2, "SCRIPT": 1}
    assert w.round_trips == 3
    with witnessed(relay, client) as w:
        script(keys=["n"])
    assert (w.round_trips, w.commands) == (1, 1)


def test_pubsub(client, relay):
    with witnessed(relay, client) as w, client.pubsub() as listener:
        listener.subscribe("news")
        assert listener.get_message(timeout=20)["type"] == "subscribe"
        for i in range(3):
            client.publish("news", f"number {i}")
            assert listener.get_message(timeout=20)["type"] == "message"
        listener.unsubscribe("news")
        assert listener.get_message(timeout=20)["type"] == "unsubscribe"
    assert w.by_command == {"SUBSCRIBE": 1, "PUBLISH": 3, "UNSUBSCRIBE": 1}
    assert w.round_trips == 5
    assert w.pushes == 3
    assert w.connections == 1  # the listener took the open one; publishing opened another


def test_blocking_pop(client, relay):
    with witnessed(relay, client) as w:
        assert client.blpop("none", timeout=0.1) is None
        client.rpush("some", "x")
        assert client.blpop("some", timeout=1)
    assert w.round_trips == w.commands == 3


def test_big_value(client, relay):
    value = "x" * (1 << 20)
    with witnessed(relay, client) as w:
        client.set("big", value)
        assert len(client.get("big")) == 1 << 20
        client.set("view", memoryview(value.encode()))
    assert w.round_trips == w.commands == 3
    assert w.bytes_out > 2 << 20 and 1 << 20 < w.bytes_in < (1 << 20) + 100


def test_values_that_look_like_commands(client, relay):
    nasty = b"*1\r\n$4\r\nPING\r\n" * 2000
    with witnessed(relay, client) as w:
        pipe = client.pipeline(transaction=False)
        for _ in range(20):
            pipe.set(b"\r\n$3", nasty).set("", "").echo("*3")
        pipe.execute()
    assert w.by_command == {"SET": 40, "ECHO": 20}


def test_connection_opened_inside(client, relay):
    client.connection_pool.disconnect()
    with witnessed(relay, client) as w:
        client.set("a", 1)
    assert (w.round_trips, w.commands, w.connections) == (1, 1, 1)
    assert w.by_command == {"SET": 1}
    assert w.handshakes.commands >= 2 and "CLIENT" in w.handshakes.by_command
    assert w.handshakes.round_trips == w.handshakes.commands


def test_broken_connection_is_a_new_handshake(client, relay):
    client.ping()
    with witnessed(relay, client) as w:
        client.set("a", 1)
        client.connection_pool.disconnect()
        client.set("a", 2)
        client.connection_pool.disconnect()
        client.set("a", 3)
    assert (w.connections, w.commands, w.round_trips) == (2, 3, 3)


def test_threads(client, relay):
    def work() -> None:
        for _ in range(100):
            client.incrby("n")

    with witnessed(relay, client) as w:
        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert w.round_trips == w.commands == 800
    assert w.by_command == {"INCRBY": 800}
    assert int(client.get("n")) == 800


def test_listener_thread(client, relay):
    got = []
    with witnessed(relay, client) as w:
        listener = client.pubsub(ignore_subscribe_messages=True)
        listener.subscribe(news=lambda message: got.append(message))
        thread = listener.run_in_thread(sleep_time=0.01)
        for i in range(20):
            client.publish("news", i)
        assert within(60, lambda: len(got) == 20)
        thread.stop()
        thread.join()
    assert w.pushes == 20
    assert w.by_command["PUBLISH"] == 20


def snapshot(client) -> list:
    """Everything that wire puts hooks into."""
    pool = client.connection_pool
    state = [sorted(vars(pool))]
    for conn in [*pool._available_connections, *pool._in_use_connections]:
        state += [sorted(vars(conn)), type(conn._sock)]
        state += [sorted(vars(conn._parser)), type(getattr(conn._parser, "_sock", None))]
        state += [type(getattr(getattr(conn._parser, "_buffer", None), "_sock", None))]
    return state


def test_all_is_put_back(client, relay):
    client.ping()
    before = snapshot(client)
    with wire(client):
        client.ping()
        assert snapshot(client) != before
    assert snapshot(client) == before

    with pytest.raises(ZeroDivisionError), wire(client) as w:
        client.ping()
        raise ZeroDivisionError
    assert snapshot(client) == before
    assert w.commands == 1

    client.connection_pool.disconnect()
    with wire(client) as w:
        client.ping()
    assert snapshot(client) == before  # for a connection opened inside too
    client.ping()
    assert w.commands == 1


def test_what_the_user_patched_is_put_back(client):
    pool = client.connection_pool
    pool.make_connection = mine = pool.make_connection
    with wire(client):
        assert pool.make_connection is not mine
    assert pool.make_connection is mine


def test_nested_and_overlapping(client, relay):
    with witnessed(relay, client) as outer:
        client.ping()
        with witnessed(relay, client) as inner:
            client.ping()
    assert (outer.commands, inner.commands) == (2, 1)

    first, second = wire(client), wire(client)
    a = first.__enter__()
    client.ping()
    b = second.__enter__()
    client.ping()
    first.__exit__(None, None, None)  # not the order of a stack: two tasks may end so
    client.ping()
    second.__exit__(None, None, None)
    client.ping()
    assert (a.commands, a.round_trips) == (2, 2)
    assert (b.commands, b.round_trips) == (2, 2)


def test_several_clients(client, lab):
    with lab.client() as other:
        with wire(client, other, client) as w:  # twice the same is once
            client.ping()
            other.ping()
        assert w.commands == 2


def test_health_checks_are_handshakes(relay):
    with redis.Redis(port=relay.port, health_check_interval=1) as client:
        client.ping()
        with witnessed(relay, client) as w:
            for conn in client.connection_pool._available_connections:
                conn.next_health_check = -1
            client.get("a")
        assert (w.by_command, w.round_trips) == ({"GET": 1}, 1)
        assert (w.handshakes.by_command, w.handshakes.round_trips) == ({"PING": 1}, 1)
        assert w.connections == 0


def test_resubscription_after_a_break(lab):
    relay = Relay(lab.port)
    with redis.Redis(port=relay.port) as client, client.pubsub() as listener:
        listener.subscribe("news")
        listener.get_message(timeout=20)
        heard: list = []
        with witnessed(relay, client) as w:
            relay.cut()
            assert within(60, lambda: heard.append(listener.get_message(timeout=0.2)) or heard[-1])
            assert heard[-1]["type"] == "subscribe"
        assert w.connections == 1
        assert w.commands == 0
        assert w.handshakes.by_command["SUBSCRIBE"] == 1
        assert w.handshakes.round_trips == w.handshakes.commands
    relay.close()


def test_retry_is_two_commands(lab):
    relay = Relay(lab.port)
    with redis.Redis(port=relay.port) as client:
        client.ping()
        with wire(client) as w:
            with client.connection_pool._lock:
                (conn,) = client.connection_pool._available_connections
                conn.can_read = lambda *args: False  # so that the break is found by the command
            relay.cut()
            client.get("a")
            del conn.can_read
        assert w.by_command == {"GET": 2}
        assert (w.round_trips, w.connections) == (1, 1)
    relay.close()


def test_invalidations_are_pushes(lab, relay):
    with redis.Redis(port=relay.port, protocol=3, single_connection_client=True) as client:
        with witnessed(relay, client) as w:
            client.execute_command("CLIENT TRACKING", "ON")
            client.get("a")
            with lab.client() as other:
                other.set("a", 2)
            client.get("a")
        assert (w.pushes, w.round_trips) == (1, 3)


@pytest.mark.parametrize("blocking", [False, True])
def test_other_pools_and_transports(lab, blocking):
    kinds = [redis.ConnectionPool, redis.BlockingConnectionPool]
    witness = ServerWitness(lab.port)
    for url in filter(None, (lab.url, lab.unix_url)):
        client = redis.Redis(connection_pool=kinds[blocking].from_url(url))
        with wire(client) as w:  # no connection yet
            client.ping()
        assert (w.commands, w.connections) == (1, 1)
        for fresh in (False, True):
            if fresh:
                client.connection_pool.disconnect()
            witness.look()
            with wire(client) as w:
                client.set("a", "x" * 5000)
                client.get("a")
                client.pipeline().incr("n").incr("n").execute()
            assert witness.look() == totals(w)
            assert (w.round_trips, w.commands, w.connections) == (3, 6, int(fresh))
        client.close()


def test_tls(tmp_path):
    with tls_server(tmp_path) as (s, port):
        ca_file = str(tmp_path / "ca.pem")
        witness = ServerWitness(s.port)
        with redis.Redis(port=port, ssl=True, ssl_ca_certs=ca_file) as client:
            for fresh in (1, 0):
                with wire(client) as w:
                    client.set("a", "x" * 50_000)
                    client.get("a")
                assert witness.look() == totals(w)
                assert (w.round_trips, w.commands, w.connections) == (2, 2, fresh)

        async def main() -> None:
            client = redis.asyncio.Redis(port=port, ssl=True, ssl_ca_certs=ca_file)
            for fresh in (1, 0):
                with wire(client) as w:
                    await client.set("a", "x" * 50_000)
                    await client.get("a")
                assert witness.look() == totals(w)
                assert (w.round_trips, w.commands, w.connections) == (2, 2, fresh)
            await client.aclose()

        asyncio.run(main())


# asyncio

ASYNC_FLAVOURS = [
    pytest.param(2, _AsyncHiredisParser, id="RESP2-hiredis"),
    pytest.param(3, _AsyncHiredisParser, id="RESP3-hiredis"),
    pytest.param(2, _AsyncRESP2Parser, id="RESP2-python"),
    pytest.param(3, _AsyncRESP3Parser, id="RESP3-python"),
]


@pytest.mark.parametrize("protocol, parser", ASYNC_FLAVOURS)
@pytest.mark.parametrize("decode", [True, False])
def test_asyncio(relay, protocol, parser, decode):
    async def main() -> None:
        pool = redis.asyncio.ConnectionPool(
            host="127.0.0.1",
            port=relay.port,
            protocol=protocol,
            parser_class=parser,
            decode_responses=decode,
            socket_timeout=60,
            socket_connect_timeout=60,
        )
        client = redis.asyncio.Redis(connection_pool=pool)
        with witnessed(relay, client) as w:
            await client.set("a", "1")
        assert (w.round_trips, w.commands, w.connections) == (1, 1, 1)
        assert w.handshakes.commands >= 2

        with witnessed(relay, client) as w:
            await client.get("a")
            await client.set("big", "x" * (1 << 20))
            await client.get("big")
        assert (w.round_trips, w.commands, w.handshakes.commands) == (3, 3, 0)

        for transaction in (False, True):
            with witnessed(relay, client) as w:
                pipe = client.pipeline(transaction=transaction)
                for i in range(1000):
                    pipe.set(f"k{i}", i)
                await pipe.execute()
            assert (w.round_trips, w.commands) == (1, 1000 + 2 * transaction)

        with witnessed(relay, client) as w:
            await asyncio.gather(*(client.incr("n") for _ in range(50)))
        assert w.round_trips == w.commands == 50
        assert w.connections == len(pool._available_connections) - 1

        with witnessed(relay, client) as w:
            listener = client.pubsub()
            await listener.subscribe("news")
            assert (await listener.get_message(timeout=20))["type"] == "subscribe"
            await client.publish("news", "x")
            assert (await listener.get_message(timeout=20))["type"] == "message"
            assert await client.blpop("none", timeout=0.1) is None
            await listener.unsubscribe()
            assert (await listener.get_message(timeout=20))["type"] == "unsubscribe"
        await listener.aclose()
        assert (w.round_trips, w.commands, w.pushes) == (4, 4, 1)

        # a request under way when the block ends is not in it, and leaves nothing behind
        await client.aclose()
        with redis.Redis(port=relay.target) as other:
            with wire(client) as w:
                late = asyncio.create_task(client.blpop("none", timeout=60))
                while not other.info("clients")["blocked_clients"]:
                    await asyncio.sleep(0.01)
            before = w.round_trips
            other.rpush("none", "something")
            await late
        assert (before, w.round_trips, w.commands) == (0, 0, 1)
        for conn in pool._available_connections:
            assert type(conn._reader) in (asyncio.StreamReader, type(None))
            assert type(conn._writer) in (asyncio.StreamWriter, type(None))
            assert "_connect" not in vars(conn)
        await client.ping()
        await client.aclose()

    asyncio.run(main())


# clusters


def all_look(witnesses) -> tuple:
    return tuple(map(sum, zip(*(each.look() for each in witnesses), strict=True)))


def test_cluster(three):
    witnesses = [ServerWitness(node.port) for node in three.nodes]
    client = three.client()
    all_look(witnesses)
    for fresh in (True, False):
        if fresh:
            client.disconnect_connection_pools()
        with wire(client) as w:
            for i in range(30):
                client.set(f"k{i}", i)
        assert all_look(witnesses) == totals(w)
        assert (w.round_trips, w.commands, w.connections) == (30, 30, 3 * fresh)

    with wire(client) as w:
        pipe = client.pipeline()
        for i in range(30):
            pipe.get(f"k{i}")
        pipe.execute()
    assert all_look(witnesses) == totals(w)
    assert (w.round_trips, w.by_command) == (3, {"GET": 30})

    with wire(client) as w, client.pubsub() as listener:
        listener.subscribe("news")
        listener.get_message(timeout=20)
        client.publish("news", "x")
        assert within(60, lambda: listener.get_message(timeout=0.1))
    assert (w.pushes, w.by_command) == (1, {"SUBSCRIBE": 1, "PUBLISH": 1})

    # a wrong map of the slots: the first server answers MOVED
    slot = client.keyslot("k1")
    all_look(witnesses)
    manager = client.nodes_manager
    (right,) = manager.slots_cache[slot]
    manager.slots_cache[slot] = [n for n in client.get_nodes() if n.name != right.name][:1]
    with wire(client) as w:
        assert client.get("k1") == "1"
    assert w.by_command["GET"] == 2
    assert all_look(witnesses) == totals(w)
    client.close()


def test_cluster_that_meets_its_nodes_inside(three):
    client = three.client()
    with wire(client) as w:
        client.nodes_manager.reset()
        for node in client.get_nodes():
            node.redis_connection = None
        client.nodes_manager.initialize()
        for i in range(30):
            client.set(f"k{i}", i)
    assert w.by_command["SET"] == 30 and w.by_command["CLUSTER"] >= 1
    assert "create_redis_node" not in vars(client.nodes_manager)
    assert w.handshakes.commands >= 3
    client.close()


def test_async_cluster(three):
    witnesses = [ServerWitness(node.port) for node in three.nodes]

    async def main() -> None:
        node = three.nodes[0]
        client = redis.asyncio.RedisCluster(host=node.host, port=node.port)
        kind = client.nodes_manager.connection_kwargs["connection_class"]
        all_look(witnesses)
        with wire(client) as w:  # not yet connected: meets its nodes inside
            for i in range(30):
                await client.set(f"k{i}", i)
        assert all_look(witnesses) == totals(w)
        # before it knows the slots it asks a node at random, which may answer MOVED
        assert w.by_command["SET"] in (30, 31) and w.by_command["CLUSTER"] == 1
        assert w.connections >= 3
        assert client.nodes_manager.connection_kwargs["connection_class"] is kind
        assert all(node.connection_class is kind for node in client.get_nodes())

        with wire(client) as w:
            await asyncio.gather(*(client.get(f"k{i}") for i in range(30)))
        assert all_look(witnesses) == totals(w)
        assert w.round_trips == w.commands == 30

        with wire(client) as w:
            pipe = client.pipeline()
            for i in range(30):
                pipe.get(f"k{i}")
            await pipe.execute()
        assert all_look(witnesses) == totals(w)
        assert (w.round_trips, w.commands, w.connections) == (3, 30, 0)
        await client.aclose()

    asyncio.run(main())


# what is shown


def test_shown(lab):
    with lab.client() as client:
        client.ping()
        with wire(client) as w:
            client.ping()
            assert repr(w).split()[-4:] == ["1", "1", "14", "7"]  # already while it runs
        assert (
            str(w)
            == repr(w)
            == (
                "round trips  commands  bytes out  bytes in\n"
                "          1         1         14         7"
            )
        )
        assert w._repr_html_() == (
            "<table><tr><th>round trips</th><th>commands</th><th>bytes out</th><th>bytes in</th>"
            "</tr><tr><td>1</td><td>1</td><td>14</td><td>7</td></tr></table>"
        )
        client.connection_pool.disconnect()
        with wire(client) as w:
            client.ping()
        hello = w.handshakes
        assert repr(w).splitlines()[1:] == [
            "   traffic            1         1         14         7",
            f"handshakes            {hello.round_trips}         {hello.commands}",
        ]
        assert "<td>handshakes</td>" in w._repr_html_()
        assert repr(hello).startswith("round trips")


@pytest.mark.parametrize("wrong", [[], [1], ["redis://localhost"], [None]])
def test_takes_clients_only(wrong):
    with pytest.raises(LabError, match="client"), wire(*wrong):
        pass


def test_wrong_one_after_a_right_one(lab):
    with lab.client() as client:
        with pytest.raises(LabError, match="int"), wire(client, 3):
            pass
        assert "make_connection" not in vars(client.connection_pool)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 10_000])
def test_commands_cut_anywhere(size):
    nasty = b"*1\r\n$4\r\nPING\r\n"
    commands = [[b"SET", b"k" * i, nasty * i] for i in range(30)] + [[b"get", b""]]
    stream = b"".join(hiredis.pack_command(tuple(c)) for c in commands)
    flow = _Flow(None)
    names = []
    for at in range(0, len(stream), size):
        chunk = stream[at : at + size]
        names += flow.names(chunk, len(chunk))
    assert names == ["SET"] * 30 + ["GET"]


def test_joined_in_the_middle_of_a_command():
    flow = _Flow(None)
    assert flow.names(b"lf\r\n$3\r\nabc\r\n", 13) == []
    assert flow.names(b"*1\r\n$4\r\nPING\r\n", 14) == ["PING"]
