"""The tool-executor: carries out the tool calls that models ask for, once each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from schemas import subjects
from services.runtime.service import Service, Subscription
from services.tool_executor.handlers import ToolCommands
from services.tool_executor.mcp.connection import Extras
from services.tool_executor.readiness import Readiness
from services.tool_executor.toolsets.readiness import ToolsetReadiness
from services.tool_executor.toolsets.toolset import Toolsets

if TYPE_CHECKING:
    from schemas.subjects import TaskSubjects
    from schemas.tools import Via
    from services.runtime.service import Runtime
    from services.tool_executor.calls import ToolServer
    from services.tool_executor.mcp.pool import ServerKey


class ToolExecutor:
    """The service."""

    def __init__(self, runtime: Runtime) -> None:
        self._bus = runtime.bus
        self._readiness = Readiness(runtime)
        self._toolsets = Toolsets(runtime)
        self._toolset_readiness = ToolsetReadiness(runtime, self._toolsets)
        self._commands = ToolCommands(runtime, self._find)

    def subscriptions(self) -> Sequence[Subscription]:
        """The commands to run tools, and what people say of calls that were lost, of every partition."""
        commands = self._commands
        found: list[Subscription] = []
        for partition in range(self._bus.partitions):
            found += [
                Subscription(subjects.TOOL_EXECUTOR, partition, commands.handle, commands.on_dead),
                Subscription(subjects.TOOL_EXECUTOR_ANSWERS, partition, commands.on_answered, commands.on_dead_answer),
            ]
        return found

    async def start(self) -> None:
        """Listen, and connect to the servers that are declared."""
        await self._commands.listen()
        await self._readiness.start()
        await self._toolsets.start()
        await self._toolset_readiness.start()

    async def stop(self) -> None:
        """Leave no server's process behind."""
        await self._commands.close()
        await self._toolset_readiness.stop()
        await self._toolsets.stop()
        await self._readiness.stop()

    def _find(self, via: Via, key: ServerKey, task: TaskSubjects, seq: int) -> ToolServer | None:
        """What carries out the call of a task that the command at `seq` asks for; None if it cannot now."""
        match via:
            case "MCPServer":
                return self._readiness.pool.connections.get(key)
            case "MCPExtra":
                connection = self._readiness.pool.connections.get(key)
                return Extras(connection) if connection is not None else None
            case "Toolset":
                return self._toolsets.find(key, task, seq)
            case _:
                return None


def build(runtime: Runtime) -> Service:
    """The service, wired up."""
    return ToolExecutor(runtime)
