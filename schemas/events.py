"""Events: facts about a task, each recorded once on its own subject.

They arrive with the time at which they happened. `TimerFired` comes from the timer stream, all others
from the task's own stream.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from schemas.messages import AssistantMessage, Message, ToolOutcome, Usage
from schemas.requests import TaskSpec
from schemas.wire import Instant, Wire, decoder_of

ModelFailure = Literal["refused", "transient", "dead"]
"""Why a model call failed. `refused`: the same call would fail again; `transient`: try again later;
`dead`: the command could not be handled and is a dead letter."""
TimerKind = Literal["deadline", "retry", "recheck"]


class TaskSubmitted(Wire, frozen=True, kw_only=True, tag="task.submitted.v1"):
    """A task was asked for, and the request was valid."""

    namespace: str
    task: str
    spec: TaskSpec
    at: Instant
    traceparent: str = ""
    """The trace and span of the whole task: its root."""
    parent_span: str = ""
    """The requester's own traceparent, if the request came with one."""


class ModelAnswered(Wire, frozen=True, kw_only=True, tag="model.answered.v1"):
    """The model answered."""

    turn: int
    attempt: int
    message: AssistantMessage
    usage: Usage
    at: Instant
    llm: str = ""
    """The LLM resource that answered."""
    model: str = ""
    """The model, in the provider's words."""
    latency_s: float = 0.0
    finish_reason: str = ""


class ModelFailed(Wire, frozen=True, kw_only=True, tag="model.failed.v1"):
    """A model call failed."""

    turn: int
    attempt: int
    failure: ModelFailure
    error: str
    at: Instant
    status: int | None = None
    """The provider's HTTP status, if it gave one."""
    retry_after_s: float | None = None
    """How long the provider asked to wait."""
    usage: Usage = Usage()
    llm: str = ""


class ToolFinished(Wire, frozen=True, kw_only=True, tag="tool.finished.v1"):
    """A tool call has its one result."""

    request: str
    n: int
    tool_call_id: str
    tool: str
    outcome: ToolOutcome
    content: str
    """What the model sees."""
    at: Instant
    latency_s: float = 0.0
    attempt: int = 1


class CancelRequested(Wire, frozen=True, kw_only=True, tag="task.cancel.v1"):
    """Somebody asked to cancel the task."""

    at: Instant
    by: str = ""
    reason: str = ""


class TimerFired(Wire, frozen=True, kw_only=True, tag="timer.fired.v1"):
    """A wake-up that the task asked for. It decides nothing by itself: the state holds the time that counts."""

    timer: TimerKind
    due: Instant
    turn: int = 0
    attempt: int = 0


TaskEvent = TaskSubmitted | ModelAnswered | ModelFailed | ToolFinished | CancelRequested
"""What the planner's consumer reads from the task stream."""

decode_task_event: Callable[[bytes], TaskEvent] = decoder_of(TaskEvent)
"""The event in these bytes; raises `Malformed`."""


class ConversationStarted(Wire, frozen=True, kw_only=True, tag="task.context.v1"):
    """The messages that a conversation starts with: pinned once, so that a change of the agent cannot rewrite them."""

    messages: tuple[Message, ...]


class ToolStarted(Wire, frozen=True, kw_only=True, tag="tool.started.v1"):
    """The effects ledger's entry: a replica is about to perform a call that must not be performed twice."""

    attempt: int
    replica: str
    at: Instant
    lease_s: float
    """How long after `at` another replica leaves the call alone."""
