"""What must be under way for a state. Pure projections: the shell ensures them, as often as it likes."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import assert_never

import msgspec

from schemas.commands import CallModel, RunTool
from schemas.events import TimerFired, TimerKind, ToolFinished
from schemas.messages import ToolOutcome
from schemas.task import (
    AwaitingModel,
    AwaitingTools,
    Cancelled,
    Failed,
    FinalAnswer,
    Initializing,
    Live,
    OpenCalls,
    RetryingModel,
    State,
    Waiting,
)
from services.planner.core.policy import RECHECK_MIN_S

Outstanding = CallModel | RunTool | ToolFinished
"""A command to be ensured, or the result of a call that will have no other."""


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
        case Initializing() | Waiting() | RetryingModel() | FinalAnswer():
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
            return tuple(
                RunTool(
                    namespace=state.namespace,
                    task=state.task,
                    agent=state.agent,
                    request=state.request,
                    n=call.n,
                    answer_seq=state.answer_seq,
                    tool=call.tool,
                )
                for call in state.calls
            )
        case Failed(open_calls=calls, error=error):
            return _closings(calls, "failed", f"Not done: the task failed ({error}).", state.ended_at)
        case Cancelled(open_calls=calls, reason=reason):
            why = f": {reason}" if reason else ""
            return _closings(calls, "cancelled", f"Not done: the task was cancelled{why}.", state.ended_at)
        case _:
            assert_never(state)


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


def _closings(calls: OpenCalls | None, outcome: ToolOutcome, content: str, at: datetime) -> tuple[ToolFinished, ...]:
    if calls is None:
        return ()
    return tuple(
        ToolFinished(
            request=calls.request,
            n=call.n,
            tool_call_id=call.id,
            tool=call.tool,
            outcome=outcome,
            content=content,
            at=at,
        )
        for call in calls.calls
    )
