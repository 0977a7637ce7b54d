"""The machine as a table and a diagram, made by driving it over its states and all inputs.

python -m services.planner.diagram
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from schemas.events import (
    CancelRequested,
    ModelAnswered,
    ModelFailed,
    ModelFailure,
    TaskSubmitted,
    WindowCompacted,
)
from schemas.messages import AssistantMessage, ToolCall, Usage
from schemas.requests import Limits, TaskSpec
from schemas.task import AwaitingModel, Budget, Cancelled, Failed, FinalAnswer, RetryingModel, State, Waiting
from schemas.wire import encode
from services.planner.core.inputs import (
    AgentReady,
    AgentUnready,
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
    Undeliverable,
)
from services.planner.core.machine import Impossible, transition

_START = datetime(2026, 1, 1, tzinfo=UTC)
ORDER = (
    "(none)",
    "Initializing",
    "Waiting",
    "AwaitingModel",
    "RetryingModel",
    "AwaitingTools",
    "FinalAnswer",
    "Failed",
    "Cancelled",
)
_LATE = _START + timedelta(days=1)


def _answer(turn: int, *, text: str = "", call: bool = False, invalid: str = "", attempt: int = 1) -> ModelReplied:
    calls = (ToolCall(id="1", name="server__tool", arguments="{}"),) if call else ()
    message = AssistantMessage(content=text, tool_calls=calls)
    event = ModelAnswered(turn=turn, attempt=attempt, message=message, usage=Usage(), at=_START, invalid=invalid)
    return ModelReplied(seq=9, subject="answer", event=event)


def _failure(turn: int, kind: ModelFailure, *, fallback: str = "", attempt: int = 1) -> ModelCallFailed:
    event = ModelFailed(turn=turn, attempt=attempt, failure=kind, error="why", status=400, at=_START)
    return ModelCallFailed(subject="answer", event=event, fallback=fallback)


def _compaction(turn: int, *, attempt: int = 1) -> ModelCompacted:
    event = WindowCompacted(
        turn=turn,
        attempt=attempt,
        policy="summarize",
        replaced=1,
        messages=(),
        tokens_before=2,
        tokens_after=1,
        at=_START,
    )
    return ModelCompacted(seq=8, subject="answer", event=event)


def _inputs(turn: int, attempt: int) -> Iterator[tuple[str, Input]]:
    """Every kind of input, fitting a state at this turn and attempt."""
    yield "agent ready", ConversationPinned(seq=2, budget=Budget(max_turns=2), deadline=None, at=_START)
    yield "agent ready", AgentReady(at=_START)
    yield "agent not ready", AgentUnready(reason="why", at=_START)
    yield "model: text", _answer(turn, text="text", attempt=attempt)
    yield "model: tool calls", _answer(turn, call=True, attempt=attempt)
    yield "model: empty", _answer(turn, attempt=attempt)
    yield "model: answer does not fit", _answer(turn, text="text", invalid="why", attempt=attempt)
    yield "model: transient failure", _failure(turn, "transient", attempt=attempt)
    yield "model: refused", _failure(turn, "refused", attempt=attempt)
    yield "model: failure with a fallback", _failure(turn, "refused", fallback="spare", attempt=attempt)
    yield "model: throttled", _failure(turn, "throttled", attempt=attempt)
    yield "model: window compacted", _compaction(turn, attempt=attempt)
    yield "retry due", RetryDue(at=_LATE)
    yield "all results in", ToolsAnswered(request=f"r{turn}", seqs=(10,), at=_START)
    yield "cancel", CancelAsked(subject="cancel", event=CancelRequested(at=_START))
    yield "deadline", DeadlinePassed(subject="timer", at=_LATE)
    yield "undeliverable event", Undeliverable(subject="event", error="why", at=_START)


def edges() -> list[tuple[str, str, str]]:
    """Every `(state, what happened, state)` that the machine can do, found by walking it from the first state."""
    spec = TaskSpec(agent="helper", user_message="hello", limits=Limits(deadline_s=60))
    submitted = Submitted(seq=1, event=TaskSubmitted(namespace="ns", task="t", spec=spec, at=_START))
    first = transition(None, submitted)
    found = {("(none)", "submitted", _name(first))}
    seen: set[bytes] = set()
    frontier: list[State] = [first]
    while frontier:
        state = frontier.pop()
        if encode(state) in seen:
            continue
        seen.add(encode(state))
        for label, after in _steps(state):
            found.add((_name(state), label, _name(after)))
            if not isinstance(after, FinalAnswer | Failed | Cancelled) and not _goes_on_for_ever(after):
                frontier.append(after)
    return sorted(found, key=lambda edge: (ORDER.index(edge[0]), edge[1], ORDER.index(edge[2])))


def _goes_on_for_ever(state: State) -> bool:
    """Nothing but the deadline bounds how often a call is parked: once is enough here."""
    return isinstance(state, AwaitingModel | RetryingModel | Waiting) and state.tries.parks > 1


def _steps(state: State) -> Iterator[tuple[str, State]]:
    turn = getattr(state, "turn", 0)
    attempt = getattr(state, "attempt", 1)
    for label, happened in _inputs(turn, attempt):
        try:
            after = transition(state, happened)
        except Impossible:
            continue
        if after is not state:
            yield label, after


def _name(state: State) -> str:
    return type(state).__name__


def markdown() -> str:
    """A Mermaid diagram of the states, and the table of everything that moves a task."""
    found = edges()
    arrows: dict[tuple[str, str], list[str]] = {}
    for before, label, after in found:
        arrows.setdefault((before, after), []).append(label)
    lines = ["```mermaid", "stateDiagram-v2"]
    for (before, after), labels in arrows.items():
        start = "[*]" if before == "(none)" else before
        lines.append(f"    {start} --> {after}: {', '.join(labels).replace(':', '')}")
    lines += ["```", "", "| state | what happens | next state |", "| --- | --- | --- |"]
    lines += [f"| {before} | {label} | {after} |" for before, label, after in found]
    lines.append("")
    lines.append("Anything else leaves the state as it is, or is impossible and becomes a dead letter.")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(markdown())
