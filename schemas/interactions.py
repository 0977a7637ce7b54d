"""Interactions: what a person is asked in the middle of a task, and what was answered; each recorded once.

Today a tool's server asks, while its call runs (MCP's elicitation). What is asked is a stranger's words: it is bounded
and shown as what it is. An answer is recorded by the planner, which takes it from anybody who may send requests, or by
whoever asked: when nobody answered in time, or when there is nobody left to tell the answer to.
"""

from __future__ import annotations

import re
from typing import Any, Literal, NamedTuple

import msgspec

from schemas.wire import Instant, Strict, Wire

MESSAGE_LENGTH_MAX = 8_000
URL_LENGTH_MAX = 2_000
SCHEMA_BYTES_MAX = 64 * 1024
CONTENT_BYTES_MAX = 256 * 1024
BY_LENGTH_MAX = 200

InteractionAction = Literal["accept", "decline", "cancel"]
"""`accept`: here is what you asked for; `decline`: no; `cancel`: no answer, and nobody said no."""
AnsweredVia = Literal["request", "expired", "withdrawn"]
"""`request`: somebody answered; `expired`: nobody did in time; `withdrawn`: what it was asked for has ended."""

_INTERACTION = re.compile(r"(r[1-9][0-9]{0,8})\.([1-9][0-9]{0,5})\.([1-9][0-9]{0,5})")


class InteractionRequested(Wire, frozen=True, kw_only=True, tag="interaction.requested.v1"):
    """A person is asked for something."""

    kind: Literal["elicitation"] = "elicitation"
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
    server: str
    at: Instant
    expires: Instant


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
    """Who answered, in their own words."""
    via: AnsweredVia = "request"


class AnswerInteraction(Strict, frozen=True, kw_only=True):
    """A request to answer an interaction: `{"task": "t1", "interaction": "r2.1.1", "action": "decline"}`."""

    task: str = ""
    interaction: str = ""
    action: InteractionAction = "accept"
    content: dict[str, Any] | None = None
    by: str = ""


class InteractionId(NamedTuple):
    """The parts of an interaction's id."""

    request: str
    n: int
    """The call."""
    k: int
    """The question, from 1."""


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
