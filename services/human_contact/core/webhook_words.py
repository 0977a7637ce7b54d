"""What a webhook channel posts, and what is posted back. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal, assert_never

import msgspec

from schemas.events import ApprovalScope
from schemas.ids import digest
from schemas.interactions import AnswerInteraction, InteractionAction, InteractionAnswered, InteractionRequested
from schemas.wire import Strict
from services.human_contact.core.elicitations import host_of
from services.human_contact.core.questions import asking

Event = Literal["interaction.asked", "interaction.reminder", "interaction.over"]
ID_LENGTH = 32


class Posted(Strict, frozen=True, kw_only=True):
    """An answer as it is posted to `/webhook/<namespace>/<channel>`."""

    interaction: str
    task: str
    action: InteractionAction = "accept"
    content: dict[str, Any] | None = None
    """Question: `{"answer": "..."}`. Elicitation: what fits its schema."""
    arguments: str = ""
    """Approval: other arguments than were shown, as the text of a JSON object."""
    comment: str = ""
    by: str = ""
    """Who answers, as the receiver knows them."""
    scope: ApprovalScope = "once"
    digest: str = ""
    """Approval, uncertain: of what was shown; required to accept."""

    def answer(self) -> AnswerInteraction:
        """As the front door takes it."""
        fields = msgspec.structs.asdict(self)
        return AnswerInteraction(**fields, via="webhook")


def message_id(event: Event, asked: InteractionRequested, step: int, at: datetime | None = None) -> str:
    """The id of what is posted: the same whenever the same is posted. `at`: tells reminders apart."""
    stamp = at.isoformat() if at is not None else ""
    place = (asked.namespace, asked.task, asked.interaction, str(step))
    return f"msg_{digest(event, *place, stamp, asking(asked))[:ID_LENGTH]}"


def body(
    event: Event,
    channel: str,
    asked: InteractionRequested,
    at: datetime,
    *,
    about: str = "",
    answered: InteractionAnswered | None = None,
) -> bytes:
    """What is posted: the question, where answers are posted, and with `interaction.over` what became of it.

    `about`: the id of the message that asked, in those that follow it.
    """
    question: dict[str, Any] = {
        "kind": asked.kind,
        "agent": asked.agent,
        "title": asked.title,
        "message": asked.message,
        "expires": asked.expires,
        "quorum": asked.quorum,
        "allowed": asked.allowed,
    }
    match asked.kind:
        case "approval":
            question |= {"tool": asked.tool, "arguments": asked.arguments, "digest": asked.digest}
        case "uncertain":
            question |= {"tool": asked.tool, "arguments": asked.arguments, "digest": asked.digest}
            question |= {"server": asked.server, "begun": asked.began, "attempt": asked.attempt}
        case "elicitation":
            question |= {"tool": asked.tool, "server": asked.server}
            question |= {"schema": asked.schema} if asked.schema is not None else {}
            question |= {"url": asked.url, "host": host_of(asked.url)} if asked.url else {}
        case "question":
            question["choices"] = asked.choices
        case _:
            assert_never(asked.kind)
    data: dict[str, Any] = {
        "namespace": asked.namespace,
        "channel": channel,
        "task": asked.task,
        "interaction": asked.interaction,
        "question": question,
        "answerTo": f"/webhook/{asked.namespace}/{channel}",
    }
    if about:
        data["about"] = about
    if answered is not None:
        data["answered"] = {
            "action": answered.action,
            "by": answered.by,
            "via": answered.via,
            "comment": answered.comment,
            "at": answered.at,
        }
    return msgspec.json.encode({"type": event, "timestamp": at, "data": data})
