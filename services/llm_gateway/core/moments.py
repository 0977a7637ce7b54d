"""Which call a command is about, and whether it is what its task waits for now."""

from __future__ import annotations

from typing import Literal, NamedTuple, assert_never

from schemas.subjects import TaskSubjects, task_of
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
from schemas.wire import Malformed

Moment = Literal["now", "late", "early"]
"""`late`: the task has moved on. `early`: the state that was read is older than the command."""


class Place(NamedTuple):
    """What a command's subject says."""

    task: TaskSubjects
    turn: int
    attempt: int

    @property
    def event(self) -> str:
        """Where the outcome is recorded."""
        return self.task.model_event(self.turn, self.attempt)

    @property
    def name(self) -> str:
        """For logs and task names."""
        return f"{self.task.task}.{self.turn}.{self.attempt}"


def place_of(subject: str) -> Place:
    """The task, turn and attempt of a command's subject; raises `Malformed`."""
    try:
        *_, turn, attempt = subject.split(".")
        place = Place(task_of(subject), int(turn), int(attempt))
    except ValueError as error:
        raise Malformed(f"{subject} is not the subject of a model command") from error
    if place.task.model_command(place.turn, place.attempt) != subject:
        raise Malformed(f"{subject} is not the subject of a model command")
    return place


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
