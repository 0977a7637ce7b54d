"""The recorded events of a task, a line each, with the predecessor's reasons where it had them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Literal

import msgspec

from schemas.commands import AskPerson, CallModel, RunTool, WithdrawQuestion
from schemas.events import (
    ApprovalGranted,
    CancelRequested,
    ConversationStarted,
    MessageSent,
    ModelAnswered,
    ModelFailed,
    TaskSubmitted,
    ToolFinished,
    ToolStarted,
    WindowCompacted,
)
from schemas.ids import toolcall_name
from schemas.notifications import Notification, NotificationDelivered, NotificationFailed, NotificationPending, Receiver
from schemas.task import Cancelled, Failed, RetryingModel, State, Waiting
from schemas.task_view import describe_state
from services.cli.history import Recorded
from services.cli.text import one_line, seconds_text

TEXT_WIDTH = 160
_NOTIFIED: dict[Receiver, str] = {
    "responseURL": "ResponseURL",
    "ContactChannel": "HumanLayerAPI",
    "Subscription": "Notification",
}
"""What events about a receiver begin with: the first two are the predecessor's."""


class EventLine(msgspec.Struct, frozen=True, rename="camel"):
    """One event, as `kubectl get events` shows one."""

    at: datetime
    type: Literal["Normal", "Warning"]
    reason: str
    message: str
    seq: int
    """Where it is in the stream; 0 for what only the state says."""


def event_lines(task: str, state: State, records: Iterable[Recorded]) -> list[EventLine]:
    """All events in the order in which they were recorded, and last how the task is if no record says it."""
    counted = frozenset(state.window)
    lines: list[EventLine] = []
    for record in sorted(records, key=lambda record: record.seq):
        warning, reason, message = _said(task, record, late=record.seq not in counted)
        lines.append(
            EventLine(record.at, "Warning" if warning else "Normal", reason, one_line(message, TEXT_WIDTH), record.seq)
        )
    if isinstance(state, Failed | Cancelled | Waiting | RetryingModel):
        view = describe_state(state)
        kind: Literal["Normal", "Warning"] = "Normal" if isinstance(state, Waiting | Cancelled) else "Warning"
        lines.append(EventLine(state.updated_at, kind, view.reason, one_line(view.status_detail, TEXT_WIDTH), 0))
    return lines


def _said(task: str, record: Recorded, *, late: bool) -> tuple[bool, str, str]:
    """Whether it is a warning, the reason, and the message."""
    match record.fact:
        case TaskSubmitted(spec=spec):
            return False, "Initializing", f"submitted for agent {spec.agent!r}"
        case ConversationStarted(messages=messages):
            return False, "ValidationSucceeded", f"conversation started with {len(messages)} messages"
        case CallModel(turn=turn, attempt=attempt):
            again = f", attempt {attempt}" if attempt > 1 else ""
            return False, "SendingContextWindowToLLM", f"turn {turn}{again}"
        case ModelAnswered() as answer:
            return _answer(answer, late=late)
        case ModelFailed() as failure:
            return failure.failure != "throttled", *_failure(failure)
        case WindowCompacted() as compacted:
            tokens = f"about {compacted.tokens_before} tokens became {compacted.tokens_after}"
            return False, "WindowCompacted", f"turn {compacted.turn}: {compacted.policy}, {tokens}: {compacted.reason}"
        case RunTool(request=request, n=n, tool=tool):
            return False, "ToolCallCreated", f"{toolcall_name(task, request, n)}: {tool}"
        case AskPerson(request=request, n=n, tool=tool, channel=channel, kind=kind):
            name = toolcall_name(task, request, n)
            if kind == "approval":
                return False, "AwaitingHumanApproval", f"{name}: {tool}, via {channel}"
            return False, "AwaitingHumanContact", f"{name}: {tool}, via {channel}"
        case WithdrawQuestion(request=request, n=n, reason=reason):
            return False, "QuestionWithdrawn", f"{toolcall_name(task, request, n)}: {reason}"
        case ApprovalGranted() as approval:
            who = f" by {approval.by}" if approval.by else ""
            name = toolcall_name(task, approval.request, approval.n)
            return False, "ApprovalGranted", f"{name}: {approval.tool} approved{who} ({approval.scope})"
        case ToolStarted(attempt=attempt, replica=replica):
            *_, batch, place = record.subject.split(".")
            again = f", attempt {attempt}" if attempt > 1 else ""
            return attempt > 1, "ExecutionStarted", f"{toolcall_name(task, batch, int(place))} on {replica}{again}"
        case ToolFinished() as result:
            good = result.outcome == "succeeded"
            took = f" in {seconds_text(result.latency_s)}" if result.latency_s else ""
            name = toolcall_name(task, result.request, result.n)
            message = f"{name}: {result.tool} {result.outcome}{took}: {result.content}"
            return not good, "ExecutionSucceeded" if good else "ExecutionFailed", message
        case MessageSent(content=content, by=by):
            return False, "MessageSent", f"{by or 'somebody'}: {content}"
        case NotificationPending() | NotificationDelivered() | NotificationFailed() as notification:
            return _notification(notification)
        case CancelRequested(by=by, reason=reason):
            who = f"by {by}" if by else "by somebody"
            return False, "CancelRequested", f"{who}{f': {reason}' if reason else ''}"


def _notification(one: Notification) -> tuple[bool, str, str]:
    what = _NOTIFIED[one.receiver]
    whom = f"{one.receiver} {one.name}".rstrip()
    times = f" after {one.attempts} attempts" if one.attempts > 1 else ""
    match one:
        case NotificationDelivered():
            return False, f"{what}Sent", f"{whom} was told{times}"
        case NotificationFailed(error=error):
            return True, f"{what}Error", f"{whom}: {error}"
        case NotificationPending(waits_for=waits_for):
            last = one.tried[-1].error if one.tried else ""
            return bool(last), f"{what}Pending", f"{whom} is to be told: {waits_for or last}".rstrip(": ")


def _answer(answer: ModelAnswered, *, late: bool) -> tuple[bool, str, str]:
    took = f"turn {answer.turn}: {answer.usage.input_tokens}+{answer.usage.output_tokens} tokens"
    if answer.latency_s:
        took += f", {seconds_text(answer.latency_s)}"
    if calls := answer.message.tool_calls:
        text = f"{took}; calls {', '.join(call.name for call in calls)}"
        return late, "ToolCallsPending" if not late else "LateAnswer", text
    if not answer.message.content.strip():
        return True, "LLMEmptyReply", took
    if answer.invalid:
        return True, "InvalidResponse", f"{took}: the answer does not fit the response format: {answer.invalid}"
    return late, "LLMFinalAnswer" if not late else "LateAnswer", f"{took}: {answer.message.content}"


def _failure(failure: ModelFailed) -> tuple[str, str]:
    if failure.failure == "throttled":
        return "LLMThrottled", f"turn {failure.turn}, attempt {failure.attempt}: waits for a limit: {failure.error}"
    status = f" with status {failure.status}" if failure.status is not None else ""
    message = f"turn {failure.turn}, attempt {failure.attempt}: LLM request failed{status}: {failure.error}"
    refused = failure.failure == "refused" and failure.status is not None
    return ("LLMRequestFailed4xx" if refused else "LLMRequestFailed"), message
