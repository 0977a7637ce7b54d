"""What tool-executors ask in the middle of calls, kept in hand as every other question is."""

from __future__ import annotations

from typing import Any

import pytest

from schemas.interactions import InteractionAnswered
from schemas.requests import Accepted, Rejected
from schemas.resources import Ref
from schemas.task import Cancelled
from services.human_contact.channels.base import ChannelFailed
from tests.support.people import channel, with_people
from tests.support.stage import until
from tests.support.wondering import begin, doubt, said, unanswered, wonder

BOTH = pytest.mark.parametrize("ask", [wonder, doubt])
OSLO: dict[str, Any] = {"city": "Oslo"}


@BOTH
async def test_a_question_of_a_tool_is_delivered_and_closed_when_it_is_answered(ask: Any) -> None:
    async with with_people() as people:
        await people.agent(channel(), rule=False)
        task = await begin(people)
        await ask(people.stage, task)
        (question,) = await people.delivered()
        assert (question.asked.interaction, question.asked.title) == ("r1.1.1", "Book a trip")
        reply = await people.answer(question.asked, content=OSLO if ask is wonder else None)
        assert isinstance(reply, Accepted)

        async def closed() -> bool:
            return [one.by for one in people.shown["oncall"].closed] == ["ann"]

        await until(closed, "the channel shows that it is over")
        log = people.stage.bus.log(task.partition)
        assert await log.get(task.tool_event("r1", 1)) is None, "whoever carries the call out records its result"
        assert await log.get(task.approval_event("r1", 1)) is None


async def test_an_answer_that_does_not_fit_the_form_is_refused_with_what_is_wrong() -> None:
    async with with_people() as people:
        await people.agent(channel(), rule=False)
        task = await begin(people)
        await wonder(people.stage, task)
        (question,) = await people.delivered()
        reply = await people.answer(question.asked, content={"city": "x"})
        assert isinstance(reply, Rejected)
        assert "too short" in reply.error or "shorter" in reply.error
        assert await unanswered(people.stage, task)


@BOTH
async def test_nobody_answers_and_the_next_channel_is_asked_and_then_nobody(ask: Any) -> None:
    async with with_people("lead") as people:
        lead = channel("lead", timeout_s=0.2, on_timeout="approve")
        first = channel(timeout_s=0.2, on_timeout="escalate", escalate_to=Ref(name="lead"))
        await people.agent(first, lead, rule=False)
        task = await begin(people)
        await ask(people.stage, task)
        answered = await said(people.stage, task)
        assert (answered.action, answered.via) == ("cancel", "expired")
        assert "Nobody answered" in answered.comment
        assert [len(people.shown[name].delivered) for name in ("oncall", "lead")] == [1, 1]


@BOTH
async def test_its_own_time_counts_too(ask: Any) -> None:
    async with with_people() as people:
        await people.agent(channel(timeout_s=60.0), rule=False)
        task = await begin(people)
        await ask(people.stage, task, in_s=0.3)
        assert (await said(people.stage, task)).via == "expired"


@BOTH
async def test_people_are_reminded(ask: Any) -> None:
    async with with_people() as people:
        await people.agent(channel(remind_s=0.1), rule=False)
        await ask(people.stage, await begin(people))

        async def reminded() -> bool:
            return len(people.shown["oncall"].reminded) >= 2

        await until(reminded, "two reminders")


@BOTH
async def test_a_channel_that_refuses_for_good_leaves_it_unanswered(ask: Any) -> None:
    async with with_people() as people:
        await people.agent(channel(), rule=False)
        people.shown["oncall"].fails = [ChannelFailed("no such room", transient=False)]
        task = await begin(people)
        await ask(people.stage, task)
        answered = await said(people.stage, task)
        assert (answered.action, answered.via) == ("cancel", "expired")
        assert "no such room" in answered.comment
        assert await people.stage.bus.log(task.partition).get(task.tool_event("r1", 1)) is None


@BOTH
async def test_it_is_withdrawn_with_its_task_and_the_channel_shows_that(ask: Any) -> None:
    async with with_people() as people:
        await people.agent(channel(), rule=False)
        task = await begin(people)
        await ask(people.stage, task)
        await people.delivered()
        await people.stage.ask("cancel", {"task": task.task, "reason": "enough"})
        await people.stage.until_state(task, Cancelled)
        shown: list[InteractionAnswered] = people.shown["oncall"].closed

        async def closed() -> bool:
            return bool(shown)

        await until(closed, "the channel shows that it is over")
        assert shown[0].via == "withdrawn"
        assert "enough" in shown[0].comment


async def test_questions_of_one_call_have_wake_ups_of_their_own() -> None:
    async with with_people() as people:
        await people.agent(channel(timeout_s=30.0), rule=False)
        task = await begin(people)
        for k in (1, 2):
            await wonder(people.stage, task, k=k)
        await people.delivered(count=2)

        async def set_() -> bool:
            timers = [s for stream in people_streams(people) for s in stream if s.startswith(task.people_timer("ask-"))]
            return sorted(one.rpartition(".")[2] for one in timers) == ["ask-r1-1-1", "ask-r1-1-2"]

        await until(set_, "a wake-up for each")


def people_streams(people: Any) -> list[list[str]]:
    server = people.stage.bus.server
    return [[entry.subject for entry in stream.entries()] for stream in server.streams]


async def test_a_question_without_a_channel_is_nobodys_business_but_the_inboxs() -> None:
    async with with_people() as people:
        await people.agent(channel(), rule=False)
        task = await begin(people)
        await doubt(people.stage, task, channel="")
        reply = await people.stage.ask("answer", {"task": task.task, "interaction": "r1.1.1", "by": "ann"})
        assert isinstance(reply, Accepted)
        assert people.shown["oncall"].delivered == []
