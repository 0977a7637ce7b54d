"""All servers of all namespaces that this process is connected to: kept equal to what is declared.

A server is known by namespace and name; two namespaces never share one, however equal their manifests are. The
manifests and the secrets that they name are compared now and then with what runs: another command, URL, variable or
value means a new start, a missing manifest the end.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

from schemas.resources import MCPServer
from services.runtime.ports import Clock
from services.runtime.resources import Resources
from services.runtime.secrets import Secrets
from services.runtime.tasks import Tasks
from services.tool_executor.mcp.connection import Connection
from services.tool_executor.mcp.launch import Invalid, Launch, launch_of

logger = logging.getLogger(__name__)

SECRETS_CHECK_S = 5.0
"""How often the values of secrets are looked at."""


class ServerKey(NamedTuple):
    """A server of a namespace."""

    namespace: str
    name: str


class Pool:
    """The connections of this process. `on_change` is called with the key of a server of which something is new."""

    def __init__(
        self, resources: Resources, secrets: Secrets, clock: Clock, on_change: Callable[[ServerKey], None]
    ) -> None:
        self._resources = resources
        self._secrets = secrets
        self._clock = clock
        self._on_change = on_change
        self._connections: dict[ServerKey, Connection] = {}
        self._invalid: dict[ServerKey, str] = {}
        self._ending = Tasks()
        self._changed = asyncio.Event()

    @property
    def connections(self) -> Mapping[ServerKey, Connection]:
        """The servers that are started, or about to be."""
        return self._connections

    def invalid(self, key: ServerKey) -> str:
        """Why a server cannot be started, if it cannot."""
        return self._invalid.get(key, "")

    def look(self) -> None:
        """Something was applied or deleted: compare soon."""
        self._changed.set()

    def settle(self) -> None:
        """Compare now, if that is due."""
        if self._changed.is_set():
            self._compare()

    async def run(self) -> None:
        """Compare for ever."""
        while True:
            self._compare()
            try:
                async with asyncio.timeout(SECRETS_CHECK_S):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def _compare(self) -> None:
        """Start, restart and end what is not as it is declared."""
        self._changed.clear()
        declared = {
            ServerKey(server.metadata.namespace, server.metadata.name): server
            for server, _ in self._resources.all(MCPServer)
        }
        for key in (self._connections.keys() | self._invalid.keys()) - declared.keys():
            self._end(key)
            self._invalid.pop(key, None)
            self._on_change(key)
        for key, server in declared.items():
            try:
                launch = launch_of(server.spec, self._secrets)
            except Invalid as error:
                self._end(key)
                if self._invalid.get(key) != str(error):
                    self._invalid[key] = str(error)
                    self._on_change(key)
                continue
            if self._invalid.pop(key, None) is not None:
                self._on_change(key)
            self._ensure(key, launch)

    def _ensure(self, key: ServerKey, launch: Launch) -> None:
        connection = self._connections.get(key)
        if connection is None:
            self._connections[key] = Connection(f"{key.namespace}/{key.name}", launch, partial(self._on_change, key))
            self._on_change(key)
        elif connection.launch != launch:
            logger.info("%s is started anew", connection.name, extra={"action": "mcp.restart"})
            connection.relaunch(launch)

    def _end(self, key: ServerKey) -> None:
        connection = self._connections.pop(key, None)
        if connection is not None:
            logger.info("%s is stopped", connection.name, extra={"action": "mcp.stop"})
            self._ending.spawn(connection.close(), name=f"mcp:{connection.name}:close")

    async def close(self) -> None:
        """End all connections; when this returns, nothing of their processes is left."""
        for key in list(self._connections):
            self._end(key)
        await self._ending.join()
