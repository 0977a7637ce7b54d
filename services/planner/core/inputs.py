"""What may happen to a task, as the machine sees it: recorded facts, with their place and time."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import msgspec

from schemas.commands import PersonAsked
from schemas.events import (
    ApprovalGranted,
    CancelRequested,
    MessageSent,
    ModelAnswered,
    ModelFailed,
    TaskSubmitted,
    WindowCompacted,
)
from schemas.task import Budget, Spend


class Submitted(msgspec.Struct, frozen=True, kw_only=True):
    """The task was asked for; recorded at `seq`."""

    seq: int
    event: TaskSubmitted


class ConversationPinned(msgspec.Struct, frozen=True, kw_only=True):
    """The agent is ready, and the messages that the conversation starts with are recorded at `seq`."""

    seq: int
    budget: Budget
    deadline: datetime | None
    at: datetime
    asked: str = ""
    """What the task is asked, if another task asked for it."""
    before: tuple[int, ...] = ()
    """The conversation that this one goes on from."""


class CannotStart(msgspec.Struct, frozen=True, kw_only=True):
    """What the task is asked cannot be done, whenever it is tried."""

    reason: str
    at: datetime


class AgentUnready(msgspec.Struct, frozen=True, kw_only=True):
    """The agent is missing or not ready."""

    reason: str
    at: datetime


class AgentReady(msgspec.Struct, frozen=True, kw_only=True):
    """The agent is ready (again)."""

    at: datetime


class Delegate(msgspec.Struct, frozen=True):
    """The agent that a call is delegated to, and the task that answers it."""

    agent: str
    child: str


class Gate(msgspec.Struct, frozen=True):
    """What people are asked about a call, and through which channel."""

    kind: PersonAsked
    channel: str


class ModelReplied(msgspec.Struct, frozen=True, kw_only=True):
    """The model answered; recorded at `seq`."""

    seq: int
    subject: str
    event: ModelAnswered
    delegated: Mapping[int, Delegate] = {}
    """The calls of the answer that are for other agents, by their places."""
    gates: Mapping[int, Gate] = {}
    """The calls about which people are asked first, or that are questions to people."""


class ModelCallFailed(msgspec.Struct, frozen=True, kw_only=True):
    """A model call failed."""

    subject: str
    event: ModelFailed
    fallback: str = ""
    """The LLM that the agent has for this failure; empty: none."""
    recorded_at: datetime | None = None
    """When the server stored it: waits count from then, because the clock of whoever failed may be behind."""


class ModelCompacted(msgspec.Struct, frozen=True, kw_only=True):
    """The conversation was made shorter; how is recorded at `seq`."""

    seq: int
    subject: str
    event: WindowCompacted


class Approved(msgspec.Struct, frozen=True, kw_only=True):
    """People approved a call; recorded at `seq`."""

    seq: int
    event: ApprovalGranted


class ToolsAnswered(msgspec.Struct, frozen=True, kw_only=True):
    """Every call of a request has its result; `seqs` are their places, in call order."""

    request: str
    seqs: tuple[int, ...]
    at: datetime
    spend: tuple[Spend, ...] = ()
    """What tasks of other agents used for them."""


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody said something more; recorded at `seq`."""

    seq: int
    event: MessageSent


class CancelAsked(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody asked to cancel the task."""

    subject: str
    event: CancelRequested


class DeadlinePassed(msgspec.Struct, frozen=True, kw_only=True):
    """It is `at`, and the task has a deadline."""

    subject: str
    at: datetime


class RetryDue(msgspec.Struct, frozen=True, kw_only=True):
    """It is `at`, and a model call waits to be tried again."""

    at: datetime


class Undeliverable(msgspec.Struct, frozen=True, kw_only=True):
    """An event of the task could not be handled and is a dead letter."""

    subject: str
    error: str
    at: datetime


Input = (
    Submitted
    | ConversationPinned
    | CannotStart
    | AgentUnready
    | AgentReady
    | ModelReplied
    | ModelCallFailed
    | ModelCompacted
    | Approved
    | ToolsAnswered
    | Said
    | CancelAsked
    | DeadlinePassed
    | RetryDue
    | Undeliverable
)
