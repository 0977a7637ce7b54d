"""One step of a task: load, decide, commit, ensure. Every way in which a task moves ends here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import msgspec

from schemas.events import (
    ApprovalGranted,
    ConversationStarted,
    ModelAnswered,
    ModelFailed,
    TaskFollowed,
    TaskRemoving,
    TaskSubmitted,
    ToolFinished,
    decode_followed,
)
from schemas.fallbacks import next_llm
from schemas.ids import child_task_name, request_id
from schemas.requests import ParentCall
from schemas.subjects import REQUEST_SEQ, TaskSubjects
from schemas.task import AwaitingModel, Cancelled, Failed, FinalAnswer, Initializing, RetryingModel, State, Waiting
from schemas.wire import decode, encode
from services.planner.agents import Agents, first_messages
from services.planner.anchors import Anchors, forget
from services.planner.core.delegation import Refusal, asked_of
from services.planner.core.inputs import (
    AgentReady,
    AgentUnready,
    CannotStart,
    ConversationPinned,
    Delegate,
    Gate,
    Input,
    ModelCallFailed,
)
from services.planner.core.machine import Impossible, transition
from services.planner.core.policy import budget_of, deadline_of
from services.planner.subscribers import Subscribers
from services.planner.table import ABSENT, Held, TaskTable
from services.runtime.errors import Broken, Conflict, RetryLater
from services.runtime.ports import Entry, Log, Outgoing
from services.runtime.telemetry.traces import trace_headers

if TYPE_CHECKING:
    from services.runtime.ports import Bus
    from services.runtime.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

ASKED_FOR_AGAIN = "the request that began the task is not done yet; delete it a little later"
"""Why a task cannot be removed yet."""
CONFLICTS_MAX = 8
"""Lost races of one step before the message is handed back."""


class NotYet(msgspec.Struct, frozen=True):
    """The state waits for more than what is there: nothing to do, and no newer state could say otherwise."""


NOT_YET = NotYet()

Decide = Callable[[State | None], Awaitable[Input | NotYet | None]]
"""What happened, seen from a state; None when it is nothing for this state."""


class Steps:
    """Moves tasks. One step of a task at a time in this replica; between replicas, the revision decides."""

    def __init__(self, bus: Bus, table: TaskTable, agents: Agents, subscribers: Subscribers, metrics: Metrics) -> None:
        self._bus = bus
        self._table = table
        self._agents = agents
        self._subscribers = subscribers
        self._anchors = Anchors(bus)
        self._metrics = metrics
        self._locks: WeakValueDictionary[TaskSubjects, asyncio.Lock] = WeakValueDictionary()

    async def step(self, task: TaskSubjects, decide: Decide, *, at_least: int, again: bool = False) -> bool:
        """Move a task by what `decide` says; False if that changes nothing.

        `again`: the cause may have been handled before by somebody who then died, so what must be under way is
        ensured even if the state stays. Raises `Broken` for an input that cannot be.

        A state is never decided on that is older than one which is known: a stale replica must not say that nothing
        is to be done.
        """
        lock = self._locks.setdefault(task, asyncio.Lock())
        async with lock:
            known = at_least
            if (cached := self._table.cached(task)) is not None:
                try:
                    if (moved := await self._try_cached(task, cached, decide)) is not None:
                        return moved
                    known = max(known, cached.revision)
                except Conflict:
                    self._table.forget(task)
                    known = max(known, cached.revision + 1)
            for _ in range(CONFLICTS_MAX):
                held = await self._table.load(task, known)
                try:
                    moved = await self._move(task, held, decide)
                except Conflict:
                    self._metrics.conflicts.inc()
                    known = max(known, held.revision + 1)
                    continue
                except Impossible as impossible:
                    raise Broken(f"task {task.namespace}/{task.task}: {impossible}") from impossible
                if not moved and again and held.state is not None:
                    await self._table.ensure(task, held.state)
                return moved
        raise RetryLater(f"task {task.namespace}/{task.task} changed {CONFLICTS_MAX} times meanwhile", after_s=0.2)

    async def _try_cached(self, task: TaskSubjects, held: Held, decide: Decide) -> bool | None:
        """Whether the task moved, or None if only the newest state can tell. Raises `Conflict`."""
        try:
            happened = await decide(held.state)
            if isinstance(happened, NotYet):
                return False
            if happened is not None and await self._apply(task, held, happened):
                return True
        except Impossible:
            self._table.forget(task)
        return None

    async def _move(self, task: TaskSubjects, held: Held, decide: Decide) -> bool:
        happened = await decide(held.state)
        return happened is not None and not isinstance(happened, NotYet) and await self._apply(task, held, happened)

    async def _apply(self, task: TaskSubjects, held: Held, happened: Input) -> bool:
        state = transition(held.state, happened)
        if state is held.state:
            return False
        state = await self._with_agent(task, held.state, state)
        if isinstance(state, FinalAnswer | Failed | Cancelled):
            state = msgspec.structs.replace(state, subscriptions=self._subscribers.of(state))
        await self._table.commit(task, held, state)
        if isinstance(happened, ModelCallFailed) and isinstance(state, RetryingModel | AwaitingModel):
            self._count_retry(happened.event)
        return True

    def _count_retry(self, failed: ModelFailed) -> None:
        """A call that only waits for a limit of ours was not made, and is not made again."""
        if failed.failure != "throttled":
            self._metrics.retries.labels(failed.cause).inc()

    def fallback(self, state: State | None, failed: ModelFailed) -> str:
        """The LLM that a task's agent has for a failure of its model call, or none."""
        agent = self._agents.get(state.namespace, state.agent) if isinstance(state, AwaitingModel) else None
        return next_llm(agent.spec, failed.llm, failed.cause) if agent is not None else ""

    def delegated(self, state: State | None, answered: ModelAnswered) -> dict[int, Delegate]:
        """The calls of an answer that are for other agents, by their places."""
        if not isinstance(state, AwaitingModel) or not answered.message.tool_calls:
            return {}
        agents = self._agents.delegates(state.namespace, state.agent)
        return {
            n: Delegate(agents[call.name], self._child(state, n))
            for n, call in enumerate(answered.message.tool_calls, start=1)
            if call.name in agents
        }

    def gates(self, state: State | None, answered: ModelAnswered) -> dict[int, Gate]:
        """The calls of an answer about which people are asked, by their places."""
        if not isinstance(state, AwaitingModel) or not answered.message.tool_calls:
            return {}
        return self._agents.gates(state, answered.message.tool_calls)

    def _child(self, state: AwaitingModel, n: int) -> str:
        request = request_id(state.turn)
        place, partitions = state.submitted_seq, self._bus.partitions
        return child_task_name(state.namespace, state.task, request, n, place=place, partitions=partitions)

    async def look_at_agent(self, task: TaskSubjects) -> bool:
        """Move a task that waits for its agent, if that has become ready or waits for something else now."""

        async def decide(state: State | None) -> Input | None:
            if not isinstance(state, Initializing | Waiting):
                return None
            now = self._bus.clock.now()
            if problem := self._agents.problem(state.namespace, state.agent):
                return AgentUnready(reason=problem, at=now)
            return AgentReady(at=now) if isinstance(state, Waiting) and state.turn else await self._pin(task, state)

        return await self.step(task, decide, at_least=0, again=True)

    async def _with_agent(self, task: TaskSubjects, old: State | None, state: State) -> State:
        """`state`, or what becomes of it by how its agent is now."""
        if not isinstance(state, Initializing | AwaitingModel) or isinstance(old, Waiting) or _is_same_call(old, state):
            return state
        if problem := self._agents.problem(state.namespace, state.agent):
            return transition(state, AgentUnready(reason=problem, at=self._bus.clock.now()))
        if isinstance(state, Initializing):
            return transition(state, await self._pin(task, state))
        return state

    async def _pin(self, task: TaskSubjects, state: Initializing | Waiting) -> ConversationPinned | CannotStart:
        """Record what the conversation starts with: once, whatever becomes of the agent later."""
        agent = self._agents.get(state.namespace, state.agent)
        if agent is None:
            raise RetryLater(f"agent {state.namespace}/{state.agent} has just gone", after_s=0.5)
        log = self._bus.log(task.partition)
        (recorded,) = await log.read([state.submitted_seq])
        spec = decode(recorded.data, TaskSubmitted).spec
        if state.parent is not None:
            asked = await self._asked(log, state.parent, state.agent)
            if isinstance(asked, Refusal):
                return CannotStart(reason=asked.text, at=self._bus.clock.now())
            spec = msgspec.structs.replace(spec, user_message=asked)
        before = await self._before(task, state.continues) if state.continues else ()
        if isinstance(before, Refusal):
            return CannotStart(reason=before.text, at=self._bus.clock.now())
        messages = first_messages(agent, spec)
        started = ConversationStarted(
            messages=messages[1:] if before else messages,
            response_format=spec.response_format or agent.spec.response_format,
        )
        seq = await log.record(Outgoing(task.context, encode(started), trace_headers()))
        if seq is None:
            existing = await log.get(task.context, at_least=state.submitted_seq)
            if existing is None:
                raise RetryLater(f"the context of task {task.namespace}/{task.task} is not readable yet", after_s=0.2)
            seq = existing.seq
        return ConversationPinned(
            seq=seq,
            budget=budget_of(spec.limits, agent.spec.limits),
            deadline=deadline_of(agent.spec.limits, state.created_at),
            at=self._bus.clock.now(),
            asked=spec.user_message or "" if state.parent is not None else "",
            before=before,
        )

    async def _before(self, task: TaskSubjects, name: str) -> tuple[int, ...] | Refusal:
        """Where the conversation is that a task goes on from, with a result for every call in it.

        What was said to that task, and joined no turn of it because it failed or was cancelled, is heard now.
        """
        state = (await self._table.load(_beside(task, name), 0)).state
        if not isinstance(state, FinalAnswer | Failed | Cancelled):
            return Refusal(f"task {name!r}, whose conversation this goes on from, was removed")
        if isinstance(state, FinalAnswer) or state.open_calls is None:
            return (*state.window, *state.queued)
        calls, before = state.open_calls, _beside(task, name)
        results = await self._bus.log(task.partition).last([before.tool_events(calls.request)])
        if len(results) < len(calls.calls):
            raise RetryLater(f"the calls of task {name!r} have no results yet", after_s=0.2)
        places = {entry.subject: entry.seq for entry in results}
        with_results = (*state.window, *(places[before.tool_event(calls.request, call.n)] for call in calls.calls))
        return (*with_results, *state.queued)

    async def _asked(self, log: Log, parent: ParentCall, agent: str) -> str | Refusal:
        """What another task's call asks of an agent."""
        try:
            (entry,) = await log.read([parent.answer_seq])
        except LookupError:
            return Refusal(f"task {parent.task!r}, which asked for this, was removed")
        call = decode(entry.data, ModelAnswered).message.tool_calls[parent.n - 1]
        if parent.approved_seq:
            (approval,) = await log.read([parent.approved_seq])
            call = msgspec.structs.replace(call, arguments=decode(approval.data, ApprovalGranted).arguments)
        return asked_of(call, parent.agents, agent)

    async def remove(self, task: TaskSubjects) -> str:
        """Remove an ended task, the tasks it asked for, and all that is stored of them; why that cannot be, or empty.

        A task that another one asked for stays until that one has ended: it would be asked for again.
        """
        lock = self._locks.setdefault(task, asyncio.Lock())
        async with lock:
            held = await self._table.load(task, 0)
            if held is ABSENT:
                return f"there is no task {task.task!r} in namespace {task.namespace!r}"
            if not isinstance(held.state, FinalAnswer | Failed | Cancelled):
                return f"task {task.task!r} has not ended; cancel it first"
            if (parent := held.state.parent) is not None and await self._is_live(task, parent.task):
                return f"task {task.task!r} belongs to task {parent.task!r}, which has not ended"
            if await self._may_be_asked_for_again(task):
                return ASKED_FOR_AGAIN
            log = self._bus.log(task.partition)
            if problem := await self._followed(task):
                return problem
            for child in await self._children(task):
                problem = await self.remove(child)
                if problem and "there is no" not in problem:
                    return problem
            closed = await log.record(Outgoing(task.followed, encode(TaskRemoving()))) is not None
            if not closed and (problem := await self._followed(task)):
                return problem
            await self._forget(task, held.state)
            for subject in task.everything:
                await log.purge(subject)
            for timers in (task.timers, task.notify_timers, task.people_timers):
                await self._bus.timers.cancel(timers)
            self._table.forget(task)
        return ""

    async def _followed(self, task: TaskSubjects) -> str:
        """Why a task has to stay as long as another one goes on from it; empty if none does."""
        entry = await self._bus.log(task.partition).get(task.followed)
        followed = decode_followed(entry.data) if entry is not None else None
        if not isinstance(followed, TaskFollowed):
            return ""
        return f"task {followed.submitted.task!r} goes on from task {task.task!r}; delete that one first"

    async def _forget(self, task: TaskSubjects, state: State) -> None:
        """What leads to a task goes before it: whoever still found that would submit the task again."""
        if state.continues:

            def names(entry: Entry) -> str:
                followed = decode_followed(entry.data)
                return followed.submitted.task if isinstance(followed, TaskFollowed) else ""

            await forget(self._bus.log(task.partition), _beside(task, state.continues).followed, task.task, names)
        elif state.thread_id:
            await self._anchors.forget(task, state.thread_id)

    async def _may_be_asked_for_again(self, task: TaskSubjects) -> bool:
        """Whether the request that began a task is still there, and may be delivered again: it would begin it again."""
        submitted = await self._bus.log(task.partition).get(task.submitted)
        seq = submitted.headers.get(REQUEST_SEQ, "") if submitted is not None else ""
        if not seq.isdecimal():
            return False
        try:
            await self._bus.requests.read([int(seq)])
        except LookupError:
            return False
        return True

    async def _is_live(self, task: TaskSubjects, other: str) -> bool:
        state = (await self._table.load(TaskSubjects(task.partition, task.namespace, other), 0)).state
        return state is not None and not isinstance(state, FinalAnswer | Failed | Cancelled)

    async def _children(self, task: TaskSubjects) -> list[TaskSubjects]:
        """The tasks that a task asked for, known by their results."""
        log = self._bus.log(task.partition)
        results = [decode(entry.data, ToolFinished) for entry in await log.last([task.tool_events("*")])]
        names = {result.child for result in results if result.child}
        return [TaskSubjects(task.partition, task.namespace, name) for name in sorted(names)]


def _is_same_call(old: State | None, state: State) -> bool:
    """Whether a model call is under way that was there before: the agent was ready for that."""
    if not isinstance(old, AwaitingModel) or not isinstance(state, AwaitingModel):
        return False
    return (old.turn, old.attempt) == (state.turn, state.attempt)


def _beside(task: TaskSubjects, name: str) -> TaskSubjects:
    """Another task of the same partition."""
    return TaskSubjects(task.partition, task.namespace, name)
