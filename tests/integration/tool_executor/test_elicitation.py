"""Servers that ask people while their tools run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest

from schemas import subjects
from schemas.interactions import PeopleDue
from schemas.resources import ContactChannel, ContactChannelSpec, MCPServer, Metadata, Ref, ToolPolicy
from schemas.subjects import TaskSubjects, task_of
from schemas.wire import decode
from services.runtime.errors import Unavailable
from services.runtime.memory.bus import MemoryBus, let_others_run
from services.runtime.memory.server import MemoryServer
from services.runtime.settings import Settings
from services.tool_executor import asking
from tests.support.mcp_servers.bench import (
    Bench,
    HttpKitchen,
    executor,
    http_server,
    module,
    on_bench,
    plain,
    record_of,
    stdio_server,
    until,
)
from tests.support.stage import Stage

OSLO: dict[str, Any] = {"city": "Oslo", "nights": 2}
SAID = '{"action":"accept","data":{"city":"Oslo","nights":2}}'


def over_stdio(record: Path, **fields: Any) -> MCPServer:
    return stdio_server("travel", module("asker"), env={"RECORD": str(record)}, **fields)


@pytest.fixture(params=["stdio", "--json", "--old", "--sse"])
def travel(request: pytest.FixtureRequest, record: Path) -> Iterator[MCPServer]:
    """The server that asks, over every transport and in both eras of the protocol."""
    with ExitStack() as stack:
        if request.param == "stdio":
            yield over_stdio(record)
        else:
            yield http_server("travel", stack.enter_context(HttpKitchen(record, request.param, name="asker")).url)


async def test_what_a_person_says_reaches_the_server(travel: MCPServer) -> None:
    async with on_bench() as bench:
        await bench.declare(travel)
        await bench.until_ready("travel")
        task = await bench.ask("travel__book", {"where": "Rome"})
        question = await bench.question(task)
        assert (question.message, question.tool, question.server, question.agent) == (
            "Where to from Rome?",
            "travel__book",
            "travel",
            "helper",
        )
        assert question.schema is not None
        assert question.schema["required"] == ["city"]
        assert 0 < (question.expires - question.at).total_seconds() <= 300
        await bench.reply(task, "accept", OSLO)
        assert (await bench.until_result(task)).content == SAID


@pytest.mark.parametrize("action", ["decline", "cancel"])
async def test_a_person_may_say_no(record: Path, action: Any) -> None:
    async with on_bench() as bench:
        await bench.declare(over_stdio(record))
        await bench.until_ready("travel")
        task = await bench.ask("travel__book", {"where": "Rome"})
        await bench.question(task)
        await bench.reply(task, action)
        assert f'"action":"{action}"' in (await bench.until_result(task)).content


async def test_a_person_may_be_sent_to_a_page(record: Path) -> None:
    with HttpKitchen(record, "--old", name="asker") as server:
        async with on_bench() as bench:
            await bench.declare(http_server("travel", server.url))
            await bench.until_ready("travel")
            task = await bench.ask("travel__visit")
            question = await bench.question(task)
            assert (question.url, question.schema) == ("https://example.org/form", None)
            await bench.reply(task, "accept")
            assert (await bench.until_result(task)).content == "accept"


async def test_questions_of_several_tasks_do_not_get_mixed_up(record: Path) -> None:
    with HttpKitchen(record, "--old", name="asker") as server:
        async with on_bench() as bench:
            await bench.declare(http_server("travel", server.url))
            await bench.until_ready("travel")
            tasks = {where: await bench.ask("travel__book", {"where": where}) for where in ("Rome", "Bern", "Kyiv")}
            for where, task in tasks.items():
                assert (await bench.question(task)).message == f"Where to from {where}?"
            for where, task in tasks.items():
                await bench.reply(task, "accept", {"city": where})
            for where, task in tasks.items():
                assert f'"city":"{where}"' in (await bench.until_result(task)).content


ASKS: list[dict[str, Any]] = [{"name": "ask", "does": "ask"}, {"name": "wait", "does": "sleep"}]


async def test_where_it_cannot_be_known_whose_question_it_is_nobody_is_asked(record: Path) -> None:
    async with on_bench() as bench:
        await bench.declare(plain("old", record, tools=ASKS))
        await bench.until_ready("old")
        other = await bench.ask("old__wait")
        await until(lambda: "wait" in record_of(record), "another task's call runs")
        task = await bench.ask("old__ask")
        assert '"action": "cancel"' in (await bench.until_result(task)).content
        assert await bench.bus.log(0).subjects(f"{task.root}.int.>") == []
        await bench.bus.signals.publish(other.stop, b"")
        await bench.until_result(other)
        alone = await bench.ask("old__ask")
        await bench.question(alone)
        await bench.reply(alone, "accept", {"name": "x"})
        assert '"action": "accept"' in (await bench.until_result(alone)).content


async def test_a_question_that_nobody_answers_expires(record: Path) -> None:
    async with on_bench() as bench:
        await bench.declare(over_stdio(record, elicitation_timeout_s=0.5))
        await bench.until_ready("travel")
        task = await bench.ask("travel__book", {"where": "Rome"})
        assert '"action":"cancel"' in (await bench.until_result(task)).content
        answered = await bench.reply_to(task)
        assert answered is not None
        assert (answered.action, answered.via) == ("cancel", "expired")


async def test_the_time_that_a_person_takes_does_not_count_as_the_tools(record: Path) -> None:
    policies = [ToolPolicy(tool="*", timeout_s=1.0)]
    async with on_bench() as bench:
        await bench.declare(over_stdio(record, policies=policies))
        await bench.until_ready("travel")
        task = await bench.ask("travel__book", {"where": "Rome"})
        question = await bench.question(task)
        over = question.at.timestamp() + 1.5
        await until(lambda: bench.bus.clock.now().timestamp() > over, "the tool's own time has passed")
        await bench.reply(task, "accept", OSLO)
        assert (await bench.until_result(task)).content == SAID


async def test_a_question_is_withdrawn_when_its_task_is_stopped(record: Path) -> None:
    async with on_bench() as bench:
        await bench.declare(over_stdio(record))
        await bench.until_ready("travel")
        task = await bench.ask("travel__book", {"where": "Rome"})
        await bench.question(task)
        await bench.bus.signals.publish(task.stop, b"")
        assert (await bench.until_result(task)).outcome == "cancelled"
        answered = await bench.reply_to(task)
        assert answered is not None
        assert (answered.action, answered.via) == ("cancel", "withdrawn")


async def test_an_answer_that_nobody_checked_and_does_not_fit_is_no_answer(record: Path) -> None:
    async with on_bench() as bench:
        await bench.declare(over_stdio(record))
        await bench.until_ready("travel")
        task = await bench.ask("travel__book", {"where": "Rome"})
        await bench.question(task)
        await bench.reply(task, "accept", {"city": 7})
        assert '"action":"cancel"' in (await bench.until_result(task)).content


async def test_an_answer_whose_signal_was_lost_is_found(record: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "POLL_S", 0.1)
    async with on_bench() as bench:
        await bench.declare(over_stdio(record))
        await bench.until_ready("travel")
        task = await bench.ask("travel__book", {"where": "Rome"})
        await bench.question(task)
        monkeypatch.setattr(bench.bus.signals, "publish", _nothing)
        await bench.reply(task, "accept", OSLO)
        assert (await bench.until_result(task)).content == SAID


async def _nothing(*_: object) -> None:
    """A signal that nobody hears."""


async def test_a_server_that_may_not_ask_is_not_told_that_it_can(record: Path) -> None:
    async with on_bench() as bench:
        await bench.declare(over_stdio(record, elicitation=False))
        await bench.until_ready("travel")
        task = await bench.ask("travel__book", {"where": "Rome"})
        assert (await bench.until_result(task)).outcome == "failed"
        assert await bench.bus.log(0).subjects(f"{task.root}.int.>") == []


async def test_a_person_who_has_answered_is_not_asked_again_when_the_replica_is_lost(record: Path) -> None:
    memory = MemoryServer()
    bench = Bench(MemoryBus(memory))
    async with executor(memory, settings=Settings(drain_s=0.1)):
        await bench.declare(over_stdio(record))
        await bench.until_ready("travel")
        task = await bench.ask("travel__book", {"where": "Rome"})
        await bench.question(task)
    async with executor(memory):
        await bench.reply(task, "accept", OSLO)
        assert (await bench.until_result(task)).content == SAID
        assert len(await bench.bus.log(0).subjects(f"{task.root}.int.>")) == 2


async def test_what_a_lost_replica_asked_for_a_call_that_is_not_repeated_is_withdrawn(record: Path) -> None:
    memory = MemoryServer()
    bench = Bench(MemoryBus(memory))
    async with executor(memory, settings=Settings(drain_s=0.1)):
        await bench.declare(plain("old", record, tools=ASKS))
        await bench.until_ready("old")
        task = await bench.ask("old__ask")
        await bench.question(task)
    assert await bench.reply_to(task) is None, "the call may be made again, and the question with it"
    async with executor(memory):
        assert (await bench.until_result(task)).outcome == "unknown"
        answered = await bench.reply_to(task)
        assert answered is not None
        assert answered.via == "withdrawn"


async def test_the_same_question_is_asked_as_often_as_the_server_asks_it(record: Path) -> None:
    async with on_bench() as bench:
        await bench.declare(plain("old", record, tools=[{"name": "twice", "does": "ask-twice"}]))
        await bench.until_ready("old")
        task = await bench.ask("old__twice")
        for k, name in enumerate(("first", "second"), start=1):
            await bench.question(task, k)
            await bench.reply(task, "accept", {"name": name}, k)
        content = (await bench.until_result(task)).content
        assert content.index("first") < content.index("second")


async def test_a_server_that_never_stops_asking_is_told_that_nobody_answers(record: Path) -> None:
    async with on_bench() as bench:
        await bench.declare(plain("old", record, tools=[{"name": "all", "does": "ask-all"}]))
        await bench.until_ready("old")
        task = await bench.ask("old__all")
        for k in range(1, asking.QUESTIONS_MAX + 1):
            await bench.question(task, k)
            await bench.reply(task, "decline", None, k)
        assert '"action": "cancel"' in (await bench.until_result(task)).content


async def test_a_page_that_a_call_needs_first_is_named_to_the_model(record: Path) -> None:
    async with on_bench() as bench:
        await bench.declare(plain("old", record, tools=[{"name": "sign"}]))
        await bench.until_ready("old")
        result = await bench.call("old__sign")
        assert result.outcome == "failed"
        assert "A person must go to https://example.org/form first: Sign." in result.content


async def declare_people(bench: Bench, **fields: Any) -> None:
    people = ContactChannel(metadata=Metadata(name="people"), spec=ContactChannelSpec(type="console", **fields))
    stage = Stage(bench.bus)
    await stage.say_ready(people, await stage.apply(people))


def wake_ups(bench: Bench, task: TaskSubjects) -> list[str]:
    assert isinstance(bench.bus, MemoryBus)
    entries = [entry for stream in bench.bus.server.streams for entry in stream.entries()]
    looks = [one for one in entries if one.subject.endswith(".look") and task_of(one.subject) == task]
    return [decode(one.data, PeopleDue).interaction for one in looks]


@pytest.mark.parametrize("field", ["contact_channel", "approval_contact_channel"])
async def test_people_are_asked_by_the_servers_contact_channel(record: Path, field: str) -> None:
    server = over_stdio(record)
    spec = msgspec.structs.replace(server.spec, **{field: Ref(name="people")})
    async with on_bench() as bench:
        await declare_people(bench, allowed_responder_ids=("ann",), quorum=2)
        await bench.declare(msgspec.structs.replace(server, spec=spec))
        await bench.until_ready("travel")
        task = await bench.ask("travel__book", {"where": "Rome"})
        if field == "approval_contact_channel":
            assert (await bench.until_result(task)).outcome == "failed", "nobody has approved it"
            return
        question = await bench.question(task)
        assert (question.channel, question.allowed, question.quorum) == ("people", ("ann",), 1)
        await until(lambda: wake_ups(bench, task) == ["r1.1.1"], "whoever brings it to people is woken")
        await bench.reply(task, "accept", OSLO)
        assert (await bench.until_result(task)).content == SAID


async def test_nobody_is_asked_by_a_channel_that_has_just_gone(record: Path) -> None:
    server = over_stdio(record)
    spec = msgspec.structs.replace(server.spec, contact_channel=Ref(name="people"))
    async with on_bench() as bench:
        await declare_people(bench)
        await bench.declare(msgspec.structs.replace(server, spec=spec))
        await bench.until_ready("travel")
        await bench.bus.resources.delete(subjects.spec_key("ContactChannel", "default", "people"))
        await bench.until_status("travel", "Error")
        task = await bench.ask("travel__book", {"where": "Rome"})
        assert '"action":"cancel"' in (await bench.until_result(task)).content
        assert await bench.bus.log(0).subjects(f"{task.root}.int.>") == []


async def test_whoever_brings_questions_to_people_is_woken_though_the_bus_was_away(
    record: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "POLL_S", 0.05)
    server = over_stdio(record)
    spec = msgspec.structs.replace(server.spec, contact_channel=Ref(name="people"))
    memory = MemoryServer()
    bench = Bench(MemoryBus(memory))
    refused: list[str] = []

    async def pause(call: str, subject: str) -> None:
        await let_others_run(call, subject)
        if call == "log.record" and subject.endswith(".look") and len(refused) < 2:
            refused.append(subject)
            raise Unavailable("away")

    async with executor(memory, pause=pause):
        await declare_people(bench)
        await bench.declare(msgspec.structs.replace(server, spec=spec))
        await bench.until_ready("travel")
        task = await bench.ask("travel__book", {"where": "Rome"})
        await until(lambda: wake_ups(bench, task) == ["r1.1.1"], "it is woken")
        await bench.reply(task, "accept", OSLO)
        assert (await bench.until_result(task)).content == SAID
    assert len(refused) == 2
