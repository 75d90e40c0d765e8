"""A server in a container, for machines without a native one."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

import redis

from .. import internals
from ..child import Child
from ..errors import LabError
from ..extras import describe_missing
from .base import DEFAULTS, START_TIMEOUT_S, Kind, Server, config_lines, format_value

IMAGE = "redis:8"
KEEPER = Path(__file__).with_name("_keeper.py")


class DockerServer(Server):
    """A server in a container that testcontainers runs, its port published on loopback only."""

    kind = "docker"
    started = False

    def __init__(self, password: str | None, config: dict) -> None:
        self.password = password
        image = os.environ.get("REDIS_LAB_DOCKER_IMAGE", IMAGE)
        self.settings = {**DEFAULTS, "bind": ("*", "-::*"), "protected-mode": "no", **config}
        secret = {"requirepass": password} if password else {}
        command = ["redis-server"]
        for key, args in config_lines({**self.settings, **secret}):
            command += [f"--{key}", *map(format_value, args)]
        name = f"redis-lab-{secrets.token_hex(6)}"
        # Before there is a container, which outlives a killed owner unless somebody removes it
        self.keeper = Child("The container's keeper", KEEPER, "container", name, isolated=False)
        try:
            self.keeper.wait_ready()
            self._start(image, name, command)
            self._wait_until_ready(config)
        except BaseException:
            self.stop()
            raise

    def _start(self, image: str, name: str, command: list[str]) -> None:
        from testcontainers.core.config import testcontainers_config
        from testcontainers.core.container import DockerContainer

        testcontainers_config.ryuk_disabled = True  # a container of its own, which cleans up late
        try:
            container: Any = DockerContainer(image)
            container.ports["6379/tcp"] = ("127.0.0.1", None)
            container.with_command(command).with_name(name).with_kwargs(auto_remove=True)
            container.start()
            self.container, self.started = container, True
        except Exception as error:
            reason = str(error).strip().splitlines()[-1][:200]
            raise LabError(
                f"Docker could not start {image}: {reason}. Is the Docker engine running, and the "
                "image there (docker pull) or named by REDIS_LAB_DOCKER_IMAGE?"
            ) from error

    def _wait_until_ready(self, config: dict) -> None:
        from docker.errors import NotFound

        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                self.port = internals.published_port(self.container, "6379/tcp")
                credentials = f":{quote(self.password, safe='')}@" if self.password else ""
                self.url = f"redis://{credentials}127.0.0.1:{self.port}/0"
                self.identify()
                return
            except NotFound as error:  # it ended, and was removed with its log
                raise LabError(
                    "The server in the container ended at once. Does its version know these "
                    f"settings: {', '.join(config) or 'none'}?"
                ) from error
            except (redis.RedisError, KeyError, TypeError, IndexError) as error:
                if time.monotonic() > deadline:
                    raise LabError(
                        f"The server in the container did not answer: {error}. Try again, or "
                        "choose another kind of server: redis-lab doctor lists them."
                    ) from error
                time.sleep(0.05)

    def stop(self) -> None:
        """Remove the container, and the server with it."""
        if self.started:
            with contextlib.suppress(Exception):  # auto_remove may have removed it already
                self.container.stop()
                self.keeper.ask("gone")
        self.keeper.stop()


def docker_version() -> str | None:
    """The version of the Docker engine that answers, or None."""
    try:
        import docker

        with contextlib.closing(docker.from_env(timeout=5)) as engine:
            return engine.version()["Version"]
    except Exception:
        return None


class Docker(Kind):
    name = DockerServer.kind

    def probe(self) -> tuple[bool, str]:
        if find_spec("testcontainers") is None:
            return False, describe_missing("testcontainers") or ""
        engine = docker_version()
        return bool(engine), f"Docker engine {engine}" if engine else "no Docker engine answers"

    def start(self, password: str | None = None, config: dict | None = None) -> Server:
        return DockerServer(password, config or {})
