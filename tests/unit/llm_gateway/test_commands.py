"""A command from its delivery to its outcome, on the memory bus, with a scripted model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest

from schemas.dead_letters import DeadLetter
from schemas.events import ModelAnswered
from schemas.messages import AssistantMessage, SystemMessage, ToolCall, UserMessage
from schemas.resources import (
    LLMParameters,
    LLMSpec,
    ScriptedCall,
    ScriptedOptions,
    ScriptedReply,
    ToolInfo,
)
from schemas.subjects import TaskSubjects, dead_letter
from schemas.task import AwaitingTools, Budget, Cancelled, FinalAnswer, State, TaskHeader, Waiting
from schemas.wire import decode
from services.llm_gateway.core.window import Window
from services.llm_gateway.windows import Windows
from services.runtime.memory.bus import MemoryBus
from services.runtime.memory.server import MemoryServer
from services.runtime.ports import Log, Outgoing, Signal
from tests.support.gateway import (
    AT,
    NAMESPACE,
    Faults,
    GatewayRig,
    TaskRig,
    apply_agent,
    apply_llm,
    apply_server,
    running_gateway,
    say,
    until,
)

CLOCK = ToolInfo(name="now")


def script(*transcript: ScriptedReply, concurrency: int = 16) -> LLMSpec:
    return LLMSpec(
        provider="scripted",
        scripted=ScriptedOptions(transcript=transcript),
        parameters=LLMParameters(concurrency=concurrency),
    )


@pytest.fixture(autouse=True)
def short_settling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.llm_gateway.agents.SETTLE_S", 0.1)


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
async def gateway(faults: Faults) -> AsyncGenerator[GatewayRig]:
    async with running_gateway(MemoryBus(pause=faults)) as rig:
        yield rig


async def equip(gateway: GatewayRig, *transcript: ScriptedReply) -> None:
    await apply_server(gateway.store, "clock", CLOCK)
    await apply_llm(gateway.store, script(*(transcript or (ScriptedReply(text="done"),))))
    await apply_agent(gateway.store, "clock")


def header(task: TaskRig) -> dict[str, Any]:
    state = task.awaiting()
    return {name: getattr(state, name) for name in TaskHeader.__struct_fields__}


def cancelled(task: TaskRig) -> Cancelled:
    return Cancelled(**header(task), ended_at=AT, turn=1, ended_by="x", reason="", by="")


def calls_under_way() -> int:
    return sum(1 for task in asyncio.all_tasks() if task.get_name().startswith("model:job"))


# --- what is not called -----------------------------------------------------------------


async def test_a_command_that_nobody_waits_for_is_dropped(gateway: GatewayRig) -> None:
    await equip(gateway)
    task = await gateway.task()
    await task.write(cancelled(task))
    await task.command()
    await until(lambda: gateway.settled("done") == 1)
    assert gateway.calls() == 0
    assert await task.log.get(task.subjects.model_event(1, 1)) is None


async def test_a_command_of_a_removed_task_is_dropped(gateway: GatewayRig) -> None:
    await equip(gateway)
    task = await gateway.task()
    await task.command()
    await until(lambda: gateway.settled("done") == 1)
    assert gateway.calls() == 0


async def test_a_command_ahead_of_its_state_waits_for_it(gateway: GatewayRig) -> None:
    await equip(gateway)
    task = await gateway.task()
    await task.write(task.awaiting(turn=1))
    await task.command(turn=2)
    await until(lambda: gateway.settled("retried") >= 1)
    await task.write(task.awaiting(turn=2))
    assert (await task.answered(turn=2)).message.content == "done"


async def test_a_recorded_outcome_is_not_paid_for_again(gateway: GatewayRig, faults: Faults) -> None:
    await equip(gateway)
    faults.once.add("delivery.ack")
    task = await gateway.task()
    await task.ask()
    await task.answered()
    await until(lambda: gateway.settled("done") >= 1)
    assert gateway.calls() == 1


async def test_two_deliveries_at_once_are_one_call() -> None:
    faults = Faults()
    faults.always.add("delivery.working")
    async with running_gateway(MemoryBus(MemoryServer(ack_wait_s=0.2), pause=faults)) as gateway:
        await equip(gateway, ScriptedReply(text="slow", delay_s=0.6))
        task = await gateway.task()
        await task.ask()
        await task.answered()
        await until(lambda: gateway.settled("done") >= 2)
        assert gateway.calls() == 1


# --- what cannot be called now ----------------------------------------------------------


async def test_a_missing_agent_is_a_transient_failure_that_says_so(gateway: GatewayRig) -> None:
    task = await gateway.task()
    await task.ask()
    failed = await task.failed()
    assert (failed.failure, failed.cause, failed.llm) == ("transient", "other", "")
    assert failed.error == 'Agent "helper" not found'


async def test_an_llm_that_cannot_be_used_is_a_transient_failure_that_says_why(gateway: GatewayRig) -> None:
    await apply_llm(gateway.store, LLMSpec(provider="openai"))
    await apply_agent(gateway.store)
    await gateway.llm_status(status="Error")
    task = await gateway.task()
    await task.ask()
    failed = await task.failed()
    assert (failed.failure, failed.cause, failed.llm) == ("transient", "notReady", "model")
    assert "apiKeyFrom is required" in failed.error


async def test_a_server_that_is_away_is_not_silently_left_out(gateway: GatewayRig) -> None:
    await equip(gateway)
    known = gateway.runtime.resources.known("MCPServer", NAMESPACE, "clock")
    assert known is not None
    await say(gateway.store, "MCPServer", "clock", known.revision, ready=False)
    task = await gateway.task()
    await until(lambda: not _ready(gateway))
    await task.ask()
    failed = await task.failed()
    assert failed.error == 'MCPServer "clock" is not ready: it broke'
    assert failed.cause == "other"


def _ready(gateway: GatewayRig) -> bool:
    status = gateway.runtime.resources.status("MCPServer", NAMESPACE, "clock")
    return status is not None and status.ready


async def test_what_becomes_ready_a_moment_later_is_waited_for(
    gateway: GatewayRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.llm_gateway.agents.SETTLE_S", 5.0)
    task = await gateway.task()
    await task.ask()
    await until(lambda: gateway.consumer.in_hand == 1)
    await equip(gateway)
    assert (await task.answered()).message.content == "done"


# --- what is broken ---------------------------------------------------------------------


async def test_a_window_with_an_unanswered_call_is_never_sent(gateway: GatewayRig) -> None:
    await equip(gateway)
    call = ToolCall(id="a", name="clock__now", arguments="{}")
    task = await gateway.task(messages=(UserMessage(content="x"), AssistantMessage(tool_calls=(call,))))
    await task.ask()
    failed = await task.failed()
    assert failed.failure == "dead"
    assert "tool call 'a'" in failed.error
    assert gateway.calls() == 0
    letter = await gateway.bus.dead_letters.get(dead_letter("KV_holdfast_0", 3))
    assert letter is not None
    assert decode(letter.data, DeadLetter).reason == "broken"


async def test_a_window_of_what_is_no_entry_is_never_sent(gateway: GatewayRig) -> None:
    await equip(gateway)
    task = await gateway.task()
    task.window += (2,)
    await task.write(task.awaiting())
    await task.write(task.awaiting())
    await task.command()
    failed = await task.failed()
    assert failed.failure == "dead"
    assert gateway.calls() == 0


@pytest.mark.parametrize("data", [b"{", b"{}", b'{"type": "tool.run.v1"}', b"\xff"])
async def test_a_command_that_cannot_be_read_ends_the_call(gateway: GatewayRig, data: bytes) -> None:
    task = await gateway.task()
    await task.write(task.awaiting())
    await task.log.record(Outgoing(task.subjects.model_command(1, 1), data))
    failed = await task.failed()
    assert (failed.failure, failed.turn, failed.attempt) == ("dead", 1, 1)


async def test_a_command_for_another_attempt_than_its_subject_is_refused(gateway: GatewayRig) -> None:
    await equip(gateway)
    task = await gateway.task()
    await task.write(task.awaiting())
    await task.command(turn=7)
    command = await task.log.get(task.subjects.model_command(7, 1))
    assert command is not None
    await task.log.record(Outgoing(task.subjects.model_command(1, 1), command.data))
    assert (await task.failed()).failure == "dead"


async def test_a_conversation_that_was_removed_with_its_task_is_no_defect(
    gateway: GatewayRig, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    await equip(gateway)
    task = await gateway.task()

    async def removed(*_: object) -> None:
        await task.log.purge(task.subjects.state)
        raise LookupError("entry 1 is gone")

    monkeypatch.setattr(Windows, "get", removed)
    await task.ask()
    await until(lambda: gateway.settled("done") == 1)
    assert gateway.calls() == 0
    assert await task.log.get(task.subjects.model_event(1, 1)) is None
    assert gateway.settled("failed") == 0


async def test_a_conversation_that_is_gone_while_its_task_waits_is_a_defect(gateway: GatewayRig) -> None:
    await equip(gateway)
    task = await gateway.task()
    task.window += (999,)
    await task.ask()
    failed = await task.failed()
    assert failed.failure == "dead"
    assert gateway.settled("retried") == 2
    assert gateway.calls() == 0


# --- stopping, failing over -------------------------------------------------------------


async def test_a_stopped_task_has_its_call_cancelled_and_nothing_recorded(gateway: GatewayRig) -> None:
    await equip(gateway, ScriptedReply(text="never", delay_s=600))
    task = await gateway.task()
    await task.ask()
    await until(lambda: calls_under_way() == 1)
    await task.write(cancelled(task))
    await gateway.bus.signals.publish(task.subjects.stop, b"")
    await until(lambda: gateway.settled("done") == 1)
    assert calls_under_way() == 0
    assert gateway.calls() == 0
    assert await task.log.get(task.subjects.model_event(1, 1)) is None


async def test_a_stop_that_comes_while_the_conversation_is_read_is_not_overlooked(
    gateway: GatewayRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await equip(gateway)
    task = await gateway.task()
    read = Windows.get
    heard = asyncio.Event()

    async def hear(_: Signal) -> None:
        heard.set()

    async def stopped_meanwhile(windows: Windows, log: Log, key: str, seqs: Sequence[int]) -> Window:
        await task.write(cancelled(task))
        await gateway.bus.signals.publish(task.subjects.stop, b"")
        await heard.wait()
        return await read(windows, log, key, seqs)

    await gateway.bus.signals.subscribe(task.subjects.stop, hear)
    monkeypatch.setattr(Windows, "get", stopped_meanwhile)
    await task.ask()
    await until(lambda: gateway.settled("done") == 1)
    assert gateway.settled("retried") == 1
    assert gateway.calls() == 0
    assert await task.log.get(task.subjects.model_event(1, 1)) is None


async def test_a_stop_from_before_the_task_was_looked_at_delays_nothing(gateway: GatewayRig) -> None:
    await equip(gateway)
    task = await gateway.task()
    await gateway.bus.signals.publish(task.subjects.stop, b"")
    await task.ask()
    await task.answered()
    await until(lambda: gateway.settled("done") == 1)
    assert gateway.settled("retried") == 0


async def test_a_stop_signal_for_a_task_that_goes_on_only_delays_it(gateway: GatewayRig) -> None:
    await equip(gateway, ScriptedReply(text="a b c d e f", delay_s=0.3))
    task = await gateway.task()
    await task.ask()
    await until(lambda: calls_under_way() == 1)
    await gateway.bus.signals.publish(task.subjects.stop, b"")
    assert (await task.answered()).message.content == "a b c d e f"
    assert gateway.settled("retried") == 1
    assert gateway.calls() == 1


async def test_a_stop_signal_for_another_task_changes_nothing(gateway: GatewayRig) -> None:
    await equip(gateway, ScriptedReply(text="a b c d e f", delay_s=0.3))
    task = await gateway.task()
    await task.ask()
    await until(lambda: calls_under_way() == 1)
    await gateway.bus.signals.publish(TaskSubjects(0, NAMESPACE, "another").stop, b"")
    await gateway.bus.signals.publish(TaskSubjects(0, "elsewhere", "job").stop, b"")
    await task.answered()
    await until(lambda: gateway.settled("done") == 1)
    assert gateway.settled("retried") == 0


async def test_a_replica_that_goes_away_leaves_its_call_to_another() -> None:
    server = MemoryServer()
    async with running_gateway(MemoryBus(server)) as first:
        await equip(first, ScriptedReply(text="slow", delay_s=600))
        task = await first.task()
        await task.ask()
        await until(lambda: calls_under_way() == 1)
    assert calls_under_way() == 0
    await apply_llm(first.store, script(ScriptedReply(text="quick")))
    async with running_gateway(MemoryBus(server)) as second:
        await second.llm_status(status="Ready")
        assert (await task.answered()).message.content == "quick"


async def test_an_outage_of_the_bus_does_not_lose_an_answer_that_was_paid_for() -> None:
    faults = Faults()
    server = MemoryServer()
    async with running_gateway(MemoryBus(server, pause=faults)) as gateway:
        await equip(gateway)
        faults.once.add("log.record")
        task = TaskRig(MemoryBus(server), "job")
        await task.begin()
        await task.ask()
        await task.answered()
        assert gateway.calls() == 1
        assert not faults.once


# --- limits and reading -----------------------------------------------------------------


async def test_an_llm_is_called_by_as_many_at_once_as_it_says(gateway: GatewayRig) -> None:
    await apply_llm(gateway.store, script(ScriptedReply(text="x", delay_s=0.1), concurrency=2))
    await apply_agent(gateway.store)
    await gateway.llm_status(status="Ready")
    tasks = [await gateway.task(f"job-{n}") for n in range(6)]
    started = asyncio.get_running_loop().time()
    for task in tasks:
        await task.ask()
    answers = [await task.answered() for task in tasks]
    assert asyncio.get_running_loop().time() - started >= 0.3
    assert len(answers) == 6


async def test_a_turn_reads_only_what_it_added() -> None:
    calls = (ScriptedCall(tool="clock__now"),)
    faults = Faults()
    server = MemoryServer()
    async with running_gateway(MemoryBus(server, pause=faults)) as gateway:
        await equip(gateway, ScriptedReply(calls=calls), ScriptedReply(calls=calls), ScriptedReply(text="{result}"))
        task = TaskRig(MemoryBus(server), "job")
        await task.begin()
        for turn in (1, 2):
            await task.ask(turn)
            await task.answered(turn)
            await task.tool_result(f"r{turn}", 1, f"call_{turn}_1", f"result {turn}")
        assert faults.seen["log.read"] == 2
        await task.ask(3)
        assert (await task.answered(3)).message.content == "result 2"
        assert faults.seen["log.read"] == 3


async def test_a_replica_that_remembers_nothing_answers_the_same() -> None:
    server = MemoryServer()
    async with running_gateway(MemoryBus(server)) as first:
        await equip(
            first, ScriptedReply(calls=(ScriptedCall(tool="clock__now"),)), ScriptedReply(text="{user}/{result}")
        )
        task = await first.task()
        await task.ask()
        await task.answered()
    await task.tool_result("r1", 1, "call_1_1", "noon")
    async with running_gateway(MemoryBus(server)):
        await task.ask(2)
        assert (await task.answered(2)).message.content == "What time is it?/noon"


async def test_an_empty_answer_is_recorded_and_the_next_attempt_has_the_same_window(gateway: GatewayRig) -> None:
    await equip(gateway, ScriptedReply(text=""))
    task = await gateway.task()
    await task.ask()
    outcome = await task.outcome()
    assert isinstance(outcome, ModelAnswered)
    assert outcome.message == AssistantMessage()
    await task.ask(attempt=2)
    assert isinstance(await task.outcome(attempt=2), ModelAnswered)


async def test_the_outcome_carries_on_the_trace_of_its_command(gateway: GatewayRig) -> None:
    await equip(gateway)
    task = await gateway.task(messages=(SystemMessage(content="s"), UserMessage(content="u")))
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    await task.ask(headers={"traceparent": trace})
    entry = await task.entry()
    assert entry.headers["traceparent"].split("-")[1] == trace.split("-")[1]


@pytest.mark.parametrize("phase", ["tools", "waiting", "final", "next"])
async def test_a_command_that_the_task_has_left_behind_is_dropped(gateway: GatewayRig, phase: str) -> None:
    await equip(gateway)
    task = await gateway.task()
    budget = Budget(max_turns=9)
    states: dict[str, State] = {
        "tools": AwaitingTools(**header(task), budget=budget, turn=1, request="r1", answer_seq=1, calls=()),
        "waiting": Waiting(**header(task), reason="", since=AT, turn=1, attempt=2),
        "final": FinalAnswer(**header(task), ended_at=AT, turn=1, ended_by="x"),
        "next": task.awaiting(turn=1, attempt=2),
    }
    await task.write(states[phase])
    await task.command()
    await until(lambda: gateway.settled("done") == 1)
    assert gateway.calls() == 0
