"""A stage with people: the planner and human-contact over the memory bus, and channels that tests look into."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import patch

from schemas.events import ToolFinished
from schemas.interactions import InteractionAnswered, InteractionRequested, InteractionStep
from schemas.requests import Reply
from schemas.resources import (
    Agent,
    AgentSpec,
    ApprovalRule,
    ContactChannel,
    ContactChannelSpec,
    MCPServer,
    MCPServerSpec,
    Metadata,
    Ref,
    ServerRef,
    ToolAnnotations,
    ToolInfo,
)
from schemas.subjects import TaskSubjects
from schemas.wire import decode
from services.human_contact.channels.base import ChannelFailed, Question
from services.human_contact.channels.registry import Channels
from services.human_contact.main import build as build_human_contact
from services.planner.main import build as build_planner
from services.runtime.memory.server import MemoryServer
from services.runtime.replica import Build
from services.runtime.settings import Settings
from tests.support.stage import Stage, on_stage, scripted_llm, until

TOOLS = (
    ToolInfo(name="look", annotations=ToolAnnotations(read_only=True)),
    ToolInfo(name="write"),
)


class Shown:
    """A channel that keeps what it was given."""

    def __init__(self) -> None:
        self.delivered: list[Question] = []
        self.reminded: list[str] = []
        self.closed: list[InteractionAnswered] = []
        self.fails: list[ChannelFailed] = []
        """What the next deliveries fail with."""
        self.deaf: list[ChannelFailed] = []
        """What the next words that a question is over fail with."""
        self.mute: ChannelFailed | None = None
        """What reminders fail with."""

    async def deliver(self, question: Question) -> str:
        if self.fails:
            raise self.fails.pop(0)
        self.delivered.append(question)
        return f"place-{len(self.delivered)}"

    async def remind(self, question: Question, place: str) -> None:
        if self.mute is not None:
            raise self.mute
        self.reminded.append(place)

    async def close(self, question: Question, place: str, answered: InteractionAnswered) -> None:
        if self.deaf:
            raise self.deaf.pop(0)
        self.closed.append(answered)

    async def check(self) -> str:
        return "shown"

    async def end(self) -> None:
        """Nothing to let go of."""


class People:
    """What a test of people sees and does."""

    def __init__(self, stage: Stage, shown: Mapping[str, Shown]) -> None:
        self.stage = stage
        self.shown = shown

    async def agent(self, *channels: ContactChannel, rule: bool = True, **fields: Any) -> None:
        """A ready agent `helper` whose tools `box__look` and `box__write` are approved via the first channel."""
        stage = self.stage
        box = MCPServer(metadata=Metadata(name="box"), spec=MCPServerSpec(transport="stdio", command="box"))
        await stage.apply_ready(scripted_llm())
        await stage.say_ready(box, await stage.apply(box), tools=TOOLS)
        for one in channels:
            await stage.apply(one)
        first = Ref(name=channels[0].metadata.name)
        spec = AgentSpec(
            llm_ref=Ref(name="model"),
            system="s",
            mcp_servers=(ServerRef(name="box"),),
            approvals=(ApprovalRule(contact_channel=first),) if rule else (),
            **fields,
        )
        await stage.apply(Agent(metadata=Metadata(name="helper"), spec=spec))

    async def asked(self, task: TaskSubjects, n: int = 1, request: str = "r1") -> InteractionRequested:
        """Wait for the question about a call."""
        data = await self.stage.stored(task, task.interaction_asked(request, n, 0))
        return decode(data, InteractionRequested)

    async def delivered(self, channel: str = "oncall", count: int = 1) -> list[Question]:
        """Wait until a channel has shown so many questions."""
        shown = self.shown[channel]

        async def there() -> bool:
            return len(shown.delivered) >= count

        await until(there, f"{count} questions in {channel}")
        return shown.delivered

    async def step(self, task: TaskSubjects, step: int, is_it: Callable[[InteractionStep], bool]) -> InteractionStep:
        """Wait until a channel of the question about the first call is as wanted."""
        found: list[InteractionStep] = []

        async def there() -> bool:
            entry = await self.stage.bus.log(task.partition).get(task.interaction_step("r1", 1, 0, step))
            if entry is not None and is_it(one := decode(entry.data, InteractionStep)):
                found.append(one)
            return bool(found)

        await until(there, f"step {step} of {task.task}")
        return found[0]

    async def answer(self, asked: InteractionRequested, **fields: Any) -> Reply:
        """Answer as somebody on the bus."""
        request = {"task": asked.task, "interaction": asked.interaction, "by": "ann", **fields}
        return await self.stage.ask("answer", request)

    async def result(self, task: TaskSubjects, n: int = 1, request: str = "r1") -> ToolFinished:
        """Wait for the result of a call."""
        return decode(await self.stage.stored(task, task.tool_event(request, n)), ToolFinished)


def channel(name: str = "oncall", **fields: Any) -> ContactChannel:
    """A channel whose questions a test sees."""
    return ContactChannel(metadata=Metadata(name=name), spec=ContactChannelSpec(type="console", **fields))


@asynccontextmanager
async def with_people(*names: str, server: MemoryServer | None = None) -> AsyncGenerator[People]:
    """Planner and human-contact, with channels of these names (`oncall` at least)."""
    shown = {name: Shown() for name in ("oncall", *names)}
    builds: dict[str, Build] = {"planner": build_planner, "human-contact": build_human_contact}

    def make(_self: Channels, key: Any, _spec: ContactChannelSpec) -> Shown:
        return shown[key.name]

    with patch.object(Channels, "_make", make):
        async with on_stage(builds, server=server, settings=Settings(people_http_port=-1)) as (stage, _):
            yield People(stage, shown)
