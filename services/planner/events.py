"""Events and timers: what may move a task, each turned into one step."""

from __future__ import annotations

import logging
from datetime import datetime
from typing import TYPE_CHECKING, assert_never

from schemas.dead_letters import DeadReason
from schemas.events import (
    ApprovalGranted,
    CancelRequested,
    MessageSent,
    ModelAnswered,
    ModelFailed,
    TaskEvent,
    TaskSubmitted,
    TimerFired,
    ToolFinished,
    WindowCompacted,
    decode_task_event,
)
from schemas.subjects import PLANNER, PLANNER_TIMERS, TRACEPARENT, TaskSubjects, task_of
from schemas.task import AwaitingTools, Cancelled, Failed, FinalAnswer, Spend, State, Waiting
from schemas.wire import decode
from services.planner.core.inputs import (
    Approved,
    CancelAsked,
    DeadlinePassed,
    Input,
    ModelCallFailed,
    ModelCompacted,
    ModelReplied,
    RetryDue,
    Said,
    Submitted,
    ToolsAnswered,
    Undeliverable,
)
from services.planner.core.outstanding import Timer, needs
from services.planner.core.policy import recheck_after
from services.planner.interactions import Interactions
from services.planner.steps import NOT_YET, NotYet
from services.runtime.errors import RetryLater
from services.runtime.telemetry.logs import log_ids
from services.runtime.telemetry.traces import trace_id

if TYPE_CHECKING:
    from services.planner.steps import Decide, Steps
    from services.planner.table import TaskTable
    from services.planner.threads import Threads
    from services.runtime.consumer import Inbound
    from services.runtime.ports import Bus
    from services.runtime.telemetry.metrics import Metrics
    from services.runtime.telemetry.traces import Traces

logger = logging.getLogger(__name__)

EARLY_S = 0.1
EARLY_MAX = 6
"""How often a timer is handed back that no state needs yet; in all, that is some 12 seconds."""

OVERTOOK_S = 0.2
"""How long an event waits that came before the one that begins its task was handled."""


class Events:
    """Handlers of the planner's consumers of events and of timers."""

    def __init__(
        self, bus: Bus, steps: Steps, table: TaskTable, threads: Threads, *, metrics: Metrics, traces: Traces
    ) -> None:
        self._bus = bus
        self._steps = steps
        self._table = table
        self._threads = threads
        self._interactions = Interactions(bus)
        self._metrics = metrics
        self._traces = traces

    async def on_event(self, inbound: Inbound) -> None:
        """A fact about a task: step it."""
        task = task_of(inbound.subject)
        event = decode_task_event(inbound.data)
        name = type(event).__name__
        parent = inbound.headers.get(TRACEPARENT, "")
        with (
            log_ids(namespace=task.namespace, task=task.task, trace=trace_id(parent)),
            self._traces.process(inbound, task, PLANNER, attributes={"holdfast.event": name}),
        ):
            seen: list[State | None] = []
            decide = self._decide(task, inbound, event, seen)
            moved = await self._steps.step(task, decide, at_least=inbound.seq, again=inbound.redelivered)
            if not moved:
                await self._ignored(task, inbound, name, seen[-1])

    def _decide(self, task: TaskSubjects, inbound: Inbound, event: TaskEvent, seen: list[State | None]) -> Decide:
        """What the event is for a state. The states that were asked about are added to `seen`."""

        async def decide(state: State | None) -> Input | NotYet | None:
            seen.append(state)
            if state is None and not isinstance(event, TaskSubmitted):
                return None
            match event:
                case TaskSubmitted():
                    return Submitted(seq=inbound.seq, event=event)
                case ModelAnswered():
                    delegated, gates = self._steps.delegated(state, event), self._steps.gates(state, event)
                    return ModelReplied(
                        seq=inbound.seq, subject=inbound.subject, event=event, delegated=delegated, gates=gates
                    )
                case ModelFailed():
                    fallback = self._steps.fallback(state, event)
                    return ModelCallFailed(
                        subject=inbound.subject, event=event, fallback=fallback, recorded_at=inbound.at
                    )
                case WindowCompacted():
                    return ModelCompacted(seq=inbound.seq, subject=inbound.subject, event=event)
                case ApprovalGranted():
                    return Approved(seq=inbound.seq, event=event)
                case ToolFinished():
                    return await self._join(task, inbound, event, state)
                case MessageSent():
                    return Said(seq=inbound.seq, event=event)
                case CancelRequested():
                    return CancelAsked(subject=inbound.subject, event=event)
                case _:
                    assert_never(event)

        return decide

    async def _join(
        self, task: TaskSubjects, inbound: Inbound, event: ToolFinished, state: State | None
    ) -> ToolsAnswered | NotYet | None:
        """The results of a request, if this was the last of them. The recorded results are the join."""
        if not isinstance(state, AwaitingTools) or state.request != event.request:
            return None
        if len(state.calls) == 1:
            return ToolsAnswered(request=event.request, seqs=(inbound.seq,), at=event.at, spend=_spent(event))
        results = await self._bus.log(task.partition).last([task.tool_events(event.request)], at_least=inbound.seq)
        if len(results) < len(state.calls):
            return NOT_YET
        places = {entry.subject: entry.seq for entry in results}
        seqs = tuple(places[task.tool_event(event.request, call.n)] for call in state.calls)
        children = {task.tool_event(event.request, call.n) for call in state.calls if call.child}
        spend = _spent(*(decode(entry.data, ToolFinished) for entry in results if entry.subject in children))
        return ToolsAnswered(request=event.request, seqs=seqs, at=event.at, spend=spend)

    async def _ignored(self, task: TaskSubjects, inbound: Inbound, name: str, state: State | None) -> None:
        """A late, duplicate or not yet decisive event: counted, and tidied up if its task was removed."""
        self._metrics.ignored.labels(name).inc()
        logger.debug("%s changes nothing", inbound.subject, extra={"action": "task.ignored"})
        if isinstance(state, Failed | Cancelled) and name == "ToolFinished":
            await self._withdraw(task, inbound, state)
        if state is None:
            await self._without_state(task, inbound)
        elif name == "MessageSent" and isinstance(state, FinalAnswer | Failed | Cancelled):
            await self._too_late_to_hear(task, inbound, state)
        elif isinstance(state, FinalAnswer | Failed | Cancelled) and state.ended_by == inbound.subject:
            self._table.end_span(state)

    async def _withdraw(self, task: TaskSubjects, inbound: Inbound, state: Failed | Cancelled) -> None:
        """Take back what people were asked in the middle of a call that has its result because its task has ended."""
        result = decode(inbound.data, ToolFinished)
        if state.open_calls is not None and state.open_calls.request == result.request:
            await self._interactions.withdraw(task, result, inbound.seq)

    async def _too_late_to_hear(self, task: TaskSubjects, inbound: Inbound, state: State) -> None:
        """A message that a task has not heard before it ended goes on in its thread."""
        if inbound.seq not in (*state.window, *state.queued):
            said = decode(inbound.data, MessageSent)
            id_ = inbound.subject.rpartition(".")[2]
            await self._threads.go_on(task, said, id_=id_, headers={})

    async def _without_state(self, task: TaskSubjects, inbound: Inbound) -> None:
        """An event of a task that was removed goes, too; one that overtook the task's own beginning comes again."""
        log = self._bus.log(task.partition)
        if await log.get(task.submitted, at_least=inbound.seq) is not None:
            raise RetryLater(f"task {task.namespace}/{task.task} has not begun yet", after_s=OVERTOOK_S)
        await log.purge(inbound.subject)

    async def on_dead_event(self, inbound: Inbound, reason: DeadReason, error: str) -> None:
        """An event that could not be handled fails its task, so that nobody waits for ever."""

        async def decide(state: State | None) -> Input | None:
            if state is None:
                return None
            return Undeliverable(subject=inbound.subject, error=f"{reason}: {error}", at=self._bus.clock.now())

        try:
            task = task_of(inbound.subject)
        except ValueError:
            return
        await self._steps.step(task, decide, at_least=inbound.seq, again=True)

    async def on_timer(self, inbound: Inbound) -> None:
        """A wake-up: look whether it is time, by the state and not by the timer."""
        task = task_of(inbound.subject)
        fired = decode(inbound.data, TimerFired)
        parent = inbound.headers.get(TRACEPARENT, "")
        with (
            log_ids(namespace=task.namespace, task=task.task, trace=trace_id(parent)),
            self._traces.process(inbound, task, PLANNER_TIMERS, attributes={"holdfast.event": fired.timer}),
        ):
            # The server never fires early, so it is `due` by now, whatever the clock of this machine says.
            now = max(fired.due, self._bus.clock.now())
            match fired.timer:
                case "deadline":
                    moved = await self.deadline(task, inbound.subject, now)
                case "retry":
                    moved = await self.retry(task, now)
                case "recheck":
                    moved = await self._recheck(task, inbound)
                case _:
                    assert_never(fired.timer)
            if not moved and inbound.delivered <= EARLY_MAX:
                await self._look_again(task, fired, inbound.delivered)

    async def _look_again(self, task: TaskSubjects, fired: TimerFired, delivered: int) -> None:
        """A timer is set before the state that needs it is written, and may fire before that, too.

        Or it was handled before, by somebody who wrote the state and not the command.
        """
        state = (await self._table.load(task, 0)).state
        if needs(state, fired):
            raise RetryLater(f"the state of task {task.task} is behind its timer", after_s=EARLY_S * 2**delivered)
        if delivered > 1 and state is not None:
            await self._table.ensure(task, state)

    async def deadline(self, task: TaskSubjects, subject: str, now: datetime) -> bool:
        """End a task whose deadline has passed."""

        async def decide(state: State | None) -> Input | None:
            return None if state is None else DeadlinePassed(subject=subject, at=now)

        return await self._steps.step(task, decide, at_least=0, again=True)

    async def retry(self, task: TaskSubjects, now: datetime) -> bool:
        """Try a model call again if it is time."""

        async def decide(state: State | None) -> Input | None:
            return None if state is None else RetryDue(at=now)

        return await self._steps.step(task, decide, at_least=0, again=True)

    async def _recheck(self, task: TaskSubjects, inbound: Inbound) -> bool:
        moved = await self._steps.look_at_agent(task)
        state = (await self._table.load(task, 0)).state
        if isinstance(state, Waiting):
            now = self._bus.clock.now()
            due = now + recheck_after(state.since, now)
            timer = Timer(kind="recheck", id="recheck", due=due)
            await self._table.set_timer(task, timer, inbound.headers)
        return moved


def _spent(*results: ToolFinished) -> tuple[Spend, ...]:
    """What tasks of other agents used for these results."""
    return tuple(result.spend for result in results if result.spend is not None)
