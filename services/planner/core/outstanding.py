"""What must be under way for a state. Pure projections: the shell ensures them, as often as it likes."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import assert_never

import msgspec

from schemas.commands import AskPerson, CallModel, RunTool, WithdrawQuestion
from schemas.events import CancelRequested, TaskSubmitted, TimerFired, TimerKind, ToolFinished
from schemas.messages import ToolOutcome
from schemas.notifications import Notify, ending_of
from schemas.requests import ParentCall, TaskSpec
from schemas.task import (
    AwaitingModel,
    AwaitingTools,
    CallRef,
    Cancelled,
    Failed,
    FinalAnswer,
    Initializing,
    Live,
    RetryingModel,
    State,
    Waiting,
)
from schemas.tracing import task_context
from services.planner.core.policy import RECHECK_MIN_S, share_of


class ForParent(msgspec.Struct, frozen=True, kw_only=True):
    """The result that a task is to the call of the task that asked for it."""

    task: str
    result: ToolFinished
    answer_seq: int = 0
    """Where the content is recorded; 0: it is in the result."""


class ForChild(msgspec.Struct, frozen=True, kw_only=True):
    """A task that another one asked for, and that nobody waits for any more."""

    task: str
    cancel: CancelRequested


Outstanding = (
    CallModel | RunTool | AskPerson | WithdrawQuestion | TaskSubmitted | ToolFinished | ForParent | ForChild | Notify
)
"""A command to be ensured, a task for another agent, or the result of a call that will have no other."""


class Timer(msgspec.Struct, frozen=True, kw_only=True):
    """A wake-up that a state needs."""

    kind: TimerKind
    id: str
    due: datetime
    turn: int = 0
    attempt: int = 0


def outstanding(state: State) -> tuple[Outstanding, ...]:
    """What must be under way, or recorded, for this state."""
    match state:
        case Initializing() | Waiting() | RetryingModel():
            return ()
        case AwaitingModel():
            return (
                CallModel(
                    namespace=state.namespace,
                    task=state.task,
                    agent=state.agent,
                    turn=state.turn,
                    attempt=state.attempt,
                    llm=state.tries.llm,
                ),
            )
        case AwaitingTools():
            return tuple(_under_way(state, call) for call in state.calls)
        case FinalAnswer():
            return (
                *_for_parent(state, "succeeded", "", state.window[-1]),
                *_notify(state, answer_seq=state.window[-1]),
            )
        case Failed(error=error):
            closings = _closings(state, "failed", f"Not done: the task failed ({error}).")
            said = f"The agent {state.agent!r} failed: {error}"
            return (*closings, *_for_parent(state, "failed", said), *_notify(state, error=error))
        case Cancelled(reason=reason):
            why = f": {reason}" if reason else ""
            closings = _closings(state, "cancelled", f"Not done: the task was cancelled{why}.")
            said = f"The task of the agent {state.agent!r} was cancelled{why}"
            return (*closings, *_for_parent(state, "cancelled", said), *_notify(state, error=reason))
        case _:
            assert_never(state)


def _under_way(state: AwaitingTools, call: CallRef) -> RunTool | TaskSubmitted | AskPerson:
    if call.gate is not None and not call.approved_seq:
        return AskPerson(
            namespace=state.namespace,
            task=state.task,
            agent=state.agent,
            request=state.request,
            n=call.n,
            tool_call_id=call.id,
            tool=call.tool,
            answer_seq=state.answer_seq,
            kind=call.gate,
            channel=call.channel,
        )
    if call.child:
        return _child(state, call)
    return RunTool(
        namespace=state.namespace,
        task=state.task,
        agent=state.agent,
        request=state.request,
        n=call.n,
        answer_seq=state.answer_seq,
        tool=call.tool,
        approved_seq=call.approved_seq,
    )


def _child(state: AwaitingTools, call: CallRef) -> TaskSubmitted:
    """The task that answers a delegated call: it inherits what is left, and is the same however often it is said."""
    delegated = sum(bool(other.child) for other in state.calls)
    limits = share_of(state.budget, state.spend, delegated)
    return TaskSubmitted(
        namespace=state.namespace,
        task=call.child,
        spec=TaskSpec(agent=call.agent, limits=limits, labels=state.labels, priority=state.priority),
        at=state.updated_at,
        traceparent=task_context(state.traceparent, state.namespace, call.child),
        parent_span=state.traceparent,
        parent=ParentCall(
            task=state.task,
            request=state.request,
            n=call.n,
            tool_call_id=call.id,
            tool=call.tool,
            answer_seq=state.answer_seq,
            agents=(*(state.parent.agents if state.parent else ()), state.agent),
            deadline=state.deadline,
            approved_seq=call.approved_seq,
        ),
    )


def _for_parent(
    state: FinalAnswer | Failed | Cancelled, outcome: ToolOutcome, content: str, answer_seq: int = 0
) -> tuple[ForParent, ...]:
    parent = state.parent
    if parent is None:
        return ()
    result = ToolFinished(
        request=parent.request,
        n=parent.n,
        tool_call_id=parent.tool_call_id,
        tool=parent.tool,
        outcome=outcome,
        content=content,
        at=state.ended_at,
        latency_s=round(max((state.ended_at - state.created_at).total_seconds(), 0.0), 6),
        child=state.task,
        spend=state.spend,
    )
    return (ForParent(task=parent.task, result=result, answer_seq=answer_seq),)


def _notify(state: FinalAnswer | Failed | Cancelled, *, answer_seq: int = 0, error: str = "") -> tuple[Notify, ...]:
    """Nothing, if nobody wants to know that the task has ended."""
    if not (state.response_url or state.contact_channel or state.subscriptions):
        return ()
    return (
        Notify(
            namespace=state.namespace,
            task=state.task,
            agent=state.agent,
            event=ending_of(state),
            at=state.ended_at,
            answer_seq=answer_seq,
            error=error,
        ),
    )


def timers(state: State) -> tuple[Timer, ...]:
    """The wake-ups that this state needs."""
    if isinstance(state, FinalAnswer | Failed | Cancelled):
        return ()
    needed: list[Timer] = []
    if state.deadline is not None:
        needed.append(Timer(kind="deadline", id="deadline", due=state.deadline))
    match state:
        case Waiting(since=since):
            needed.append(Timer(kind="recheck", id="recheck", due=since + timedelta(seconds=RECHECK_MIN_S)))
        case RetryingModel(turn=turn, attempt=attempt, not_before=due):
            needed.append(Timer(kind="retry", id=f"retry-{turn}-{attempt}", due=due, turn=turn, attempt=attempt))
        case Initializing() | AwaitingModel() | AwaitingTools():
            pass
        case _:
            assert_never(state)
    return tuple(needed)


def needs(state: State | None, fired: TimerFired) -> bool:
    """Whether this state, or one that is still to come, has to be moved by a timer that has fired."""
    if isinstance(state, FinalAnswer | Failed | Cancelled):
        return False
    match fired.timer:
        case "deadline":
            return True
        case "retry":
            if state is None:
                return True
            awaited = (fired.turn, fired.attempt)
            return _last_call(state) < awaited or (isinstance(state, RetryingModel) and _last_call(state) == awaited)
        case "recheck":
            return False
        case _:
            assert_never(fired.timer)


def _last_call(state: Live) -> tuple[int, int]:
    """Turn and attempt of the model call that a state is about."""
    match state:
        case Initializing():
            return (0, 0)
        case Waiting() | AwaitingModel() | RetryingModel():
            return (state.turn, state.attempt)
        case AwaitingTools():
            return (state.turn + 1, 0)
        case _:
            assert_never(state)


def _closings(
    state: Failed | Cancelled, outcome: ToolOutcome, content: str
) -> tuple[ToolFinished | ForChild | WithdrawQuestion, ...]:
    calls, at = state.open_calls, state.ended_at
    if calls is None:
        return ()
    results = tuple(
        ToolFinished(
            request=calls.request,
            n=call.n,
            tool_call_id=call.id,
            tool=call.tool,
            outcome=outcome,
            content=content,
            at=at,
            child=call.child,
        )
        for call in calls.calls
    )
    cancel = CancelRequested(at=at, by="its parent task", reason=content)
    children = tuple(ForChild(task=call.child, cancel=cancel) for call in calls.calls if call.child)
    asked = (call for call in calls.calls if call.gate is not None and not call.approved_seq)
    withdrawn = tuple(
        WithdrawQuestion(namespace=state.namespace, task=state.task, request=calls.request, n=call.n, reason=content)
        for call in asked
    )
    return (*results, *children, *withdrawn)
