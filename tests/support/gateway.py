"""An llm-gateway on a bus, with a planner's hand to give it work: resources, a conversation, a state, a command."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from schemas import subjects
from schemas.commands import CallModel
from schemas.events import ConversationStarted, ModelAnswered, ModelFailed, ToolFinished, WindowCompacted
from schemas.messages import Message, SystemMessage, UserMessage
from schemas.requests import ResponseFormat
from schemas.resources import (
    LLM,
    Agent,
    AgentSpec,
    LLMSpec,
    MCPServer,
    MCPServerSpec,
    Metadata,
    Ref,
    Resource,
    ResourceStatus,
    ServerRef,
    ToolInfo,
)
from schemas.subjects import TaskSubjects
from schemas.task import AwaitingModel, Budget, State, Tries
from schemas.wire import decoder_of, encode
from services.llm_gateway.main import build
from services.runtime.consumer import Consumer
from services.runtime.dead_letters import DeadLetters
from services.runtime.errors import Unavailable
from services.runtime.ports import Bus, Entry, Outgoing, Store
from services.runtime.resources import Resources
from services.runtime.secrets import Secrets
from services.runtime.service import Runtime
from services.runtime.settings import Settings
from services.runtime.tasks import spawn
from services.runtime.telemetry.metrics import Metrics
from services.runtime.telemetry.traces import Traces

PATIENCE_S = 5.0
AT = datetime(2030, 1, 1, tzinfo=UTC)
NAMESPACE = "team"
START: tuple[Message, ...] = (SystemMessage(content="Be brief."), UserMessage(content="What time is it?"))
Outcome = ModelAnswered | ModelFailed | WindowCompacted
decode_outcome: Callable[[bytes], Outcome] = decoder_of(Outcome)


async def put(store: Store, resource: Resource) -> int:
    """Apply a resource; its revision."""
    kind = type(resource).__name__
    return await store.put(
        subjects.spec_key(kind, resource.metadata.namespace, resource.metadata.name), encode(resource)
    )


async def say(store: Store, kind: str, name: str, revision: int, *tools: ToolInfo, ready: bool = True) -> None:
    """Write a status as its owner would."""
    status = ResourceStatus(
        ready=ready,
        status="Ready" if ready else "Error",
        status_detail="" if ready else "it broke",
        observed_revision=revision,
        at=AT,
        tools=tools,
    )
    await store.put(subjects.status_key(kind, NAMESPACE, name), encode(status))


async def apply_llm(store: Store, spec: LLMSpec, *, name: str = "model") -> int:
    """An LLM resource; its readiness is the gateway's to say."""
    return await put(store, LLM(metadata=Metadata(name=name, namespace=NAMESPACE), spec=spec))


async def apply_agent(store: Store, *servers: str, name: str = "helper", llm: str = "model", **fields: Any) -> None:
    """An agent that the planner found ready; `fields` of its specification beside these."""
    refs = tuple(ServerRef(name=server) for server in servers)
    spec = AgentSpec(llm_ref=Ref(name=llm), system="Be brief.", mcp_servers=refs, **fields)
    revision = await put(store, Agent(metadata=Metadata(name=name, namespace=NAMESPACE), spec=spec))
    await say(store, "Agent", name, revision)


async def apply_server(store: Store, name: str, *tools: ToolInfo) -> None:
    """An MCP server that the tool-executor found ready."""
    spec = MCPServerSpec(transport="stdio", command="true")
    revision = await put(store, MCPServer(metadata=Metadata(name=name, namespace=NAMESPACE), spec=spec))
    await say(store, "MCPServer", name, revision, *tools)


class TaskRig:
    """One task, driven by hand."""

    def __init__(self, bus: Bus, name: str) -> None:
        self.subjects = TaskSubjects(0, NAMESPACE, name)
        self.log = bus.log(0)
        self.window: tuple[int, ...] = ()
        self.revision = 0

    async def begin(self, messages: tuple[Message, ...] = START, response_format: ResponseFormat | None = None) -> None:
        """Pin the conversation."""
        started = ConversationStarted(messages=messages, response_format=response_format)
        await self.append(self.subjects.context, started)

    async def append(self, subject: str, entry: msgspec.Struct) -> int:
        """Record an entry and let the window go on with it."""
        seq = await self.log.record(Outgoing(subject, encode(entry)))
        assert seq is not None
        self.window += (seq,)
        return seq

    async def tool_result(self, request: str, n: int, call: str, content: str, *, failed: bool = False) -> None:
        """Record a tool call's result."""
        finished = ToolFinished(
            request=request,
            n=n,
            tool_call_id=call,
            tool="tool",
            outcome="failed" if failed else "succeeded",
            content=content,
            at=AT,
        )
        await self.append(self.subjects.tool_event(request, n), finished)

    async def write(self, state: State) -> None:
        """Write the state."""
        message = Outgoing(self.subjects.state, encode(state))
        self.revision = await self.log.write(message, expected=self.revision)

    def awaiting(self, turn: int = 1, attempt: int = 1, tries: Tries | None = None) -> AwaitingModel:
        """The state that waits for this attempt."""
        return AwaitingModel(
            namespace=NAMESPACE,
            task=self.subjects.task,
            agent="helper",
            submitted_seq=1,
            created_at=AT,
            updated_at=AT,
            window=self.window,
            budget=Budget(max_turns=20),
            turn=turn,
            attempt=attempt,
            tries=tries or Tries(),
        )

    async def command(
        self, turn: int = 1, attempt: int = 1, headers: Mapping[str, str] | None = None, *, llm: str = ""
    ) -> None:
        """Ask for the attempt, whatever the state is."""
        command = CallModel(
            namespace=NAMESPACE, task=self.subjects.task, agent="helper", turn=turn, attempt=attempt, llm=llm
        )
        subject = self.subjects.model_command(turn, attempt)
        await self.log.record(Outgoing(subject, encode(command), dict(headers or {})))

    async def ask(self, turn: int = 1, attempt: int = 1, headers: Mapping[str, str] | None = None) -> None:
        """Wait for the attempt and ask for it."""
        await self.write(self.awaiting(turn, attempt))
        await self.command(turn, attempt, headers)

    async def entry(self, turn: int = 1, attempt: int = 1) -> Entry:
        """The recorded outcome of an attempt."""
        subject = self.subjects.model_event(turn, attempt)
        async with asyncio.timeout(PATIENCE_S):
            while True:
                if (entry := await self.log.get(subject)) is not None:
                    return entry
                await asyncio.sleep(0.005)

    async def outcome(self, turn: int = 1, attempt: int = 1) -> Outcome:
        """What was recorded for an attempt."""
        entry = await self.entry(turn, attempt)
        return decode_outcome(entry.data)

    async def answered(self, turn: int = 1, attempt: int = 1) -> ModelAnswered:
        """The answer to an attempt; it joins the window, as the planner lets it."""
        entry = await self.entry(turn, attempt)
        outcome = decode_outcome(entry.data)
        assert isinstance(outcome, ModelAnswered), outcome
        self.window += (entry.seq,)
        return outcome

    async def compacted(self, turn: int = 1, attempt: int = 1) -> WindowCompacted:
        """How the conversation was made shorter; the window goes on with that, as the planner lets it."""
        entry = await self.entry(turn, attempt)
        outcome = decode_outcome(entry.data)
        assert isinstance(outcome, WindowCompacted), outcome
        self.window = (entry.seq, *self.window[outcome.replaced :])
        return outcome

    async def failed(self, turn: int = 1, attempt: int = 1) -> ModelFailed:
        """The failure of an attempt."""
        outcome = await self.outcome(turn, attempt)
        assert isinstance(outcome, ModelFailed), outcome
        return outcome


class Faults:
    """The `pause` of a memory bus: counts its calls, and lets those fail that it is told to."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self.always: set[str] = set()
        self.once: set[str] = set()

    async def __call__(self, call: str, subject: str) -> None:
        self.seen[call] += 1
        await asyncio.sleep(0)
        if call in self.always or call in self.once:
            self.once.discard(call)
            raise Unavailable(f"{call} of {subject} fails, as it was told")


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, for a bounded time."""
    for _ in range(int(PATIENCE_S / 0.005)):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it never came true")


class GatewayRig:
    """A running gateway."""

    def __init__(self, bus: Bus, runtime: Runtime, consumer: Consumer, loops: list[asyncio.Task[Any]]) -> None:
        self.bus = bus
        self.runtime = runtime
        self.consumer = consumer
        """That of partition 0."""
        self._loops = loops

    def fall_silent(self) -> None:
        """Take nothing more and say no more that work is under way, like a process that was stopped."""
        for loop in self._loops:
            loop.cancel()

    @property
    def store(self) -> Store:
        """The resources bucket."""
        return self.bus.resources

    def calls(self, outcome: str = "answered", provider: str = "scripted") -> int:
        """How many model calls ended so."""
        labels = {"provider": provider, "outcome": outcome}
        registry = self.runtime.metrics.registry
        return int(registry.get_sample_value("holdfast_model_call_seconds_count", labels) or 0)

    def settled(self, outcome: str) -> int:
        """How many commands ended so: done, retried, failed, dead."""
        labels = {"consumer": "llm-gateway", "outcome": outcome}
        return int(self.runtime.metrics.registry.get_sample_value("holdfast_messages_handled_total", labels) or 0)

    async def task(self, name: str = "job", messages: tuple[Message, ...] = START) -> TaskRig:
        """A new task with its conversation begun."""
        task = TaskRig(self.bus, name)
        await task.begin(messages)
        return task

    async def llm_status(self, *, name: str = "model", status: str = "", containing: str = "") -> ResourceStatus:
        """The status of an LLM, once it is so."""
        found = None
        for _ in range(int(PATIENCE_S / 0.005)):
            found = self.runtime.resources.status("LLM", NAMESPACE, name)
            if found and status in ("", found.status) and containing in found.status_detail:
                return found
            await asyncio.sleep(0.005)
        raise AssertionError(f"LLM {name} never was {status} {containing!r}; it is {found}")


@asynccontextmanager
async def running_gateway(
    bus: Bus,
    *,
    secrets_dir: Path | None = None,
    environ: Mapping[str, str] | None = None,
    traces: Traces | None = None,
    slots: int = 16,
    **settings: Any,
) -> AsyncGenerator[GatewayRig]:
    """A gateway on `bus`, with its consumers running."""
    resources = Resources(bus.resources, bus.clock, service="llm-gateway")
    runtime = Runtime(
        bus=bus,
        settings=Settings(**settings),
        resources=resources,
        secrets=Secrets(str(secrets_dir or ""), environ or {}),
        metrics=Metrics(),
        traces=traces or Traces(),
        replica="gateway-test",
    )
    watching = spawn(resources.run(), name="resources")
    await resources.loaded()
    service = build(runtime)
    consumers = [
        Consumer(
            await bus.queue(subscription.consumer, subscription.partition),
            subscription.handler,
            on_dead=subscription.on_dead,
            dead_letters=DeadLetters(bus.dead_letters, bus.clock),
            clock=bus.clock,
            slots=slots,
            deliveries_max=runtime.settings.deliveries_max,
            replica=runtime.replica,
            metrics=runtime.metrics.consumer(subscription.consumer),
        )
        for subscription in service.subscriptions()
    ]
    await service.start()
    loops = [spawn(consumer.run(), name="consumer") for consumer in consumers]
    try:
        yield GatewayRig(bus, runtime, consumers[0], loops)
    finally:
        for consumer in consumers:
            await consumer.stop(0.2)
        for task in (*loops, watching):
            task.cancel()
        await service.stop()
