"""Slack, without anybody in between: messages with buttons, by the Web API. What people do comes in by HTTP."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from schemas.interactions import InteractionAnswered, InteractionRequested
from schemas.slack_messages import SlackRef, slack_metadata
from services.human_contact.channels.base import ChannelFailed, Question
from services.human_contact.channels.registry import Setup
from services.human_contact.channels.slack_api import SlackApi
from services.human_contact.core.questions import asking
from services.human_contact.core.slack_words import (
    closed_blocks,
    fallback,
    modal,
    question_blocks,
)
from services.runtime.conversations import slack_thread

NO_THREAD = ("thread_not_found", "message_not_found", "invalid_thread_ts", "cannot_reply_to_message")
"""The thread is not there any more, or is another channel's: the question is posted without it."""
CLOSE_WAIT_MAX_S = 5.0
"""How long a message that is over waits for Slack to take it, if Slack says when."""


class SlackChannel:
    """The `Channel` of type `slack`. A place is `<channel>:<message>:<thread>`, in Slack's ids."""

    def __init__(self, setup: Setup) -> None:
        options = setup.spec.slack
        if options is None:
            raise ChannelFailed("slackConfig is required for slack channel type", transient=False)
        self.key = setup.key
        self.signing_secret = setup.secret(options.signing_secret_from, "slack.signingSecretFrom")
        self._api = SlackApi(setup.settings.slack_url, setup.secret(options.bot_token_from, "slack.botTokenFrom"))
        self._to = options.channel_or_user_id
        self._bot_user = ""

    async def deliver(self, question: Question) -> str:
        """Post it, in the conversation that there is about the task."""
        asked, ref = question.asked, self.ref(question.asked)
        message: dict[str, Any] = {
            "channel": self._to,
            "text": fallback(asked),
            "blocks": question_blocks(asked, ref),
            "metadata": slack_metadata("holdfast_question", self.signing_secret, ref),
            "unfurl_links": False,
            "unfurl_media": False,
        }
        if thread := slack_thread(question.thread_id, question.thread):
            try:
                return await self._post({**message, "thread_ts": thread}, thread)
            except ChannelFailed as failed:
                if failed.said not in NO_THREAD:
                    raise
        return await self._post(message, "")

    async def _post(self, message: dict[str, Any], thread: str) -> str:
        posted = await self._api.call("chat.postMessage", message)
        ts = str(posted.get("ts", ""))
        return f"{posted.get('channel', self._to)}:{ts}:{thread or ts}"

    async def remind(self, question: Question, place: str) -> None:
        """Say in the thread, and in the channel, that it is still open."""
        channel, _, thread = _place(place)
        text = f"Still waiting for an answer: {fallback(question.asked)}"
        message = {"channel": channel, "thread_ts": thread, "reply_broadcast": True, "text": text}
        await self._api.call("chat.postMessage", {**message, "unfurl_links": False, "unfurl_media": False})

    async def close(self, question: Question, place: str, answered: InteractionAnswered) -> None:
        """Take the buttons away, and show who answered."""
        channel, ts, _ = _place(place)
        if not ts:
            return
        blocks = closed_blocks(question.asked, answered)
        update = {"channel": channel, "ts": ts, "text": fallback(question.asked), "blocks": blocks}
        try:
            await self._api.call("chat.update", update)
        except ChannelFailed as failed:
            if not failed.transient or not 0 < failed.after_s <= CLOSE_WAIT_MAX_S:
                raise
            await asyncio.sleep(failed.after_s)
            await self._api.call("chat.update", update)

    async def check(self) -> str:
        """Ask Slack who the bot is."""
        await self.bot_user()
        return "Slack channel validated successfully"

    async def end(self) -> None:
        """Close connections."""
        await self._api.close()

    # --- for what comes in ---

    def ref(self, asked: InteractionRequested) -> SlackRef:
        """What a question's buttons carry."""
        return SlackRef(self.key.namespace, self.key.name, asked.task, asked.interaction, asking(asked))

    @property
    def posts_to(self) -> str:
        """The id of the channel that it posts to."""
        return self._to

    async def bot_user(self) -> str:
        """The bot's user id. Raises `ChannelFailed`."""
        if not self._bot_user:
            self._bot_user = str((await self._api.call("auth.test", {})).get("user_id", ""))
        return self._bot_user

    async def open_modal(self, trigger: str, asked: InteractionRequested, action: str) -> None:
        """Ask the person who pressed a button for a text. Raises `ChannelFailed`."""
        view = modal(asked, self.ref(asked), action)
        await self._api.call("views.open", {"trigger_id": trigger, "view": view})

    async def whisper(self, channel: str, user: str, text: str, thread: str = "") -> None:
        """Tell one person something that the others do not see. Raises `ChannelFailed`."""
        escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        message = {"channel": channel, "user": user, "text": escaped}
        await self._api.call("chat.postEphemeral", {**message, "thread_ts": thread} if thread else message)

    async def parent(self, channel: str, thread: str) -> dict[str, Any]:
        """What went along with the message that a thread began with. Raises `ChannelFailed`."""
        arguments = {"channel": channel, "ts": thread, "limit": "1", "include_all_metadata": "true"}
        answer: Any = await self._api.look("conversations.replies", arguments)
        try:
            return msgspec.convert(answer, _Thread).messages[0].metadata
        except (msgspec.ValidationError, IndexError):
            return {}


class _Parent(msgspec.Struct):
    metadata: dict[str, Any] = {}


class _Thread(msgspec.Struct):
    messages: list[_Parent] = []


def make(setup: Setup) -> SlackChannel:
    """The channel of a ContactChannel resource."""
    return SlackChannel(setup)


def _place(place: str) -> tuple[str, str, str]:
    channel, _, rest = place.partition(":")
    ts, _, thread = rest.partition(":")
    return channel, ts, thread or ts


def posted_at(place: str) -> str:
    """When the message at a place was posted, by Slack's clock."""
    return _place(place)[1]
