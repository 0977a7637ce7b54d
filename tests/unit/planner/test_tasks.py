"""The planner's whole shell over the memory bus; the test plays the gateway and the executor."""

from __future__ import annotations

import asyncio

import pytest

from schemas import subjects
from schemas.events import ConversationStarted, ToolFinished
from schemas.messages import SystemMessage, UserMessage
from schemas.requests import DeleteTask, Limits
from schemas.task import AwaitingModel, AwaitingTools, Cancelled, Failed, FinalAnswer, RetryingModel, Waiting
from schemas.wire import decode, encode
from services.planner.main import build
from services.runtime.errors import Unavailable
from services.runtime.memory.bus import MemoryBus
from services.runtime.memory.queue import MemoryDelivery
from services.runtime.memory.server import MemoryServer
from services.runtime.ports import Outgoing
from services.runtime.replica import Replica
from services.runtime.settings import Settings
from tests.support.stage import Stage, agent, on_stage, scripted_llm, until

PLANNER = {"planner": build}


async def test_a_task_goes_from_request_to_answer() -> None:
    async with on_stage(PLANNER) as (stage, _):
        await stage.with_agent()
        task = await stage.submit()
        await stage.answer(task, 1, calls=("a__x", "a__y"), text="Let me look.")
        waiting = await stage.until_state(task, AwaitingTools)
        assert [call.tool for call in waiting.calls] == ["a__x", "a__y"]
        await stage.finish(task, "r1", 2, content="second")
        await stage.finish(task, "r1", 1, content="first")
        await stage.answer(task, 2, text="Done.")
        state = await stage.until_state(task, FinalAnswer)
        entries = await stage.bus.log(task.partition).read(state.window)
        subjects = [entry.subject for entry in entries]
        assert subjects == [
            task.context,
            task.model_event(1, 1),
            task.tool_event("r1", 1),
            task.tool_event("r1", 2),
            task.model_event(2, 1),
        ]
        assert decode(entries[0].data, ConversationStarted).messages == (
            SystemMessage(content="you are a testing assistant"),
            UserMessage(content="hello"),
        )
        assert state.spend.model_calls == 2


async def test_a_task_waits_for_its_agent_and_goes_on_by_itself() -> None:
    async with on_stage(PLANNER) as (stage, _):
        task = await stage.submit()
        state = await stage.until_state(task, Waiting)
        assert state.reason == "Waiting for Agent to exist"
        await stage.apply(agent())

        async def waits_for_the_model() -> bool:
            now = await stage.state(task)
            return isinstance(now, Waiting) and 'LLM "model" not found' in now.reason

        await stage.bus.timers.set(
            task.timer("recheck"), task.timer_fired("recheck"), stage.bus.clock.now(), RECHECK, {}
        )
        await until(waits_for_the_model, "the new reason")
        await stage.apply_ready(scripted_llm())
        await stage.answer(task, 1, text="Hello.")
        await stage.until_state(task, FinalAnswer)


async def test_an_agent_that_becomes_unready_in_the_middle_leaves_the_transcript_intact() -> None:
    async with on_stage(PLANNER) as (stage, _):
        await stage.with_agent()
        task = await stage.submit()
        await stage.answer(task, 1, calls=("a__x",))
        before = await stage.until_state(task, AwaitingTools)
        revision = await stage.apply(scripted_llm())
        await stage.say_ready(scripted_llm(), revision, ready=False)
        await asyncio.sleep(0)
        await stage.finish(task, "r1", 1)
        waiting = await stage.until_state(task, Waiting)
        assert waiting.window[: len(before.window)] == before.window
        assert waiting.turn == 2
        await stage.say_ready(scripted_llm(), revision)
        await stage.answer(task, 2, text="Back again.")
        await stage.until_state(task, FinalAnswer)


async def test_a_change_of_the_agent_does_not_rewrite_a_conversation() -> None:
    async with on_stage(PLANNER) as (stage, _):
        await stage.with_agent()
        task = await stage.submit()
        await stage.until_state(task, AwaitingModel)
        changed = agent()
        await stage.apply(type(changed)(metadata=changed.metadata, spec=agent(llm="model").spec))
        await stage.answer(task, 1, text="Hello.")
        state = await stage.until_state(task, FinalAnswer)
        (first, _) = await stage.bus.log(task.partition).read(state.window)
        assert first.subject == task.context


async def test_a_transient_failure_is_retried_by_a_timer() -> None:
    async with on_stage(PLANNER) as (stage, _):
        await stage.with_agent()
        task = await stage.submit()
        await stage.fail(task, 1, "transient", retry_after_s=0.05)
        await stage.until_state(task, RetryingModel)
        await stage.answer(task, 1, attempt=2, text="Hello.")
        state = await stage.until_state(task, FinalAnswer)
        assert state.spend.model_calls == 2


async def test_calls_that_are_made_again_are_counted_by_their_cause_and_waits_for_limits_are_not() -> None:
    async with on_stage(PLANNER) as (stage, replica):
        await stage.with_agent()
        task = await stage.submit()
        await stage.fail(task, 1, "throttled", retry_after_s=0.05)
        await stage.fail(task, 1, "transient", attempt=2, retry_after_s=0.05)
        await stage.fail(task, 1, "refused", attempt=3, status=401)
        await stage.until_state(task, Failed)
        family = next(one for one in replica.metrics.registry.collect() if one.name == "holdfast_model_retries")
        counted = {sample.labels["cause"]: sample.value for sample in family.samples if sample.value}
        assert counted == {"other": 1}


async def test_a_refused_call_fails_the_task() -> None:
    async with on_stage(PLANNER) as (stage, _):
        await stage.with_agent()
        task = await stage.submit()
        await stage.fail(task, 1, "refused", status=401)
        state = await stage.until_state(task, Failed)
        assert state.error == "LLM request failed with status 401: why"


async def test_a_deadline_ends_a_task_while_its_tools_run() -> None:
    async with on_stage(PLANNER) as (stage, _):
        await stage.with_agent()
        task = await stage.submit(limits={"deadlineSeconds": 0.3})
        await stage.answer(task, 1, calls=("a__x",))
        state = await stage.until_state(task, Failed)
        assert state.reason == "DeadlineExceeded"
        closed = decode(await stage.stored(task, task.tool_event("r1", 1)), ToolFinished)
        assert "deadline" in closed.content
        assert not await stage.finish(task, "r1", 1, content="too late")


async def test_an_agents_own_limits_bound_its_tasks() -> None:
    async with on_stage(PLANNER) as (stage, _):
        await stage.with_agent(limits=Limits(max_turns=1))
        task = await stage.submit(limits={"maxTurns": 5})
        await stage.answer(task, 1, calls=("a__x",))
        state = await stage.until_state(task, Failed)
        assert state.reason == "MaxTurnsReached"


async def test_cancel_ends_a_task_and_gives_every_open_call_a_result() -> None:
    async with on_stage(PLANNER) as (stage, _):
        await stage.with_agent()
        task = await stage.submit()
        await stage.answer(task, 1, calls=("a__x", "a__y"))
        await stage.until_state(task, AwaitingTools)
        await stage.finish(task, "r1", 1, content="in time")
        await stage.ask("cancel", {"task": task.task, "reason": "enough", "by": "ann"})
        state = await stage.until_state(task, Cancelled)
        assert (state.by, state.reason) == ("ann", "enough")
        first = decode(await stage.stored(task, task.tool_event("r1", 1)), ToolFinished)
        second = decode(await stage.stored(task, task.tool_event("r1", 2)), ToolFinished)
        assert (first.content, first.outcome) == ("in time", "succeeded")
        assert (second.content, second.outcome) == ("Not done: the task was cancelled: enough.", "cancelled")
        assert not await stage.finish(task, "r1", 2)


async def test_a_cancel_that_overtakes_the_beginning_of_its_task_is_not_lost() -> None:
    server = MemoryServer(ack_wait_s=0.2)
    held = asyncio.Event()

    async def slow(call: str, subject: str) -> None:
        await asyncio.sleep(0)
        if call == "log.commit" and subject.endswith(".job"):
            await held.wait()

    stage = Stage(MemoryBus(server))
    await stage.with_agent()
    slow_replica = Replica(MemoryBus(server, pause=slow), Settings(), PLANNER, {})
    await slow_replica.start()
    task = await stage.submit(name="job")
    other = Replica(MemoryBus(server), Settings(), PLANNER, {})
    await other.start()
    await stage.ask("cancel", {"task": "job"})
    held.set()
    await stage.until_state(task, Cancelled)
    await slow_replica.stop()
    await other.stop()


async def test_a_late_event_of_a_removed_task_is_tidied_up() -> None:
    async with on_stage(PLANNER) as (stage, _):
        gone = stage.task("gone")
        late = ToolFinished(
            request="r1", n=1, tool_call_id="x", tool="x", outcome="succeeded", content="", at=stage.bus.clock.now()
        )
        await stage.bus.log(gone.partition).record(Outgoing(gone.tool_event("r1", 1), encode(late)))

        async def tidy() -> bool:
            return await stage.bus.log(gone.partition).get(gone.tool_event("r1", 1)) is None

        await until(tidy, "nothing left of it")


async def test_a_crash_between_state_and_commands_is_repaired_by_the_redelivery() -> None:
    server = MemoryServer(ack_wait_s=0.2)
    crashing = {"armed": True}

    async def pause(call: str, subject: str) -> None:
        await asyncio.sleep(0)
        if call == "log.commit:ensure" and crashing["armed"]:
            crashing["armed"] = False
            raise Unavailable("the replica dies here")

    stage = Stage(MemoryBus(server))
    await stage.with_agent()
    replica = Replica(MemoryBus(server, commit="two-step", pause=pause), Settings(), PLANNER, {})
    await replica.start()
    task = await stage.submit()
    await stage.answer(task, 1, text="Hello.")
    await stage.until_state(task, FinalAnswer)
    assert not crashing["armed"]
    await replica.stop()


async def test_an_impossible_event_fails_its_task_and_is_a_dead_letter() -> None:
    async with on_stage(PLANNER) as (stage, _):
        await stage.with_agent()
        task = await stage.submit()
        await stage.until_state(task, AwaitingModel)
        forged = ToolFinished(
            request="r1", n=1, tool_call_id="x", tool="x", outcome="succeeded", content="", at=stage.bus.clock.now()
        )
        await stage.bus.log(task.partition).record(Outgoing(task.model_event(7, 1), b'{"type":"nonsense"}'))
        state = await stage.until_state(task, Failed)
        assert state.reason == "DeadLettered"
        await stage.bus.log(task.partition).record(Outgoing(task.tool_event("r9", 1), encode(forged)))
        assert await stage.bus.dead_letters.subjects("hf.dlq.letter.>")


async def test_an_ended_task_can_be_deleted_and_its_name_used_again() -> None:
    async with on_stage(PLANNER) as (stage, _):
        await stage.with_agent()
        task = await stage.submit(name="job")
        refused = await stage.ask("delete", {"task": "job"})
        assert "cancel it first" in getattr(refused, "error", "")
        await stage.answer(task, 1, text="Hello.")
        await stage.until_state(task, FinalAnswer)
        await stage.ask("delete", {"task": "job"})
        assert await stage.state(task) is None
        assert await stage.bus.log(task.partition).subjects("hf.>") == []
        again = await stage.submit(name="job", userMessage="something else")
        await stage.answer(again, 1, text="Hello again.")
        await stage.until_state(again, FinalAnswer)


async def test_a_task_is_not_removed_while_its_request_may_be_delivered_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would begin again."""
    ack, lost = MemoryDelivery.ack, [True]

    async def lossy(self: MemoryDelivery) -> None:
        if not (lost[0] and self.subject.endswith(".submit")):
            await ack(self)

    monkeypatch.setattr(MemoryDelivery, "ack", lossy)
    async with on_stage(PLANNER, server=MemoryServer(ack_wait_s=0.2)) as (stage, replica):
        await stage.with_agent()
        task = await stage.submit(name="job")
        await stage.answer(task, 1, text="Hello.")
        await stage.until_state(task, FinalAnswer)
        data = encode(DeleteTask(task="job"))
        await stage.bus.signals.store(subjects.delete("default"), data)

        async def handed_back() -> bool:
            labels = {"consumer": subjects.PLANNER_REQUESTS, "outcome": "retried"}
            return bool(replica.metrics.registry.get_sample_value("holdfast_messages_handled_total", labels))

        await until(handed_back, "the deletion is handed back")
        assert await stage.state(task) is not None
        lost[0] = False

        async def gone() -> bool:
            return await stage.bus.log(task.partition).subjects("hf.>") == []

        await until(gone, "the task is removed")
        assert await stage.state(task) is None
        assert await stage.bus.requests.subjects(">") == []


RECHECK = b'{"type":"timer.fired.v1","timer":"recheck","due":"2026-01-01T00:00:00Z"}'
