"""Anchors: the task that began a thread, by the name that its caller gave to the thread.

An anchor is recorded once, before the task and with the whole submission, in the partition that the name hashes to:
whoever finds it sees to it that the task is submitted. It counts as long as the task that it names was submitted with
this name of a thread. One that does not count is dropped by whoever finds it: the name of its task was taken meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from schemas.events import TaskSubmitted, ThreadBegun
from schemas.ids import partition_of, thread_key
from schemas.subjects import REQUEST_SEQ, TRACEPARENT, TaskSubjects, thread_anchor
from schemas.wire import decode, encode
from services.runtime.errors import Conflict, RetryLater
from services.runtime.ports import Outgoing

if TYPE_CHECKING:
    from services.runtime.ports import Bus, Entry, Log

RACES_MAX = 8


class Anchors:
    """Finds and sets anchors."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def begin(self, event: TaskSubmitted, headers: Mapping[str, str]) -> TaskSubmitted:
        """The task that began a thread: `event`, which is still to be recorded, unless another one had.

        `headers` go with the event, whoever records it.
        """
        log, subject = self._place(event.namespace, event.spec.thread_id)
        for _ in range(RACES_MAX):
            if await log.record(Outgoing(subject, encode(ThreadBegun(submitted=event)), headers)) is not None:
                return event
            if (first := await self.first(event.namespace, event.spec.thread_id)) is not None:
                return first
        raise RetryLater(f"who began thread {event.spec.thread_id!r} is not seen yet", after_s=0.2)

    async def first(self, namespace: str, thread_id: str) -> TaskSubmitted | None:
        """The task that began a thread, submitted if whoever began it had died; None if there is no such thread."""
        log, subject = self._place(namespace, thread_id)
        entry = await log.get(subject)
        if entry is None:
            return None
        first = decode(entry.data, ThreadBegun).submitted
        if await self._counts(log, entry, first):
            return first
        await log.drop(entry)
        return None

    async def forget(self, task: TaskSubjects, thread_id: str) -> None:
        """The task that began a thread is about to be removed: the thread is there no more."""
        log, subject = self._place(task.namespace, thread_id)

        def names(entry: Entry) -> str:
            return decode(entry.data, ThreadBegun).submitted.task

        await forget(log, subject, task.task, names)

    async def _counts(self, log: Log, entry: Entry, first: TaskSubmitted) -> bool:
        """Whether the task that an anchor names began this thread. It is recorded if there is none of its name."""
        found = await submission(self._bus, log, entry, first)
        return found.spec.thread_id == first.spec.thread_id and not found.continues

    def _place(self, namespace: str, thread_id: str) -> tuple[Log, str]:
        key = thread_key(thread_id)
        partition = partition_of(namespace, key, self._bus.partitions)
        return self._bus.log(partition), thread_anchor(partition, namespace, key)


async def submission(bus: Bus, log: Log, entry: Entry, event: TaskSubmitted) -> TaskSubmitted:
    """How the task of a record was asked for: as the record says, if whoever wrote it died before the task was there.

    The record is then written again as it is: one that a replica of the stream still shows, and that was removed with
    its task, brings no task back. Raises `RetryLater`.
    """
    task = TaskSubjects(partition_of(event.namespace, event.task, bus.partitions), event.namespace, event.task)
    home = bus.log(task.partition)
    recorded = await home.get(task.submitted)
    if recorded is not None:
        return decode(recorded.data, TaskSubmitted)
    headers = {name: entry.headers[name] for name in (TRACEPARENT, REQUEST_SEQ) if name in entry.headers}
    try:
        await log.write(Outgoing(entry.subject, entry.data, headers), expected=entry.seq)
    except Conflict as conflict:
        raise RetryLater(f"{entry.subject} has just changed", after_s=0.2) from conflict
    if await home.record(Outgoing(task.submitted, encode(event), headers)) is not None:
        return event
    raise RetryLater(f"task {task.namespace}/{task.task} was just submitted by another replica", after_s=0.2)


async def forget(log: Log, subject: str, task: str, names: Callable[[Entry], str]) -> None:
    """Remove a record if it names a task that is about to be removed, so that nobody brings the task back by it."""
    for _ in range(RACES_MAX):
        entry = await log.get(subject)
        if entry is None and not await log.subjects(subject):
            return
        if entry is not None:
            if names(entry) != task:
                return
            await log.drop(entry)
    raise RetryLater(f"{subject} is being changed", after_s=0.2)
