"""Replay: every state of a task must follow from the one before by the machine, out of what is recorded.

What is not recorded because it is only looked at (the agent's readiness, the time) is guessed from the state itself
and then has to lead to exactly that state.
"""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import msgspec

from schemas.events import (
    ApprovalGranted,
    CancelRequested,
    MessageSent,
    ModelAnswered,
    ModelFailed,
    TaskSubmitted,
    ToolFinished,
    WindowCompacted,
    decode_task_event,
)
from schemas.fallbacks import next_llm
from schemas.ids import child_task_name, request_id
from schemas.subjects import TaskSubjects
from schemas.task import AwaitingModel, AwaitingTools, Cancelled, Failed, FinalAnswer, RetryingModel, State, Waiting
from schemas.wire import decode
from services.planner.core.inputs import (
    AgentReady,
    AgentUnready,
    Approved,
    CancelAsked,
    CannotStart,
    ConversationPinned,
    DeadlinePassed,
    Delegate,
    Gate,
    Input,
    ModelCallFailed,
    ModelCompacted,
    ModelReplied,
    RetryDue,
    Said,
    Submitted,
    ToolsAnswered,
)
from services.planner.core.machine import Impossible, transition
from services.runtime.ports import Entry
from tests.chaos.simulated.checks_threads import conversation_before
from tests.chaos.simulated.scenario import QUESTION

if TYPE_CHECKING:
    from tests.chaos.simulated.world import World


def explain(world: World, task: TaskSubjects, states: list[tuple[Entry, State]]) -> Iterator[str]:
    """What cannot be explained."""
    before: State | None = None
    for entry, state in states:
        inputs = [*_recorded(world, task, before, state, entry.seq), *_looked_at(world, task, before, state)]
        if isinstance(state, FinalAnswer | Failed | Cancelled):  # who wants to know it is looked up
            state = msgspec.structs.replace(state, subscriptions=())  # noqa: PLW2901 - the same, as far as it follows
        if not _leads_to(before, state, inputs):
            yield f"the state at {entry.seq} does not follow from what is recorded:\n  {before}\n  {state}"
        before = state


def _leads_to(before: State | None, after: State, inputs: list[Input]) -> bool:
    """Whether one input, or one and a look at the agent, makes the one state of the other."""
    for happened in inputs:
        between = _step(before, happened)
        if between is None:
            continue
        if between == after:
            return True
        looks = [one for one in inputs if isinstance(one, AgentUnready | ConversationPinned | CannotStart)]
        if any(_step(between, look) == after for look in looks):
            return True
    return False


def _step(state: State | None, happened: Input) -> State | None:
    try:
        return transition(state, happened)
    except Impossible:
        return None


def _recorded(world: World, task: TaskSubjects, before: State | None, after: State, until: int) -> Iterator[Input]:
    for entry in world.history.of(task, f"{task.root}.evt.{task.task}.>"):
        if entry.seq >= until:
            return
        event = decode_task_event(entry.data)
        match event:
            case TaskSubmitted():
                yield Submitted(seq=entry.seq, event=event)
            case ModelAnswered():
                delegated, gates = _delegated(world, before, event), _gates(world, before, after)
                replied = ModelReplied(seq=entry.seq, subject=entry.subject, event=event)
                yield msgspec.structs.replace(replied, delegated=delegated, gates=gates)
                if delegated or gates:  # the agent was not known just then
                    yield replied
            case ModelFailed():
                failed = ModelCallFailed(subject=entry.subject, event=event, recorded_at=entry.at)
                yield failed
                if before is not None and (fallback := _fallback(world, before.agent, event)):
                    yield msgspec.structs.replace(failed, fallback=fallback)
            case WindowCompacted():
                yield ModelCompacted(seq=entry.seq, subject=entry.subject, event=event)
            case ApprovalGranted():
                if isinstance(before, AwaitingTools) and before.request == event.request:
                    yield Approved(seq=entry.seq, event=event)
            case MessageSent():
                yield Said(seq=entry.seq, event=event)
            case CancelRequested():
                yield CancelAsked(subject=entry.subject, event=event)
            case ToolFinished():
                if isinstance(before, AwaitingTools) and before.request == event.request:
                    yield from _joined(world, task, before, event, until)


def _delegated(world: World, before: State | None, event: ModelAnswered) -> dict[int, Delegate]:
    """The calls for other agents. No other tool's name begins like theirs here."""
    if not isinstance(before, AwaitingModel):
        return {}
    found: dict[int, Delegate] = {}
    for n, call in enumerate(event.message.tool_calls, start=1):
        if agent := call.name.removeprefix("delegate_to_agent__") if "delegate_to_agent__" in call.name else "":
            request, place, count = request_id(before.turn), before.submitted_seq, world.scenario.partitions
            found[n] = Delegate(
                agent, child_task_name(before.namespace, before.task, request, n, place=place, partitions=count)
            )
    return found


def _gates(world: World, before: State | None, after: State) -> dict[int, Gate]:
    """The calls that people are asked about: some of those that need it, because not every server may be known."""
    if before is None:
        return {}
    calls = after.calls if isinstance(after, AwaitingTools) else ()
    if isinstance(after, Failed) and after.open_calls is not None:
        calls = after.open_calls.calls
    patterns = [pattern for rule in world.scenario.agents[before.agent].spec.approvals for pattern in rule.tools]
    return {
        call.n: Gate(call.gate, "people")
        for call in calls
        if call.gate is not None
        and (call.tool == QUESTION if call.gate == "question" else any(fnmatchcase(call.tool, one) for one in patterns))
    }


def _fallback(world: World, agent: str, failed: ModelFailed) -> str:
    """The fallback for a failure. The planner may not have known the agent when it took place."""
    return next_llm(world.scenario.agents[agent].spec, failed.llm, failed.cause)


def _joined(
    world: World, task: TaskSubjects, before: AwaitingTools, last: ToolFinished, until: int
) -> Iterator[ToolsAnswered]:
    entries = {entry.subject: entry.seq for entry in world.history.of(task, task.tool_events(before.request))}
    seqs = tuple(entries.get(task.tool_event(before.request, call.n), until) for call in before.calls)
    if max(seqs) < until:
        results = [
            decode(entry.data, ToolFinished) for entry in world.history.of(task, task.tool_events(before.request))
        ]
        spend = tuple(one.spend for one in sorted(results, key=lambda one: one.n) if one.spend is not None)
        yield ToolsAnswered(request=before.request, seqs=seqs, at=last.at, spend=spend)


def _looked_at(world: World, task: TaskSubjects, before: State | None, after: State) -> Iterator[Input]:
    at = after.updated_at
    yield AgentReady(at=at)
    yield RetryDue(at=at)
    if isinstance(before, RetryingModel):
        yield RetryDue(at=before.not_before)
    if isinstance(after, Waiting):
        yield AgentUnready(reason=after.reason, at=at)
    if isinstance(after, AwaitingModel):
        for entry in world.history.of(task, task.context):
            asked = after.preview if after.parent is not None else ""
            pinned = ConversationPinned(seq=entry.seq, budget=after.budget, deadline=None, at=at, asked=asked)
            before_it = conversation_before(world, after.continues) if after.continues else ()
            yield msgspec.structs.replace(pinned, before=before_it)
    if isinstance(after, FinalAnswer | Failed | Cancelled):
        yield DeadlinePassed(subject=after.ended_by, at=after.ended_at)
    if isinstance(after, Failed) and (after.parent is not None or after.continues):
        yield CannotStart(reason=after.error, at=at)
