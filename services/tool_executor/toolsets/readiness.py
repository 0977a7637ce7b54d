"""What is said of declared toolsets: whether this machine can carry out what they promise.

A replica speaks when its own finding or the specification is new, never in answer to another replica: two that find
different programs do not take turns.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, NamedTuple

from schemas.resources import Status, Toolset, ToolsetSpec
from schemas.subjects import ResourceKey
from schemas.toolsets import toolset_tools
from services.runtime.errors import Unavailable
from services.runtime.tasks import Tasks
from services.tool_executor.core.policy import channels_of, nobody_is_told
from services.tool_executor.mcp.pool import ServerKey
from services.tool_executor.people import channel_trouble
from services.tool_executor.toolsets.equip import equip, missing_programs
from services.tool_executor.toolsets.job import CannotRun

if TYPE_CHECKING:
    from services.runtime.service import Runtime
    from services.tool_executor.toolsets.toolset import Toolsets

logger = logging.getLogger(__name__)

KIND = "Toolset"
LOOK_S = 5.0
"""How often secrets and programs are looked at."""


class Finding(NamedTuple):
    """What a look at a toolset found."""

    revision: int
    status: Status
    detail: str


class ToolsetReadiness:
    """Writes the statuses of toolsets."""

    def __init__(self, runtime: Runtime, toolsets: Toolsets) -> None:
        self._resources = runtime.resources
        self._secrets = runtime.secrets
        self._toolsets = toolsets
        self._said: dict[ServerKey, Finding] = {}
        self._wake = asyncio.Event()
        self._tasks = Tasks()

    async def start(self) -> None:
        """Follow what is declared."""
        self._resources.on_change(self._on_resource)
        self._tasks.spawn(self._run(), name="toolsets:readiness")

    async def stop(self) -> None:
        """Say nothing more."""
        await self._tasks.close()

    def _on_resource(self, key: ResourceKey) -> None:
        if (key.kind == KIND and key.part == "spec") or key.kind == "ContactChannel":
            self._wake.set()

    async def _run(self) -> None:
        await self._resources.loaded()
        while True:
            self._wake.clear()
            try:
                await self._look()
            except Unavailable as error:
                logger.warning("toolsets: %s", error, extra={"action": "resource.unavailable"})
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _look(self) -> None:
        """Say what is new of every toolset."""
        declared = {
            ServerKey(one.metadata.namespace, one.metadata.name): (one.spec, revision)
            for one, revision in self._resources.all(Toolset)
        }
        for key in self._said.keys() - declared.keys():
            await self._resources.forget_status(KIND, *key)
            del self._said[key]
        for key, (spec, revision) in declared.items():
            finding = Finding(revision, *await self._judge(key.namespace, spec))
            if self._said.get(key) == finding and self._resources.status(KIND, *key) is not None:
                continue
            tools = toolset_tools(spec) if finding.status == "Ready" else ()
            await self._resources.set_status(KIND, *key, status=finding.status, detail=finding.detail, tools=tools)
            self._said[key] = finding

    async def _judge(self, namespace: str, spec: ToolsetSpec) -> tuple[Status, str]:
        for channel in channels_of(spec):
            if (trouble := channel_trouble(self._resources, namespace, channel)) is not None:
                return trouble
        machine = await self._toolsets.machine()
        try:
            equip(spec, self._secrets, machine)
            if missing := "; ".join(missing_programs(spec, self._secrets, machine)):
                return "Error", missing
        except CannotRun as error:
            return "Error", f"Validation failed: {error}"
        number = len(toolset_tools(spec))
        count = "1 tool" if number == 1 else f"{number} tools"
        options = spec.shell or (spec.command_options if spec.commands else None)
        if options is None or options.sandbox == "none":
            return "Ready", count + nobody_is_told(spec)
        where = "in a sandbox" if machine.sandbox.program else f"not in a sandbox: {machine.sandbox.why_not}"
        return "Ready", f"{count}, {where}{nobody_is_told(spec)}"
