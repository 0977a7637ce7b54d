"""The handler over a memory bus: crashes, redeliveries, lost answers of the bus, and servers that are away."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import msgspec
import pytest

from schemas.commands import RunTool
from schemas.events import ToolStarted
from schemas.wire import encode
from services.runtime.ports import Outgoing
from services.tool_executor import calls, handlers
from services.tool_executor.mcp.errors import Lost, NotStarted, TimedOut
from tests.support.mcp_servers.bench import until
from tests.support.mcp_servers.scripted import ScriptedServer, ScriptedStage


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "AGAIN_S", 0.01)
    monkeypatch.setattr(handlers, "HAND_BACK_S", 0.02)
    monkeypatch.setattr(handlers, "BUSY_S", 0.01)
    monkeypatch.setattr(handlers, "RECORD_PAUSE_S", 0.01)


async def one_server(stage: ScriptedStage) -> ScriptedServer:
    await stage.declare("s")
    return ScriptedServer()


# --- the plain path ----------------------------------------------------------------------


async def test_a_call_is_made_and_its_result_recorded() -> None:
    stage = ScriptedStage()
    server = await one_server(stage)
    async with stage.copy(s=server):
        result = await stage.until_result(task := await stage.ask("s__act", "x"))
        assert (result.outcome, result.content, result.attempt) == ("succeeded", "act x", 1)
        assert (result.request, result.n, result.tool_call_id, result.tool) == ("r1", 1, "call-1", "s__act")
        await stage.until_done()
    assert server.made == ["x"]
    started = await stage.started(task)
    assert started is not None
    assert (started.attempt, started.replica) == (1, "one")


@pytest.mark.parametrize("tool", ["s__look", "s__set"])
async def test_a_call_that_may_be_repeated_leaves_no_entry_in_the_ledger(tool: str) -> None:
    stage = ScriptedStage()
    async with stage.copy(s=await one_server(stage)):
        await stage.until_result(task := await stage.ask(tool))
    assert await stage.started(task) is None


# --- a replica that dies -----------------------------------------------------------------


async def test_a_call_whose_replica_died_in_the_middle_is_not_made_again() -> None:
    stage = ScriptedStage()
    server = await one_server(stage)
    async with stage.copy("one", s=server) as first:
        task = await stage.ask("s__act", "slow")
        await until(lambda: server.made == ["slow"], "the call is under way")
        first.kill()
        async with stage.copy("two", s=server) as second:
            result = await stage.until_result(task)
            assert result.outcome == "unknown"
            assert "may or may not have taken effect" in result.content
            await stage.until_done()
            assert (
                second.replica.metrics.registry.get_sample_value(
                    "holdfast_tool_takeovers_total", {"decision": "unknown"}
                )
                == 1.0
            )
    assert server.made == ["slow"]


@pytest.mark.parametrize("tool", ["s__look", "s__set"])
async def test_a_call_that_may_be_repeated_is_made_again_when_its_replica_died(tool: str) -> None:
    stage = ScriptedStage()
    server = await one_server(stage)
    async with stage.copy("one", s=server) as first:
        task = await stage.ask(tool, "slow")
        await until(lambda: server.made == ["slow"], "the call is under way")
        first.kill()
        async with stage.copy("two", s=server):
            await until(lambda: server.made == ["slow", "slow"], "the call is made again")
            server.hold.set()
            assert (await stage.until_result(task)).outcome == "succeeded"
            await stage.until_done()
    assert server.made == ["slow", "slow"]


async def test_an_uncertain_call_is_made_again_where_the_manifest_dares() -> None:
    stage = ScriptedStage()
    server = await one_server(stage)
    async with stage.copy("one", s=server) as first:
        task = await stage.ask("s__dare", "slow")
        await until(lambda: server.made == ["slow"], "the call is under way")
        first.kill()
        async with stage.copy("two", s=server):
            await until(lambda: server.made == ["slow", "slow"], "the call is made again")
            started = await stage.started(task)
            assert started is not None
            assert (started.attempt, started.replica) == (2, "two")
            server.hold.set()
            result = await stage.until_result(task)
            assert (result.outcome, result.attempt) == ("succeeded", 2)
            await stage.until_done()


async def test_the_late_result_of_a_replica_that_was_given_up_changes_nothing() -> None:
    stage = ScriptedStage()
    server = await one_server(stage)
    async with stage.copy("one", s=server) as first:
        task = await stage.ask("s__act", "slow")
        await until(lambda: server.made == ["slow"], "the call is under way")
        first.refuse, first.blind = {"delivery.working"}, True
        first.unheard()
        async with stage.copy("two", s=server):
            assert (await stage.until_result(task)).outcome == "unknown"
            server.hold.set()
            await stage.until_done()
            await until(lambda: server.calls == 0, "the first replica has ended its call")
        assert (await stage.until_result(task)).outcome == "unknown"
    assert server.made == ["slow"]


@pytest.mark.parametrize("at", ["log.write", "log.write:after", "log.record", "log.record:after", "delivery.ack"])
@pytest.mark.parametrize("tool", ["act", "look", "dare"])
async def test_wherever_a_replica_dies_there_is_one_result_and_no_forbidden_effect(at: str, tool: str) -> None:
    stage = ScriptedStage()
    server = await one_server(stage)
    async with stage.copy("one", s=server) as first, stage.copy("two", s=server) as second:
        first.die_at = second.die_at = at
        task = await stage.ask(f"s__{tool}", "x")
        never = tool == "look" and at.startswith("log.write")
        await until(lambda: first.dead or second.dead or never, "one of them dies")
        first.die_at = second.die_at = ""
        result = await stage.until_result(task)
        await stage.until_done()
    assert result.outcome in (("succeeded", "unknown") if tool == "act" else ("succeeded",))
    assert len(server.made) <= (1 if tool == "act" else 2)
    if result.outcome == "succeeded":
        assert server.made


async def test_a_drained_replica_hands_its_call_back_and_tells_the_tool_to_stop() -> None:
    stage = ScriptedStage()
    server = await one_server(stage)
    async with stage.copy("one", s=server):
        task = await stage.ask("s__act", "slow")
        await until(lambda: server.made == ["slow"], "the call is under way")
    assert server.cancelled == ["slow"]
    assert await stage.result(task) is None
    async with stage.copy("two", s=server):
        assert (await stage.until_result(task)).outcome == "unknown"
    assert server.made == ["slow"]


async def test_an_entry_of_a_replica_whose_clock_is_ahead_is_waited_for_one_lease_only() -> None:
    stage = ScriptedStage()
    server = await one_server(stage)
    task, run = await stage.answer("s__act", "x")
    ahead = stage.bus.clock.now() + timedelta(hours=1)
    entry = ToolStarted(attempt=1, replica="gone", at=ahead, lease_s=0.3)
    await stage.log.write(Outgoing(task.ledger("r1", 1), encode(entry)), expected=0)
    await stage.log.record(Outgoing(task.tool_command("r1", 1), encode(run)))
    async with stage.copy(s=server):
        assert (await stage.until_result(task)).outcome == "unknown"
    assert server.made == []


# --- deliveries that need not be handled -------------------------------------------------


async def test_a_command_that_was_done_before_is_not_done_again() -> None:
    stage = ScriptedStage()
    server = await one_server(stage)
    async with stage.copy("one", s=server) as first:
        first.refuse = {"delivery.ack"}
        task = await stage.ask("s__look", "x")
        await stage.until_result(task)
        first.kill()
        async with stage.copy("two", s=server):
            await stage.until_done()
    assert server.made == ["x"]


async def test_an_old_command_of_a_task_that_has_ended_is_not_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handlers, "FRESH_S", 0.0)
    stage = ScriptedStage()
    server = await one_server(stage)
    task = await stage.ask("s__act", "x")
    await stage.finish(task, "ended")
    async with stage.copy(s=server):
        await stage.until_done()
    assert (await stage.until_result(task)).content == "ended"
    assert server.made == []


async def test_a_call_that_takes_long_is_not_made_twice_by_one_replica() -> None:
    stage = ScriptedStage()
    server = await one_server(stage)
    async with stage.copy(s=server) as copy:
        copy.refuse = {"delivery.working"}
        task = await stage.ask("s__act", "slow")
        await until(lambda: copy.counted("delivered", redelivered="true") > 0, "it is delivered again")
        server.hold.set()
        result = await stage.until_result(task)
        assert result.outcome == "succeeded"
        await stage.until_done()
    assert server.made == ["slow"]


async def test_a_removed_task_is_left_alone() -> None:
    stage = ScriptedStage()
    server = await one_server(stage)
    task, run = await stage.answer("s__act", "x")
    for filter_ in task.everything:
        await stage.log.purge(filter_)
    await stage.log.record(Outgoing(task.tool_command("r1", 1), encode(run)))
    async with stage.copy(s=server):
        await stage.until_done()
    assert server.made == []
    assert await stage.result(task) is None
    assert await stage.letters() == []


# --- a bus that does not answer ----------------------------------------------------------


async def test_an_entry_whose_writing_nobody_confirmed_is_used_all_the_same() -> None:
    stage = ScriptedStage()
    server = await one_server(stage)
    async with stage.copy(s=server) as copy:
        copy.refuse = {"log.write:after"}
        task = await stage.ask("s__act", "x")

        async def written() -> bool:
            return await stage.started(task) is not None

        await until(written, "the entry is there")
        copy.refuse = set()
        result = await stage.until_result(task)
        assert (result.outcome, result.attempt) == ("succeeded", 1)
    assert server.made == ["x"]


@pytest.mark.parametrize("at", ["log.record", "log.record:after"])
async def test_a_result_in_hand_is_kept_until_the_bus_takes_it(at: str) -> None:
    stage = ScriptedStage()
    server = await one_server(stage)
    async with stage.copy(s=server) as copy:
        copy.refuse = {at, "delivery.working"}
        task = await stage.ask("s__act", "x")
        await until(lambda: copy.counted("delivered", redelivered="true") > 0, "the message is delivered again")
        copy.refuse = set()
        assert (await stage.until_result(task)).outcome == "succeeded"
        await stage.until_done()
    assert server.made == ["x"]


# --- servers that are away, busy or broken -----------------------------------------------


async def test_a_call_waits_for_its_server_and_is_made_when_it_is_there() -> None:
    stage = ScriptedStage()
    server = await one_server(stage)
    server.up = False
    async with stage.copy(s=server) as copy:
        task = await stage.ask("s__act", "x")
        await until(lambda: copy.counted("handled", outcome="retried") >= 2, "it waits")
        server.up = True
        assert (await stage.until_result(task)).outcome == "succeeded"
    assert server.made == ["x"]


async def test_a_call_whose_server_stays_away_fails_with_the_reason() -> None:
    stage = ScriptedStage()
    server = await one_server(stage)
    server.up, server.detail = False, "the oven exploded"
    async with stage.copy(s=server):
        result = await stage.until_result(await stage.ask("s__act", "x"))
    assert result.outcome == "failed"
    assert "MCP server 's' is not connected: the oven exploded" in result.content
    assert server.made == []
    assert await stage.letters() == []


@pytest.mark.parametrize("then", ["away", "forgotten"])
async def test_a_call_that_a_dead_replica_began_is_never_said_not_to_have_been_made(then: str) -> None:
    stage = ScriptedStage()
    server = await one_server(stage)
    async with stage.copy("one", s=server) as first:
        task = await stage.ask("s__act", "slow")
        await until(lambda: server.made == ["slow"], "the call is under way")
        first.kill()
        away = ScriptedServer()
        away.up = False
        if then == "forgotten":
            await stage.declare("other")
        async with stage.copy("two", s=away):
            result = await stage.until_result(task)
    assert result.outcome == "unknown"
    assert "may or may not have taken effect" in result.content


async def test_a_tool_of_a_server_that_is_not_ready_is_not_called_unknown() -> None:
    stage = ScriptedStage()
    await stage.declare("s", ready=False, detail="Connection failed: no such command")
    async with stage.copy(s=ScriptedServer()):
        result = await stage.until_result(await stage.ask("s__new", "x"))
    assert result.outcome == "failed"
    assert "MCP server 's' is not ready: Connection failed: no such command" in result.content


async def test_a_call_of_an_agent_that_is_gone_fails_with_the_reason() -> None:
    stage = ScriptedStage()
    async with stage.copy(s=ScriptedServer()):
        result = await stage.until_result(await stage.ask("s__act", "x"))
    assert result.outcome == "failed"
    assert "agent 'helper' is not there any more" in result.content


async def test_a_server_that_hangs_does_not_take_the_slots_of_others() -> None:
    stage = ScriptedStage(slots=8)
    await stage.declare("bad", "good", concurrency=1)
    bad, good = ScriptedServer(concurrency=1), ScriptedServer()
    async with stage.copy(bad=bad, good=good):
        stuck = [await stage.ask("bad__look", f"slow {n}") for n in range(20)]
        for n in range(5):
            assert (await stage.until_result(await stage.ask("good__look", str(n)))).outcome == "succeeded"
        assert bad.calls <= 4
        bad.hold.set()
        for task in stuck:
            assert (await stage.until_result(task)).outcome == "succeeded"
    assert sorted(bad.made) == sorted(f"slow {n}" for n in range(20))


async def test_a_call_that_did_not_reach_its_server_is_made_again_whatever_it_does() -> None:
    stage = ScriptedStage()
    server = await one_server(stage)
    server.failures = [NotStarted("forgotten")] * 4
    async with stage.copy(s=server):
        result = await stage.until_result(task := await stage.ask("s__act", "x"))
        assert (result.outcome, result.attempt) == ("succeeded", 1)
    started = await stage.started(task)
    assert started is not None
    assert started.attempt == 1
    assert server.made == ["x"] * 5


@pytest.mark.parametrize(
    ("tool", "failures", "outcome", "made"),
    [
        ("act", [Lost("x")], "unknown", 1),
        ("look", [Lost("x")], "succeeded", 2),
        ("look", [Lost("x")] * 3, "failed", 3),
        ("dare", [Lost("x")], "succeeded", 2),
        ("dare", [Lost("x")] * 3, "failed", 3),
        ("act", [TimedOut("no answer within 1 s")], "timed_out", 1),
        ("look", [TimedOut("no answer within 1 s")], "timed_out", 1),
    ],
)
async def test_a_call_that_is_interrupted_is_repeated_only_as_its_policy_says(
    tool: str, failures: list[Exception], outcome: str, made: int
) -> None:
    stage = ScriptedStage()
    server = await one_server(stage)
    server.failures = list(failures)
    async with stage.copy(s=server):
        result = await stage.until_result(await stage.ask(f"s__{tool}", "x"))
    assert (result.outcome, len(server.made)) == (outcome, made)


# --- stopping ----------------------------------------------------------------------------


async def test_a_stopped_task_has_a_result_for_its_call_and_others_go_on() -> None:
    stage = ScriptedStage()
    server = await one_server(stage)
    async with stage.copy(s=server):
        stopped, other = await stage.ask("s__act", "slow one"), await stage.ask("s__act", "slow two")
        await until(lambda: len(server.made) == 2, "both are under way")
        await stage.bus.signals.publish(stopped.stop, b"")
        assert (await stage.until_result(stopped)).outcome == "cancelled"
        assert server.cancelled == ["slow one"]
        server.hold.set()
        assert (await stage.until_result(other)).outcome == "succeeded"


async def test_the_result_that_was_recorded_when_the_task_ended_stays() -> None:
    stage = ScriptedStage()
    server = await one_server(stage)
    async with stage.copy(s=server):
        task = await stage.ask("s__act", "slow")
        await until(lambda: server.made == ["slow"], "it is under way")
        await stage.finish(task, "the task was cancelled")
        await stage.bus.signals.publish(task.stop, b"")
        await stage.until_done()
    assert (await stage.until_result(task)).content == "the task was cancelled"


# --- what cannot be handled --------------------------------------------------------------


async def test_a_command_that_cannot_be_read_is_a_dead_letter_and_its_call_fails() -> None:
    stage = ScriptedStage()
    server = await one_server(stage)
    task, _ = await stage.answer("s__act", "x")
    await stage.log.record(Outgoing(task.tool_command("r1", 1), b"{not json"))
    async with stage.copy(s=server):
        result = await stage.until_result(task)
        await stage.until_done()
    assert (result.outcome, result.tool_call_id, result.tool) == ("failed", "call-1", "s__act")
    assert "could not be carried out (malformed)" in result.content
    assert [letter.reason for letter in await stage.letters()] == ["malformed"]


@pytest.mark.parametrize("change", [{"answer_seq": 9999}, {"n": 2}, {"task": "another"}, {"namespace": "other"}])
async def test_a_command_that_contradicts_what_is_stored_is_a_dead_letter(change: dict[str, object]) -> None:
    stage = ScriptedStage()
    server = await one_server(stage)
    task, run = await stage.answer("s__act", "x")
    wrong: RunTool = msgspec.structs.replace(run, **change)
    await stage.log.record(Outgoing(task.tool_command("r1", 1), encode(wrong)))
    async with stage.copy(s=server):
        assert (await stage.until_result(task)).outcome == "failed"
        await stage.until_done()
    assert len(await stage.letters()) == 1
    assert server.made == []


async def test_giving_a_command_up_twice_changes_nothing() -> None:
    stage = ScriptedStage()
    server = await one_server(stage)
    task, _ = await stage.answer("s__act", "x")
    await stage.log.record(Outgoing(task.tool_command("r1", 1), b"?"))
    async with stage.copy("one", s=server) as first:
        first.refuse = {"delivery.term"}
        before = await stage.until_result(task)
        first.kill()
        async with stage.copy("two", s=server):
            await stage.until_done()
    assert await stage.until_result(task) == before
    assert len(await stage.letters()) == 1


async def test_a_command_of_a_task_that_waits_for_something_else_fails_nothing() -> None:
    stage = ScriptedStage()
    task, run = await stage.answer("s__act", "x")
    await stage.log.record(Outgoing(task.tool_command("r9", 1), encode(run)))
    async with stage.copy(s=await one_server(stage)):
        await stage.until_done()
    assert await stage.result(task) is None
    assert len(await stage.letters()) == 1


async def test_many_calls_at_once_have_one_result_each() -> None:
    stage = ScriptedStage()
    server = await one_server(stage)
    async with stage.copy("one", s=server), stage.copy("two", s=server):
        tasks = [await stage.ask("s__act", str(n)) for n in range(100)]
        results = await asyncio.gather(*(stage.until_result(task) for task in tasks))
        await stage.until_done()
    assert [result.content for result in results] == [f"act {n}" for n in range(100)]
    assert sorted(server.made, key=int) == [str(n) for n in range(100)]
