"""What goes along with our messages in Slack, unseen: whose they are, to know a reply or a pressed button by."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any, Literal

import msgspec

SlackMessageKind = Literal["holdfast_question", "holdfast_task_ended"]
"""Somebody was asked something; somebody was told a task's answer."""


class SlackRef(msgspec.Struct, frozen=True, array_like=True):
    """What a message or a button is about. It comes back from Slack, and is believed once that is signed."""

    namespace: str
    channel: str
    """The ContactChannel."""
    task: str
    interaction: str = ""
    asking: str = ""
    """Which question it was when the message was made (`core/questions.py`): names of tasks come again."""
    choice: int = -1

    def text(self) -> str:
        """As Slack keeps it."""
        return msgspec.json.encode(self).decode()


def slack_ref_of(text: str) -> SlackRef | None:
    """What Slack kept, or None."""
    try:
        return msgspec.json.decode(text.encode(), type=SlackRef)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        return None


def slack_metadata(kind: SlackMessageKind, secret: str, ref: SlackRef) -> dict[str, Any]:
    """What goes along with a message. `secret`: the channel's signing secret."""
    return {"event_type": kind, "event_payload": {"ref": ref.text(), "mac": slack_mac(secret, ref)}}


def slack_mac(secret: str, ref: SlackRef) -> str:
    """Shows that a message was ours, when somebody replies to it."""
    named = msgspec.json.encode([ref.namespace, ref.channel, ref.task, ref.interaction, ref.asking])
    return hmac.new(secret.encode(), b"holdfast-thread." + named, hashlib.sha256).hexdigest()
