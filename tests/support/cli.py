"""Tasks as they are recorded, written by hand, for tests of whatever reads them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec

from schemas.commands import CallModel, RunTool
from schemas.events import ConversationStarted, ModelAnswered, TaskSubmitted, ToolFinished
from schemas.ids import request_id
from schemas.live import LiveEvent
from schemas.messages import AssistantMessage, SystemMessage, ToolCall, ToolOutcome, Usage, UserMessage
from schemas.requests import TaskSpec
from schemas.subjects import TaskSubjects
from schemas.task import AwaitingModel, AwaitingTools, Budget, CallRef, FinalAnswer, Spend, State
from schemas.wire import encode
from services.runtime.memory.bus import MemoryBus
from services.runtime.ports import Change, Outgoing

AT = datetime(2030, 1, 1, 12, tzinfo=UTC)


class Script:
    """Writes what services would write about one task."""

    def __init__(self, bus: MemoryBus, name: str = "t1", namespace: str = "default") -> None:
        self.bus = bus
        self.task = TaskSubjects(0, namespace, name)
        self.log = bus.log(0)
        self.revision = 0
        self.submitted_seq = 0
        self.window: tuple[int, ...] = ()

    async def record(self, subject: str, fact: msgspec.Struct) -> int:
        seq = await self.log.record(Outgoing(subject, encode(fact)))
        assert seq is not None
        return seq

    async def submit(self, message: str = "What time is it?") -> None:
        spec = TaskSpec(agent="helper", user_message=message)
        event = TaskSubmitted(namespace=self.task.namespace, task=self.task.task, spec=spec, at=AT)
        self.submitted_seq = await self.record(self.task.submitted, event)
        started = ConversationStarted(messages=(SystemMessage(content="Help."), UserMessage(content=message)))
        self.window = (await self.record(self.task.context, started),)

    async def call_model(self, turn: int, attempt: int = 1) -> None:
        command = CallModel(
            namespace=self.task.namespace, task=self.task.task, agent="helper", turn=turn, attempt=attempt
        )
        await self.write(self.awaiting_model(turn))
        await self.record(self.task.model_command(turn, attempt), command)

    async def answer(self, turn: int, text: str = "", *calls: ToolCall, counted: bool = True) -> int:
        message = AssistantMessage(content=text, tool_calls=calls)
        event = ModelAnswered(
            turn=turn,
            attempt=1,
            message=message,
            usage=Usage(input_tokens=10, output_tokens=5),
            at=AT + timedelta(seconds=turn),
        )
        seq = await self.record(self.task.model_event(turn, 1), event)
        if counted:
            self.window = (*self.window, seq)
        return seq

    async def await_tools(self, turn: int, answer_seq: int, *calls: ToolCall) -> None:
        refs = tuple(CallRef(n=n, id=call.id, tool=call.name) for n, call in enumerate(calls, start=1))
        state = AwaitingTools(
            **self.header(), budget=BUDGET, turn=turn, request=request_id(turn), answer_seq=answer_seq, calls=refs
        )
        await self.write(state)
        for ref in refs:
            command = RunTool(
                namespace=self.task.namespace,
                task=self.task.task,
                agent="helper",
                request=request_id(turn),
                n=ref.n,
                answer_seq=answer_seq,
                tool=ref.tool,
            )
            await self.record(self.task.tool_command(request_id(turn), ref.n), command)

    async def result(
        self, turn: int, n: int, call: ToolCall, content: str = "12:00", outcome: ToolOutcome = "succeeded"
    ) -> None:
        event = ToolFinished(
            request=request_id(turn),
            n=n,
            tool_call_id=call.id,
            tool=call.name,
            outcome=outcome,
            content=content,
            at=AT + timedelta(seconds=turn, milliseconds=100),
            latency_s=0.1,
        )
        self.window = (*self.window, await self.record(self.task.tool_event(request_id(turn), n), event))

    async def finish(self, turn: int) -> None:
        await self.write(
            FinalAnswer(
                **self.header(), ended_at=AT + timedelta(seconds=9), turn=turn, ended_by=self.task.model_event(turn, 1)
            )
        )

    async def write(self, state: State) -> None:
        change = Change(Outgoing(self.task.state, encode(state)), self.revision)
        self.revision = await self.log.commit(change)

    async def live(self, event: LiveEvent) -> None:
        await self.bus.signals.publish(self.task.live, encode(event))

    def awaiting_model(self, turn: int) -> AwaitingModel:
        return AwaitingModel(**self.header(), budget=BUDGET, turn=turn)

    def header(self) -> dict[str, Any]:
        return {
            "namespace": self.task.namespace,
            "task": self.task.task,
            "agent": "helper",
            "submitted_seq": self.submitted_seq,
            "created_at": AT,
            "updated_at": AT,
            "preview": "What time is it?",
            "window": self.window,
            "spend": Spend(model_calls=1, input_tokens=10, output_tokens=5, cost_usd=Decimal("0.001")),
        }


BUDGET = Budget(max_turns=20)
CLOCK = ToolCall(id="c1", name="time__now", arguments='{"zone": "UTC"}')
OTHER_CLOCK = ToolCall(id="c2", name="time__now", arguments='{"zone": "JST"}')


async def finished_task(bus: MemoryBus, name: str = "t1") -> Script:
    """A task that asked two tools and answered."""
    script = Script(bus, name)
    await script.submit()
    await script.call_model(1)
    answer = await script.answer(1, "Let me look.", CLOCK, OTHER_CLOCK)
    await script.await_tools(1, answer, CLOCK, OTHER_CLOCK)
    await script.result(1, 1, CLOCK)
    await script.result(1, 2, OTHER_CLOCK, "no such zone", "failed")
    await script.call_model(2)
    await script.answer(2, "It is noon.")
    await script.finish(2)
    return script
