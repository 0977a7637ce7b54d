"""The words of the HumanLayer API, as whoever speaks to it needs them. Pure."""

from __future__ import annotations

from typing import Any

from schemas.resources import ContactChannelSpec
from services.runtime.conversations import mail_thread, slack_thread

ROOT = "/humanlayer/v1"
IDS_BYTES_MAX = 64
"""Of `run_id` and `call_id` together: the API takes no more."""


def run_id(name: str, call_id: str) -> str:
    """As much of a name as there is room for beside a call's id."""
    return name.encode()[: IDS_BYTES_MAX - len(call_id.encode())].decode(errors="ignore")


def channel_of(spec: ContactChannelSpec, thread_id: str = "") -> dict[str, Any] | None:
    """Where a message goes; None with a channel's own key, which says it by itself.

    `thread_id`: the caller's name for a thread, which counts if it is one of Slack's or of e-mail's.
    """
    if spec.api_key_from is None:
        return None
    if spec.type == "slack" and spec.slack is not None:
        slack: dict[str, Any] = {"channel_or_user_id": spec.slack.channel_or_user_id}
        if spec.slack.context_about_channel_or_user:
            slack["context_about_channel_or_user"] = spec.slack.context_about_channel_or_user
        if spec.slack.allowed_responder_ids:
            slack["allowed_responder_ids"] = spec.slack.allowed_responder_ids
        if thread := slack_thread(thread_id):
            slack["thread_ts"] = thread
        return {"slack": slack}
    if spec.email is not None:
        email: dict[str, Any] = {"address": spec.email.address}
        if spec.email.context_about_user:
            email["context_about_user"] = spec.email.context_about_user
        if spec.email.subject:
            email["experimental_subject_line"] = spec.email.subject
        if thread := mail_thread(thread_id):
            email["experimental_in_reply_to_message_id"] = thread
            email["experimental_references_message_id"] = thread
        return {"email": email}
    return {}
