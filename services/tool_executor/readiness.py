"""What is said of MCP servers: whoever is connected says so, and a contradiction does not flap.

Every replica connects by itself, and all of them write the same status. Three rules keep it steady:
- A connected replica writes when its own session opens or its tools change, and when the status says anything but
  ready. It never corrects another replica's ready status, so two that see different tools do not take turns.
- A replica that cannot connect writes freely while the status is not ready. A ready status it contradicts once in
  `CONTRADICT_S` only: a replica that is connected takes the contradiction back at once, and if none is, it stands.
- A connection that is lost and opened again at once (a server that was restarted) is not worth a word.
The last known tools stay in the status of a server that is in trouble: names keep their meaning.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from schemas.resources import MCPServer, ResourceStatus, Status
from schemas.subjects import ResourceKey
from services.runtime.errors import Unavailable
from services.runtime.tasks import Tasks
from services.tool_executor.core.policy import channels_of, nobody_is_told
from services.tool_executor.mcp.connection import Connection
from services.tool_executor.mcp.pool import Pool, ServerKey
from services.tool_executor.people import channel_trouble

if TYPE_CHECKING:
    from services.runtime.service import Runtime

logger = logging.getLogger(__name__)

CONTRADICT_S = 300.0
AGAIN_S = 1.0
"""When to try again after the bus did not answer."""
KIND = "MCPServer"


class Readiness:
    """Writes the statuses of MCP servers."""

    def __init__(self, runtime: Runtime) -> None:
        self._resources = runtime.resources
        self._clock = runtime.bus.clock
        self._connected = runtime.metrics.mcp_connected
        self.pool = Pool(runtime.resources, runtime.secrets, self._clock, self._changed)
        self._due: dict[ServerKey, bool] = {}
        """Servers to look at, and whether something is new about them here."""
        self._wake = asyncio.Event()
        self._contradicted: dict[ServerKey, datetime] = {}
        self._tasks = Tasks()

    async def start(self) -> None:
        """Follow what is declared, and say what is true of it."""
        self._resources.on_change(self._on_resource)
        self._tasks.spawn(self._run(), name="mcp:readiness")

    async def stop(self) -> None:
        """End all connections. What was said stays: another replica may be connected, and the next one will look."""
        await self._tasks.close()
        await self.pool.close()

    def _on_resource(self, key: ResourceKey) -> None:
        if key.kind == "ContactChannel":
            self._look_at_those_with(key.namespace, key.name)
        if key.kind != KIND:
            return
        if key.part == "spec":
            self.pool.look()
        self._look(ServerKey(key.namespace, key.name), news=False)

    def _look_at_those_with(self, namespace: str, channel: str) -> None:
        for server, _ in self._resources.all(MCPServer):
            metadata = server.metadata
            if metadata.namespace == namespace and channel in channels_of(server.spec):
                self._look(ServerKey(namespace, metadata.name), news=False)

    def _changed(self, key: ServerKey) -> None:
        self._connected.set(sum(one.tools is not None for one in self.pool.connections.values()))
        self._look(key, news=True)

    def _look(self, key: ServerKey, *, news: bool) -> None:
        self._due[key] = news or self._due.get(key, False)
        self._wake.set()

    async def _run(self) -> None:
        await self._resources.loaded()
        self._tasks.spawn(self.pool.run(), name="mcp:pool")
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._due:
                key, news = self._due.popitem()
                try:
                    await self._say(key, news=news)
                except Unavailable as error:
                    logger.warning("%s: %s", "/".join(key), error, extra={"action": "resource.unavailable"})
                    self._look(key, news=news)
                    await self._clock.sleep(AGAIN_S)

    async def _say(self, key: ServerKey, *, news: bool) -> None:
        self.pool.settle()
        if self._resources.known(KIND, *key) is None:
            self._contradicted.pop(key, None)
            await self._resources.forget_status(KIND, *key)
            return
        connection = self.pool.connections.get(key)
        status = self._resources.status(KIND, *key)
        if reason := self.pool.invalid(key):
            await self._say_error(key, f"Validation failed: {reason}", status)
        elif (why := self._without_people(key)) is not None:
            tools = status.tools if status else ()
            await self._resources.set_status(KIND, *key, status=why[0], detail=why[1], tools=tools)
        elif connection is None:
            return
        elif connection.tools is not None:
            self._contradicted.pop(key, None)
            if news or status is None or status.status != "Ready":
                detail = _connected(connection) + self._console_only(key)
                await self._resources.set_status(KIND, *key, status="Ready", detail=detail, tools=connection.tools)
        elif connection.failing:
            await self._say_error(key, f"Connection failed: {connection.detail}", status)
        elif status is None:
            await self._resources.set_status(KIND, *key, status="Pending", detail="Initializing")

    def _without_people(self, key: ServerKey) -> tuple[Status, str] | None:
        """What is said of a server about whose calls people have to be asked, and cannot be reached.

        Every replica knows the same of it, so none contradicts another.
        """
        server = self._resources.get(MCPServer, *key)
        found = channels_of(server.spec) if server is not None else ()
        troubles = (channel_trouble(self._resources, key.namespace, channel) for channel in found)
        return next((trouble for trouble in troubles if trouble is not None), None)

    def _console_only(self, key: ServerKey) -> str:
        """A word on whom nobody tells about calls whose outcome nobody knows."""
        server = self._resources.get(MCPServer, *key)
        return nobody_is_told(server.spec) if server is not None else ""

    async def _say_error(self, key: ServerKey, detail: str, status: ResourceStatus | None) -> None:
        if self._may_contradict(key, status):
            tools = status.tools if status else ()
            await self._resources.set_status(KIND, *key, status="Error", detail=detail, tools=tools)

    def _may_contradict(self, key: ServerKey, status: ResourceStatus | None) -> bool:
        if status is None or status.status != "Ready":
            return True
        before, now = self._contradicted.get(key), self._clock.now()
        if before is not None and now - before < timedelta(seconds=CONTRADICT_S):
            return False
        self._contradicted[key] = now
        return True


def _connected(connection: Connection) -> str:
    count = len(connection.tools or ())
    more = f" ({connection.left_out} more do not fit into a status)" if connection.left_out else ""
    return f"Connected successfully with {count} tools{more}"
