"""Slack: questions with buttons, windows and threads, against a server that holds to the documented forms."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from schemas.events import ApprovalGranted
from schemas.interactions import InteractionAnswered
from schemas.resources import ContactChannel, ContactChannelSpec, Metadata, Ref, SlackOptions
from schemas.subjects import TaskSubjects, status_key
from schemas.wire import decode
from services.human_contact.core import moves
from tests.support.answering import Answering, answering, secret
from tests.support.raw_http import response
from tests.support.slack_server import CHANNEL, SIGNING_SECRET, Slack, said, slack_server
from tests.support.stage import until
from tests.unit.planner.test_delegation import calls

WRITE = ("box__write", {"path": "a <!channel> & ```b"})
QUESTION = "oncall__human_contact_slack"


def slack_channel(name: str = "oncall", to: str = CHANNEL, **fields: Any) -> ContactChannel:
    options = SlackOptions(
        channel_or_user_id=to, bot_token_from=secret("slack-token"), signing_secret_from=secret("slack-signing")
    )
    return ContactChannel(metadata=Metadata(name=name), spec=ContactChannelSpec(type="slack", slack=options, **fields))


@asynccontextmanager
async def in_slack(directory: Path, *more: ContactChannel, **fields: Any) -> AsyncGenerator[tuple[Answering, Slack]]:
    async with slack_server() as (slack, api), answering(directory, slack_url=api) as people:
        slack.url = people.url
        await people.agent(slack_channel(**fields), *more, human_contact_channels=(Ref(name="oncall"),))
        yield people, slack


async def begin(people: Answering, *wanted: tuple[str, object]) -> TaskSubjects:
    task = await people.stage.submit()
    await calls(people.stage, task, 1, *(wanted or (WRITE,)))
    return task


async def approval(people: Answering, task: TaskSubjects) -> ApprovalGranted:
    return decode(await people.stage.stored(task, task.approval_event("r1", 1)), ApprovalGranted)


async def answered(people: Answering, task: TaskSubjects, n: int = 1) -> InteractionAnswered:
    return decode(await people.stage.stored(task, task.interaction_answered("r1", n, 0)), InteractionAnswered)


async def test_a_double_click_approves_once_and_the_message_shows_who(tmp_path: Path) -> None:
    async with in_slack(tmp_path) as (people, slack):
        task = await begin(people)
        message = await slack.posted()
        both = await asyncio.gather(slack.press(message, "accept"), slack.press(message, "accept"))
        assert [one.status_code for one in both] == [200, 200]
        granted = await approval(people, task)
        assert (granted.by, granted.via, granted.scope) == ("UANN", "slack", "once")
        assert json.loads(granted.arguments) == WRITE[1]
        assert "Accepted by UANN" in await slack.closed(message)
        assert slack.whispers == []


async def test_a_strangers_words_are_no_markup(tmp_path: Path) -> None:
    async with in_slack(tmp_path) as (people, slack):
        await begin(people)
        blocks = (await slack.posted())["blocks"]
        (code,) = [block for block in blocks if block["type"] == "rich_text"]
        assert json.loads(code["elements"][0]["elements"][0]["text"]) == WRITE[1]
        assert not any(block.get("text", {}).get("type") == "mrkdwn" for block in blocks)


async def test_somebody_who_is_too_late_is_told_so_and_nobody_else(tmp_path: Path) -> None:
    async with in_slack(tmp_path) as (people, slack):
        task = await begin(people)
        message = await slack.posted()
        await slack.press(message, "accept_task")
        assert (await approval(people, task)).scope == "task"
        assert (await slack.press(message, "accept", user="UBOB")).status_code == 200
        (told,) = slack.whispers
        assert told["user"] == "UBOB"
        assert "cannot be answered: it was answered at" in told["text"]


async def test_only_those_who_may_answer_can(tmp_path: Path) -> None:
    async with in_slack(tmp_path, allowed_responder_ids=("UBOB",)) as (people, slack):
        task = await begin(people)
        message = await slack.posted()
        await slack.press(message, "accept", user="UANN")
        assert "may not answer" in slack.whispers[0]["text"]
        await slack.press(message, "accept", user="UBOB")
        assert (await approval(people, task)).by == "UBOB"


async def test_a_rejection_asks_for_a_comment_which_the_model_is_told(tmp_path: Path) -> None:
    async with in_slack(tmp_path) as (people, slack):
        task = await begin(people)
        message = await slack.posted()
        await slack.press(message, "decline")
        (view,) = slack.views
        assert view["callback_id"] == "holdfast_decline"
        response = await slack.submit(view, "not on a Friday")
        assert (response.status_code, response.content) == (200, b"")
        assert (await people.result(task)).content == "Rejected: not on a Friday"
        late = await slack.submit(view, "or never")
        assert late.json()["response_action"] == "errors"
        assert "cannot be answered" in late.json()["errors"]["text"]


async def test_arguments_are_edited_in_a_window_and_checked(tmp_path: Path) -> None:
    async with in_slack(tmp_path) as (people, slack):
        task = await begin(people)
        message = await slack.posted()
        await slack.press(message, "edit")
        (view,) = slack.views
        assert json.loads(view["blocks"][0]["element"]["initial_value"]) == WRITE[1]
        for bad in ("{", "[]", None):
            assert (await slack.submit(view, bad)).json()["response_action"] == "errors"
        await slack.submit(view, '{"path": "b"}')
        assert (await approval(people, task)).arguments == '{"path": "b"}'


async def test_what_does_not_fit_into_a_message_cannot_be_approved_there(tmp_path: Path) -> None:
    async with in_slack(tmp_path) as (people, slack):
        task = await begin(people, ("box__write", {"text": "x" * 30_000}))
        message = await slack.posted()
        names = [
            one["action_id"] for block in message["blocks"] if block["type"] == "actions" for one in block["elements"]
        ]
        assert names == ["holdfast_decline"]
        payload = slack.pressing(message, "decline")
        payload["actions"][0]["action_id"] = "holdfast_accept"
        await slack.interact(payload)
        assert "does not answer" in slack.whispers[0]["text"]
        assert await people.stage.bus.log(task.partition).get(task.interaction_answered("r1", 1, 0)) is None


async def test_a_question_is_answered_by_a_button_a_window_or_a_reply(tmp_path: Path) -> None:
    async with in_slack(tmp_path) as (people, slack):
        asks: list[tuple[str, object]] = [
            (QUESTION, {"message": "Now?", "choices": ["yes", "no"]}),
            (QUESTION, {"message": "What?"}),
            (QUESTION, {"message": "Which?", "choices": ["Red", "Blue"]}),
        ]
        task = await begin(people, *asks)
        await slack.posted(3)
        by_text = {
            next(b["text"]["text"] for b in one["blocks"] if b["type"] == "section"): one for one in slack.messages
        }
        root = next(one["ts"] for one in slack.messages if "thread_ts" not in one)
        await slack.say("Blue", thread=root)
        assert "Several questions" in slack.whispers[0]["text"]
        await slack.press(by_text["Now?"], "choice_1")
        assert (await people.result(task, 1)).content == "no"
        await slack.press(by_text["What?"], "answer")
        await slack.submit(slack.views[0], "this")
        assert (await people.result(task, 2)).content == "this"
        await slack.say("blue", thread=root)
        assert (await people.result(task, 3)).content == "Blue"
        assert (await answered(people, task, 3)).by == "UANN"


@pytest.mark.parametrize(
    "more", [{"bot_id": "B1"}, {"subtype": "message_changed"}, {"parent_user_id": "UOTHER"}, {"thread_ts": ""}]
)
async def test_what_is_no_reply_of_a_person_to_us_answers_nothing(tmp_path: Path, more: dict[str, str]) -> None:
    async with in_slack(tmp_path) as (people, slack):
        task = await begin(people, (QUESTION, {"message": "What?"}))
        message = await slack.posted()
        assert (await slack.say("this", thread=message["ts"], **more)).status_code == 200
        assert await people.stage.bus.log(task.partition).get(task.interaction_answered("r1", 1, 0)) is None


async def test_what_was_said_before_a_question_does_not_answer_it(tmp_path: Path) -> None:
    async with in_slack(tmp_path) as (people, slack):
        task = await begin(people, (QUESTION, {"message": "What?"}))
        message = await slack.posted()
        for ts in ("1600000000.000100", message["ts"], "soon"):
            await slack.say("this", thread=message["ts"], ts=ts)
        assert await people.stage.bus.log(task.partition).get(task.interaction_answered("r1", 1, 0)) is None
        await slack.say("that", thread=message["ts"])
        assert (await people.result(task)).content == "that"


async def test_what_another_task_of_this_name_was_asked_does_not_answer_it(tmp_path: Path) -> None:
    async with in_slack(tmp_path) as (people, slack):
        task = await begin(people, (QUESTION, {"message": "What?", "choices": ["yes", "no"]}))
        message = await slack.posted()
        other = [*json.loads(message["metadata"]["event_payload"]["ref"])[:4], "w" * 26]
        named = b"holdfast-thread." + msgspec.json.encode(other)
        mac = hmac.new(SIGNING_SECRET.encode(), named, hashlib.sha256).hexdigest()
        along = {**message["metadata"], "event_payload": {"ref": json.dumps([*other, -1]), "mac": mac}}
        slack.messages.append({**message, "ts": "1600000000.000100", "metadata": along})
        await slack.say("yes", thread="1600000000.000100")
        before = slack.pressing(message, "choice_0")
        ref = json.loads(before["actions"][0]["value"])
        before["actions"][0]["value"] = json.dumps([*ref[:4], "w" * 26, *ref[5:]])
        await slack.interact(before)
        assert "not there any more" in slack.whispers[-1]["text"]
        assert await people.stage.bus.log(task.partition).get(task.interaction_answered("r1", 1, 0)) is None
        await slack.press(message, "choice_1")
        assert (await people.result(task)).content == "no"


async def test_a_message_that_slack_is_too_busy_to_update_is_updated_after_the_wait(tmp_path: Path) -> None:
    async with in_slack(tmp_path) as (people, slack):
        await begin(people)
        message = await slack.posted()
        busy = response(b'{"ok":false,"error":"ratelimited"}', status="429 Too Many Requests", Retry_After="1")
        slack.answers["chat.update"] = [busy]
        await slack.press(message, "accept")
        assert "Accepted by UANN" in await slack.closed(message)


async def test_requests_of_slacks_that_nobody_knows_are_taken_and_forgotten(tmp_path: Path) -> None:
    async with in_slack(tmp_path) as (people, slack):
        await begin(people)
        await slack.posted()
        for event in (
            {"type": "app_rate_limited"},
            {"type": "event_callback", "event": {"type": "message", "text": 1}},
        ):
            assert (await slack.event(event)).status_code == 200
        for payload in ({"type": "shortcut"}, {"type": "block_actions"}, {"type": "block_actions", "actions": [1]}):
            assert (await slack.interact(payload)).status_code == 200
        assert (await slack.request("events", b"{", kind="application/json")).status_code == 400
        assert (await slack.request("events", b'{"deep":' + b"[" * 100_000, kind="application/json")).status_code == 400


async def test_a_reply_does_not_approve_or_reject(tmp_path: Path) -> None:
    async with in_slack(tmp_path) as (people, slack):
        task = await begin(people)
        await slack.say("reject", thread=(await slack.posted())["ts"])
        assert await people.stage.bus.log(task.partition).get(task.interaction_answered("r1", 1, 0)) is None


async def test_metadata_that_somebody_else_wrote_names_no_question(tmp_path: Path) -> None:
    async with in_slack(tmp_path) as (people, slack):
        task = await begin(people, (QUESTION, {"message": "What?"}))
        message = await slack.posted()
        message["metadata"]["event_payload"]["mac"] = "0" * 64
        await slack.say("this", thread=message["ts"])
        assert await people.stage.bus.log(task.partition).get(task.interaction_answered("r1", 1, 0)) is None


@pytest.mark.parametrize(
    "signing",
    [
        {"secret": "another"},
        {"age_s": 400},
        {"age_s": -400},
        {"headers": {"X-Slack-Signature": ""}},
        {"headers": {"X-Slack-Request-Timestamp": "now"}},
    ],
)
async def test_forged_and_old_requests_are_refused(tmp_path: Path, signing: dict[str, Any]) -> None:
    async with in_slack(tmp_path) as (people, slack):
        task = await begin(people)
        message = await slack.posted()
        response = await slack.press(message, "accept", **signing)
        assert response.status_code == 401
        assert await people.stage.bus.log(task.partition).get(task.interaction_answered("r1", 1, 0)) is None


async def test_a_secret_speaks_for_its_own_channels_only(tmp_path: Path) -> None:
    async with in_slack(tmp_path) as (people, slack):
        options = SlackOptions(
            channel_or_user_id=CHANNEL, bot_token_from=secret("slack-token"), signing_secret_from=secret("mail")
        )
        other = ContactChannel(metadata=Metadata(name="other"), spec=ContactChannelSpec(type="slack", slack=options))
        await people.stage.apply(other)
        await begin(people)
        message = await slack.posted()

        async def known() -> bool:
            return (await slack.event({"type": "url_verification", "challenge": "c"}, secret="right")).text == "c\n"

        await until(known, "the other channel is known")
        assert (await slack.press(message, "accept", secret="right")).status_code == 401


async def test_slack_is_answered_its_challenge(tmp_path: Path) -> None:
    async with in_slack(tmp_path) as (_, slack):

        async def answers() -> bool:
            return (await slack.event({"type": "url_verification", "challenge": "c123"})).text.strip() == "c123"

        await until(answers, "the challenge is answered")


async def test_questions_of_one_task_share_a_thread_and_reminders_go_there(tmp_path: Path) -> None:
    async with in_slack(tmp_path, remind_s=1.0) as (people, slack):
        task = await begin(people)
        first = await slack.posted()
        await slack.posted(2)
        assert slack.messages[1]["thread_ts"] == first["ts"]
        assert slack.messages[1]["text"].startswith("Still waiting")
        await slack.press(first, "accept")
        await approval(people, task)
        await people.stage.finish(task, "r1", 1)
        await calls(people.stage, task, 2, WRITE)

        async def asked_again() -> bool:
            return any(one.get("blocks") and one.get("thread_ts") == first["ts"] for one in slack.messages)

        await until(asked_again, "the second question is in the thread")


@pytest.mark.parametrize(
    "answer",
    [
        said("429 Too Many Requests", ok=False, error="ratelimited"),
        said(ok=False, error="internal_error"),
        said("503 Service Unavailable"),
    ],
)
async def test_slack_that_is_busy_is_asked_again(
    tmp_path: Path, answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moves, "AGAIN_MIN_S", 0.1)
    async with slack_server() as (slack, api), answering(tmp_path, slack_url=api) as people:
        slack.url = people.url
        slack.answers["chat.postMessage"] = [answer]
        await people.agent(slack_channel())
        await begin(people)
        await slack.posted()


async def test_slack_that_refuses_ends_the_call_with_its_word(tmp_path: Path) -> None:
    async with slack_server() as (slack, api), answering(tmp_path, slack_url=api) as people:
        slack.url = people.url
        await people.agent(slack_channel(to="C9999"))
        task = await begin(people)
        assert "channel_not_found" in (await people.result(task)).content


async def test_a_bot_whose_token_is_wrong_is_not_ready(tmp_path: Path) -> None:
    async with slack_server() as (slack, api), answering(tmp_path, slack_url=api) as people:
        slack.answers["auth.test"] = [said(ok=False, error="invalid_auth")]
        await people.stage.apply(slack_channel())

        async def says_why() -> bool:
            entry = await people.stage.bus.resources.get(status_key("ContactChannel", "default", "oncall"))
            return entry is not None and entry.data is not None and b"invalid_auth" in entry.data

        await until(says_why, "its status says why")
