from __future__ import annotations

from schemas.events import CancelRequested, ModelFailed, ToolStarted
from schemas.task import Failed, Waiting
from services.cli.client import Client
from services.cli.describe import describe
from services.cli.events import event_lines
from services.cli.history import history
from services.cli.kinds import kind_named
from services.runtime.memory.bus import MemoryBus
from tests.support.cli import AT, CLOCK, Script, finished_task


async def told(script: Script) -> list[tuple[str, str, str]]:
    stored = await Client(script.bus).existing_task("default", script.task.task)
    lines = event_lines(script.task.task, stored.state, await history(script.log, script.task))
    return [(line.type, line.reason, line.message) for line in lines]


async def test_the_events_of_a_task_are_told_in_their_order_with_the_predecessors_reasons() -> None:
    assert await told(await finished_task(MemoryBus())) == [
        ("Normal", "Initializing", "submitted for agent 'helper'"),
        ("Normal", "ValidationSucceeded", "conversation started with 2 messages"),
        ("Normal", "SendingContextWindowToLLM", "turn 1"),
        ("Normal", "ToolCallsPending", "turn 1: 10+5 tokens; calls time__now, time__now"),
        ("Normal", "ToolCallCreated", "t1-r1-tc-01: time__now"),
        ("Normal", "ToolCallCreated", "t1-r1-tc-02: time__now"),
        ("Normal", "ExecutionSucceeded", "t1-r1-tc-01: time__now succeeded in 100ms: 12:00"),
        ("Warning", "ExecutionFailed", "t1-r1-tc-02: time__now failed in 100ms: no such zone"),
        ("Normal", "SendingContextWindowToLLM", "turn 2"),
        ("Normal", "LLMFinalAnswer", "turn 2: 10+5 tokens: It is noon."),
    ]


async def test_failures_takeovers_and_late_answers_are_warnings() -> None:
    script = Script(MemoryBus())
    await script.submit()
    await script.call_model(1)
    await script.record(
        script.task.model_event(1, 2),
        ModelFailed(turn=1, attempt=2, failure="refused", error="no such model", status=404, at=AT),
    )
    await script.record(script.task.cancel, CancelRequested(at=AT, by="ann", reason="enough"))
    await script.record(
        script.task.ledger("r1", 1), ToolStarted(attempt=2, replica="tool-executor-2", at=AT, lease_s=1.5)
    )
    await script.answer(1, "", CLOCK, counted=False)
    await script.write(
        Failed(
            **script.header(), ended_at=AT, turn=1, ended_by="x", reason="LLMRequestFailed4xx", error="no such model"
        )
    )
    assert (await told(script))[3:] == [
        ("Warning", "LLMRequestFailed4xx", "turn 1, attempt 2: LLM request failed with status 404: no such model"),
        ("Normal", "CancelRequested", "by ann: enough"),
        ("Warning", "ExecutionStarted", "t1-r1-tc-01 on tool-executor-2, attempt 2"),
        ("Warning", "LateAnswer", "turn 1: 10+5 tokens; calls time__now"),
        ("Warning", "LLMRequestFailed4xx", "no such model"),
    ]


async def test_a_task_that_waits_says_last_what_for() -> None:
    script = Script(MemoryBus())
    await script.submit()
    await script.write(Waiting(**script.header(), reason="Waiting for Agent to exist", since=AT))
    assert (await told(script))[-1] == ("Normal", "Waiting", "Waiting for Agent to exist")


async def test_describe_shows_the_conversation_the_calls_and_the_events_of_a_task() -> None:
    bus = MemoryBus()
    await finished_task(bus)
    text = await describe(Client(bus), kind_named("task"), "default", "t1", AT)
    lines = text.splitlines()
    assert "Phase:        FinalAnswer" in lines
    assert "  Cost:         $0.001" in lines
    assert "  t1-r1-tc-02   time__now   Failed      100ms   1          no such zone" in lines
    assert '    calls time__now {"zone": "UTC"}  [c1]' in lines
    assert "  tool time__now [c2] (error):" in lines
    assert any("LLMFinalAnswer" in line for line in lines)


async def test_describe_shows_a_tool_call_with_its_arguments_and_result() -> None:
    bus = MemoryBus()
    await finished_task(bus)
    text = await describe(Client(bus), kind_named("toolcall"), "default", "t1-r1-tc-01", AT)
    assert 'Arguments:\n  {"zone": "UTC"}\nResult:\n  12:00' in text
