"""A tool-executor whose servers are scripts, on a memory bus: for what real processes do only by chance."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import msgspec

from schemas import subjects
from schemas.commands import RunTool
from schemas.dead_letters import DeadLetter
from schemas.events import ModelAnswered, ToolFinished, ToolStarted
from schemas.ids import Namespace
from schemas.interactions import InteractionAction, InteractionAnswered, InteractionRequested
from schemas.messages import AssistantMessage, ToolCall, Usage
from schemas.resources import (
    Agent,
    AgentSpec,
    MCPServer,
    MCPServerSpec,
    Metadata,
    Ref,
    ResourceStatus,
    ServerRef,
    ToolAnnotations,
    ToolInfo,
    ToolPolicy,
)
from schemas.subjects import TaskSubjects
from schemas.task import AwaitingTools, Budget, CallRef
from schemas.tools import Via
from schemas.wire import decode, encode
from services.runtime.errors import Unavailable
from services.runtime.memory.bus import MemoryBus
from services.runtime.memory.server import MemoryServer
from services.runtime.ports import Outgoing
from services.runtime.replica import Replica
from services.runtime.service import Runtime, Service, Subscription
from services.runtime.settings import Settings
from services.tool_executor.core.results import Reply, Text
from services.tool_executor.handlers import ToolCommands
from services.tool_executor.mcp.pool import ServerKey
from tests.support.mcp_servers.bench import until

Behaviour = Callable[[str, Mapping[str, Any]], Awaitable[Reply]]

ACK_WAIT_S = 0.3
TOOLS = (
    ToolInfo(name="act"),
    ToolInfo(name="look", annotations=ToolAnnotations(read_only=True)),
    ToolInfo(name="set", annotations=ToolAnnotations(idempotent=True)),
    ToolInfo(name="dare"),
    ToolInfo(name="doubt"),
)
POLICIES = (ToolPolicy(tool="dare", on_uncertain="retry"), ToolPolicy(tool="doubt", on_uncertain="ask"))


class ScriptedServer:
    """A server that does what a test says. It implements `services.tool_executor.calls.ToolServer`."""

    def __init__(self, *, concurrency: int = 16) -> None:
        self.detail = ""
        self.calls = 0
        self.made: list[str] = []
        """The calls that reached it, by what their argument `text` says."""
        self.cancelled: list[str] = []
        self.hold = asyncio.Event()
        """Calls whose text begins with `slow` wait for this."""
        self.up = True
        self.failures: list[Exception] = []
        """What the next calls raise, one each, instead of answering."""
        self._slots = asyncio.Semaphore(concurrency)

    @asynccontextmanager
    async def slot(self) -> AsyncGenerator[None]:
        self.calls += 1
        try:
            async with self._slots:
                yield
        finally:
            self.calls -= 1

    async def ready(self, timeout_s: float) -> bool:
        return self.up

    async def call(
        self,
        tool: str,
        arguments: Mapping[str, Any],
        *,
        timeout_s: float,
        meta: Mapping[str, Any],
        progress: object = None,
    ) -> Reply:
        text = str(arguments.get("text", ""))
        self.made.append(text)
        if self.failures:
            raise self.failures.pop(0)
        try:
            if text.startswith("slow"):
                await self.hold.wait()
        except asyncio.CancelledError:
            self.cancelled.append(text)
            raise
        return Reply(parts=(Text(f"{tool} {text}"),))


class ScriptedExecutor:
    """The commands' handler without connections of its own. It implements `services.runtime.service.Service`."""

    def __init__(self, runtime: Runtime, servers: Mapping[str, ScriptedServer]) -> None:
        self._runtime = runtime
        self._servers = servers
        self.commands = ToolCommands(runtime, self._find)

    def subscriptions(self) -> Sequence[Subscription]:
        commands = self.commands
        return [
            Subscription(subjects.TOOL_EXECUTOR, 0, commands.handle, commands.on_dead),
            Subscription(subjects.TOOL_EXECUTOR_ANSWERS, 0, commands.on_answered, commands.on_dead_answer),
        ]

    async def start(self) -> None:
        await self.commands.listen()

    async def stop(self) -> None:
        await self.commands.close()

    def _find(self, via: Via, key: ServerKey, task: TaskSubjects, seq: int) -> ScriptedServer | None:
        return self._servers.get(key.name)


class Copy:
    """One replica, which can be cut off from the bus as if it had been killed, and interrupted at any call of it."""

    def __init__(self, stage: ScriptedStage, servers: Mapping[str, ScriptedServer], name: str) -> None:
        self.stalled = False
        """It gets nowhere: no call of the bus of its own ends."""
        self.dead = False
        self.refuse: set[str] = set()
        """Calls of the bus that fail, by `<call>` or `<call>:after`."""
        self.die_at = ""
        """The call of the bus at which it dies: `<call>`, or `<call> <end of the subject>`."""
        self.blind = False
        """It takes no more messages, and does not know it."""

        def build(runtime: Runtime) -> Service:
            return ScriptedExecutor(runtime, servers)

        settings = Settings(replica=name, ack_wait_s=ACK_WAIT_S, drain_s=0.01, deliveries_max=stage.deliveries_max)
        self._bus = MemoryBus(stage.server, pause=self._pause)
        self.replica = Replica(
            self._bus, msgspec.structs.replace(settings, slots=stage.slots), {"tool-executor": build}, {}
        )

    def counted(self, what: str, **labels: str) -> float:
        """How many messages were `delivered` or `handled`, by label."""
        name, known = f"holdfast_messages_{what}_total", {"consumer": subjects.TOOL_EXECUTOR, **labels}
        return self.replica.metrics.registry.get_sample_value(name, known) or 0.0

    def kill(self) -> None:
        """SIGKILL."""
        self.dead = True
        self.unheard()

    def unheard(self) -> None:
        """The server takes it for gone."""
        self._bus.cut()

    async def _pause(self, call: str, subject: str) -> None:
        await asyncio.sleep(0)
        while self.stalled:  # noqa: ASYNC110 - a test says when it goes on
            await asyncio.sleep(0.01)
        if self.die_at.partition(" ")[0] == call and subject.endswith(self.die_at.partition(" ")[2]):
            self.kill()
        if self.blind and call == "queue.take":
            await asyncio.Event().wait()
        if self.dead or call in self.refuse:
            raise Unavailable(f"{call} of {subject} is refused")


class ScriptedStage:
    """What a test does and sees. Every call is asked for in a task of its own, which waits for it."""

    def __init__(self, *, slots: int = 64, deliveries_max: int = 12) -> None:
        self.server = MemoryServer(ack_wait_s=ACK_WAIT_S)
        self.bus = MemoryBus(self.server)
        self.log = self.bus.log(0)
        self.slots = slots
        self.deliveries_max = deliveries_max
        self._numbers = itertools.count(1)

    @asynccontextmanager
    async def copy(self, name: str = "one", **servers: ScriptedServer) -> AsyncGenerator[Copy]:
        """A running replica with these servers."""
        copy = Copy(self, servers, name)
        await copy.replica.start()
        try:
            yield copy
        finally:
            await copy.replica.stop()

    async def declare(
        self, *names: str, ready: bool = True, detail: str = "", concurrency: int = 16, channel: str = ""
    ) -> None:
        """Apply servers and an agent that has them, and say how they are."""
        for name in names:
            spec = MCPServerSpec(
                transport="stdio",
                command="x",
                policies=POLICIES,
                concurrency=concurrency,
                contact_channel=Ref(name=channel) if channel else None,
            )
            declared = MCPServer(metadata=Metadata(name=name), spec=spec)
            revision = await self.bus.resources.put(subjects.spec_key("MCPServer", "default", name), encode(declared))
            status = ResourceStatus(
                ready=ready,
                status="Ready" if ready else "Error",
                status_detail=detail,
                observed_revision=revision,
                at=datetime.now(UTC),
                tools=TOOLS,
            )
            await self.bus.resources.put(subjects.status_key("MCPServer", "default", name), encode(status))
        agent = AgentSpec(llm_ref=Ref(name="m"), system="s", mcp_servers=tuple(ServerRef(name=name) for name in names))
        stored = encode(Agent(metadata=Metadata(name="helper"), spec=agent))
        await self.bus.resources.put(subjects.spec_key("Agent", "default", "helper"), stored)

    async def answer(self, tool: str, text: str = "") -> tuple[TaskSubjects, RunTool]:
        """A task that waits for one call, and the command that would run it."""
        task = TaskSubjects(0, Namespace("default"), f"task-{next(self._numbers)}")
        now = self.bus.clock.now()
        call = ToolCall(id="call-1", name=tool, arguments=msgspec.json.encode({"text": text}).decode())
        answer = ModelAnswered(turn=1, attempt=1, message=AssistantMessage(tool_calls=(call,)), usage=Usage(), at=now)
        seq = await self.log.record(Outgoing(task.model_event(1, 1), encode(answer)))
        assert seq is not None
        state = AwaitingTools(
            namespace="default",
            task=task.task,
            agent="helper",
            submitted_seq=1,
            created_at=now,
            updated_at=now,
            budget=Budget(max_turns=3),
            turn=1,
            request="r1",
            answer_seq=seq,
            calls=(CallRef(n=1, id="call-1", tool=tool),),
        )
        await self.log.write(Outgoing(task.state, encode(state)), expected=0)
        run = RunTool(namespace="default", task=task.task, agent="helper", request="r1", n=1, answer_seq=seq, tool=tool)
        return task, run

    async def ask(self, tool: str, text: str = "") -> TaskSubjects:
        """Ask for a call."""
        task, run = await self.answer(tool, text)
        await self.log.record(Outgoing(task.tool_command("r1", 1), encode(run)))
        return task

    async def finish(self, task: TaskSubjects, content: str) -> None:
        """Record a result, as somebody else would."""
        finished = ToolFinished(
            request="r1",
            n=1,
            tool_call_id="call-1",
            tool="t",
            outcome="cancelled",
            content=content,
            at=datetime.now(UTC),
        )
        await self.log.record(Outgoing(task.tool_event("r1", 1), encode(finished)))

    async def result(self, task: TaskSubjects) -> ToolFinished | None:
        """The result of a call, if there is one."""
        entry = await self.log.get(task.tool_event("r1", 1))
        return decode(entry.data, ToolFinished) if entry is not None else None

    async def until_result(self, task: TaskSubjects) -> ToolFinished:
        """Wait for the result of a call."""
        found: list[ToolFinished] = []

        async def there() -> bool:
            result = await self.result(task)
            found[:] = [result] if result is not None else []
            return bool(found)

        await until(there, f"a result of {task.task}")
        return found[0]

    async def started(self, task: TaskSubjects) -> ToolStarted | None:
        """What the ledger says of a call."""
        entry = await self.log.get(task.ledger("r1", 1))
        return decode(entry.data, ToolStarted) if entry is not None else None

    async def asked(self, task: TaskSubjects, k: int = 1) -> InteractionRequested:
        """Wait for a question of a call."""
        found: list[InteractionRequested] = []

        async def there() -> bool:
            entry = await self.log.get(task.interaction_asked("r1", 1, k))
            found[:] = [decode(entry.data, InteractionRequested)] if entry is not None else []
            return bool(found)

        await until(there, f"question {k} of {task.task}")
        return found[0]

    async def answered(self, task: TaskSubjects, k: int = 1) -> InteractionAnswered | None:
        """The answer to a question, if there is one."""
        entry = await self.log.get(task.interaction_answered("r1", 1, k))
        return decode(entry.data, InteractionAnswered) if entry is not None else None

    async def reply(self, task: TaskSubjects, action: InteractionAction, k: int = 1, **fields: Any) -> None:
        """Record an answer, as the planner or human-contact would."""
        said = InteractionAnswered(
            namespace="default",
            task=task.task,
            interaction=f"r1.1.{k}",
            action=action,
            at=self.bus.clock.now(),
            **fields,
        )
        await self.log.record(Outgoing(task.interaction_answered("r1", 1, k), encode(said)))

    async def until_done(self) -> None:
        """Wait until no command or answer is pending or in anybody's hands."""
        consumers = [self.server.consumer(name, 0) for name in (subjects.TOOL_EXECUTOR, subjects.TOOL_EXECUTOR_ANSWERS)]
        await until(lambda: not any(one.unfinished for one in consumers), "all commands are settled")

    async def letters(self) -> list[DeadLetter]:
        """All dead letters."""
        return [decode(entry.data, DeadLetter) for entry in await self.bus.dead_letters.last(["hf.dlq.letter.>"])]
