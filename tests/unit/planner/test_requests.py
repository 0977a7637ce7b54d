from __future__ import annotations

import msgspec
import pytest

from schemas import subjects
from schemas.dead_letters import DeadLetter
from schemas.events import TaskSubmitted
from schemas.requests import Accepted, Rejected
from schemas.wire import decode
from services.planner.main import build
from services.runtime.ports import Signal
from tests.support.stage import Stage, on_stage, until

PLANNER = {"planner": build}


async def test_a_name_given_is_the_tasks_name() -> None:
    async with on_stage(PLANNER) as (stage, _):
        reply = await stage.ask("submit", {"agentName": "helper", "userMessage": "hi", "name": "my-task"})
        assert reply == Accepted(namespace="default", task="my-task")


async def test_a_message_id_makes_a_request_idempotent() -> None:
    async with on_stage(PLANNER) as (stage, _):
        request = {"agentName": "helper", "userMessage": "hi"}
        first = await stage.ask("submit", request, message_id="order-7")
        second = await stage.ask("submit", request, message_id="order-7")
        other = await stage.ask("submit", request, message_id="order-8")
        assert isinstance(first, Accepted)
        assert second == Accepted(namespace="default", task=first.task, created=False)
        assert isinstance(other, Accepted)
        assert other.task != first.task
        assert first.task.startswith("helper-task-")


async def test_requests_without_an_id_are_different_tasks() -> None:
    async with on_stage(PLANNER) as (stage, _):
        request = {"agentName": "helper", "userMessage": "hi"}
        first, second = await stage.ask("submit", request), await stage.ask("submit", request)
        assert isinstance(first, Accepted)
        assert isinstance(second, Accepted)
        assert first.task != second.task


async def test_the_same_name_for_something_else_is_refused() -> None:
    async with on_stage(PLANNER) as (stage, _):
        await stage.ask("submit", {"agentName": "helper", "userMessage": "hi", "name": "job"})
        reply = await stage.ask("submit", {"agentName": "helper", "userMessage": "ho", "name": "job"})
        assert isinstance(reply, Rejected)
        assert reply.code == "conflict"
        assert "asks for something else" in reply.error
        assert await stage.bus.dead_letters.subjects("hf.dlq.letter.>") == []


async def test_a_contradiction_that_nobody_is_told_of_is_a_dead_letter() -> None:
    async with on_stage(PLANNER) as (stage, _):
        await stage.ask("submit", {"agentName": "helper", "userMessage": "hi", "name": "job"})
        data = msgspec.json.encode({"agentName": "helper", "userMessage": "ho", "name": "job"})
        await stage.bus.signals.store(subjects.submit("default"), data, {})
        assert "asks for something else" in (await dead_letter(stage)).error


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (b'{"userMessage": "hi"}', "agentName is required"),
        (b'{"agentName": "helper"}', "one of userMessage or contextWindow must be provided"),
        (
            b'{"agentName": "helper", "userMessage": "a", "contextWindow": [{"role": "user", "content": "b"}]}',
            "only one of userMessage or contextWindow can be provided",
        ),
        (
            b'{"agentName": "helper", "contextWindow": [{"role": "invalid", "content": "b"}]}',
            "invalid role in contextWindow: invalid",
        ),
        (
            b'{"agentName": "helper", "contextWindow": [{"role": "system", "content": "b"}]}',
            "contextWindow must contain at least one user message",
        ),
        (b'{"agentName": "helper", "userMessage"', "Invalid request body"),
        (b"", "the request is empty"),
        (b'{"agentName": "helper", "userMessage": "a", "mesage": 1}', "unknown field `mesage`"),
        (b'{"agentName": "Bad Agent!", "userMessage": "a"}', "agentName 'Bad Agent!'"),
        (b'{"agentName": "helper", "userMessage": "a", "name": "a.b"}', "name 'a.b'"),
        (b'{"agentName": "helper", "userMessage": "a", "limits": {"maxTurns": 0}}', "limits.maxTurns is 0"),
        (b'{"agentName": "helper", "userMessage": "a", "limits": {"maxTruns": 1}}', "unknown field `maxTruns`"),
        (
            b'{"agentName": "helper", "userMessage": "a", "responseFormat": {"schema": {"type": "objekt"}}}',
            "responseFormat.schema cannot be used: it is no JSON Schema",
        ),
    ],
)
async def test_an_invalid_request_is_told_exactly_what_is_wrong(request_: bytes, error: str) -> None:
    async with on_stage(PLANNER) as (stage, _):
        reply = await stage.ask("submit", request_)
        assert isinstance(reply, Rejected)
        assert error in reply.error
        letter = await dead_letter(stage)
        assert letter.payload == request_.decode()
        assert letter.reason == "invalid_request"
        assert error in letter.error


async def test_a_request_on_the_stream_is_answered_on_the_inbox_it_names() -> None:
    async with on_stage(PLANNER) as (stage, _):
        heard: list[Signal] = []

        async def hear(signal: Signal) -> None:
            heard.append(signal)

        await stage.bus.signals.subscribe("_INBOX.mine", hear)
        data = msgspec.json.encode({"agentName": "helper", "userMessage": "hi", "name": "job"})
        await stage.bus.signals.store(subjects.submit("default"), data, {subjects.REPLY_TO: "_INBOX.mine"})

        async def answered() -> bool:
            return bool(heard)

        await until(answered, "an answer")
        assert decode(heard[0].data, Accepted).task == "job"


async def test_a_reply_subject_cannot_be_used_to_write_elsewhere() -> None:
    async with on_stage(PLANNER) as (stage, _):
        victim = await stage.submit(name="victim")
        before = await stage.stored(victim, victim.state)
        data = msgspec.json.encode({"agentName": "helper", "userMessage": "hi", "name": "job"})
        await stage.bus.signals.store(subjects.submit("default"), data, {subjects.REPLY_TO: victim.state})
        job = stage.task("job")
        await stage.stored(job, job.state)
        assert await stage.stored(victim, victim.state) == before


async def test_a_trace_that_comes_with_a_request_goes_on_in_the_task() -> None:
    async with on_stage(PLANNER) as (stage, _):
        parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        data = msgspec.json.encode({"agentName": "helper", "userMessage": "hi", "name": "job"})
        await stage.bus.signals.store(subjects.submit("default"), data, {subjects.TRACEPARENT: parent})
        job = stage.task("job")
        event = decode(await stage.stored(job, job.submitted), TaskSubmitted)
        assert event.parent_span == parent
        assert event.traceparent.startswith("00-0af7651916cd43dd8448eb211c80319c-")
        assert event.traceparent != parent


async def test_cancelling_what_does_not_exist_is_refused() -> None:
    async with on_stage(PLANNER) as (stage, _):
        reply = await stage.ask("cancel", {"task": "nothing"})
        assert isinstance(reply, Rejected)
        assert reply.code == "not_found"
        assert "there is no task 'nothing' in namespace 'default'" in reply.error


async def test_an_unknown_verb_is_refused() -> None:
    async with on_stage(PLANNER) as (stage, _):
        reply = await stage.ask("explode", {})
        assert isinstance(reply, Rejected)
        assert "there are submit, send, cancel, delete and answer" in reply.error


async def dead_letter(stage: Stage) -> DeadLetter:
    found: list[bytes] = []

    async def there() -> bool:
        found[:] = [entry.data for entry in await stage.bus.dead_letters.last(["hf.dlq.letter.>"])]
        return bool(found)

    await until(there, "a dead letter")
    return decode(found[0], DeadLetter)
