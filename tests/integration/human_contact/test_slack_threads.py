"""People go on in threads by replying in Slack: where the channel wants it, those who may, and each reply once."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from schemas.events import MessageSent, TaskFollowed
from schemas.notifications import NotificationDelivered
from schemas.slack_messages import SlackRef, slack_metadata
from schemas.subjects import TaskSubjects
from schemas.task import FinalAnswer
from schemas.wire import decode, encode
from services.human_contact import threads
from services.human_contact.core.rates import Rate
from services.runtime.ports import Outgoing
from tests.integration.human_contact.test_slack import QUESTION, WRITE, in_slack
from tests.support.answering import Answering
from tests.support.slack_server import SIGNING_SECRET, Slack
from tests.support.stage import until
from tests.unit.planner.test_delegation import calls

THREAD = "1700000000.000500"


@asynccontextmanager
async def thread(
    directory: Path, *, wanted: bool = True, **fields: Any
) -> AsyncGenerator[tuple[Answering, Slack, TaskSubjects]]:
    """A task whose answer was told in Slack."""
    async with in_slack(directory, continue_threads=wanted, **fields) as (people, slack):
        task = await people.stage.submit(contactChannelRef="oncall")
        await people.stage.answer(task, 1, text="It is noon.")
        await people.stage.until_state(task, FinalAnswer)
        await told(people, slack, task)
        yield people, slack, task


async def told(people: Answering, slack: Slack, task: TaskSubjects, *, thread_ts: str = "") -> str:
    """What the notifier does: a message that is signed, and a record. The message's id."""
    stage = people.stage
    at, ts = stage.bus.clock.now(), f"1700000000.{900 + len(slack.messages):06}"
    done = NotificationDelivered(
        id=f"n-{task.task[-8:]}",
        namespace="default",
        task=task.task,
        event="task.finished",
        receiver="ContactChannel",
        name="oncall",
        place=1,
        lane="l",
        created_at=at,
        at=at,
        thread=thread_ts or ts,
    )
    await stage.bus.log(task.partition).record(Outgoing(task.notification(done.id), encode(done)))
    ref = SlackRef("default", "oncall", task.task, asking=done.id)
    metadata = slack_metadata("holdfast_task_ended", SIGNING_SECRET, ref)
    message = {"ts": ts, "metadata": metadata, "text": "It is noon."}
    slack.messages.append({**message, "thread_ts": thread_ts} if thread_ts else message)
    return ts


async def followed(people: Answering, task: TaskSubjects) -> TaskFollowed | None:
    entry = await people.stage.bus.log(task.partition).get(task.followed)
    return decode(entry.data, TaskFollowed) if entry is not None else None


async def said(people: Answering, task: TaskSubjects) -> list[MessageSent]:
    entries = await people.stage.bus.log(task.partition).last([task.message_event("*")])
    return [decode(entry.data, MessageSent) for entry in entries]


async def test_a_reply_to_an_answer_goes_on_in_the_thread_once(tmp_path: Path) -> None:
    async with thread(tmp_path) as (people, slack, task):
        for _ in range(3):
            assert (await slack.say("And in &lt;Delhi&gt;?", thread=slack.messages[0]["ts"])).status_code == 200
        following = await followed(people, task)
        assert following is not None
        assert following.submitted.spec.user_message == "And in <Delhi>?"
        assert following.submitted.spec.contact_channel == "oncall"
        assert slack.whispers == []
        going_on = people.stage.task(following.submitted.task)
        await people.stage.stored(going_on, going_on.model_command(1, 1))
        assert await said(people, going_on) == []
        await slack.say("And in Rome?", thread=slack.messages[0]["ts"], ts="1800000000.2")
        (more,) = await said(people, going_on)
        assert (more.content, more.by) == ("And in Rome?", "UANN")


async def test_a_channel_that_does_not_want_it_takes_no_replies(tmp_path: Path) -> None:
    async with thread(tmp_path, wanted=False) as (people, slack, task):
        await slack.say("And in Delhi?", thread=slack.messages[0]["ts"])
        assert await followed(people, task) is None
        assert slack.whispers == []


async def test_only_those_who_may_answer_can_go_on(tmp_path: Path) -> None:
    async with thread(tmp_path, allowed_responder_ids=("UBOB",)) as (people, slack, task):
        await slack.say("And in Delhi?", thread=slack.messages[0]["ts"], user="UANN")
        assert await followed(people, task) is None
        assert "may not go on" in slack.whispers[0]["text"]
        await slack.say("And in Delhi?", thread=slack.messages[0]["ts"], user="UBOB")
        assert await followed(people, task) is not None


async def test_replies_are_taken_so_often_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "EACH", Rate(per_s=0.001, burst=2))
    async with thread(tmp_path) as (people, slack, task):
        for n in range(4):
            await slack.say(f"m{n}", thread=slack.messages[0]["ts"], ts=f"1800000000.{n + 1}")
        following = await followed(people, task)
        assert following is not None
        heard = await said(people, people.stage.task(following.submitted.task))
        assert [one.content for one in heard] == ["m1"]
        assert ["faster than is taken" in one["text"] for one in slack.whispers] == [True, True]
        await slack.say("somebody else", thread=slack.messages[0]["ts"], user="UBOB", ts="1800000000.9")
        assert len(await said(people, people.stage.task(following.submitted.task))) == 2


@pytest.mark.parametrize(
    ("text", "whispered"), [("", "no text"), ("x" * (threads.TEXT_LENGTH_MAX + 1), "more than")], ids=["none", "long"]
)
async def test_what_cannot_be_said_is_told_to_its_sender(tmp_path: Path, text: str, whispered: str) -> None:
    async with thread(tmp_path) as (people, slack, task):
        await slack.say(text, thread=slack.messages[0]["ts"])
        assert whispered in slack.whispers[0]["text"]
        assert await followed(people, task) is None


@pytest.mark.parametrize("what", ["mac", "another task", "an earlier task of this name", "a bot"])
async def test_what_is_no_reply_to_an_answer_is_not_said(tmp_path: Path, what: str) -> None:
    async with thread(tmp_path) as (people, slack, task):
        payload = slack.messages[0]["metadata"]["event_payload"]
        if what == "mac":
            payload["mac"] = "0" * 64
        elif what == "another task":
            payload["ref"] = SlackRef("default", "oncall", "other", asking=f"n-{task.task[-8:]}").text()
        elif what == "an earlier task of this name":
            metadata = slack_metadata("holdfast_task_ended", SIGNING_SECRET, SlackRef("default", "oncall", task.task))
            slack.messages[0]["metadata"] = metadata
        more: dict[str, str] = {"bot_id": "B1"} if what == "a bot" else {}
        assert (await slack.say("And?", thread=slack.messages[0]["ts"], **more)).status_code == 200
        assert await followed(people, task) is None


async def test_a_thread_that_a_person_began_is_known_by_its_id(tmp_path: Path) -> None:
    async with in_slack(tmp_path, continue_threads=True) as (people, slack):
        task = await people.stage.submit(contactChannelRef="oncall", threadID=THREAD)
        elsewhere = await people.stage.submit(threadID="1700000000.000600")
        for one in (task, elsewhere):
            await people.stage.answer(one, 1, text="It is noon.")
            await people.stage.until_state(one, FinalAnswer)
        await slack.say("And in Delhi?", thread=THREAD, parent_user_id="UANN", channel="C9999")
        await slack.say("And in Delhi?", thread="1700000000.000600", parent_user_id="UANN")
        assert await followed(people, task) is None
        await slack.say("And in Delhi?", thread=THREAD, parent_user_id="UANN")
        assert await followed(people, task) is not None
        assert await followed(people, elsewhere) is None


async def test_while_a_question_is_open_a_reply_answers_it_and_is_not_said(tmp_path: Path) -> None:
    async with thread(tmp_path) as (people, slack, task):
        root = slack.messages[0]["ts"]
        await slack.say("And in Delhi?", thread=root)
        following = await followed(people, task)
        assert following is not None
        going_on = people.stage.task(following.submitted.task)
        await calls(people.stage, going_on, 1, (QUESTION, {"message": "Summer time?"}))
        question = await slack.posted(2)
        assert question["thread_ts"] == root
        await slack.say("yes", thread=root, ts="1800000000.2")
        assert (await people.result(going_on)).content == "yes"

        async def over() -> bool:
            return "updated" in question

        await until(over, "the question is over")
        ts = f"{people.stage.bus.clock.now().timestamp() + 1:.6f}"
        await slack.say("yes", thread=root, ts=ts)  # the same, by a clock that is ahead
        assert await said(people, going_on) == []
        await slack.say("and be quick", thread=root, ts=ts)
        assert [one.content for one in await said(people, going_on)] == ["and be quick"]


async def test_a_reply_while_an_approval_is_open_is_said_and_decides_nothing(tmp_path: Path) -> None:
    async with thread(tmp_path) as (people, slack, task):
        root = slack.messages[0]["ts"]
        await slack.say("Write it.", thread=root)
        following = await followed(people, task)
        assert following is not None
        going_on = people.stage.task(following.submitted.task)
        await calls(people.stage, going_on, 1, WRITE)
        await slack.posted(2)
        await slack.say("approve", thread=root, ts="1800000000.2")
        assert [one.content for one in await said(people, going_on)] == ["approve"]
        assert "decided by its buttons" in slack.whispers[0]["text"]
        assert await people.stage.bus.log(task.partition).get(going_on.interaction_answered("r1", 1, 0)) is None


async def test_a_question_goes_where_the_caller_has_a_thread_or_begins_one(tmp_path: Path) -> None:
    async with in_slack(tmp_path) as (people, slack):
        slack.messages.append({"ts": THREAD, "text": "Please do it."})
        for thread_id, expected in ((THREAD, THREAD), ("1700000000.999999", None)):
            before = len(slack.messages)
            task = await people.stage.submit(threadID=thread_id)
            await calls(people.stage, task, 1, WRITE)
            message = await slack.posted(before + 1)
            assert message.get("thread_ts") == expected
