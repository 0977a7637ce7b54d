"""A task that has ended before its command was begun."""

from __future__ import annotations

from pathlib import Path

import msgspec

from schemas.commands import RunTool
from schemas.events import ModelAnswered, ToolFinished
from schemas.messages import AssistantMessage, ToolCall, Usage
from schemas.subjects import TaskSubjects
from schemas.wire import encode
from services.runtime.ports import Outgoing
from tests.support.mcp_servers.bench import kitchen, on_bench, record_of

ARGUMENTS = msgspec.json.encode({"text": "pour", "seconds": 0}).decode()


async def test_a_call_whose_task_was_stopped_before_it_began_is_not_made(record: Path) -> None:
    task = TaskSubjects(0, "default", "stopped")
    async with on_bench() as bench:
        await bench.declare(kitchen("kitchen", record))
        await bench.until_ready("kitchen")
        log, now = bench.bus.log(0), bench.bus.clock.now()
        call = ToolCall(id="call-1", name="kitchen__effect", arguments=ARGUMENTS)
        answer = ModelAnswered(turn=1, attempt=1, message=AssistantMessage(tool_calls=(call,)), usage=Usage(), at=now)
        seq = await log.record(Outgoing(task.model_event(1, 1), encode(answer)))
        assert seq is not None
        closed = ToolFinished(
            request="r1", n=1, tool_call_id="call-1", tool=call.name, outcome="cancelled", content="Not done.", at=now
        )
        await log.record(Outgoing(task.tool_event("r1", 1), encode(closed)))
        await bench.bus.signals.publish(task.stop, b"")
        run = RunTool(
            namespace="default", task=task.task, agent="helper", request="r1", n=1, answer_seq=seq, tool=call.name
        )
        await log.record(Outgoing(task.tool_command("r1", 1), encode(run)))
        for text in ("one", "two"):
            await bench.call("kitchen__effect", {"text": text, "seconds": 0})
        assert record_of(record) == ["one", "two"]
