"""A task's state in the words that people see: phase, status and detail, as the predecessor had them."""

from __future__ import annotations

from typing import NamedTuple, assert_never

from schemas.task import (
    AwaitingModel,
    AwaitingTools,
    CallRef,
    Cancelled,
    Failed,
    FinalAnswer,
    Initializing,
    Phase,
    RetryingModel,
    State,
    Status,
    Waiting,
)


class TaskView(NamedTuple):
    """What `get` and `describe` show of a state, and the event's name that goes with having entered it."""

    phase: Phase
    ready: bool
    status: Status
    status_detail: str
    reason: str
    error: str = ""


def describe_state(state: State) -> TaskView:
    """The view of a state."""
    match state:
        case Initializing():
            return TaskView("Initializing", False, "Pending", "Initializing Task", "Initializing")
        case Waiting(reason=reason):
            return TaskView("Pending", False, "Pending", reason, "Waiting")
        case AwaitingModel(turn=1, attempt=1):
            return TaskView("ReadyForLLM", True, "Ready", "Ready to send to LLM", "ValidationSucceeded")
        case AwaitingModel(attempt=attempt) if attempt > 1:
            return TaskView("ReadyForLLM", True, "Ready", f"Sending request to LLM, attempt {attempt}", "Retrying")
        case AwaitingModel():
            detail = "All tool calls completed, ready to send tool results to LLM"
            return TaskView("ReadyForLLM", True, "Ready", detail, "AllToolCallsCompleted")
        case RetryingModel(throttled=True, error=error, not_before=due):
            detail = f"Waiting for a limit: {error}; next look at {due:%H:%M:%S} UTC"
            return TaskView("ReadyForLLM", False, "Pending", detail, "LLMThrottled")
        case RetryingModel(error=error, attempt=attempt, not_before=due):
            detail = f"LLM request failed: {error}; attempt {attempt} at {due:%H:%M:%S} UTC"
            return TaskView("ReadyForLLM", False, "Error", detail, "LLMRequestFailed", error)
        case AwaitingTools(calls=calls):
            asked = [f"{call.tool} ({call.gate} via {call.channel})" for call in calls if _is_asked(call)]
            people = f"; people are asked about {', '.join(asked)}" if asked else ""
            detail = f"LLM response received, tool calls pending{people}"
            return TaskView("ToolCallsPending", True, "Ready", detail, "ToolCallsPending")
        case FinalAnswer():
            return TaskView("FinalAnswer", True, "Ready", "LLM final response received", "LLMFinalAnswer")
        case Failed(error=error, reason=reason):
            return TaskView("Failed", False, "Error", error, reason, error)
        case Cancelled(reason=reason, by=by):
            detail = f"Cancelled{f' by {by}' if by else ''}{f': {reason}' if reason else ''}"
            return TaskView("Cancelled", False, "Error", detail, "Cancelled", detail)
        case _:
            assert_never(state)


def _is_asked(call: CallRef) -> bool:
    """Whether people were asked about a call and have not approved it, as far as the state knows."""
    return call.gate is not None and not call.approved_seq
