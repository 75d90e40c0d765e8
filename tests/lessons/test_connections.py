"""The lesson on connections: its exercises, and what its text says of redis-py, ACLs and TLS."""

from __future__ import annotations

import contextlib
import socket
import sys

import pytest
import redis
import trustme
from processes import tls_server
from redis.backoff import NoBackoff
from redis.retry import Retry

from redis_lab import LabError
from redis_lab.internals import embedded_binary
from redis_lab.judging import NotYet
from redis_lab.lessons import connections as exercises
from redis_lab.servers.base import free_port
from redis_lab.servers.choose import server


def once():
    return Retry(NoBackoff(), 0)


def worker_with(timeout_s, retries=0):
    """An answer to the first exercise; `timeout_s` is computed from `block_s`."""

    def worker_client(url, block_s):
        return redis.Redis.from_url(
            url, socket_timeout=timeout_s(block_s), retry=Retry(NoBackoff(), retries)
        )

    return worker_client


def test_worker_client():
    assert exercises.worker_client(None, worker_with(lambda block_s: block_s + 5))
    assert exercises.worker_client(None, worker_with(lambda block_s: 1.5 * block_s))
    wrong = {
        worker_with(lambda block_s: None): "waits for ever",
        worker_with(lambda block_s: 5): "must be longer than block_s",
        worker_with(lambda block_s: block_s): "must be longer than block_s",
        worker_with(lambda block_s: block_s + 600): "Some seconds more",
        worker_with(lambda block_s: 65): "Compute it from block_s",
        worker_with(lambda block_s: block_s + 5, retries=3): "nobody receives that job",
        worker_with(lambda block_s: max(65 * (block_s > 1), block_s / 2)): "Use block_s",
        lambda url, block_s: url: "should return a redis.Redis",
    }
    for answer, hint in wrong.items():
        with pytest.raises(NotYet, match=hint):
            exercises.worker_client(None, answer)


def test_rules():
    assert exercises.rules(None, "on >lab ~jobs:* ~working:* +blmove +lrem")
    assert exercises.rules(None, "+lrem ~working:* >lab on ~jobs:* +blmove")
    mine = "on >lab ~jobs:* ~working:*"
    wrong = {
        ">lab ~jobs:* ~working:* +blmove +lrem": "switches it on",
        "on nopass ~jobs:* ~working:* +blmove +lrem": "nopass lets in anybody",
        "on >secret ~jobs:* ~working:* +blmove +lrem": "log in with the password",
        "on >lab ~jobs:* +blmove +lrem": "both patterns",
        f"{mine} +lrem": "BLMOVE from jobs:mail",
        f"{mine} +blmove": "LREM on working:1 is refused",
        f"{mine} +blmove +lrem +nonsense": "does not take these rules",
        "on >lab ~* +@all": "read session:ada",
        f"{mine} +@all": "FLUSHALL names no key",
        f"{mine} +@read +@write -flushall -flushdb": "KEYS and SCAN name no key",
        f"{mine} +@read +@write -flushall -flushdb -keys": "with SCAN",
        f"{mine} +@list": "read lists",
        f"{mine} +@list -lrange": "add jobs",
        f"{mine} +blmove +lrem +del": "delete the whole list",
        f"{mine} +blmove +lrem +config": "configuration",
        f"{mine} +blmove +lrem +publish &*": "publish",
        "on >lab ~* +blmove +lrem": "not its own",
    }
    for answer, hint in wrong.items():
        with pytest.raises(NotYet, match=hint):
            exercises.rules(None, answer)


def test_the_clients_of_redis_py_differ_by_how_they_were_made():
    def told(pool):
        connection = pool.make_connection()
        return (
            connection.retry.get_retries(),
            connection.socket_timeout,
            connection.socket_connect_timeout,
        )

    assert told(redis.Redis().connection_pool) == (10, 5, 5)
    assert told(redis.Redis.from_url("redis://").connection_pool) == (0, 5, 5)
    assert told(redis.ConnectionPool()) == (0, 5, 5)
    backoff = redis.Redis().connection_pool.make_connection().retry._backoff
    assert (backoff._base, backoff._cap) == (0.01, 1)  # at_worst_s counts with these
    assert redis.Redis().connection_pool.max_connections == 100
    blocking = redis.BlockingConnectionPool()
    assert (blocking.max_connections, blocking.timeout) == (50, 20)


def test_a_restart_between_two_commands_needs_no_retry(each_kind):
    with server(kind=each_kind.kind) as private, private.client(retry=once()) as client:
        client.ping()
        private.restart()
        assert client.ping()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems may refuse, not swallow")
@pytest.mark.parametrize("retries", [0, 1, 2])
def test_where_packets_are_lost_there_are_retries_inside_retries(retries):
    patience = {"socket_timeout": 0.1, "socket_connect_timeout": 0.1}
    with contextlib.ExitStack() as stack:
        private = stack.enter_context(server(tcp_backlog=1))
        warm, fresh = (private.client(retry=Retry(NoBackoff(), retries), **patience) for _ in "ab")
        warm.ping()
        stack.enter_context(private.stalled())
        for _ in range(8):
            one = stack.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex((private.host, private.port))

        def attempts(client):
            """How often it tried to connect; each try takes one timeout."""
            tried = []

            class Counted(redis.Connection):
                def _connect(self):
                    tried.append(self)
                    return super()._connect()

            client.connection_pool.connection_class = Counted
            for connection in client.connection_pool._available_connections:
                connection.__class__ = Counted
            with pytest.raises(redis.TimeoutError):
                client.get("price:1")
            return len(tried)

        # After the request itself has run into its timeout, each retry connects, with retries
        assert attempts(warm) == retries * (retries + 1)
        assert attempts(fresh) == retries + 1


def test_a_pop_that_gave_up_loses_its_job_without_retries_too(each_kind):
    with server(kind=each_kind.kind) as private:
        worker = private.client(socket_timeout=0.1, retry=once())
        worker.rpush("jobs", "job-1", "job-2")
        with private.stalled(), pytest.raises(redis.TimeoutError):
            worker.blpop(["jobs"], timeout=5)
        assert private.client().ping()
        assert private.client().lrange("jobs", 0, -1) == ["job-2"]


def test_no_answer_is_taken_for_another_after_a_timeout(each_kind):
    """A connection whose answer came too late is thrown away, not lent to the next."""
    with server(kind=each_kind.kind) as private:
        client = private.client(socket_timeout=0.1, retry=once())
        client.mset({"cart:ada": "a lamp", "cart:bob": "a ring"})
        with private.stalled(), pytest.raises(redis.TimeoutError):
            client.get("cart:bob")
        assert private.client().ping()
        assert client.get("cart:ada") == "a lamp"


def test_categories_hold_commands_that_name_no_key(each_kind):
    with each_kind.client() as admin:
        assert {"flushall", "set"} <= set(admin.acl_cat("write"))
        assert {"keys", "scan", "get"} <= set(admin.acl_cat("read"))
        assert {"on", "nopass"} <= set(admin.acl_getuser("default")["flags"])


# ---------------------------------------------------------------- TLS


@pytest.fixture(scope="module")
def secured(tmp_path_factory):
    """A server that speaks TLS, its TLS port, and the file of the authority it was signed by."""
    folder = tmp_path_factory.mktemp("tls")
    trustme.CA().cert_pem.write_to_path(folder / "stranger.pem")
    with tls_server(folder) as (_, port):
        yield port, folder


def over_tls(port, host="localhost", **options):
    return redis.Redis.from_url(f"rediss://{host}:{port}", retry=once(), **options)


def test_tls_takes_the_right_certificate(secured):
    port, folder = secured
    with over_tls(port, ssl_ca_certs=str(folder / "ca.pem")) as client:
        assert client.ping()


def test_tls_checks_who_signed_and_for_whom(secured):
    port, folder = secured
    with pytest.raises(redis.ConnectionError, match="certificate verify failed"):
        over_tls(port).ping()
    with pytest.raises(redis.ConnectionError, match="certificate verify failed"):
        over_tls(port, ssl_ca_certs=str(folder / "stranger.pem")).ping()
    with pytest.raises(redis.ConnectionError, match="certificate verify failed"):
        over_tls(port, host="127.0.0.1", ssl_ca_certs=str(folder / "ca.pem")).ping()


def test_tls_that_checks_nothing_talks_to_anybody(secured):
    port, _ = secured
    with over_tls(port, host="127.0.0.1", ssl_cert_reqs="none") as client:
        assert client.ping()


def test_the_embedded_server_has_no_tls(secured):
    if not embedded_binary():
        pytest.skip("no embedded server here")
    pem = str(secured[1] / "server.pem")
    with pytest.raises(LabError):
        server(kind="embedded", tls_port=free_port(), tls_cert_file=pem, tls_key_file=pem)
