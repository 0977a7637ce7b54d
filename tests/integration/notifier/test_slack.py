"""Slack's Web API and incoming webhooks, as a server of this machine that holds to their documented forms."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from schemas.notifications import NotificationDelivered, NotificationFailed
from schemas.resources import SlackSink
from services.notifier.core import machine
from tests.support.notifying import notifying, secret
from tests.support.raw_http import Asked, raw_server, response

SECRETS = {"HOLDFAST_SECRET_OPS_TOKEN": "xoxb-1"}
METHOD = "/api/chat.postMessage"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "BACKOFF_BASE_S", 0.1)
    monkeypatch.setattr(machine, "BACKOFF_MAX_S", 0.1)


class Slack:
    """What `chat.postMessage` does: it takes JSON with a bearer token, and answers 200 with `ok` and `ts`."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.answers: list[bytes] = []

    async def __call__(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(self._answer(asked))
        await writer.drain()

    def _answer(self, asked: Asked) -> bytes:
        if self.answers:
            return self.answers.pop(0)
        if asked.headers.get("authorization") != "Bearer xoxb-1":
            return said(ok=False, error="invalid_auth")
        if not asked.headers["content-type"].startswith("application/json"):
            return said(ok=False, error="invalid_post_type")
        message = json.loads(asked.body)
        if message["channel"] != "C0123":
            return said(ok=False, error="channel_not_found")
        self.messages.append(message)
        return said(ok=True, channel="C0123", ts=f"1700000000.00000{len(self.messages)}")


def said(**fields: object) -> bytes:
    return response(json.dumps(fields).encode(), kind="application/json")


def room(port: int, channel: str = "C0123", **fields: Any) -> SlackSink:
    return SlackSink(channel=channel, token_from=secret("token"), api_url=f"http://127.0.0.1:{port}/api", **fields)


async def test_a_channel_reads_which_task_it_was_and_what_came_of_it() -> None:
    async with raw_server() as server, notifying(SECRETS) as here:
        server.paths[METHOD] = slack = Slack()
        await here.subscribe("room", slack=room(server.port))
        task = await here.finished("12 < 13 & noon")
        (done,) = await here.until_all(task, NotificationDelivered)
        (message,) = slack.messages
        assert task.task in message["text"]
        assert "12 &lt; 13 &amp; noon" in message["text"]
        assert message["metadata"] == {"event_type": "holdfast_task_ended", "event_payload": {"id": done.id}}
        assert "thread_ts" not in message
        assert done.thread == "1700000000.000001"


async def test_messages_about_one_task_that_go_the_same_way_are_one_thread_in_their_order() -> None:
    async with raw_server() as server, notifying(SECRETS) as here:
        server.paths[METHOD] = slack = Slack()
        slack.answers = [said(ok=False, error="service_unavailable")]
        for name in ("one", "two", "three"):
            await here.subscribe(name, slack=room(server.port))
        task = await here.finished()
        done = await here.until_all(task, NotificationDelivered, 3)
        assert [one.name for one in done] == ["one", "three", "two"]
        ids = [message["metadata"]["event_payload"]["id"] for message in slack.messages]
        assert ids == [one.id for one in done]
        assert [message.get("thread_ts") for message in slack.messages] == [None, *["1700000000.000001"] * 2]
        other = await here.finished(userMessage="another")
        await here.until_all(other, NotificationDelivered, 3)
        assert "thread_ts" not in slack.messages[3]


@pytest.mark.parametrize("error", ["channel_not_found", "invalid_auth", "something_new"])
async def test_what_slack_says_for_good_is_a_dead_letter(error: str) -> None:
    async with raw_server() as server, notifying(SECRETS) as here:
        server.paths[METHOD] = slack = Slack()
        slack.answers = [said(ok=False, error=error)]
        await here.subscribe("room", slack=room(server.port))
        task = await here.finished()
        (failed,) = await here.until_all(task, NotificationFailed)
        assert error in failed.error


async def test_a_limit_of_slack_is_waited_for() -> None:
    async with raw_server() as server, notifying(SECRETS) as here:
        server.paths[METHOD] = slack = Slack()
        slack.answers = [response(status="429 Too Many Requests", Retry_After="1"), response(b"<html>")]
        await here.subscribe("room", slack=room(server.port))
        task = await here.finished()
        (done,) = await here.until_all(task, NotificationDelivered)
        assert (done.tried[1].at - done.tried[0].at).total_seconds() >= 1
        assert done.attempts == 3


async def test_an_incoming_webhook_is_a_secret_address() -> None:
    async with raw_server() as server:
        url = f"http://127.0.0.1:{server.port}/services/T0/B0/XXX"
        async with notifying({"HOLDFAST_SECRET_OPS_HOOK": url}) as here:
            server.paths["/services/T0/B0/XXX"] = response(b"ok")
            await here.subscribe("hook", slack=SlackSink(webhook_from=secret("hook")))
            task = await here.finished()
            await here.until_all(task, NotificationDelivered)
            assert task.task in json.loads(server.asked[0].body)["text"]
            status = await here.bus.resources.get("status.Subscription.default.hook")
            assert status is not None
            assert b"XXX" not in (status.data or b"")
