"""A task's contact channel is told by the API that the predecessor's manifests expect."""

from __future__ import annotations

import asyncio
import json

import pytest

from schemas.notifications import NotificationDelivered, NotificationFailed
from schemas.resources import (
    ContactChannel,
    ContactChannelSpec,
    EmailOptions,
    Metadata,
    SlackOptions,
    SMTPOptions,
    WebhookOptions,
)
from services.notifier.core import machine
from tests.support.mail_server import mail_server
from tests.support.notifying import notifying, secret
from tests.support.raw_http import Asked, raw_server, response

PATH = "/humanlayer/v1/contact_requests"
SECRETS = {"HOLDFAST_SECRET_HL_TOKEN": "hl_testtoken"}
SLACK = ContactChannelSpec(
    type="slack",
    api_key_from=secret("token", "hl"),
    slack=SlackOptions(channel_or_user_id="C1234", context_about_channel_or_user="the ops room"),
)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "BACKOFF_BASE_S", 0.1)
    monkeypatch.setattr(machine, "BACKOFF_MAX_S", 0.1)


def channel(spec: ContactChannelSpec) -> ContactChannel:
    return ContactChannel(metadata=Metadata(name="oncall"), spec=spec)


async def test_t24_a_contact_channel_is_told_the_answer() -> None:
    async with raw_server() as server:
        server.paths[PATH] = response(b"{}", status="201 Created")
        async with notifying(SECRETS, humanlayer_url=f"http://127.0.0.1:{server.port}", egress_allow="") as here:
            await here.apply(channel(SLACK))
            task = await here.finished("Test result", contactChannelRef="oncall")
            (done,) = await here.until_all(task, NotificationDelivered)
        (asked,) = server.asked
        assert asked.headers["authorization"] == "Bearer hl_testtoken"
        assert json.loads(asked.body) == {
            "run_id": "helper",
            "call_id": done.id,
            "spec": {
                "msg": "Test result",
                "channel": {"slack": {"channel_or_user_id": "C1234", "context_about_channel_or_user": "the ops room"}},
            },
        }


@pytest.mark.parametrize(
    ("spec", "sent"),
    [
        (
            ContactChannelSpec(
                type="email", api_key_from=secret("token", "hl"), email=EmailOptions(address="ada@example.com")
            ),
            {"email": {"address": "ada@example.com"}},
        ),
        (
            ContactChannelSpec(
                type="slack",
                channel_api_key_from=secret("token", "hl"),
                channel_id="ch_1",
                slack=SlackOptions(channel_or_user_id="C1234"),
            ),
            None,
        ),
        (
            ContactChannelSpec(
                type="slack",
                api_key_from=secret("token", "hl"),
                slack=SlackOptions(channel_or_user_id="C1234", bot_token_from=secret("bot", "slack")),
            ),
            {"slack": {"channel_or_user_id": "C1234"}},
        ),
    ],
    ids=["e-mail with a project's key", "a channel's own key says where", "a key of the API comes before a bot's"],
)
async def test_what_is_said_of_the_channel(spec: ContactChannelSpec, sent: object) -> None:
    async with raw_server() as server:
        server.paths[PATH] = response(b"{}", status="201 Created")
        async with notifying(SECRETS, humanlayer_url=f"http://127.0.0.1:{server.port}/") as here:
            await here.apply(channel(spec))
            task = await here.finished(contactChannelRef="oncall")
            await here.until_all(task, NotificationDelivered)
        assert json.loads(server.asked[0].body)["spec"].get("channel") == sent


async def test_a_channel_that_comes_later_is_waited_for() -> None:
    async with raw_server() as server:
        server.paths[PATH] = response(b"{}", status="201 Created")
        async with notifying(SECRETS, humanlayer_url=f"http://127.0.0.1:{server.port}") as here:
            task = await here.finished(contactChannelRef="oncall")
            pending = await here.until_tried(task, 1)
            assert "there is no ContactChannel 'oncall'" in pending.tried[0].error
            await here.apply(channel(SLACK))
            await here.until_all(task, NotificationDelivered)


async def test_a_key_that_is_not_taken_is_a_dead_letter() -> None:
    async with raw_server() as server:
        server.paths[PATH] = response(b"who are you", status="401 Unauthorized")
        async with notifying(SECRETS, humanlayer_url=f"http://127.0.0.1:{server.port}") as here:
            await here.apply(channel(SLACK))
            task = await here.finished(contactChannelRef="oncall")
            (failed,) = await here.until_all(task, NotificationFailed)
            assert "401" in failed.error
            assert "hl_testtoken" not in failed.error


async def test_a_conflict_after_an_attempt_that_may_have_arrived_means_that_it_did() -> None:
    async with raw_server() as server:
        answers = [response(status="502 Bad Gateway"), response(status="409 Conflict")]

        async def answer(_: Asked, writer: asyncio.StreamWriter) -> None:
            writer.write(answers.pop(0))
            await writer.drain()

        server.paths[PATH] = answer
        async with notifying(SECRETS, humanlayer_url=f"http://127.0.0.1:{server.port}") as here:
            await here.apply(channel(SLACK))
            task = await here.finished(contactChannelRef="oncall")
            (done,) = await here.until_all(task, NotificationDelivered)
            assert [one.status for one in done.tried] == [502, 409]


async def test_a_channel_with_a_bot_s_token_is_told_by_slack_itself() -> None:
    async with raw_server() as server:
        server.paths["/api/chat.postMessage"] = response(b'{"ok":true,"ts":"17.1"}')
        slack = SlackOptions(channel_or_user_id="C1234", bot_token_from=secret("token", "hl"))
        url = f"http://127.0.0.1:{server.port}/api"
        async with notifying(SECRETS, slack_url=url, egress_allow="") as here:
            await here.apply(channel(ContactChannelSpec(type="slack", slack=slack)))
            task = await here.finished("Test result", contactChannelRef="oncall")
            (done,) = await here.until_all(task, NotificationDelivered)
        assert done.thread == "17.1"
        message = json.loads(server.asked[0].body)
        assert message["channel"] == "C1234"
        assert "Test result" in message["text"]


async def test_a_channel_with_a_mail_server_is_sent_mail() -> None:
    with mail_server() as server:
        smtp = SMTPOptions(host="127.0.0.1", port=server.port, security="none", sender="h@example.org")
        mail = EmailOptions(address="ada@example.com", subject="From Holdfast", smtp=smtp)
        async with notifying(SECRETS) as here:
            await here.apply(channel(ContactChannelSpec(type="email", email=mail)))
            task = await here.finished("Test result", contactChannelRef="oncall")
            await here.until_all(task, NotificationDelivered)
        assert server.messages[0]["Subject"] == "From Holdfast"
        assert server.envelopes[0].rcpt_tos == ["ada@example.com"]


async def test_a_channel_that_is_a_webhook_is_posted_a_signed_event() -> None:
    async with raw_server() as server, notifying() as here:
        server.paths["/hook"] = response()
        url = f"http://127.0.0.1:{server.port}/hook"
        hook = WebhookOptions(url=url, signing_secret_from=secret("signing"))
        await here.apply(channel(ContactChannelSpec(type="webhook", webhook=hook)))
        task = await here.finished("Test result", contactChannelRef="oncall")
        await here.until_all(task, NotificationDelivered)
        assert json.loads(server.asked[0].body)["data"]["output"] == "Test result"
        assert server.asked[0].headers["webhook-signature"].startswith("v1,")


async def test_a_console_is_not_told() -> None:
    async with notifying() as here:
        await here.apply(channel(ContactChannelSpec(type="console")))
        task = await here.finished(contactChannelRef="oncall")
        (ended,) = await here.until_all(task, NotificationFailed)
        assert "console" in ended.error
        assert await here.letters() == []
