"""A call that must not be repeated, and a replica that is asked before another one gives the call up."""

from __future__ import annotations

import pytest

from schemas import subjects
from schemas.events import ToolStarted
from schemas.live import HolderAsked, HolderSaid
from schemas.subjects import TaskSubjects
from schemas.wire import decode, encode
from services.runtime.ports import Outgoing
from services.tool_executor import calls, handlers, running
from services.tool_executor import ledger as asking
from services.tool_executor.core import ledger
from services.tool_executor.mcp.errors import NotStarted
from tests.support.mcp_servers.bench import until
from tests.support.mcp_servers.scripted import Copy, ScriptedServer, ScriptedStage


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "AGAIN_S", 0.01)
    monkeypatch.setattr(handlers, "HAND_BACK_S", 0.02)
    monkeypatch.setattr(asking, "ANSWER_S", 0.1)
    monkeypatch.setattr(ledger, "LOOK_S", 0.05)


def one_slot() -> ScriptedStage:
    """A replica that has a call in hand takes no message, so that another one gets what is delivered again."""
    return ScriptedStage(slots=1)


async def one_server(stage: ScriptedStage) -> ScriptedServer:
    await stage.declare("s")
    return ScriptedServer()


async def under_way(stage: ScriptedStage, server: ScriptedServer, tool: str = "s__act") -> TaskSubjects:
    """A call that is not finished before the test says so."""
    task = await stage.ask(tool, "slow")
    await until(lambda: server.made == ["slow"], "the call is under way")
    return task


async def taken_again(copy: Copy) -> None:
    await until(lambda: copy.counted("delivered", redelivered="true") > 0, "the message is delivered again")


async def test_a_call_is_not_given_up_while_its_holder_says_that_it_runs() -> None:
    stage = one_slot()
    server = await one_server(stage)
    async with stage.copy("one", s=server) as first:
        task = await under_way(stage, server)
        first.refuse = {"delivery.working"}
        async with stage.copy("two", s=server) as second:
            await taken_again(second)
            await stage.bus.clock.sleep(5 * ledger.LOOK_S)
            assert await stage.result(task) is None
            server.hold.set()
            assert (await stage.until_result(task)).outcome == "succeeded"
            await stage.until_done()
    assert server.made == ["slow"]


@pytest.mark.parametrize("tool", ["s__act", "s__dare"])
async def test_a_holder_that_is_stalled_longer_than_the_acknowledgement_wait_keeps_its_call(tool: str) -> None:
    stage = one_slot()
    server = await one_server(stage)
    async with stage.copy("one", s=server) as first:
        task = await under_way(stage, server, tool)
        first.stalled = True
        async with stage.copy("two", s=server) as second:
            await taken_again(second)
            server.hold.set()
            await stage.bus.clock.sleep(3 * asking.ANSWER_S)
            assert await stage.result(task) is None
            first.stalled = False
            assert (await stage.until_result(task)).outcome == "succeeded"
            await stage.until_done()
    assert server.made == ["slow"]


async def test_a_holder_that_is_silent_for_too_long_loses_its_call_and_cannot_take_it_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ledger, "SILENT_S", 0.4)
    stage = one_slot()
    server = await one_server(stage)
    async with stage.copy("one", s=server) as first:
        task = await under_way(stage, server)
        first.stalled = True
        async with stage.copy("two", s=server):
            assert (await stage.until_result(task)).outcome == "unknown"
            server.hold.set()
            first.stalled = False
            await stage.until_done()
            assert (await stage.until_result(task)).outcome == "unknown"
    assert server.made == ["slow"]


async def test_a_holder_that_was_killed_is_not_waited_for() -> None:
    stage = one_slot()
    server = await one_server(stage)
    async with stage.copy("one", s=server) as first:
        task = await under_way(stage, server)
        async with stage.copy("two", s=server):
            first.kill()
            killed_at = stage.bus.clock.now()
            result = await stage.until_result(task)
            assert result.outcome == "unknown"
            assert (result.at - killed_at).total_seconds() < 1.0
    assert server.made == ["slow"]


async def test_a_call_that_was_begun_and_never_made_is_made_by_another_replica(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "AGAIN_S", 0.1)
    stage = one_slot()
    server, away = await one_server(stage), ScriptedServer()
    away.failures = [NotStarted("its process is gone")] * calls.ATTEMPTS_MAX
    async with stage.copy("one", s=away) as first:
        task = await stage.ask("s__act", "x")
        await until(lambda: bool(away.made), "the first replica cannot make the call")
        first.blind = True
        async with stage.copy("two", s=server):
            result = await stage.until_result(task)
    assert (result.outcome, result.attempt) == ("succeeded", 1)
    assert server.made == ["x"]


async def test_a_replica_of_the_same_name_is_another_holder() -> None:
    stage = one_slot()
    server = await one_server(stage)
    async with stage.copy("one", s=server) as first:
        task = await under_way(stage, server)
        first.stalled = True
        async with stage.copy("one", s=server) as second:
            await taken_again(second)
            await stage.bus.clock.sleep(3 * asking.ANSWER_S)
            assert await stage.result(task) is None
            server.hold.set()
            first.stalled = False
            assert (await stage.until_result(task)).outcome == "succeeded"
    assert server.made == ["slow"]


async def test_an_entry_of_an_older_release_counts_for_its_lease() -> None:
    stage = ScriptedStage()
    server = await one_server(stage)
    task, run = await stage.answer("s__act", "x")
    entry = ToolStarted(attempt=1, replica="old", at=stage.bus.clock.now(), lease_s=0.3)
    await stage.log.write(Outgoing(task.ledger("r1", 1), encode(entry)), expected=0)
    async with stage.copy(s=server):
        await stage.log.record(Outgoing(task.tool_command("r1", 1), encode(run)))
        assert (await stage.until_result(task)).outcome == "unknown"
    assert server.made == []


async def test_a_question_about_a_call_is_answered_on_inboxes_only() -> None:
    stage = ScriptedStage()
    server = await one_server(stage)
    async with stage.copy(s=server):
        task = await under_way(stage, server)
        started = await stage.started(task)
        assert started is not None
        question = encode(HolderAsked(ledger=task.ledger("r1", 1), result=task.tool_event("r1", 1)))
        subject = subjects.holder(started.holder)
        await stage.bus.signals.publish(subject, question)
        await stage.bus.signals.publish(subject, b"nonsense")
        answer = await stage.bus.signals.request(subject, question)
        assert decode(answer.data, HolderSaid) == HolderSaid(holds="running")
        server.hold.set()
        await stage.until_done()
        answer = await stage.bus.signals.request(subject, question)
        assert decode(answer.data, HolderSaid) == HolderSaid(holds="ended")


async def test_a_long_call_whose_stop_signal_was_lost_is_stopped_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "LOOK_EVERY_S", 0.2)
    stage = ScriptedStage()
    server = await one_server(stage)
    async with stage.copy(s=server):
        task = await under_way(stage, server)
        await stage.finish(task, "the task was cancelled")
        await until(lambda: server.cancelled == ["slow"], "the call is stopped")
        await stage.until_done()
    assert (await stage.until_result(task)).content == "the task was cancelled"


async def test_a_long_call_goes_on_while_nobody_has_its_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "LOOK_EVERY_S", 0.05)
    stage = ScriptedStage()
    server = await one_server(stage)
    async with stage.copy(s=server) as copy:
        task = await under_way(stage, server)
        for refused in (set[str](), {"log.get"}):
            copy.refuse = refused
            await stage.bus.clock.sleep(0.3)
        copy.refuse = set()
        server.hold.set()
        assert (await stage.until_result(task)).outcome == "succeeded"
    assert server.cancelled == []
