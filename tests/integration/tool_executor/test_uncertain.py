"""Calls whose outcome nobody knows, about which people are asked: over a memory bus, with replicas that die."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from schemas import subjects
from schemas.ids import call_digest
from schemas.interactions import PATIENCE, InteractionRequested, PeopleDue
from schemas.resources import ContactChannel, ContactChannelSpec, Metadata
from schemas.subjects import TaskSubjects
from schemas.wire import decode, encode
from services.runtime.ports import Entry, Outgoing
from services.tool_executor import asking, calls, handlers
from services.tool_executor.mcp.errors import Lost
from tests.support.mcp_servers.bench import until
from tests.support.mcp_servers.scripted import Copy, ScriptedServer, ScriptedStage


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "AGAIN_S", 0.01)
    monkeypatch.setattr(handlers, "HAND_BACK_S", 0.02)


class LostCall(NamedTuple):
    """A call of `s__doubt` whose replica died in the middle of it."""

    server: ScriptedServer
    task: TaskSubjects


async def lost(stage: ScriptedStage, channel: str = "") -> LostCall:
    await stage.declare("s", channel=channel)
    server = ScriptedServer()
    async with stage.copy("one", s=server) as first:
        task = await stage.ask("s__doubt", "slow")
        await until(lambda: server.made == ["slow"], "the call is under way")
        first.kill()
    return LostCall(server, task)


async def declare_channel(stage: ScriptedStage, **fields: Any) -> None:
    channel = ContactChannel(metadata=Metadata(name="oncall"), spec=ContactChannelSpec(type="console", **fields))
    await stage.bus.resources.put(subjects.spec_key("ContactChannel", "default", "oncall"), encode(channel))


def wake_ups(stage: ScriptedStage) -> list[Entry]:
    return [one for stream in stage.server.streams for one in stream.entries() if one.subject.endswith(".look")]


def takeovers(copy: Copy, decision: str) -> float:
    registry = copy.replica.metrics.registry
    return registry.get_sample_value("holdfast_tool_takeovers_total", {"decision": decision}) or 0.0


# --- asking ---------------------------------------------------------------------------------


async def test_people_are_asked_about_a_call_whose_replica_died_and_nothing_is_held_meanwhile() -> None:
    stage = ScriptedStage()
    at = await lost(stage)
    async with stage.copy("two", s=at.server) as second:
        asked = await stage.asked(at.task)
        await stage.until_done()
        assert takeovers(second, "asked") == 1.0
        assert at.server.calls == 0
    entry = await stage.started(at.task)
    assert entry is not None
    assert (asked.kind, asked.tool, asked.server, asked.agent) == ("uncertain", "s__doubt", "s", "helper")
    assert (asked.arguments, asked.digest) == ('{"text":"slow"}', call_digest("s__doubt", '{"text":"slow"}'))
    assert (asked.began, asked.attempt, asked.interaction) == (entry.at, 1, "r1.1.1")
    assert "begun at" in asked.message
    assert "by one" in asked.message
    assert at.server.made == ["slow"]
    assert await stage.result(at.task) is None


async def test_whoever_brings_questions_to_people_is_woken() -> None:
    stage = ScriptedStage()
    await declare_channel(stage, allowed_responder_ids=("ann",), quorum=2)
    at = await lost(stage, channel="oncall")
    async with stage.copy("two", s=at.server):
        asked = await stage.asked(at.task)
        await stage.until_done()
    assert (asked.channel, asked.allowed, asked.quorum) == ("oncall", ("ann",), 2)
    (due,) = wake_ups(stage)
    assert due.subject == at.task.look_command("r1", 1, 1)
    assert decode(due.data, PeopleDue).interaction == "r1.1.1"


async def test_a_channel_is_asked_by_default_where_there_is_one() -> None:
    stage = ScriptedStage()
    await declare_channel(stage)
    await stage.declare("s", channel="oncall")
    server = ScriptedServer()
    server.failures = [Lost("it died")]
    async with stage.copy("one", s=server):
        task = await stage.ask("s__act", "x")
        asked = await stage.asked(task)
        assert (asked.kind, asked.channel) == ("uncertain", "oncall")
        assert "it died" in asked.message
        await stage.until_done()


async def test_people_cannot_be_asked_by_a_channel_that_is_gone() -> None:
    stage = ScriptedStage()
    at = await lost(stage, channel="nowhere")
    async with stage.copy("two", s=at.server):
        result = await stage.until_result(at.task)
        assert result.outcome == "unknown"
        assert "channel by which people are asked" in result.content
    assert at.server.made == ["slow"]


# --- answers --------------------------------------------------------------------------------


async def test_run_it_again_makes_the_call_once_more() -> None:
    stage = ScriptedStage()
    at = await lost(stage)
    async with stage.copy("two", s=at.server):
        await stage.asked(at.task)
        at.server.hold.set()
        await stage.reply(at.task, "accept", by="ann")
        result = await stage.until_result(at.task)
        await stage.until_done()
    assert (result.outcome, result.attempt, result.content) == ("succeeded", 2, "doubt slow")
    assert at.server.made == ["slow", "slow"]


async def test_leave_it_is_an_unknown_outcome_with_who_said_so_and_why() -> None:
    stage = ScriptedStage()
    at = await lost(stage)
    async with stage.copy("two", s=at.server):
        await stage.asked(at.task)
        await stage.reply(at.task, "decline", by="ann", comment="the order is there")
        result = await stage.until_result(at.task)
        await stage.until_done()
    assert (result.outcome, result.attempt) == ("unknown", 1)
    assert "ann was asked, and left it as it is, and said: the order is there" in result.content
    assert at.server.made == ["slow"]


async def test_a_question_that_expires_is_as_if_nobody_could_be_asked() -> None:
    stage = ScriptedStage()
    at = await lost(stage)
    async with stage.copy("two", s=at.server):
        await stage.asked(at.task)
        await stage.reply(at.task, "cancel", via="expired", comment="Nobody answered within 60 s.")
        result = await stage.until_result(at.task)
    assert result.outcome == "unknown"
    assert "Nobody answered within 60 s." in result.content
    assert "may or may not have taken effect" in result.content
    assert at.server.made == ["slow"]


async def test_an_answer_by_which_nobody_waits_any_more_changes_nothing() -> None:
    stage = ScriptedStage()
    at = await lost(stage)
    async with stage.copy("two", s=at.server):
        await stage.asked(at.task)
        await stage.finish(at.task, "cancelled with its task")
        await stage.reply(at.task, "accept", by="ann")
        await stage.until_done()
    assert at.server.made == ["slow"]
    assert (await stage.until_result(at.task)).content == "cancelled with its task"


async def test_answers_to_other_questions_of_a_call_run_nothing() -> None:
    stage = ScriptedStage()
    await stage.declare("s")
    server = ScriptedServer()
    task, _ = await stage.answer("s__doubt", "x")
    async with stage.copy("one", s=server) as only:
        await stage.reply(task, "accept", k=0)
        await stage.reply(task, "accept", k=7)
        await stage.until_done()
        await until(lambda: not only.replica.failed, "it goes on")
    assert server.made == []


# --- again and again --------------------------------------------------------------------------


async def test_a_call_that_is_lost_when_it_is_made_again_is_asked_about_again() -> None:
    stage = ScriptedStage()
    at = await lost(stage)
    async with stage.copy("two", s=at.server) as second:
        await stage.asked(at.task)
        await stage.reply(at.task, "accept", by="ann")
        await until(lambda: at.server.made == ["slow", "slow"], "it is made again")
        second.kill()
    async with stage.copy("three", s=at.server):
        asked = await stage.asked(at.task, 2)
        assert (asked.attempt, asked.interaction) == (2, "r1.1.2")
        assert "2. time" in asked.message
        await stage.reply(at.task, "decline", 2, by="ben")
        result = await stage.until_result(at.task)
        await stage.until_done()
    assert (result.outcome, result.attempt) == ("unknown", 2)
    assert at.server.made == ["slow", "slow"]


async def test_a_connection_that_ends_in_the_middle_is_a_question_too() -> None:
    stage = ScriptedStage()
    await stage.declare("s")
    server = ScriptedServer()
    server.failures = [Lost("connection reset"), Lost("connection reset")]
    async with stage.copy("one", s=server):
        task = await stage.ask("s__doubt", "x")
        for k in (1, 2):
            assert "connection reset" in (await stage.asked(task, k)).message
            await stage.until_done()
            assert server.calls == 0
            await stage.reply(task, "accept", k, by="ann")
        result = await stage.until_result(task)
        await stage.until_done()
    assert (result.outcome, result.attempt) == ("succeeded", 3)
    assert server.made == ["x", "x", "x"]


async def test_people_are_not_asked_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.tool_executor.doubts.QUESTIONS_MAX", 1)
    stage = ScriptedStage()
    await stage.declare("s")
    server = ScriptedServer()
    server.failures = [Lost("gone"), Lost("gone")]
    async with stage.copy("one", s=server):
        task = await stage.ask("s__doubt", "x")
        await stage.asked(task)
        await stage.reply(task, "accept", by="ann")
        assert (await stage.until_result(task)).outcome == "unknown"
    assert asking.QUESTIONS_MAX > 1
    assert server.made == ["x", "x"]


# --- crashes --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "at",
    ["log.record .asked", "log.record:after .asked", "log.record .look", "log.record:after .look", "delivery.ack"],
)
async def test_a_replica_that_dies_while_it_asks_leaves_one_question(at: str) -> None:
    stage = ScriptedStage()
    await declare_channel(stage)
    gone = await lost(stage, channel="oncall")
    async with stage.copy("two", s=gone.server) as second:
        second.die_at = at
        await until(lambda: second.dead, "it dies")
    async with stage.copy("three", s=gone.server):
        await stage.asked(gone.task)
        await stage.until_done()
        gone.server.hold.set()
        await stage.reply(gone.task, "accept", by="ann")
        result = await stage.until_result(gone.task)
        await stage.until_done()
    assert len([name for name in await stage.log.subjects(f"{gone.task.root}.int.>") if name.endswith(".asked")]) == 1
    assert result.outcome == "succeeded"
    assert gone.server.made == ["slow", "slow"]
    assert wake_ups(stage)


@pytest.mark.parametrize("at", ["log.get", "log.last", "log.write"])
async def test_a_replica_that_dies_with_the_answer_before_it_makes_the_call_leaves_it_to_the_next(at: str) -> None:
    stage = ScriptedStage()
    gone = await lost(stage)
    async with stage.copy("two", s=gone.server) as second:
        await stage.asked(gone.task)
        await stage.until_done()
        second.die_at = at
        await stage.reply(gone.task, "accept", by="ann")
        await until(lambda: second.dead, "it dies")
    assert gone.server.made == ["slow"]
    async with stage.copy("three", s=gone.server):
        gone.server.hold.set()
        result = await stage.until_result(gone.task)
        await stage.until_done()
    assert (result.outcome, result.attempt) == ("succeeded", 2)
    assert gone.server.made == ["slow", "slow"]


async def test_a_replica_that_was_taken_for_dead_and_ends_its_call_withdraws_the_question() -> None:
    stage = ScriptedStage()
    await stage.declare("s")
    server = ScriptedServer()
    async with stage.copy("one", s=server) as first:
        task = await stage.ask("s__doubt", "slow")
        await until(lambda: server.made == ["slow"], "the call is under way")
        first.stalled = True
        first.unheard()
        async with stage.copy("two", s=server):
            await stage.asked(task)
            await stage.until_done()
            server.hold.set()
            first.stalled = False
            result = await stage.until_result(task)

            async def withdrawn() -> bool:
                answered = await stage.answered(task)
                return answered is not None and answered.via == "withdrawn"

            await until(withdrawn, "nobody is asked any more")
    assert (result.outcome, result.attempt) == ("succeeded", 1)
    assert server.made == ["slow"]


async def test_a_question_of_a_task_that_ended_just_then_is_withdrawn() -> None:
    stage = ScriptedStage()
    gone = await lost(stage)
    async with stage.copy("two", s=gone.server) as second:
        second.refuse.add("log.record:after")
        await stage.asked(gone.task)
        await stage.finish(gone.task, "over")
        second.refuse.clear()
        await stage.until_done()
    answered = await stage.answered(gone.task)
    assert answered is not None
    assert answered.via == "withdrawn"
    assert gone.server.made == ["slow"]


async def test_an_answer_that_cannot_be_read_is_not_the_end_of_the_task() -> None:
    stage = ScriptedStage()
    gone = await lost(stage)
    async with stage.copy("two", s=gone.server):
        await stage.asked(gone.task)
        await stage.log.record(Outgoing(gone.task.interaction_answered("r1", 1, 1), b"{"))
        result = await stage.until_result(gone.task)
        await stage.until_done()
    assert result.outcome == "unknown"
    assert "may or may not have taken effect" in result.content
    assert len(await stage.letters()) == 1
    assert gone.server.made == ["slow"]


async def test_a_command_that_is_given_up_takes_its_question_back() -> None:
    stage = ScriptedStage(deliveries_max=2)
    gone = await lost(stage, channel="nowhere")
    asked = InteractionRequested(
        kind="uncertain",
        namespace="default",
        task=gone.task.task,
        interaction="r1.1.1",
        message="about an earlier time",
        agent="helper",
        tool="s__doubt",
        at=stage.bus.clock.now(),
        expires=stage.bus.clock.now() + PATIENCE,
    )
    await stage.log.record(Outgoing(gone.task.interaction_asked("r1", 1, 1), encode(asked)))
    async with stage.copy("two", s=gone.server):
        assert (await stage.until_result(gone.task)).outcome == "unknown"
        await stage.until_done()
    answered = await stage.answered(gone.task)
    assert answered is not None
    assert answered.via == "withdrawn"
