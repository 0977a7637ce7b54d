"""The tool-executor: carries out the tool calls that models ask for, once each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, assert_never

from schemas import subjects
from services.runtime.service import Service, Subscription
from services.tool_executor.handlers import ToolCommands
from services.tool_executor.readiness import Readiness

if TYPE_CHECKING:
    from schemas.tools import Via
    from services.runtime.service import Runtime
    from services.tool_executor.calls import ToolServer
    from services.tool_executor.mcp.pool import ServerKey


class ToolExecutor:
    """The service."""

    def __init__(self, runtime: Runtime) -> None:
        self._bus = runtime.bus
        self._readiness = Readiness(runtime)
        self._commands = ToolCommands(runtime, self._find)

    def subscriptions(self) -> Sequence[Subscription]:
        """The commands to run tools, of every partition."""
        return [
            Subscription(subjects.TOOL_EXECUTOR, partition, self._commands.handle, self._commands.on_dead)
            for partition in range(self._bus.partitions)
        ]

    async def start(self) -> None:
        """Listen, and connect to the servers that are declared."""
        await self._commands.listen()
        await self._readiness.start()

    async def stop(self) -> None:
        """Leave no server's process behind."""
        await self._commands.close()
        await self._readiness.stop()

    def _find(self, via: Via, key: ServerKey) -> ToolServer | None:
        """What carries a call out; None if it cannot now."""
        match via:
            case "MCPServer":
                return self._readiness.pool.connections.get(key)
            case "MCPExtra" | "Toolset":
                return None
            case _:
                assert_never(via)


def build(runtime: Runtime) -> Service:
    """The service, wired up."""
    return ToolExecutor(runtime)
