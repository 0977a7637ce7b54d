"""Machines tested as conversations: what happens, and what must then be under way."""

from __future__ import annotations

import difflib
from datetime import UTC, datetime, timedelta

from schemas.events import (
    CancelRequested,
    ModelAnswered,
    ModelFailed,
    ModelFailure,
    TaskSubmitted,
    WindowCompacted,
)
from schemas.messages import AssistantMessage, ToolCall, Usage, UserMessage
from schemas.requests import FailureCause, Limits, TaskSpec
from schemas.subjects import TaskSubjects
from schemas.task import Budget, State
from services.planner.core.inputs import (
    CancelAsked,
    ConversationPinned,
    DeadlinePassed,
    Input,
    ModelCallFailed,
    ModelCompacted,
    ModelReplied,
    RetryDue,
    Submitted,
    ToolsAnswered,
)
from services.planner.core.machine import transition
from services.planner.core.outstanding import Outstanding, outstanding

START = datetime(2026, 1, 1, tzinfo=UTC)
TASK = TaskSubjects(0, "default", "job")


def at(seconds: float) -> datetime:
    """A time, in seconds after the task was submitted."""
    return START + timedelta(seconds=seconds)


def play(state: State | None, *script: tuple[Input, tuple[Outstanding, ...]]) -> State:
    """Run inputs through the machine and compare what is outstanding after each; a mismatch prints the transcript."""
    expected: list[str] = []
    actual: list[str] = []
    for happened, wanted in script:
        state = transition(state, happened)
        expected += [f">> {happened}", *(f"<< {command}" for command in wanted)]
        actual += [f">> {happened}", *(f"<< {command}" for command in outstanding(state))]
    assert expected == actual, "\n".join(difflib.ndiff(expected, actual))
    assert state is not None
    return state


def submitted(**limits: float) -> Submitted:
    """The task was asked for, with these limits."""
    spec = TaskSpec(agent="helper", user_message="what is the capital of the moon?", limits=Limits(**limits))  # type: ignore[arg-type]
    return Submitted(seq=1, event=TaskSubmitted(namespace="default", task="job", spec=spec, at=START))


def pinned(seconds: float = 1, **budget: int) -> ConversationPinned:
    """The agent was ready; the conversation starts at sequence 2."""
    return ConversationPinned(seq=2, budget=Budget(**{"max_turns": 20, **budget}), deadline=None, at=at(seconds))  # type: ignore[arg-type]


def answered(
    turn: int,
    *tools: str,
    text: str = "",
    seq: int = 10,
    attempt: int = 1,
    usage: Usage | None = None,
    seconds: float = 2,
    llm: str = "",
    invalid: str = "",
) -> ModelReplied:
    """The model answered, with calls of `tools`."""
    calls = tuple(ToolCall(id=f"call-{turn}-{n}", name=tool, arguments="{}") for n, tool in enumerate(tools, start=1))
    event = ModelAnswered(
        turn=turn,
        attempt=attempt,
        message=AssistantMessage(content=text, tool_calls=calls),
        usage=usage or Usage(),
        at=at(seconds),
        llm=llm,
        invalid=invalid,
    )
    return ModelReplied(seq=seq, subject=TASK.model_event(turn, attempt), event=event)


def failed(
    turn: int,
    failure: ModelFailure,
    *,
    attempt: int = 1,
    error: str = "connection timeout",
    status: int | None = None,
    retry_after_s: float | None = None,
    seconds: float = 2,
    llm: str = "",
    cause: FailureCause = "other",
    usage: Usage | None = None,
    fallback: str = "",
) -> ModelCallFailed:
    """A model call failed; the agent has `fallback` for that."""
    event = ModelFailed(
        turn=turn,
        attempt=attempt,
        failure=failure,
        error=error,
        status=status,
        retry_after_s=retry_after_s,
        at=at(seconds),
        llm=llm,
        cause=cause,
        usage=usage or Usage(),
    )
    return ModelCallFailed(subject=TASK.model_event(turn, attempt), event=event, fallback=fallback)


def compacted(
    turn: int,
    replaced: int,
    *,
    attempt: int = 1,
    seq: int = 50,
    usage: Usage | None = None,
    seconds: float = 2,
    llm: str = "",
) -> ModelCompacted:
    """The first `replaced` entries of the conversation were replaced."""
    event = WindowCompacted(
        turn=turn,
        attempt=attempt,
        policy="summarize",
        replaced=replaced,
        messages=(UserMessage(content="in short"),),
        tokens_before=900,
        tokens_after=300,
        at=at(seconds),
        reason="too long",
        usage=usage or Usage(),
        llm=llm,
    )
    return ModelCompacted(seq=seq, subject=TASK.model_event(turn, attempt), event=event)


def results(turn: int, *seqs: int, seconds: float = 3) -> ToolsAnswered:
    """Every call of a turn has its result."""
    return ToolsAnswered(request=f"r{turn}", seqs=seqs, at=at(seconds))


def cancel(seconds: float = 5, reason: str = "changed my mind", by: str = "ann") -> CancelAsked:
    """Somebody asked to cancel the task."""
    return CancelAsked(subject=TASK.cancel, event=CancelRequested(at=at(seconds), by=by, reason=reason))


def deadline(seconds: float) -> DeadlinePassed:
    """The deadline's timer fired."""
    return DeadlinePassed(subject=TASK.timer_fired("deadline"), at=at(seconds))


def retry(seconds: float) -> RetryDue:
    """A retry's timer fired."""
    return RetryDue(at=at(seconds))
