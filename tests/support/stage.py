"""A stage for one service: a memory bus, the real process around the service, and hands to play the others' parts."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TypeVar

import msgspec

from schemas import subjects
from schemas.events import ModelAnswered, ModelFailed, ModelFailure, ToolFinished
from schemas.ids import partition_of
from schemas.messages import AssistantMessage, ToolCall, ToolOutcome, Usage
from schemas.requests import Accepted, Limits, Reply
from schemas.resources import LLM, Agent, AgentSpec, LLMSpec, Metadata, Ref, Resource, ResourceStatus, ToolInfo
from schemas.subjects import TaskSubjects
from schemas.task import State, decode_state
from schemas.wire import decoder_of, encode
from services.runtime.memory.bus import MemoryBus
from services.runtime.memory.server import MemoryServer
from services.runtime.ports import Bus, Outgoing
from services.runtime.replica import Build, Replica
from services.runtime.settings import Settings
from tests.support import waiting

S = TypeVar("S")

NAMESPACE = "default"
WAIT_S = 5.0

decode_reply: Callable[[bytes], Reply] = decoder_of(Reply)


async def until(condition: Callable[[], Awaitable[bool]], what: str, *, wait_s: float = WAIT_S) -> None:
    """Wait until a condition holds; fails after `wait_s`, saying what never came true."""
    await waiting.until(condition, what, within_s=wait_s)


class Stage:
    """What a test sees and does."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus

    # --- resources ---

    async def apply(self, resource: Resource) -> int:
        """Put a resource on the bus."""
        kind, meta = type(resource).__name__, resource.metadata
        return await self.bus.resources.put(subjects.spec_key(kind, meta.namespace, meta.name), encode(resource))

    async def say_ready(
        self, resource: Resource, revision: int, *, ready: bool = True, tools: tuple[ToolInfo, ...] = ()
    ) -> None:
        """Say what the owner of a resource would."""
        status = ResourceStatus(
            ready=ready,
            status="Ready" if ready else "Error",
            status_detail="as the test says",
            observed_revision=revision,
            at=datetime.now(UTC),
            tools=tools,
        )
        kind, meta = type(resource).__name__, resource.metadata
        await self.bus.resources.put(subjects.status_key(kind, meta.namespace, meta.name), encode(status))

    async def apply_ready(self, resource: Resource) -> None:
        """Put a resource on the bus and say that it is ready."""
        await self.say_ready(resource, await self.apply(resource))

    async def with_agent(self, *, limits: Limits | None = None) -> None:
        """A ready LLM `model` and an agent `helper` that uses it."""
        await self.apply_ready(scripted_llm())
        await self.apply(agent(limits=limits))

    # --- requests ---

    async def ask(self, verb: str, request: object, *, message_id: str = "", namespace: str = NAMESPACE) -> Reply:
        """Ask by request-reply."""
        headers = {subjects.MSG_ID: message_id} if message_id else {}
        data = request if isinstance(request, bytes) else msgspec.json.encode(request)
        answer = await self.bus.signals.request(subjects.ask(namespace, verb), data, headers)
        return decode_reply(answer.data)

    async def submit(self, **fields: object) -> TaskSubjects:
        """Submit a task to `helper`; it must be accepted."""
        reply = await self.ask("submit", {"agentName": "helper", "userMessage": "hello", **fields})
        assert isinstance(reply, Accepted), reply
        return self.task(reply.task)

    def task(self, name: str) -> TaskSubjects:
        """The subjects of a task by its name."""
        return TaskSubjects(partition_of(NAMESPACE, name, self.bus.partitions), NAMESPACE, name)

    # --- looking ---

    async def state(self, task: TaskSubjects) -> State | None:
        """A task's state now."""
        entry = await self.bus.log(task.partition).get(task.state)
        return decode_state(entry.data) if entry is not None else None

    async def until_state(self, task: TaskSubjects, kind: type[S], *, wait_s: float = WAIT_S) -> S:
        """Wait until a task is in a state of this kind."""
        found: list[State | None] = []

        async def there() -> bool:
            found[:] = [await self.state(task)]
            return isinstance(found[0], kind)

        try:
            await until(there, f"task {task.task} in {kind.__name__}", wait_s=wait_s)
        except AssertionError as error:
            raise AssertionError(f"{error}; it is {found[0]}") from None
        state = found[0]
        assert isinstance(state, kind)
        return state

    async def stored(self, task: TaskSubjects, subject: str) -> bytes:
        """Wait for a message on a subject; its data."""
        found: list[bytes] = []

        async def there() -> bool:
            entry = await self.bus.log(task.partition).get(subject)
            found[:] = [entry.data] if entry is not None else []
            return bool(found)

        await until(there, f"a message on {subject}")
        return found[0]

    # --- playing the other services' parts ---

    async def answer(
        self, task: TaskSubjects, turn: int, *, text: str = "", calls: tuple[str, ...] = (), attempt: int = 1
    ) -> None:
        """Answer a model command as the llm-gateway would."""
        await self.stored(task, task.model_command(turn, attempt))
        wanted = tuple(ToolCall(id=f"call-{n}", name=name, arguments="{}") for n, name in enumerate(calls, start=1))
        event = ModelAnswered(
            turn=turn,
            attempt=attempt,
            message=AssistantMessage(content=text, tool_calls=wanted),
            usage=Usage(input_tokens=10, output_tokens=5),
            at=self.bus.clock.now(),
        )
        await self.bus.log(task.partition).record(Outgoing(task.model_event(turn, attempt), encode(event)))

    async def fail(
        self,
        task: TaskSubjects,
        turn: int,
        failure: ModelFailure,
        *,
        attempt: int = 1,
        status: int | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        """Fail a model command as the llm-gateway would."""
        await self.stored(task, task.model_command(turn, attempt))
        event = ModelFailed(
            turn=turn,
            attempt=attempt,
            failure=failure,
            error="why",
            status=status,
            retry_after_s=retry_after_s,
            at=self.bus.clock.now(),
        )
        await self.bus.log(task.partition).record(Outgoing(task.model_event(turn, attempt), encode(event)))

    async def finish(
        self, task: TaskSubjects, request: str, n: int, *, outcome: ToolOutcome = "succeeded", content: str = "ok"
    ) -> bool:
        """Finish a tool command as the tool-executor would; whether this was the result that counts."""
        await self.stored(task, task.tool_command(request, n))
        event = ToolFinished(
            request=request,
            n=n,
            tool_call_id=f"call-{n}",
            tool="a__x",
            outcome=outcome,
            content=content,
            at=self.bus.clock.now(),
        )
        written = await self.bus.log(task.partition).record(Outgoing(task.tool_event(request, n), encode(event)))
        return written is not None


def scripted_llm(name: str = "model") -> LLM:
    """An LLM resource; the tests of other services than the gateway only need it to be there."""
    return LLM(metadata=Metadata(name=name), spec=LLMSpec(provider="scripted"))


def agent(name: str = "helper", *, llm: str = "model", limits: Limits | None = None) -> Agent:
    """An Agent resource."""
    spec = AgentSpec(llm_ref=Ref(name=llm), system="you are a testing assistant", limits=limits or Limits())
    return Agent(metadata=Metadata(name=name), spec=spec)


@asynccontextmanager
async def on_stage(
    builds: Mapping[str, Build], *, server: MemoryServer | None = None, settings: Settings | None = None
) -> AsyncGenerator[tuple[Stage, Replica]]:
    """Run services over a memory bus."""
    memory = server or MemoryServer()
    replica = Replica(MemoryBus(memory), settings or Settings(), builds, {})
    await replica.start()
    try:
        yield Stage(MemoryBus(memory)), replica
    finally:
        await replica.stop()
        assert not replica.failed, replica.failed
