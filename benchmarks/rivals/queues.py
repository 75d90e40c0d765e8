"""Queues. Each takes a job, and says that it is done, by what its own worker calls for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import celery
import dramatiq
import kombu
import kombu.transport.redis
import redis
import redis.asyncio
import rq
import taskiq
import taskiq_redis.redis_broker
from dramatiq.brokers.redis import RedisBroker
from rq.intermediate_queue import IntermediateQueue
from rq.utils import now

from .asynchronous import Loop, connection_class, where

logging.getLogger("rq").setLevel(logging.CRITICAL)
logging.getLogger("kombu").setLevel(logging.CRITICAL)


@dataclass
class Taken:
    """A job, and how to say that it is done."""

    payload: str
    finish: Callable[[], object]


class Putting:
    """What all of them have in common."""

    def done(self, job: Taken) -> None:
        """As its worker says it."""
        job.finish()


def nothing(payload: str) -> None:
    """The function that a job names; the drill does the work itself."""


class _Worker(rq.SimpleWorker):
    """A worker with a lease of a second or two; rq's is the job's time limit and a minute."""

    def get_heartbeat_ttl(self, job: Any, working_time: float = 0.0) -> int:
        return 2  # rq cuts the time to whole seconds


class _SoonCleaned(IntermediateQueue):
    """rq gives up a job that a worker took and did not begin after a minute; here, a second."""

    def should_be_cleaned_up(self, job_id: str) -> bool:
        seen: datetime | None = self.get_first_seen(job_id)
        return bool(seen and now() - seen > timedelta(seconds=1))


class Rq(Putting):
    """rq with `retry`; each put names its job, so that it can be put again.

    What a worker does before and after a job, through its own methods; what it cleans up every
    ten minutes, at each take. https://python-rq.org/docs/exceptions/
    """

    package = "rq"
    lease_s = 1
    errors = (rq.exceptions.DuplicateJobError,)
    says = {  # noqa: RUF012
        "done twice": ("", ""),
    }
    not_promised = tuple(says)
    client_options = {"decode_responses": False}  # noqa: RUF012

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self.queue = rq.Queue("q", connection=client)
        self.worker = _Worker([self.queue], connection=client)
        self.worker.last_cleaned_at = now()  # the adapter cleans up
        self.left = _SoonCleaned(self.queue.key, connection=client)

    def put(self, payload: str) -> None:
        """With a name of its own: rq refuses the second of them while it keeps the first."""
        retry = rq.Retry(max=100)
        name = payload.replace(".", "_")
        self.queue.enqueue(nothing, payload, job_id=name, unique=True, retry=retry, result_ttl=500)

    def take(self) -> Taken | None:
        """As a worker in burst mode does."""
        # One worker at a time cleans up; rq's own mark lives for fifteen minutes
        if self.client.set(self.queue.registry_cleaning_key, 1, nx=True, ex=3):
            self.queue.started_job_registry.cleanup()
            self.left.cleanup(self.worker, self.queue)
            self.queue.release_maintenance_lock()
        found = self.worker.dequeue_job_and_maintain_ttl(timeout=None)
        if found is None:
            return None
        job, queue = found
        execution = self.worker.prepare_execution(job)
        self.worker.prepare_job_execution(job, remove_from_intermediate_queue=True)
        job.started_at = now()

        def finish() -> None:
            job.ended_at = now()
            registry = queue.started_job_registry
            self.worker.handle_job_success(job, queue, registry, execution)

        return Taken(job.args[0], finish)


class Dramatiq(Putting):
    """dramatiq's RedisBroker and its consumer, without its threads.

    A worker is gone once it has sent nothing for a second (of its own accord, a minute), and
    whoever calls looks for such workers (of its own accord, once in a thousand calls).
    https://dramatiq.io/advanced.html#message-persistence
    """

    package = "dramatiq"
    lease_s = 1
    errors = (dramatiq.errors.ConnectionError,)
    says = {  # noqa: RUF012
        "done twice": (
            "Dramatiq guarantees that messages are delivered to their respective actors at least "
            "once. This means that, for any given message, running your actor multiple times must "
            "be safe.",
            "https://dramatiq.io/best_practices.html#retriable-actors",
        ),
    }
    not_promised = tuple(says)
    client_options = {"decode_responses": False}  # noqa: RUF012

    def __init__(self, client: redis.Redis) -> None:
        self.broker = RedisBroker(
            client=client,
            middleware=[],
            heartbeat_timeout=self.lease_s * 1000,
            maintenance_chance=1_000_000,
        )
        self.broker.declare_queue("q")

    def put(self, payload: str) -> None:
        """As `send` does."""
        message: Any = dramatiq.Message("q", "work", (payload,), {}, {}, message_id=payload)
        self.broker.enqueue(message)

    def take(self) -> Taken | None:
        """One message, as a worker's consumer thread fetches it."""
        consumer = self.broker.consume("q", prefetch=1, timeout=10)
        message = next(consumer)
        if message is None:
            return None
        return Taken(message.args[0], lambda: consumer.ack(message))


class _Empty(Exception):
    """Nothing new in the stream."""


class _NoWait(redis.asyncio.Redis):
    """Ends taskiq's endless loop where it would begin again, for `take` returns at once."""

    async def xreadgroup(self, *args: Any, **options: Any) -> Any:
        found = await super().xreadgroup(*args, **options)
        if not found:
            raise _Empty
        return found


taskiq_redis.redis_broker.Redis = _NoWait


class Taskiq(Putting):
    """taskiq's RedisStreamBroker, which "supports acknowledgements".

    A message is given to another worker after a second (of its own accord, ten minutes).
    https://github.com/taskiq-python/taskiq-redis#stream
    """

    package = "taskiq-redis"
    lease_s = 1
    errors = (taskiq.exceptions.SendTaskError,)
    says = {  # noqa: RUF012
        "done twice": ("", ""),
    }
    not_promised = tuple(says)

    def __init__(self, client: redis.Redis) -> None:
        self.loop = Loop()
        host, port = where(client)
        self.broker = taskiq_redis.RedisStreamBroker(
            f"redis://{host}:{port}/0",
            xread_block=50,
            xread_count=1,
            idle_timeout=self.lease_s * 1000,
            unacknowledged_lock_timeout=self.lease_s,
            connection_class=connection_class(client),
        )
        self.task = self.broker.register_task(nothing, task_name="work")
        self.started = False
        self.messages: Any = None

    def start(self) -> None:
        """The group for the messages that come from now on, made as soon as Redis is there."""
        if not self.started:
            self.loop.run(self.broker.startup())
            self.started = True

    def put(self, payload: str) -> None:
        """As `kiq` does."""
        self.start()
        self.loop.run(self.task.kiq(payload))

    def take(self) -> Taken | None:
        """The next message of the loop that its worker runs."""
        self.start()
        self.messages = self.messages or self.broker.listen()
        try:
            message = self.loop.run(anext(self.messages))
        except _Empty:
            self.messages = None
            return None
        except BaseException:
            self.messages = None
            raise
        payload = self.broker.formatter.loads(message.data).args[0]

        async def finish() -> None:
            ended = message.ack()
            if asyncio.iscoroutine(ended):
                await ended

        return Taken(payload, lambda: self.loop.run(finish()))


# What Celery imports at its first use, it need not import again in every process of a race
celery.Celery("q", broker="memory://", set_as_current=False).send_task("work")


class Celery(Putting):
    """Celery's client, and its transport as a worker with late acknowledgement uses it.

    It takes with RPOP, where a worker waits with BRPOP; what follows is the same code. Celery takes
    jobs back after the visibility timeout (of its own accord, an hour), and looks every ten seconds
    (here, at each take). Its worker's loop is its own and cannot be played step by step: for that
    one, see the lesson on queues.
    https://docs.celeryq.dev/en/stable/getting-started/backends-and-brokers/redis.html
    """

    package = "celery"
    lease_s = 1
    errors = (kombu.exceptions.OperationalError,)
    says = {  # noqa: RUF012
        "done twice": (
            "If a task isn't acknowledged within the visibility timeout the task will be "
            "redelivered to another worker and executed.",
            "https://docs.celeryq.dev/en/stable/getting-started/backends-and-brokers/redis.html",
        ),
    }
    not_promised = tuple(says)

    def __init__(self, client: redis.Redis) -> None:
        kind: Any = client.connection_pool.connection_class

        class Channel(kombu.transport.redis.Channel):
            connection_class = kind
            do_restore = False  # a process that is killed gives nothing back

        class Transport(kombu.transport.redis.Transport):
            pass

        Transport.Channel = Channel
        host, port = where(client)
        self.app = celery.Celery("q", broker=f"redis://{host}:{port}/0", set_as_current=False)
        self.app.conf.update(
            task_acks_late=True,
            task_ignore_result=True,
            broker_transport=Transport,
            broker_transport_options={
                "visibility_timeout": self.lease_s,
                "unacked_mutex_expire": self.lease_s,  # of its own accord, five minutes
            },
        )
        self.connection: Any = None

    def put(self, payload: str) -> None:
        """As `apply_async` does."""
        self.app.send_task("work", args=[payload], task_id=payload)

    def take(self) -> Taken | None:
        """One message, and the bookkeeping that lets others take it back.

        As a worker does, it connects anew after an error.
        """
        try:
            if self.connection is None:
                self.connection = self.app.connection_for_read()
                kombu.Queue("celery", channel=self.connection.default_channel).declare()
            channel = self.connection.default_channel
            channel.qos.restore_visible(interval=1)
            message = channel.basic_get("celery")
        except self.connection.connection_errors:
            self.connection = None
            raise
        if message is None:
            return None
        return Taken(message.decode()[0][0], message.ack)
