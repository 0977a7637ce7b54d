"""Whether a command is what its task waits for now."""

from __future__ import annotations

from typing import Literal, assert_never

from schemas.task import (
    AwaitingModel,
    AwaitingTools,
    Cancelled,
    Failed,
    FinalAnswer,
    Initializing,
    RetryingModel,
    State,
    Waiting,
)

Moment = Literal["now", "late", "early"]
"""`late`: the task has moved on. `early`: the state that was read is older than the command."""


def moment(state: State, turn: int, attempt: int) -> Moment:
    """How the command to make this attempt stands to the task's state."""
    match state:
        case AwaitingModel():
            if (turn, attempt) == (state.turn, state.attempt):
                return "now"
            return "late" if (turn, attempt) < (state.turn, state.attempt) else "early"
        case RetryingModel() | Waiting():
            return "late" if (turn, attempt) < (state.turn, state.attempt) else "early"
        case AwaitingTools():
            return "late" if turn <= state.turn else "early"
        case Initializing():
            return "early"
        case FinalAnswer() | Failed() | Cancelled():
            return "late"
        case _:
            assert_never(state)
