"""What is outside of the bus: tools that do things in the world, and a model. Both keep their own record."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from schemas.messages import AssistantMessage, UserMessage, text_of
from schemas.resources import ToolAnnotations, ToolInfo
from services.llm_gateway.core.calls import ModelReply, ModelRequest
from services.llm_gateway.providers.base import Checked, OnText, Provider
from services.tool_executor.core.results import Reply, Text
from services.tool_executor.mcp.errors import Lost, NotStarted, TimedOut
from tests.chaos.simulated.history import Effect, ModelRequested

if TYPE_CHECKING:
    from services.tool_executor.mcp.connection import Progress
    from services.tool_executor.mcp.launch import Launch
    from tests.chaos.simulated.world import Process

SCHEMA = {"type": "object", "properties": {"key": {"type": "string"}}, "required": ["key"]}
TOOLS = (
    ToolInfo(name="look", input_schema=SCHEMA, annotations=ToolAnnotations(read_only=True)),
    ToolInfo(name="pay", input_schema=SCHEMA),
    ToolInfo(name="post", input_schema=SCHEMA),
    ToolInfo(name="put", input_schema=SCHEMA, annotations=ToolAnnotations(idempotent=True)),
)
HANG_S = 3600.0


def said(tool: str, key: str) -> str:
    """What a tool answers."""
    return f"{tool} did {key}"


class SimulatedServer:
    """An MCP server's connection: `services.tool_executor.mcp.connection.Connection`, without a server."""

    def __init__(self, process: Process, name: str, launch: Launch, on_change: Callable[[], None]) -> None:
        self.name = name
        self.launch = launch
        self.detail = ""
        self.failing = False
        self.calls = 0
        self.left_out = 0
        self.tools: tuple[ToolInfo, ...] | None = None
        self._process = process
        self._on_change = on_change
        self._slots = asyncio.Semaphore(launch.concurrency)
        self._open = asyncio.Event()
        self._connecting = process.spawn(self._connect(), name=f"mcp:{name}")

    def relaunch(self, launch: Launch) -> None:
        self.launch = launch

    async def close(self) -> None:
        self._connecting.cancel()
        self._open.clear()
        self.tools = None

    @asynccontextmanager
    async def slot(self) -> AsyncGenerator[None]:
        self.calls += 1
        try:
            async with self._slots:
                yield
        finally:
            self.calls -= 1

    async def ready(self, timeout_s: float) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                await self._open.wait()
        except TimeoutError:
            return False
        return True

    async def call(
        self,
        tool: str,
        arguments: Mapping[str, Any],
        *,
        timeout_s: float,
        meta: Mapping[str, Any],
        progress: Progress | None = None,
    ) -> Reply:
        world, key = self._process.world, str(arguments["key"])
        dice, rng = world.faults, world.faults.rng
        await self._process.pause("tool.call", key)
        if dice.happens(0.05):
            raise NotStarted("the connection ended before the call")
        takes_s = HANG_S if dice.happens(0.02) else rng.choice((0.0, 0.1, 1.0, 5.0)) * rng.random()
        world.after(min(takes_s, timeout_s) * rng.random(), lambda: self._take_effect(tool, key, arguments))
        lost = dice.happens(0.05)
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.sleep(takes_s * rng.random() if lost else takes_s)
        except TimeoutError as error:
            raise TimedOut(f"no answer within {timeout_s:g} s") from error
        if lost:
            raise Lost("the connection to the server ended")
        await self._process.pause("tool.answer", key)
        return Reply(parts=(Text(said(tool, key)),), is_error=dice.happens(0.05))

    async def ask(
        self, extra: str, arguments: Mapping[str, Any], *, timeout_s: float, meta: Mapping[str, Any]
    ) -> Reply:
        raise NotImplementedError(f"nobody asks these servers for more than tools: {extra}")

    def _take_effect(self, tool: str, key: str, arguments: Mapping[str, Any]) -> None:
        world = self._process.world
        world.note(self._process.name, "tool.effect", key, tool)
        world.history.effects.append(Effect(key, tool, world.clock.now(), self._process.name, arguments))

    async def _connect(self) -> None:
        rng = self._process.world.faults.rng
        for attempt in itertools.count():
            await asyncio.sleep(rng.random())
            if attempt or not self._process.world.faults.happens(0.2):
                break
            self.detail, self.failing = "it does not start", True
            self._on_change()
        self.detail, self.failing = "", False
        self.tools = TOOLS
        self._open.set()
        self._on_change()


class SimulatedModel:
    """A scripted model that writes down what it is asked, and may be empty-headed or slow for some attempts."""

    def __init__(self, process: Process, script: Provider) -> None:
        self._process = process
        self._script = script

    async def call(self, request: ModelRequest, on_text: OnText) -> ModelReply:
        world = self._process.world
        user = next((text_of(m.content) for m in reversed(request.messages) if isinstance(m, UserMessage)), "")
        world.note(self._process.name, "model.call", f"{user} {request.turn}.{request.attempt}", "")
        world.history.model_calls.append(
            ModelRequested(request.messages, request.turn, request.attempt, world.clock.now(), self._process.name)
        )
        await self._process.pause("model.call", user)
        reply = await self._script.call(request, on_text)
        await self._process.pause("model.answer", user)
        if request.attempt <= world.scenario.empty_replies.get((user, request.turn), 0):
            return ModelReply(
                message=AssistantMessage(), usage=reply.usage, model=reply.model, finish_reason=reply.finish_reason
            )
        return reply

    async def check(self) -> Checked:
        return await self._script.check()

    async def close(self) -> None:
        await self._script.close()
