"""The servers behind a client: one, or the primaries of a Redis Cluster."""

from __future__ import annotations

import redis


def primaries(client: redis.Redis | redis.RedisCluster) -> list[redis.Redis]:
    """A client of each primary; for a client that is not of a cluster, the client itself."""
    if isinstance(client, redis.RedisCluster):
        return [client.get_redis_connection(node) for node in client.get_primaries()]
    return [client]


def first_primary(client: redis.Redis | redis.RedisCluster) -> redis.Redis:
    """A client of the only server, or of one primary: for what is the same on all of them."""
    return primaries(client)[0]
