"""A server that speaks as Slack does: its Web API, strict about the documented forms, and its signed requests to us."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime
from typing import Any
from urllib.parse import parse_qs, urlencode

import httpx2

from tests.support.raw_http import Asked, raw_server, response
from tests.support.waiting import until

BOT = "UBOT"
TOKEN = "xoxb-1"
SIGNING_SECRET = "8f742231b10e8888abcd99yyyzzz85a5"
CHANNEL = "C0123"

Message = dict[str, Any]


class Slack:
    """One workspace, with one bot in one channel."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.whispers: list[Message] = []
        self.views: list[Message] = []
        self.calls: list[str] = []
        self.answers: dict[str, list[bytes]] = {}
        """What the next calls of a method are answered, whatever they say."""
        self.url = ""
        self._triggers: set[str] = set()
        self._n = 0

    # --- the Web API ---

    async def __call__(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(self._answer(asked))
        await writer.drain()

    def _answer(self, asked: Asked) -> bytes:
        method = asked.target.partition("?")[0].rpartition("/")[2]
        self.calls.append(method)
        if self.answers.get(method):
            return self.answers[method].pop(0)
        if asked.headers.get("authorization") != f"Bearer {TOKEN}":
            return said(ok=False, error="invalid_auth")
        if method == "conversations.replies":
            query = parse_qs(asked.target.partition("?")[2])
            return self._replies({name: values[0] for name, values in query.items()})
        if asked.headers["content-type"] != "application/json; charset=utf-8":
            return said(ok=False, error="invalid_post_type")
        handlers: dict[str, Callable[[Message], bytes]] = {
            "auth.test": lambda _: said(ok=True, user_id=BOT, team_id="T1"),
            "chat.postMessage": self._post,
            "chat.update": self._update,
            "chat.postEphemeral": self._whisper,
            "views.open": self._open,
        }
        try:
            return handlers[method](json.loads(asked.body))
        except AssertionError as wrong:
            return said(ok=False, error="invalid_blocks", response_metadata={"messages": [str(wrong)]})

    def _post(self, message: Message) -> bytes:
        if message["channel"] != CHANNEL:
            return said(ok=False, error="channel_not_found")
        check_blocks(message.get("blocks", []))
        thread = message.get("thread_ts")
        if thread and not any(one["ts"] == thread and "thread_ts" not in one for one in self.messages):
            return said(ok=False, error="thread_not_found")
        self._n += 1
        message["ts"] = f"1700000000.{self._n:06}"
        self.messages.append(message)
        return said(ok=True, channel=CHANNEL, ts=message["ts"], message=message)

    def _update(self, update: Message) -> bytes:
        check_blocks(update.get("blocks", []))
        for message in self.messages:
            if (update["channel"], update["ts"]) == (CHANNEL, message["ts"]):
                message["updated"] = update
                return said(ok=True, ts=message["ts"])
        return said(ok=False, error="message_not_found")

    def _whisper(self, message: Message) -> bytes:
        assert message["channel"] == CHANNEL
        assert message["user"]
        self.whispers.append(message)
        return said(ok=True, message_ts="1.1")

    def _open(self, asked: Message) -> bytes:
        if asked["trigger_id"] not in self._triggers:
            return said(ok=False, error="expired_trigger_id")
        self._triggers.discard(asked["trigger_id"])
        check_view(asked["view"])
        self.views.append(asked["view"])
        return said(ok=True, view=asked["view"])

    def _replies(self, query: Mapping[str, str]) -> bytes:
        assert query["include_all_metadata"] == "true"
        found = [message for message in self.messages if message["ts"] == query["ts"]]
        return said(ok=True, messages=found) if found else said(ok=False, error="thread_not_found")

    # --- what people do ---

    async def posted(self, count: int = 1) -> Message:
        """Wait for so many messages; the last."""
        await until(lambda: len(self.messages) >= count, f"{count} messages in Slack; there were {self.calls}")
        return self.messages[count - 1]

    async def closed(self, message: Message) -> str:
        """Wait until a message shows that it is over; its text."""
        await until(lambda: "updated" in message, "the message is updated", within_s=10)
        assert not any(block["type"] == "actions" for block in message["updated"]["blocks"])
        return json.dumps(message["updated"]["blocks"], ensure_ascii=False)

    def button(self, message: Message, name: str) -> Message:
        """A button of a message."""
        elements: list[Message] = [
            one for block in message["blocks"] if block["type"] == "actions" for one in block["elements"]
        ]
        (found,) = [one for one in elements if one["action_id"] == f"holdfast_{name}"]
        return found

    async def press(self, message: Message, name: str, user: str = "UANN", **signing: Any) -> httpx2.Response:
        """Press a button."""
        return await self.interact(self.pressing(message, name, user), **signing)

    def pressing(self, message: Message, name: str, user: str = "UANN") -> Message:
        """What Slack sends when somebody presses a button."""
        self._n += 1
        trigger = f"trigger-{self._n}"
        self._triggers.add(trigger)
        button = self.button(message, name)
        action = {"type": "button", "block_id": "holdfast", "action_ts": "1.2", **button}
        return {
            "type": "block_actions",
            "api_app_id": "A1",
            "team": {"id": "T1", "domain": "example"},
            "user": {"id": user, "username": "ann", "team_id": "T1"},
            "container": {"type": "message", "message_ts": message["ts"], "channel_id": CHANNEL, "is_ephemeral": False},
            "channel": {"id": CHANNEL, "name": "ops"},
            "trigger_id": trigger,
            "response_url": "https://hooks.slack.com/actions/T1/1/x",
            "actions": [action],
        }

    async def submit(self, view: Message, text: str | None, user: str = "UANN", **signing: Any) -> httpx2.Response:
        """Send the window that was opened, with a text in its one input."""
        return await self.fill_in(view, {"text": {"type": "plain_text_input", "value": text}}, user, **signing)

    async def fill_in(
        self, view: Message, inputs: Mapping[str, Message], user: str = "UANN", **signing: Any
    ) -> httpx2.Response:
        """Send the window that was opened, with the state of these inputs, whose blocks are named like them."""
        values = {name: {name: state} for name, state in inputs.items()}
        payload: Message = {
            "type": "view_submission",
            "team": {"id": "T1"},
            "user": {"id": user},
            "view": {"id": "V1", "state": {"values": values}, **view},
            "response_urls": [],
        }
        return await self.interact(payload, **signing)

    async def interact(self, payload: Message, **signing: Any) -> httpx2.Response:
        """Send an interaction."""
        body = urlencode({"payload": json.dumps(payload)}).encode()
        return await self.request("interactivity", body, kind="application/x-www-form-urlencoded", **signing)

    async def say(self, text: str, *, thread: str, user: str = "UANN", **more: Any) -> httpx2.Response:
        """Somebody replies in a thread."""
        message = {"type": "message", "channel": CHANNEL, "user": user, "text": text, "ts": "1800000000.1"}
        event = {**message, "thread_ts": thread, "parent_user_id": BOT, **more}
        return await self.event({"type": "event_callback", "team_id": "T1", "event_id": "Ev1", "event": event})

    async def event(self, event: Message, **signing: Any) -> httpx2.Response:
        """Send an event."""
        return await self.request("events", json.dumps(event).encode(), kind="application/json", **signing)

    async def request(
        self,
        path: str,
        body: bytes,
        *,
        kind: str,
        secret: str = SIGNING_SECRET,
        age_s: float = 0.0,
        headers: Mapping[str, str] | None = None,
    ) -> httpx2.Response:
        """Post something that is signed."""
        stamp = str(int(datetime.now(UTC).timestamp() - age_s))
        base = b"v0:" + stamp.encode() + b":" + body
        signed = "v0=" + hmac.new(secret.encode(), base, hashlib.sha256).hexdigest()
        given = {
            "Content-Type": kind,
            "X-Slack-Request-Timestamp": stamp,
            "X-Slack-Signature": signed,
            **(headers or {}),
        }
        async with httpx2.AsyncClient(trust_env=False) as client:
            return await client.post(f"{self.url}/slack/{path}", content=body, headers=given)


def said(status: str = "200 OK", **fields: object) -> bytes:
    """An answer of the API."""
    return response(json.dumps(fields).encode(), status=status, kind="application/json")


def check_blocks(blocks: list[Message]) -> None:
    """The limits of Block Kit, as they are documented."""
    assert len(blocks) <= 50
    actions: list[str] = []
    for block in blocks:
        match block["type"]:
            case "header":
                check_text(block["text"], 150, plain=True)
            case "section":
                check_text(block["text"], 3000)
            case "context":
                assert 1 <= len(block["elements"]) <= 10
                for element in block["elements"]:
                    check_text(element, 3000)
            case "rich_text":
                for element in block["elements"]:
                    assert element["type"] == "rich_text_preformatted"
                    assert all(part["type"] == "text" and part["text"] for part in element["elements"])
            case "actions":
                assert 1 <= len(block["elements"]) <= 25
                for element in block["elements"]:
                    assert element["type"] == "button"
                    check_text(element["text"], 75, plain=True)
                    assert len(element["value"]) <= 2000
                    assert element.get("style") in (None, "primary", "danger")
                    if confirm := element.get("confirm"):
                        check_text(confirm["title"], 100, plain=True)
                        check_text(confirm["text"], 300)
                    actions.append(element["action_id"])
            case other:
                raise AssertionError(f"unknown block {other}")
    assert len(set(actions)) == len(actions)


def check_text(text: Message, length: int, *, plain: bool = False) -> None:
    assert text["type"] == "plain_text" or (not plain and text["type"] == "mrkdwn")
    assert 1 <= len(text["text"]) <= length, f"{len(text['text'])} characters, {length} at most"


def check_view(view: Message) -> None:
    """The limits of a modal."""
    assert view["type"] == "modal"
    for part in ("title", "submit", "close"):
        check_text(view[part], 24, plain=True)
    assert len(view["private_metadata"]) <= 3000
    assert 1 <= len(view["blocks"]) <= 100
    names = [block["block_id"] for block in view["blocks"] if block["type"] == "input"]
    assert len(set(names)) == len(names)
    for block in view["blocks"]:
        if block["type"] == "section":
            check_text(block["text"], 3000, plain=True)
            continue
        assert block["type"] == "input"
        check_text(block["label"], 2000, plain=True)
        if "hint" in block:
            check_text(block["hint"], 2000, plain=True)
        check_element(block["element"])


def check_element(field: Message) -> None:
    """The limits of an input."""
    allowed = {
        "plain_text_input": {"multiline", "max_length", "initial_value"},
        "number_input": {"is_decimal_allowed", "initial_value"},
        "email_text_input": {"initial_value"},
        "url_text_input": {"initial_value"},
        "datepicker": {"initial_date"},
        "static_select": {"options", "initial_option"},
        "multi_static_select": {"options", "initial_options"},
    }[field["type"]]
    assert set(field) - {"type", "action_id"} <= allowed, field
    assert len(field["action_id"]) <= 255
    if "initial_value" in field:
        assert 1 <= len(field["initial_value"]) <= field.get("max_length", 3000)
    assert field.get("max_length", 3000) <= 3000
    if field["type"] == "number_input":
        assert isinstance(field["is_decimal_allowed"], bool)
        float(field.get("initial_value", "0"))
    if "initial_date" in field:
        date.fromisoformat(field["initial_date"])
    if "options" in field:
        assert 1 <= len(field["options"]) <= 100
        for option in field["options"]:
            check_text(option["text"], 75, plain=True)
            assert 1 <= len(option["value"]) <= 75
        assert field.get("initial_option", field["options"][0]) in field["options"]
        assert all(one in field["options"] for one in field.get("initial_options", []))


@asynccontextmanager
async def slack_server() -> AsyncGenerator[tuple[Slack, str]]:
    """A running server, and the base of its API."""
    slack = Slack()
    async with raw_server() as server:
        for method in (
            *("auth.test", "chat.postMessage", "chat.update", "chat.postEphemeral", "views.open"),
            "conversations.replies",
        ):
            server.paths[f"/api/{method}"] = slack
        yield slack, f"http://127.0.0.1:{server.port}/api"
