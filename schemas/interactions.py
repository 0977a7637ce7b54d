"""Interactions: what a person is asked in the middle of a task, and what was answered; each recorded once.

A tool's server asks while its call runs (MCP's elicitation); people are asked to approve a call before it is made, and
what becomes of one that was begun and whose outcome nobody knows; and a model asks a person by a call of its own.
What is asked is a stranger's words: it is bounded and shown as what it is. An answer is recorded by the planner, which
takes it from anybody who may send requests, or by whoever asked: when nobody answered in time, or when there is nobody
left to tell the answer to.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any, Literal, NamedTuple

import msgspec

from schemas.events import ApprovalScope
from schemas.wire import Instant, Strict, Wire

MESSAGE_LENGTH_MAX = 8_000
URL_LENGTH_MAX = 2_000
SCHEMA_BYTES_MAX = 64 * 1024
CONTENT_BYTES_MAX = 256 * 1024
BY_LENGTH_MAX = 200
COMMENT_LENGTH_MAX = 4_000
PATIENCE = timedelta(days=3660)
"""How long a question waits whose task has no deadline."""

InteractionAction = Literal["accept", "decline", "cancel"]
"""`accept`: here is what you asked for; `decline`: no; `cancel`: no answer, and nobody said no."""
AnsweredVia = Literal["request", "expired", "withdrawn", "slack", "email", "webhook", "humanlayer"]
"""`request`: somebody answered on the bus; `expired`: nobody did in time; `withdrawn`: what it was asked for has ended;
the others: through that kind of channel."""
InteractionKind = Literal["elicitation", "approval", "question", "uncertain"]
"""`uncertain`: a call was begun and nobody knows how it ended; `accept`: make it again; `decline`: leave it."""

_INTERACTION = re.compile(r"(r[1-9][0-9]{0,8})\.([1-9][0-9]{0,5})\.(0|[1-9][0-9]{0,5})")


class InteractionRequested(Wire, frozen=True, kw_only=True, tag="interaction.requested.v1"):
    """A person is asked for something."""

    kind: InteractionKind = "elicitation"
    namespace: str
    task: str
    interaction: str
    """Its id in the task: `<request>.<call>.<question>`."""
    message: str
    """In the words of whoever asks."""
    schema: dict[str, Any] | None = None
    """What is wanted: an object that fits this JSON Schema."""
    url: str = ""
    """Instead of `schema`: where the person is to go; `accept` says that they do."""
    agent: str
    tool: str
    """The tool whose call asks, as the model calls it."""
    server: str = ""
    """Elicitation: the server that asks. Uncertain: the one that was called."""
    at: Instant
    expires: Instant
    """When nobody needs to answer any more."""
    tool_call_id: str = ""
    arguments: str = ""
    """Approval, uncertain: the call's arguments, exactly as they would be used, or were."""
    digest: str = ""
    """Approval, uncertain: of the tool and these arguments; what an approval is bound to."""
    choices: tuple[str, ...] = ()
    """Question: the answers to choose from, if there are only some."""
    channel: str = ""
    """The ContactChannel that is asked first."""
    quorum: int = 1
    """How many different people must accept. One who declines is enough."""
    allowed: tuple[str, ...] = ()
    """Who may answer through the first channel; empty: whoever it reaches. Later ones say it themselves."""
    title: str = ""
    """What the task is about: the beginning of what its user asked."""
    began: Instant | None = None
    """Uncertain: when the call was begun, for the time that is asked about."""
    attempt: int = 0
    """Uncertain: which time that was, from 1."""


class InteractionStep(Wire, frozen=True, kw_only=True, tag="interaction.step.v1"):
    """A channel was asked: the first, or the one that a question was escalated to."""

    interaction: str
    step: int
    """From 0."""
    channel: str
    at: Instant
    until: Instant | None = None
    """How long it has to answer."""
    delivered: bool = False
    """Whether the channel has it; if not, somebody is at it, or died at it."""
    place: str = ""
    """Where the channel keeps the question, in its own words: a message's id, a thread."""
    reminded: int = 0
    """The last reminder, counted by the times at which they are due."""
    refused: str = ""
    """Why the channel takes no more for good: not the question, or if that is `delivered`, no reminders."""
    allowed: tuple[str, ...] = ()
    """Who may answer through this channel; empty: whoever it reaches."""


class InteractionAnswered(Wire, frozen=True, kw_only=True, tag="interaction.answered.v1"):
    """It was answered, or nobody can answer it any more."""

    namespace: str
    task: str
    interaction: str
    action: InteractionAction
    content: dict[str, Any] | None = None
    """With `accept`, where a schema was given: what was asked for."""
    at: Instant
    by: str = ""
    """Who answered, in their own words, or as their channel knows them."""
    via: AnsweredVia = "request"
    scope: ApprovalScope = "once"
    """Approval, accepted: for how long."""
    arguments: str = ""
    """Approval, accepted: what the person made of the arguments; empty: as they were shown."""
    comment: str = ""
    """In the person's words; with `decline`, the model is told."""


class AnswerInteraction(Strict, frozen=True, kw_only=True):
    """A request to answer an interaction: `{"task": "t1", "interaction": "r2.1.1", "action": "decline"}`."""

    task: str = ""
    interaction: str = ""
    action: InteractionAction = "accept"
    content: dict[str, Any] | None = None
    """Elicitation: what was asked for. Question: `{"answer": "..."}`."""
    by: str = ""
    via: AnsweredVia = "request"
    scope: ApprovalScope = "once"
    arguments: str = ""
    """Approval: other arguments than were shown, as the text of a JSON object."""
    comment: str = ""
    digest: str = ""
    """Approval, uncertain: of what was shown to the person. If it is given, it must be what is asked."""
    channel: str = ""
    """The ContactChannel that it came by; empty: by none, on the bus."""


class InteractionId(NamedTuple):
    """The parts of an interaction's id."""

    request: str
    n: int
    """The call."""
    k: int
    """The question: from 1 those of the call's tool; 0 the one about the call itself."""


def interaction_id(request: str, n: int, k: int) -> str:
    """The id of the question `k` of the call `n` of a request."""
    return f"{request}.{n}.{k}"


def parse_interaction_id(text: str) -> InteractionId:
    """The parts of an id; raises `ValueError` if it is none."""
    match = _INTERACTION.fullmatch(text)
    if match is None:
        raise ValueError(f"interaction {text[:60]!r} is no id of one; they look like r2.1.1")
    return InteractionId(match[1], int(match[2]), int(match[3]))


def same_question(one: InteractionRequested, other: InteractionRequested) -> bool:
    """Whether the same is asked, perhaps at another time."""
    return msgspec.structs.replace(one, at=other.at, expires=other.expires) == other


class PeopleDue(Wire, frozen=True, kw_only=True, tag="people.due.v1"):
    """A wake-up about a question. It decides nothing by itself: what is recorded does."""

    interaction: str
    due: Instant
    look_at: Instant | None = None
    """When a channel that keeps its answers may be asked again, if it was asked too often just now."""
