"""What people are told about the tasks of one thread stays in one conversation, in whatever channel it is."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from schemas.interactions import InteractionStep
from schemas.notifications import NotificationDelivered
from schemas.requests import Accepted
from schemas.resources import (
    ContactChannel,
    ContactChannelSpec,
    EmailOptions,
    Metadata,
    SlackOptions,
    SlackSink,
    SMTPOptions,
    WebhookOptions,
)
from schemas.slack_messages import SlackRef, slack_mac
from schemas.subjects import TaskSubjects
from schemas.task import FinalAnswer
from schemas.wire import encode
from services.notifier.core import machine
from services.runtime.ports import Outgoing
from tests.support.mail_server import mail_server
from tests.support.notifying import Notifying, json_of, notifying, secret
from tests.support.raw_http import Asked, raw_server, response
from tests.support.waiting import until

SECRETS = {
    "HOLDFAST_SECRET_SLACK_TOKEN": "xoxb-1",
    "HOLDFAST_SECRET_SLACK_SIGNING": "sssh",
    "HOLDFAST_SECRET_OPS_SIGNING": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
}
TS = "1700000000.000100"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "BACKOFF_BASE_S", 0.1)
    monkeypatch.setattr(machine, "BACKOFF_MAX_S", 0.1)


class Slack:
    """Posts in a channel."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.answers: list[bytes] = []

    async def __call__(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
        if self.answers:
            writer.write(self.answers.pop(0))
        else:
            message = json.loads(asked.body)
            self.messages.append(message)
            writer.write(response(json.dumps({"ok": True, "ts": f"1700000001.{len(self.messages):06}"}).encode()))
        await writer.drain()

    @property
    def threads(self) -> list[str | None]:
        return [message.get("thread_ts") for message in self.messages]


def slack_channel(**fields: Any) -> ContactChannel:
    options = SlackOptions(
        channel_or_user_id="C1", bot_token_from=secret("token", "slack"), signing_secret_from=secret("signing", "slack")
    )
    return ContactChannel(
        metadata=Metadata(name="oncall"), spec=ContactChannelSpec(type="slack", slack=options, **fields)
    )


async def go_on(here: Notifying, task: TaskSubjects, text: str = "And this.") -> TaskSubjects:
    """Another task in the thread, with its answer."""
    accepted = await here.ask("send", {"task": task.task, "message": "more"})
    assert isinstance(accepted, Accepted)
    following = here.task(accepted.task)
    await here.answer(following, 1, text=text)
    await here.until_state(following, FinalAnswer)
    return following


async def test_the_answers_of_a_thread_are_one_thread_in_slack() -> None:
    async with raw_server() as server:
        slack = server.paths["/api/chat.postMessage"] = Slack()
        async with notifying(SECRETS, slack_url=f"http://127.0.0.1:{server.port}/api") as here:
            await here.apply(slack_channel())
            task = await here.finished(contactChannelRef="oncall")
            await here.until_all(task, NotificationDelivered)
            for _ in range(2):
                task = await go_on(here, task)
                await here.until_all(task, NotificationDelivered)
            assert slack.threads == [None, "1700000001.000001", "1700000001.000001"]
            other = await here.finished(contactChannelRef="oncall")
            await here.until_all(other, NotificationDelivered)
            assert slack.threads[3] is None


async def test_a_thread_id_that_is_a_slack_message_is_where_the_answer_goes() -> None:
    async with raw_server() as server:
        slack = server.paths["/api/chat.postMessage"] = Slack()
        async with notifying(SECRETS, slack_url=f"http://127.0.0.1:{server.port}/api") as here:
            await here.apply(slack_channel())
            for thread_id in (TS, "TICKET-17", "17.1"):
                task = await here.finished(contactChannelRef="oncall", threadID=thread_id)
                await here.until_all(task, NotificationDelivered)
            assert slack.threads == [TS, None, None]


async def test_a_thread_that_is_not_there_is_gone_on_without_it() -> None:
    async with raw_server() as server:
        slack = server.paths["/api/chat.postMessage"] = Slack()
        slack.answers = [response(b'{"ok":false,"error":"thread_not_found"}')]
        async with notifying(SECRETS, slack_url=f"http://127.0.0.1:{server.port}/api") as here:
            await here.apply(slack_channel())
            task = await here.finished(contactChannelRef="oncall", threadID=TS)
            (done,) = await here.until_all(task, NotificationDelivered)
            assert slack.threads == [None]
            assert done.thread == "1700000001.000001"


async def test_an_answer_goes_where_its_task_asked_people() -> None:
    async with raw_server() as server:
        slack = server.paths["/api/chat.postMessage"] = Slack()
        async with notifying(SECRETS, slack_url=f"http://127.0.0.1:{server.port}/api") as here:
            await here.apply(slack_channel())
            task = await here.submit(contactChannelRef="oncall", threadID="TICKET-17")
            place = f"C1:1699999999.000002:{TS}"
            step = InteractionStep(
                interaction="r1.1.0", step=0, channel="oncall", at=here.bus.clock.now(), place=place, delivered=True
            )
            await here.bus.log(task.partition).record(Outgoing(task.interaction_step("r1", 1, 0, 0), encode(step)))
            await here.answer(task, 1, text="Done.")
            await here.until_all(task, NotificationDelivered)
            await here.until_all(await go_on(here, task), NotificationDelivered)
            assert slack.threads == [TS, TS]


async def test_a_subscribers_messages_about_a_thread_are_one_thread_of_their_own() -> None:
    async with raw_server() as server:
        slack = server.paths["/api/chat.postMessage"] = Slack()
        url = f"http://127.0.0.1:{server.port}/api"
        async with notifying(SECRETS) as here:
            await here.subscribe("ops", slack=SlackSink(channel="C2", token_from=secret("token", "slack"), api_url=url))
            task = await here.finished(threadID=TS)
            await here.until_all(task, NotificationDelivered)
            await here.until_all(await go_on(here, task), NotificationDelivered)
            assert slack.threads == [None, "1700000001.000001"]


async def test_a_later_answer_waits_until_the_one_before_has_been_told() -> None:
    async with raw_server() as server:
        slack = server.paths["/api/chat.postMessage"] = Slack()
        slack.answers = [response(status="503 Service Unavailable")] * 4
        async with notifying(SECRETS, slack_url=f"http://127.0.0.1:{server.port}/api") as here:
            await here.apply(slack_channel())
            first = await here.finished("one", contactChannelRef="oncall")
            second = await go_on(here, first, "two")
            await here.until_all(second, NotificationDelivered)
            assert ["one" in one["text"] for one in slack.messages] == [True, False]
            assert slack.threads == [None, "1700000001.000001"]


async def test_replies_can_know_an_answer_where_the_channel_wants_them() -> None:
    async with raw_server() as server:
        slack = server.paths["/api/chat.postMessage"] = Slack()
        async with notifying(SECRETS, slack_url=f"http://127.0.0.1:{server.port}/api") as here:
            await here.apply(slack_channel())
            task = await here.finished(contactChannelRef="oncall")
            (plain,) = await here.until_all(task, NotificationDelivered)
            assert slack.messages[0]["metadata"]["event_payload"] == {"id": plain.id}
            await here.apply(slack_channel(continue_threads=True))

            async def signed() -> bool:
                following = await here.finished(contactChannelRef="oncall")
                (done,) = await here.until_all(following, NotificationDelivered)
                ref = SlackRef("default", "oncall", following.task, asking=done.id)
                payload = {"id": done.id, "ref": ref.text(), "mac": slack_mac("sssh", ref)}
                return bool(slack.messages[-1]["metadata"]["event_payload"] == payload)

            await until(signed, "signed metadata")


@pytest.mark.parametrize("thread_id", ["", "<CAF=17+x@mail.example.com>", "a@b", "<a b@c>"])
async def test_mail_about_a_thread_is_one_conversation(thread_id: str) -> None:
    with mail_server() as server:
        smtp = SMTPOptions(host="127.0.0.1", port=server.port, security="none", sender="h@example.org")
        spec = ContactChannelSpec(type="email", email=EmailOptions(address="ada@example.com", smtp=smtp))
        async with notifying(SECRETS) as here:
            await here.apply(ContactChannel(metadata=Metadata(name="oncall"), spec=spec))
            task = await here.finished(contactChannelRef="oncall", **({"threadID": thread_id} if thread_id else {}))
            await here.until_all(task, NotificationDelivered)
            await here.until_all(await go_on(here, task), NotificationDelivered)
        first, second = server.messages
        root = thread_id if thread_id.startswith("<CAF") else None
        assert (first["In-Reply-To"], first["References"]) == (root, root)
        assert second["In-Reply-To"] == second["References"] == (root or first["Message-ID"])


@pytest.mark.parametrize(
    ("spec", "thread_id", "sent"),
    [
        (
            ContactChannelSpec(
                type="slack", api_key_from=secret("token", "slack"), slack=SlackOptions(channel_or_user_id="C1")
            ),
            TS,
            {"slack": {"channel_or_user_id": "C1", "thread_ts": TS}},
        ),
        (
            ContactChannelSpec(
                type="slack", api_key_from=secret("token", "slack"), slack=SlackOptions(channel_or_user_id="C1")
            ),
            "TICKET-17",
            {"slack": {"channel_or_user_id": "C1"}},
        ),
        (
            ContactChannelSpec(
                type="email", api_key_from=secret("token", "slack"), email=EmailOptions(address="a@example.com")
            ),
            "<1@x>",
            {
                "email": {
                    "address": "a@example.com",
                    "experimental_in_reply_to_message_id": "<1@x>",
                    "experimental_references_message_id": "<1@x>",
                }
            },
        ),
    ],
    ids=["slack", "no thread of Slack's", "e-mail"],
)
async def test_humanlayer_is_told_the_thread(spec: ContactChannelSpec, thread_id: str, sent: object) -> None:
    async with raw_server() as server:
        server.paths["/humanlayer/v1/contact_requests"] = response(b"{}", status="201 Created")
        async with notifying(SECRETS, humanlayer_url=f"http://127.0.0.1:{server.port}") as here:
            await here.apply(ContactChannel(metadata=Metadata(name="oncall"), spec=spec))
            task = await here.finished(contactChannelRef="oncall", threadID=thread_id)
            await here.until_all(task, NotificationDelivered)
        assert json.loads(server.asked[0].body)["spec"]["channel"] == sent


async def test_a_webhook_is_told_which_thread_it_is() -> None:
    async with raw_server() as server, notifying(SECRETS) as here:
        server.paths["/hook"] = response()
        hook = WebhookOptions(url=f"http://127.0.0.1:{server.port}/hook", signing_secret_from=secret("signing"))
        spec = ContactChannelSpec(type="webhook", webhook=hook)
        await here.apply(ContactChannel(metadata=Metadata(name="oncall"), spec=spec))
        first = await here.finished(contactChannelRef="oncall", threadID="TICKET-17")
        await here.until_all(first, NotificationDelivered)
        await here.until_all(await go_on(here, first), NotificationDelivered)
        plain = await here.finished(contactChannelRef="oncall")
        await here.until_all(plain, NotificationDelivered)
        told = [json_of(asked.body)["data"] for asked in server.asked]
        assert [(one["thread"], one.get("threadID")) for one in told] == [
            (first.task, "TICKET-17"),
            (first.task, "TICKET-17"),
            (plain.task, None),
        ]
