"""Messages at moments at which they could be lost or heard twice. Each was found by a seed of the simulation."""

from __future__ import annotations

import asyncio

import pytest

from schemas import subjects
from schemas.events import MessageSent
from schemas.ids import following_task_name
from schemas.requests import Accepted
from schemas.subjects import TaskSubjects
from schemas.task import AwaitingModel, Cancelled, FinalAnswer
from schemas.wire import decode, encode
from services.planner.main import build
from services.planner.threads import message_id
from services.runtime.memory.log import MemoryLog
from services.runtime.ports import Entry, Outgoing
from tests.support.stage import NAMESPACE, Stage, on_stage, until

PLANNER = {"planner": build}
get = MemoryLog.get


async def send(stage: Stage, task: TaskSubjects, message: str, *, id_: str) -> TaskSubjects:
    reply = await stage.ask("send", {"task": task.task, "message": message}, message_id=id_)
    assert isinstance(reply, Accepted), reply
    return stage.task(reply.task)


async def until_queued(stage: Stage, task: TaskSubjects) -> None:
    async def queued() -> bool:
        state = await stage.state(task)
        return state is not None and bool(state.queued)

    await until(queued, "the message in the queue")


def hide(monkeypatch: pytest.MonkeyPatch, *hidden: str) -> None:
    """A replica of the stream answers reads of these subjects that has not heard of them."""

    async def behind(self: MemoryLog, subject: str, *, at_least: int = 0) -> Entry | None:
        return None if subject in hidden else await get(self, subject, at_least=at_least)

    monkeypatch.setattr(MemoryLog, "get", behind)


async def messages(stage: Stage, task: TaskSubjects, window: tuple[int, ...]) -> list[str]:
    entries = await stage.bus.log(task.partition).read(window)
    return [decode(entry.data, MessageSent).content for entry in entries if ".said." in entry.subject]


async def test_a_message_while_the_model_is_asked_and_its_agent_has_gone_harms_nothing() -> None:
    async with on_stage(PLANNER) as (stage, _):
        await stage.with_agent()
        task = await stage.submit()
        await stage.stored(task, task.model_command(1, 1))
        await stage.bus.resources.delete(subjects.spec_key("Agent", NAMESPACE, "helper"))
        waiting = await stage.submit(agentName="helper", name="waiting")
        await until(lambda: _waits(stage, waiting), "the agent gone")
        await send(stage, task, "and that", id_="m1")
        await until_queued(stage, task)
        assert isinstance(await stage.state(task), AwaitingModel)
        await stage.answer(task, 1, text="This.")
        await stage.with_agent()
        await stage.answer(task, 2, text="And that.")
        ended = await stage.until_state(task, FinalAnswer)
        assert await messages(stage, task, ended.window) == ["and that"]


async def _waits(stage: Stage, task: TaskSubjects) -> bool:
    return type(await stage.state(task)).__name__ == "Waiting"


async def test_what_comes_too_late_goes_on_under_the_name_that_its_request_gives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever handles the request again knows that it was heard."""
    async with on_stage(PLANNER) as (stage, _):
        await stage.with_agent()
        task = await stage.submit()
        await stage.answer(task, 1, text="Hello.")
        await stage.until_state(task, FinalAnswer)
        id_ = message_id("id:m1")
        late = MessageSent(content="late", at=stage.bus.clock.now())
        await stage.bus.log(task.partition).record(Outgoing(task.message_event(id_), encode(late)))
        following = stage.task(following_task_name(NAMESPACE, task.task, id_, 1))
        await stage.stored(following, following.model_command(1, 1))
        hide(monkeypatch, task.message_event(id_))
        await send(stage, task, "late", id_="m1")
        await stage.answer(following, 1, text="Late, but here.")
        ended = await stage.until_state(following, FinalAnswer)
        assert await messages(stage, task, ended.window) == []


async def test_a_replica_of_the_stream_that_is_behind_does_not_make_a_message_heard_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with on_stage(PLANNER) as (stage, _):
        await stage.with_agent()
        task = await stage.submit()
        await stage.answer(task, 1, calls=("a__x",))
        await send(stage, task, "once", id_="m1")
        await until_queued(stage, task)
        await stage.finish(task, "r1", 1)
        await stage.answer(task, 2, text="Hello.")
        ended = await stage.until_state(task, FinalAnswer)
        assert await messages(stage, task, ended.window) == ["once"]
        following = await send(stage, task, "more", id_="m2")
        await stage.stored(following, following.model_command(1, 1))
        hide(monkeypatch, task.message_event(message_id("id:m1")))
        assert (await send(stage, task, "once", id_="m1")).task == task.task
        await stage.answer(following, 1, text="More.")
        after = await stage.until_state(following, FinalAnswer)
        assert await messages(stage, task, after.window) == ["once"]


async def test_a_task_that_a_replica_of_the_stream_has_not_heard_of_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    async with on_stage(PLANNER) as (stage, _):
        await stage.with_agent()
        task = await stage.submit(limits={"maxTurns": 1})
        await stage.stored(task, task.model_command(1, 1))
        hide(monkeypatch, task.submitted, task.state)
        assert (await send(stage, task, "more", id_="m1")).task == task.task


async def test_two_replicas_that_handle_the_same_message_while_a_task_ends_say_it_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One of them looks whether it was heard, and then the other says it and the task ends."""
    async with on_stage(PLANNER) as (stage, _):
        await stage.with_agent()
        task = await stage.submit()
        await stage.stored(task, task.model_command(1, 1))
        subjects_of, asked = MemoryLog.subjects, asyncio.Event()
        event = task.message_event(message_id("id:m1"))

        async def slowly(self: MemoryLog, filter_: str) -> list[str]:
            found = await subjects_of(self, filter_)
            if filter_ == event and not asked.is_set():
                asked.set()
                said = MessageSent(content="once", at=stage.bus.clock.now())
                await self.record(Outgoing(event, encode(said)))
                await until_queued(stage, task)
                await stage.ask("cancel", {"task": task.task})
                await stage.until_state(task, Cancelled)
                await stage.ask("send", {"task": task.task, "message": "more"}, message_id="m2")
            return found

        monkeypatch.setattr(MemoryLog, "subjects", slowly)
        await send(stage, task, "once", id_="m1")
        following = await send(stage, task, "and more", id_="m3")
        await stage.answer(following, 1, text="More.")
        await until_queued(stage, following)
        state = await stage.state(following)
        assert state is not None
        assert await messages(stage, task, (*state.window, *state.queued)) == ["once", "and more"]
