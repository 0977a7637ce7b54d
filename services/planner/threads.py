"""Threads: tasks that go on one from another, each with the conversation of those before it.

A running task hears a message before its next turn. After one that has ended, the thread goes on with a new task: never
with two, because what comes next is recorded once, with the whole submission, so that whoever finds it can complete it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from msgspec.structs import replace

from schemas.events import MessageSent, TaskFollowed, TaskRemoving, TaskSubmitted, decode_followed
from schemas.ids import digest, following_task_name
from schemas.requests import Accepted, TaskSpec
from schemas.subjects import REQUEST_SEQ, TRACEPARENT, TaskSubjects
from schemas.task import Cancelled, Failed, FinalAnswer
from schemas.wire import decode, encode
from services.planner.anchors import submission
from services.runtime.errors import RetryLater
from services.runtime.ports import Outgoing
from services.runtime.telemetry.traces import is_traceparent, traced_like

if TYPE_CHECKING:
    from services.planner.table import TaskTable
    from services.runtime.ports import Bus, Log
    from services.runtime.telemetry.traces import Traces

TASKS_MAX = 1000
"""Tasks of one thread that are walked through."""


class Threads:
    """Says things in threads."""

    def __init__(self, bus: Bus, table: TaskTable, traces: Traces) -> None:
        self._bus = bus
        self._table = table
        self._traces = traces

    async def say(
        self, task: TaskSubjects, said: MessageSent, *, id_: str, headers: Mapping[str, str]
    ) -> Accepted | None:
        """Say something in the thread of a task; None if there is no such task.

        `id_` tells this message from others, in whichever task of the thread: the same again is said once.
        """
        log = self._bus.log(task.partition)
        for _ in range(TASKS_MAX):
            following = await self._following(task)
            state = (await self._table.load(task, 0)).state if following is None else None
            if await log.subjects(task.message_event(id_)):  # asked last: a task that has ended hears nothing more
                return Accepted(namespace=task.namespace, task=task.task, created=False)
            if following is not None:
                if following.task == self._name_after(task, id_):
                    return Accepted(namespace=task.namespace, task=following.task)
                task = _beside(task, following.task)
                continue
            if isinstance(state, FinalAnswer | Failed | Cancelled):
                name = await self.go_on(task, said, id_=id_, headers=headers)
                return Accepted(namespace=task.namespace, task=name)
            if state is None and await log.get(task.submitted) is None and not await log.subjects(task.submitted):
                return None
            trace = traced_like(await log.get(task.submitted))
            await log.record(Outgoing(task.message_event(id_), encode(said), trace))
            return Accepted(namespace=task.namespace, task=task.task, created=False)
        raise RetryLater(f"the thread of task {task.namespace}/{task.task} does not end", after_s=1.0)

    async def go_on(self, task: TaskSubjects, said: MessageSent, *, id_: str, headers: Mapping[str, str]) -> str:
        """Go on after an ended task with a new one, or say it to the one that goes on already; which one hears it."""
        state = (await self._table.load(task, 0)).state
        if not isinstance(state, FinalAnswer | Failed | Cancelled):
            raise RetryLater(f"task {task.namespace}/{task.task} is not seen to have ended", after_s=0.2)
        log = self._bus.log(task.partition)
        name, requester = self._name_after(task, id_), headers.get(TRACEPARENT, "")
        event = TaskSubmitted(
            namespace=task.namespace,
            task=name,
            spec=await self._spec_after(log, state, said),
            at=said.at,
            traceparent=self._traces.begin(requester, task.namespace, name),
            parent_span=requester if is_traceparent(requester) else "",
            continues=task.task,
            thread=state.thread or task.task,
        )
        own = {TRACEPARENT: event.traceparent}
        if REQUEST_SEQ in headers:
            own[REQUEST_SEQ] = headers[REQUEST_SEQ]  # delivered again, it would begin the task again
        if await log.record(Outgoing(task.followed, encode(TaskFollowed(submitted=event)), own)) is None:
            following = await self._following(task)
            if following is None:
                raise RetryLater(f"what follows task {task.namespace}/{task.task} is not seen yet", after_s=0.2)
            if following.task != event.task:
                accepted = await self.say(_beside(task, following.task), said, id_=id_, headers=headers)
                return accepted.task if accepted is not None else following.task
            return following.task
        await log.record(Outgoing(_beside(task, event.task).submitted, encode(event), own))
        return event.task

    async def _spec_after(self, log: Log, state: FinalAnswer | Failed | Cancelled, said: MessageSent) -> TaskSpec:
        """What a task is asked that goes on after one: as that one was, but for the message."""
        try:
            (recorded,) = await log.read([state.submitted_seq])
        except LookupError:
            raise RetryLater(f"task {state.namespace}/{state.task} is being removed", after_s=0.2) from None
        spec = decode(recorded.data, TaskSubmitted).spec
        return replace(spec, user_message=said.content, context_window=None)

    async def _following(self, task: TaskSubjects) -> TaskSubmitted | None:
        """The task that a thread goes on with after this one, submitted if whoever began that had died."""
        log = self._bus.log(task.partition)
        entry = await log.get(task.followed)
        if entry is None:
            return None
        followed = decode_followed(entry.data)
        if isinstance(followed, TaskRemoving):
            raise RetryLater(f"task {task.namespace}/{task.task} is being removed", after_s=0.2)
        return await submission(self._bus, log, entry, followed.submitted)

    def _name_after(self, task: TaskSubjects, id_: str) -> str:
        return following_task_name(task.namespace, task.task, id_, self._bus.partitions)


def message_id(source: str) -> str:
    """The id of a message that came from there: a token of a subject."""
    return digest("message", source)[:24]


def _beside(task: TaskSubjects, name: str) -> TaskSubjects:
    return TaskSubjects(task.partition, task.namespace, name)
