"""From a call to what people are asked about it. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from schemas.commands import AskPerson
from schemas.contact_channels import allowed_of
from schemas.ids import call_digest, digest
from schemas.interactions import MESSAGE_LENGTH_MAX, PATIENCE, InteractionRequested, interaction_id
from schemas.messages import AssistantMessage, ToolCall
from schemas.resources import ContactChannelSpec

ASKING_LENGTH = 26
WHY_LENGTH_MAX = 2_000
CHOICES_MAX = 20
CHOICE_LENGTH_MAX = 200


class Unaskable(ValueError):
    """A call that is no question to a person. The text is for the model."""


def question_of(
    command: AskPerson,
    answer: AssistantMessage,
    *,
    channel: ContactChannelSpec,
    title: str,
    deadline: datetime | None,
    at: datetime,
) -> InteractionRequested:
    """What people are asked about a call; raises `Unaskable`."""
    call = answer.tool_calls[command.n - 1]
    message, choices = _asked(command, call, answer.content)
    return InteractionRequested(
        kind=command.kind,
        namespace=command.namespace,
        task=command.task,
        interaction=interaction_id(command.request, command.n, 0),
        message=message,
        agent=command.agent,
        tool=call.name,
        at=at,
        expires=min(deadline, at + PATIENCE) if deadline is not None else at + PATIENCE,
        tool_call_id=call.id,
        arguments=call.arguments if command.kind == "approval" else "",
        digest=call_digest(call.name, call.arguments) if command.kind == "approval" else "",
        choices=choices,
        channel=command.channel,
        quorum=max(channel.quorum, 1) if command.kind == "approval" else 1,
        allowed=allowed_of(channel),
        title=title,
    )


def asking(asked: InteractionRequested) -> str:
    """What links, buttons, replies and other systems' ids are bound to: this question, as it was asked this once.

    Ids of questions are a task's, and a task's name may be another task's when it was deleted.
    """
    at = asked.at.astimezone(UTC).isoformat()
    return digest("asking", asked.kind, at, asked.digest, asked.message)[:ASKING_LENGTH]


def _asked(command: AskPerson, call: ToolCall, why: str) -> tuple[str, tuple[str, ...]]:
    if command.kind == "approval":
        return why.strip()[:WHY_LENGTH_MAX], ()
    try:
        arguments: Any = msgspec.json.decode(call.arguments or "{}")
    except (msgspec.DecodeError, RecursionError) as error:
        raise Unaskable(f"the arguments are not valid JSON: {error}") from error
    fields: dict[str, Any] = arguments if isinstance(arguments, dict) else {}  # pyright: ignore[reportUnknownVariableType] - any JSON
    message, choices = fields.get("message"), fields.get("choices", [])
    if not isinstance(message, str) or not message.strip():
        raise Unaskable("missing or invalid 'message' argument: say in it what the person is asked")
    if not isinstance(choices, list):
        raise Unaskable("invalid 'choices' argument: it must be a list of texts")
    texts = [choice for choice in choices if isinstance(choice, str)]  # pyright: ignore[reportUnknownVariableType] - any JSON
    if len(texts) != len(choices) or len(texts) > CHOICES_MAX or any(len(text) > CHOICE_LENGTH_MAX for text in texts):  # pyright: ignore[reportUnknownArgumentType] - any JSON
        raise Unaskable(f"invalid 'choices' argument: {CHOICES_MAX} texts of {CHOICE_LENGTH_MAX} characters at most")
    return message[:MESSAGE_LENGTH_MAX], tuple(texts)
