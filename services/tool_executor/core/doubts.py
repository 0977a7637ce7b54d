"""Calls whose outcome nobody knows: what people are asked about one, and what their answer makes of it. Pure."""

from __future__ import annotations

from datetime import datetime

import msgspec

from schemas.events import ToolStarted
from schemas.ids import call_digest
from schemas.interactions import (
    MESSAGE_LENGTH_MAX,
    PATIENCE,
    InteractionAnswered,
    InteractionRequested,
    interaction_id,
)
from schemas.messages import ToolCall

MAYBE = "It had been started, so it may or may not have taken effect. Find out before you repeat it."
ANOTHER_CALL = "What was answered is about another call than this one, so nothing was done."


class Doubt(msgspec.Struct, frozen=True, kw_only=True):
    """A call that was begun."""

    namespace: str
    task: str
    agent: str
    request: str
    n: int
    call: ToolCall
    """As it was made: with the arguments that were approved, if people approved it."""
    server: str
    entry: ToolStarted
    """The ledger's, of the time whose outcome nobody knows."""
    why: str
    """Why nobody does, in a sentence or two."""


class MakeAgain(msgspec.Struct, frozen=True):
    """Somebody wants the call to be made again."""


class Leave(msgspec.Struct, frozen=True):
    """The call is not made again; what the model is told of it."""

    text: str


Verdict = MakeAgain | Leave


def question_about(
    doubt: Doubt,
    *,
    k: int,
    channel: str,
    allowed: tuple[str, ...],
    quorum: int,
    title: str,
    deadline: datetime | None,
    at: datetime,
) -> InteractionRequested:
    """What people are asked."""
    began = doubt.entry.at.strftime("%Y-%m-%d %H:%M:%S UTC")
    again = f", for the {doubt.entry.attempt}. time" if doubt.entry.attempt > 1 else ""
    message = (
        f"This call was begun at {began}{again} by {doubt.entry.replica}, and nobody knows how it ended: it may have"
        f" taken effect, or not. {doubt.why} Find out, and say whether it is made again or left as it is."
    )
    return InteractionRequested(
        kind="uncertain",
        namespace=doubt.namespace,
        task=doubt.task,
        interaction=interaction_id(doubt.request, doubt.n, k),
        message=message[:MESSAGE_LENGTH_MAX],
        agent=doubt.agent,
        tool=doubt.call.name,
        server=doubt.server,
        at=at,
        expires=min(deadline, at + PATIENCE) if deadline is not None else at + PATIENCE,
        tool_call_id=doubt.call.id,
        arguments=doubt.call.arguments,
        digest=call_digest(doubt.call.name, doubt.call.arguments),
        channel=channel,
        quorum=quorum,
        allowed=allowed,
        title=title,
        began=doubt.entry.at,
        attempt=doubt.entry.attempt,
    )


def is_about(asked: InteractionRequested, entry: ToolStarted) -> bool:
    """Whether a question is the one about that time that a call was begun."""
    return asked.kind == "uncertain" and (asked.began, asked.attempt) == (entry.at, entry.attempt)


def verdict_of(doubt: Doubt, asked: InteractionRequested, answered: InteractionAnswered) -> Verdict:
    """What an answer makes of the call that it is about."""
    if asked.digest != call_digest(doubt.call.name, doubt.call.arguments):
        return Leave(f"{ANOTHER_CALL} {MAYBE}")
    if answered.via in ("expired", "withdrawn"):
        said = answered.comment or "Nobody answered in time."
        return Leave(f"{doubt.why} People were asked what to do. {said} {MAYBE}")
    if answered.action == "accept":
        return MakeAgain()
    who = answered.by or "Somebody"
    comment = f", and said: {answered.comment}" if answered.comment else ", without a comment."
    return Leave(
        f"{doubt.why} It had been started, so it may or may not have taken effect."
        f" {who} was asked, and left it as it is{comment}"
    )
