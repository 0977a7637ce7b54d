"""The state of a task: one struct per condition, each holding only what is true in it.

The state is the only truth about a task. The conversation is not in it: `window` holds the stream sequences of the
entries that the model sees next, in order, so the state stays small however long the task runs.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Literal

import msgspec

from schemas.commands import PersonAsked
from schemas.requests import ParentCall, Priority
from schemas.wire import Instant, Wire, decoder_of

Phase = Literal["Initializing", "Pending", "ReadyForLLM", "ToolCallsPending", "FinalAnswer", "Failed", "Cancelled"]
Status = Literal["Ready", "Pending", "Error"]
FailureReason = Literal[
    "ValidationFailed",
    "LLMRequestFailed4xx",
    "LLMRequestFailed",
    "LLMEmptyReply",
    "LLMQuotaExhausted",
    "ContextTooLong",
    "InvalidResponse",
    "QuotaReached",
    "MaxTurnsReached",
    "MaxTokensReached",
    "MaxCostReached",
    "DeadlineExceeded",
    "DeadLettered",
]


class LLMSpend(Wire, frozen=True, kw_only=True):
    """What a task has used of one LLM."""

    model_calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    cost_usd: Decimal = Decimal(0)


class Spend(Wire, frozen=True, kw_only=True):
    """What a task has used so far."""

    model_calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: Decimal = Decimal(0)
    by_llm: dict[str, LLMSpend] = {}
    """The same by the name of the LLM."""


class Tries(Wire, frozen=True, kw_only=True):
    """What has been tried in a turn so far, each of it bounded. Every model call is an attempt, whatever it is for."""

    failures: int = 0
    """Calls that failed in a way that may pass."""
    llm: str = ""
    """The fallback in use; empty: the agent's own LLM."""
    compactions: int = 0
    """How often the conversation was made shorter."""
    repairs: int = 0
    """How often the model was asked to mend an answer that does not fit the response format."""
    parks: int = 0
    """How often the call had to wait for a limit of ours; only its task's deadline bounds that."""
    parked_since: Instant | None = None


class Budget(Wire, frozen=True, kw_only=True):
    """What a task may use: the task's own limits and its agent's, resolved when it started."""

    max_turns: int
    max_tokens: int | None = None
    max_cost_usd: Decimal | None = None


class CallRef(Wire, frozen=True, kw_only=True):
    """One tool call of a request, by its place (from 1) in the answer; the arguments stay in the answer."""

    n: int
    id: str
    tool: str
    agent: str = ""
    """The agent that the call is delegated to; empty: the tool-executor runs it."""
    child: str = ""
    """The task that answers a delegated call."""
    gate: PersonAsked | None = None
    """What people are asked about it before it is made, or instead."""
    channel: str = ""
    """Through which contact channel."""
    approved_seq: int = 0
    """Where its approval is recorded; 0: not yet, or it needs none."""


class OpenCalls(Wire, frozen=True, kw_only=True):
    """Calls that had no result when the task ended. Each is given one that says why, unless its own came first."""

    request: str
    answer_seq: int
    calls: tuple[CallRef, ...]


class TaskHeader(Wire, frozen=True, kw_only=True):
    """What is true in every state."""

    namespace: str
    task: str
    agent: str
    submitted_seq: int
    """Where the request is recorded."""
    created_at: Instant
    updated_at: Instant
    traceparent: str = ""
    """The context of the span that stands for the whole task."""
    parent_span: str = ""
    """The requester's own context, if there was one."""
    deadline: Instant | None = None
    preview: str = ""
    """The first 50 characters of what the user asked."""
    spend: Spend = Spend()
    window: tuple[int, ...] = ()
    """Stream sequences of the entries of the conversation, in order."""
    labels: dict[str, str] = {}
    priority: Priority = "normal"
    parent: ParentCall | None = None
    """The call that this task answers, if another task asked for it."""
    approved: tuple[str, ...] = ()
    """Tools that a person approved for the rest of the task."""
    queued: tuple[int, ...] = ()
    """Where messages are recorded that join the conversation before the next turn."""
    continues: str = ""
    """The task whose conversation this one goes on from."""
    thread: str = ""
    """The first task of the thread; empty: this one."""
    thread_id: str = msgspec.field(default="", name="threadID")
    """The caller's own name for the thread."""
    response_url: str = msgspec.field(default="", name="responseURL")
    """Where to post what became of the task."""
    contact_channel: str = ""
    """The ContactChannel that is told what became of it."""


class Initializing(TaskHeader, frozen=True, kw_only=True, tag="task.initializing.v1"):
    """Submitted; the agent has not been looked at yet."""


class Waiting(TaskHeader, frozen=True, kw_only=True, tag="task.waiting.v1"):
    """The agent is missing or not ready. The conversation, if there is one, waits untouched."""

    reason: str
    since: Instant
    turn: int = 0
    """The turn to go on with; 0 when the conversation has not started."""
    attempt: int = 1
    """The attempt to go on with."""
    empty_replies: int = 0
    budget: Budget | None = None
    """Absent when the conversation has not started."""
    tries: Tries = Tries()


class AwaitingModel(TaskHeader, frozen=True, kw_only=True, tag="task.awaiting-model.v1"):
    """A model call is under way."""

    budget: Budget
    turn: int
    attempt: int = 1
    empty_replies: int = 0
    """How many empty replies this turn has had."""
    tries: Tries = Tries()


class RetryingModel(TaskHeader, frozen=True, kw_only=True, tag="task.retrying-model.v1"):
    """A model call failed in a way that may pass; the next attempt is at `not_before`."""

    budget: Budget
    turn: int
    attempt: int
    """The attempt to make next."""
    not_before: Instant
    error: str
    empty_replies: int = 0
    tries: Tries = Tries()
    throttled: bool = False
    """The call was not made: it waits for a limit of ours, and `error` says which."""


class AwaitingTools(TaskHeader, frozen=True, kw_only=True, tag="task.awaiting-tools.v1"):
    """The tool calls of an answer are under way. Their recorded results are the join: none is kept here."""

    budget: Budget
    turn: int
    request: str
    answer_seq: int
    calls: tuple[CallRef, ...]


class Ended(TaskHeader, frozen=True, kw_only=True):
    """What is true in every terminal state."""

    ended_at: Instant
    turn: int
    ended_by: str
    """The subject of the event that ended the task."""
    subscriptions: tuple[str, ...] = ()
    """The Subscriptions that wanted to know it at that moment, by name."""


class FinalAnswer(Ended, frozen=True, kw_only=True, tag="task.final-answer.v1"):
    """Done: the last entry of the window is the answer."""


class Failed(Ended, frozen=True, kw_only=True, tag="task.failed.v1"):
    """Ended without an answer."""

    reason: FailureReason
    error: str
    open_calls: OpenCalls | None = None


class Cancelled(Ended, frozen=True, kw_only=True, tag="task.cancelled.v1"):
    """Ended because somebody asked for it."""

    reason: str
    by: str
    open_calls: OpenCalls | None = None


Running = AwaitingModel | RetryingModel | AwaitingTools
Live = Initializing | Waiting | AwaitingModel | RetryingModel | AwaitingTools
Terminal = FinalAnswer | Failed | Cancelled
State = Initializing | Waiting | AwaitingModel | RetryingModel | AwaitingTools | FinalAnswer | Failed | Cancelled

decode_state: Callable[[bytes], State] = decoder_of(State)
"""The state in these bytes; raises `Malformed`."""
