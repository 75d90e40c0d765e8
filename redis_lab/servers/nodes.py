"""The servers behind a client: one, or the primaries of a Redis Cluster."""

from __future__ import annotations

import redis


def primaries(client: redis.Redis | redis.RedisCluster) -> list[redis.Redis]:
    """A client of each primary: of a plain client, itself."""
    if isinstance(client, redis.RedisCluster):
        return [client.get_redis_connection(node) for node in client.get_primaries()]
    return [client]


def first_primary(client: redis.Redis | redis.RedisCluster) -> redis.Redis:
    """A client of the one server, or of one of the primaries: for what all have in common."""
    return primaries(client)[0]
