"""The table of tasks: loads a state, commits the next one with all it needs, and tells those who watch.

The order of a commit is fixed: timers, then the state at its revision together with its commands, then what may be
lost (live events, metrics). A crash at any point is repaired by whoever looks at the task next, because commands and
timers are functions of the state.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, assert_never

from msgspec.structs import replace

from schemas.commands import AskPerson, CallModel, RunTool, WithdrawQuestion
from schemas.events import ModelAnswered, TaskSubmitted, TimerFired, ToolFinished
from schemas.live import TaskChanged
from schemas.notifications import Notify
from schemas.subjects import TRACEPARENT, TaskSubjects
from schemas.task import AwaitingModel, AwaitingTools, Cancelled, Failed, FinalAnswer, State, decode_state
from schemas.task_view import describe_state
from schemas.tracing import call_context
from schemas.wire import decode, encode
from services.planner.core.outstanding import ForChild, ForParent, Outstanding, Timer, outstanding, timers
from services.runtime.errors import RetryLater
from services.runtime.ports import Change, Outgoing
from services.runtime.telemetry.traces import trace_headers

if TYPE_CHECKING:
    from services.runtime.ports import Bus
    from services.runtime.telemetry.metrics import Metrics
    from services.runtime.telemetry.traces import Traces

logger = logging.getLogger(__name__)

CACHED_MAX = 20_000
"""States kept in memory. A cached state only saves a read: every write is fenced by its revision."""


class Held(NamedTuple):
    """A state and the revision it was read at; no state at revision 0."""

    revision: int
    state: State | None


ABSENT = Held(0, None)


class TaskTable:
    """States of tasks, on the bus."""

    def __init__(self, bus: Bus, metrics: Metrics, traces: Traces) -> None:
        self._bus = bus
        self._metrics = metrics
        self._traces = traces
        self._cache: OrderedDict[TaskSubjects, Held] = OrderedDict()

    def cached(self, task: TaskSubjects) -> Held | None:
        """The state as this replica last saw it. It may be old: good for trying, never for refusing."""
        held = self._cache.get(task)
        if held is not None:
            self._cache.move_to_end(task)
        return held

    async def load(self, task: TaskSubjects, at_least: int) -> Held:
        """The state as of a replica of the stream that knows `at_least`."""
        entry = await self._bus.log(task.partition).get(task.state, at_least=at_least)
        if entry is None:
            self._cache.pop(task, None)
            return ABSENT
        return self._remember(task, Held(entry.seq, decode_state(entry.data)))

    def forget(self, task: TaskSubjects) -> None:
        """Drop what is cached of a task."""
        self._cache.pop(task, None)

    async def commit(self, task: TaskSubjects, held: Held, state: State) -> Held:
        """Write the next state; raises `Conflict` if `held` is not the newest one."""
        headers = _context(state)
        old = timers(held.state) if held.state is not None else ()
        for timer in timers(state):
            if timer not in old:
                await self.set_timer(task, timer, headers)
        change = Change(
            state=Outgoing(task.state, encode(state), headers),
            expected=held.revision,
            ensure=await self._outgoing(task, state, headers),
        )
        with self._metrics.commit_seconds.time():
            revision = await self._bus.log(task.partition).commit(change)
        new = self._remember(task, Held(revision, state))
        await self._announce(task, held, new, state)
        return new

    async def ensure(self, task: TaskSubjects, state: State) -> int:
        """Ensure what must be under way for a state; how many things were not."""
        log = self._bus.log(task.partition)
        headers = _context(state)
        missing = 0
        for message in await self._outgoing(task, state, headers):
            if await log.record(message) is not None:
                missing += 1
        if isinstance(state, Failed | Cancelled):
            # Whoever ended the task may have died before it said so to those who work for it.
            await self._bus.signals.publish(task.stop, b"")
        return missing

    async def set_timer(self, task: TaskSubjects, timer: Timer, headers: Mapping[str, str]) -> None:
        """Set a wake-up, replacing the one of the same id."""
        fired = TimerFired(timer=timer.kind, due=timer.due, turn=timer.turn, attempt=timer.attempt)
        await self._bus.timers.set(task.timer(timer.id), task.timer_fired(timer.id), timer.due, encode(fired), headers)

    async def _outgoing(self, task: TaskSubjects, state: State, headers: dict[str, str]) -> tuple[Outgoing, ...]:
        """The messages of what must be under way for a state."""
        messages: list[Outgoing] = []
        for wanted in outstanding(state):
            if isinstance(wanted, ForParent) and wanted.answer_seq:
                wanted = await self._with_answer(task, wanted)  # noqa: PLW2901 - the same, complete
            messages.append(_outgoing(task, wanted, headers))
        return tuple(messages)

    async def _with_answer(self, task: TaskSubjects, wanted: ForParent) -> ForParent:
        """The result of a delegated call with the answer, which the state only refers to."""
        (entry,) = await self._bus.log(task.partition).read([wanted.answer_seq])
        content = decode(entry.data, ModelAnswered).message.content
        return replace(wanted, result=replace(wanted.result, content=content))

    def _remember(self, task: TaskSubjects, held: Held) -> Held:
        if isinstance(held.state, FinalAnswer | Failed | Cancelled):
            self._cache.pop(task, None)
            return held
        self._cache[task] = held
        self._cache.move_to_end(task)
        if len(self._cache) > CACHED_MAX:
            self._cache.popitem(last=False)
        return held

    async def _announce(self, task: TaskSubjects, old: Held, new: Held, state: State) -> None:
        """Tell those who watch. All of it may be lost; none of it is relied on."""
        view = describe_state(state)
        self._metrics.transitions.labels(view.phase).inc()
        if old.state is not None:
            seconds = (state.updated_at - old.state.updated_at).total_seconds()
            self._metrics.phase_seconds.labels(describe_state(old.state).phase).observe(max(seconds, 0))
        logger.info("%s: %s", view.phase, view.status_detail, extra={"action": "task.step", "revision": new.revision})
        changed = TaskChanged(
            phase=view.phase,
            status=view.status,
            status_detail=view.status_detail,
            reason=view.reason,
            revision=new.revision,
            at=state.updated_at,
        )
        try:
            await self._bus.signals.publish(task.live, encode(changed))
            if isinstance(state, FinalAnswer | Failed | Cancelled):
                await self._ended(task, old.state, state)
        except RetryLater as later:
            logger.warning("could not tell watchers: %s", later, extra={"action": "task.announce"})

    async def _ended(self, task: TaskSubjects, old: State | None, state: FinalAnswer | Failed | Cancelled) -> None:
        self.end_span(state)
        seconds = (state.ended_at - state.created_at).total_seconds()
        self._metrics.task_seconds.labels(describe_state(state).phase).observe(max(seconds, 0))
        if isinstance(old, AwaitingModel | AwaitingTools) and not isinstance(state, FinalAnswer):
            await self._bus.signals.publish(task.stop, b"")
        if old is not None and timers(old):
            await self._bus.timers.cancel(task.timers)

    def end_span(self, state: FinalAnswer | Failed | Cancelled) -> None:
        """Export the span that stands for the whole task."""
        view = describe_state(state)
        self._traces.finished(
            f"invoke_agent {state.agent}",
            state.traceparent,
            parent=self._end_call(state) or state.parent_span,
            start=state.created_at,
            end=state.ended_at,
            attributes={
                "gen_ai.operation.name": "invoke_agent",
                "gen_ai.agent.name": state.agent,
                "gen_ai.conversation.id": f"{state.namespace}/{state.thread or state.task}",
                "gen_ai.usage.input_tokens": state.spend.input_tokens,
                "gen_ai.usage.output_tokens": state.spend.output_tokens,
                "holdfast.namespace": state.namespace,
                "holdfast.task": state.task,
                "holdfast.phase": view.phase,
                "holdfast.turns": state.turn,
                **_failure(state),
            },
        )

    def _end_call(self, state: FinalAnswer | Failed | Cancelled) -> str:
        """Export the span of the delegated call that a task answers; its context, empty if the task answers none."""
        parent = state.parent
        if parent is None:
            return ""
        context = call_context(state.traceparent, state.namespace, state.task)
        self._traces.finished(
            f"execute_tool {parent.tool}",
            context,
            parent=state.parent_span,
            start=state.created_at,
            end=state.ended_at,
            attributes={
                "gen_ai.operation.name": "execute_tool",
                "gen_ai.tool.name": parent.tool,
                "gen_ai.tool.call.id": parent.tool_call_id,
                "gen_ai.tool.type": "extension",
                "gen_ai.agent.name": parent.agents[-1],
                "holdfast.namespace": state.namespace,
                "holdfast.task": parent.task,
                "holdfast.child": state.task,
                **_failure(state),
            },
            link=state.traceparent,
        )
        return context


def _failure(state: FinalAnswer | Failed | Cancelled) -> dict[str, str]:
    """What a task that has not ended well is marked with."""
    match state:
        case FinalAnswer():
            return {}
        case Failed(reason=reason):
            return {"error.type": reason}
        case Cancelled():
            return {"error.type": "Cancelled"}


def _context(state: State) -> dict[str, str]:
    """The trace at hand, or the task's own if there is none: a timer or a walk goes on in the task's trace."""
    return trace_headers() or ({TRACEPARENT: state.traceparent} if state.traceparent else {})


def _outgoing(task: TaskSubjects, wanted: Outstanding, headers: dict[str, str]) -> Outgoing:
    match wanted:
        case CallModel(turn=turn, attempt=attempt):
            subject = task.model_command(turn, attempt)
        case RunTool(request=request, n=n):
            subject = task.tool_command(request, n)
        case AskPerson(request=request, n=n):
            subject = task.ask_command(request, n)
        case WithdrawQuestion(request=request, n=n):
            subject = task.withdraw_command(request, n)
        case ToolFinished(request=request, n=n):
            subject = task.tool_event(request, n)
        case TaskSubmitted(task=child, traceparent=trace):
            return Outgoing(_relative(task, child).submitted, encode(wanted), {TRACEPARENT: trace} if trace else {})
        case ForParent(task=parent, result=result):
            return Outgoing(_relative(task, parent).tool_event(result.request, result.n), encode(result), headers)
        case ForChild(task=child, cancel=cancel):
            return Outgoing(_relative(task, child).cancel, encode(cancel), headers)
        case Notify():
            subject = task.notify_command
        case _:
            assert_never(wanted)
    return Outgoing(subject, encode(wanted), headers)


def _relative(task: TaskSubjects, name: str) -> TaskSubjects:
    """Another task of the same tree: it is in the same partition."""
    return TaskSubjects(task.partition, task.namespace, name)
