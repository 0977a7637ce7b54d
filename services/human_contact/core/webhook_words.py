"""What a webhook channel posts, and what is posted back. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

import msgspec

from schemas.events import ApprovalScope
from schemas.ids import digest
from schemas.interactions import AnswerInteraction, InteractionAction, InteractionAnswered, InteractionRequested
from schemas.wire import Strict
from services.human_contact.core.questions import asking

Event = Literal["interaction.asked", "interaction.reminder", "interaction.over"]
ID_LENGTH = 32


class Posted(Strict, frozen=True, kw_only=True):
    """An answer as it is posted to `/webhook/<namespace>/<channel>`."""

    interaction: str
    task: str
    action: InteractionAction = "accept"
    content: dict[str, Any] | None = None
    """Question: `{"answer": "..."}`."""
    arguments: str = ""
    """Approval: other arguments than were shown, as the text of a JSON object."""
    comment: str = ""
    by: str = ""
    """Who answers, as the receiver knows them."""
    scope: ApprovalScope = "once"
    digest: str = ""
    """Approval: of what was shown."""

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
    if asked.kind == "approval":
        question |= {"tool": asked.tool, "arguments": asked.arguments, "digest": asked.digest}
    else:
        question["choices"] = asked.choices
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
