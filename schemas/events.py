"""Events: facts about a task, each recorded once on its own subject.

They arrive with the time at which they happened. `TimerFired` comes from the timer stream, all others
from the task's own stream.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from schemas.messages import AssistantMessage, ImagePart, Message, ToolMessage, ToolOutcome, Usage
from schemas.requests import FailureCause, ParentCall, ResponseFormat, TaskSpec
from schemas.task import Spend
from schemas.wire import Instant, Wire, decoder_of

ModelFailure = Literal["refused", "transient", "throttled", "dead"]
"""Why a model call failed. `refused`: the same call would fail again; `transient`: try again later;
`throttled`: it was not made, because a limit of ours leaves no room until `retry_after_s` has passed;
`dead`: the command could not be handled and is a dead letter."""
TimerKind = Literal["deadline", "retry", "recheck"]


ApprovalScope = Literal["once", "task", "tool", "arguments"]
"""`once`: this call; `task`: this tool, for the rest of the task; `tool`: this tool of this agent, until somebody
revokes it; `arguments`: the same, with these arguments only."""


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
    parent: ParentCall | None = None
    """The call that this task answers, if another task asked for it."""
    continues: str = ""
    """The ended task that this one goes on from: its conversation begins with that one's."""
    thread: str = ""
    """The first task of the thread; empty: this one."""


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
    invalid: str = ""
    """Why the answer does not fit the response format; empty: it fits, or none was asked for. The conversation goes
    on with these words, so that the model can mend it."""


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
    cause: FailureCause = "other"


class WindowCompacted(Wire, frozen=True, kw_only=True, tag="model.compacted.v1"):
    """Instead of an answer: the conversation did not fit into the model's context, and goes on with a shorter one.

    The first `replaced` entries of the window are replaced by this one, which stands for `messages`. What it replaces
    stays in the stream. Tool calls and their results are on the same side of the cut.
    """

    turn: int
    attempt: int
    policy: Literal["truncateToolResults", "summarize"]
    replaced: int
    messages: tuple[Message, ...]
    tokens_before: int
    """Of the whole window, estimated."""
    tokens_after: int
    at: Instant
    reason: str = ""
    """What made it necessary, for people."""
    usage: Usage = Usage()
    """Of the call that wrote the summary."""
    llm: str = ""
    response_format: ResponseFormat | None = None
    """Carried over from the beginning of the conversation."""


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
    images: tuple[ImagePart, ...] = ()
    """What the model sees besides the text."""
    whole: str = ""
    """The subject of the whole output (`ToolOutput`), if `content` is only its head and tail."""
    child: str = ""
    """The task that did it, if the call was delegated to another agent."""
    spend: Spend | None = None
    """What that task used."""

    @property
    def message(self) -> ToolMessage:
        """The result as the model sees it."""
        return ToolMessage(
            tool_call_id=self.tool_call_id,
            name=self.tool,
            content=self.content,
            is_error=self.outcome != "succeeded",
            images=self.images,
        )


class ApprovalGranted(Wire, frozen=True, kw_only=True, tag="approval.granted.v1"):
    """People approved a call: it may be made once, with exactly these arguments."""

    request: str
    n: int
    tool_call_id: str
    tool: str
    arguments: str
    """What was shown and approved, or what a person made of it."""
    digest: str
    """Of the tool's name and these arguments (`ids.call_digest`)."""
    scope: ApprovalScope = "once"
    by: str = ""
    """Who approved it."""
    via: str = ""
    """The channel through which they did."""
    at: Instant


class MessageSent(Wire, frozen=True, kw_only=True, tag="message.sent.v1"):
    """Somebody said something more to a running task."""

    content: str
    at: Instant
    by: str = ""


class TaskFollowed(Wire, frozen=True, kw_only=True, tag="task.followed.v1"):
    """After a task has ended, its thread goes on with this one; never with two."""

    submitted: TaskSubmitted


class TaskRemoving(Wire, frozen=True, kw_only=True, tag="task.removing.v1"):
    """Instead of a task that its thread goes on with: the ended task is being removed, and nothing goes on from it."""


class ThreadBegun(Wire, frozen=True, kw_only=True, tag="thread.begun.v1"):
    """A thread that has a name of its caller's begins with this task; `submitted.spec.thread_id` is the name.

    Recorded once, before the task itself: whoever finds it sees to it that the task is submitted.
    """

    submitted: TaskSubmitted


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


TaskEvent = (
    TaskSubmitted
    | ModelAnswered
    | ModelFailed
    | WindowCompacted
    | ApprovalGranted
    | ToolFinished
    | MessageSent
    | CancelRequested
)
"""What the planner's consumer reads from the task stream."""

decode_task_event: Callable[[bytes], TaskEvent] = decoder_of(TaskEvent)
"""The event in these bytes; raises `Malformed`."""


decode_followed: Callable[[bytes], TaskFollowed | TaskRemoving] = decoder_of(TaskFollowed | TaskRemoving)
"""What is recorded to follow a task; raises `Malformed`."""


class ConversationStarted(Wire, frozen=True, kw_only=True, tag="task.context.v1"):
    """The messages that a conversation starts with: pinned once, so that a change of the agent cannot rewrite them."""

    messages: tuple[Message, ...]
    response_format: ResponseFormat | None = None
    """What the final answer has to look like."""


class ToolOutput(Wire, frozen=True, kw_only=True, tag="tool.output.v1"):
    """The whole text of a result that is too long to be shown to a model."""

    content: str


class ToolStarted(Wire, frozen=True, kw_only=True, tag="tool.started.v1"):
    """The effects ledger's entry: a replica is about to perform a call that must not be performed twice."""

    attempt: int
    replica: str
    at: Instant
    lease_s: float
    """How long after `at` another replica leaves the call alone."""
    holder: str = ""
    """Where the process that wrote this can be asked whether it is still at the call (`subjects.holder`)."""
