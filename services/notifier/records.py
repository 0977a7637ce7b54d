"""Notifications on the bus: read, written at their revision, and woken."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from schemas.notifications import Notification, NotificationDue, NotificationPending, decode_notification
from schemas.subjects import TaskSubjects
from schemas.wire import Malformed, encode
from services.runtime.ports import Outgoing
from services.runtime.telemetry.traces import trace_headers

if TYPE_CHECKING:
    from datetime import datetime

    from services.runtime.ports import Bus

logger = logging.getLogger(__name__)


class Kept(NamedTuple):
    """A notification and the revision it was read at."""

    revision: int
    value: Notification


class Records:
    """The notifications of tasks."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def of_task(self, task: TaskSubjects, at_least: int) -> dict[str, Kept]:
        """All notifications of a task that can be read, by their ids."""
        found: dict[str, Kept] = {}
        for entry in await self._bus.log(task.partition).last([task.notifications], at_least=at_least):
            try:
                found[entry.subject.rpartition(".")[2]] = Kept(entry.seq, decode_notification(entry.data))
            except Malformed as error:
                logger.error("%s cannot be read: %s", entry.subject, error, extra={"action": "notification.malformed"})  # noqa: TRY400 - the text says it all
        return found

    async def exists(self, task: TaskSubjects, id_: str) -> bool:
        """Whether there is such a record, whatever it says."""
        return await self._bus.log(task.partition).get(task.notification(id_)) is not None

    async def make(self, task: TaskSubjects, pending: NotificationPending) -> Kept:
        """Record a new one, or find the one that is there."""
        log = self._bus.log(task.partition)
        subject = task.notification(pending.id)
        while True:
            revision = await log.record(Outgoing(subject, encode(pending), trace_headers()))
            if revision is not None:
                return Kept(revision, pending)
            entry = await log.get(subject)
            if entry is not None:
                return Kept(entry.seq, decode_notification(entry.data))

    async def write(self, task: TaskSubjects, value: Notification, *, expected: int) -> Kept:
        """The next record; raises `Conflict`."""
        message = Outgoing(task.notification(value.id), encode(value), trace_headers())
        return Kept(await self._bus.log(task.partition).write(message, expected=expected), value)

    async def wake(self, task: TaskSubjects, kept: Kept, headers: Mapping[str, str]) -> None:
        """Wake it when it is due: at once by a message, later by a timer. Saying it again replaces it."""
        pending = kept.value
        assert isinstance(pending, NotificationPending)
        due = encode(NotificationDue(due=pending.due, revision=kept.revision))
        fires_on = task.notify_timer_fired(pending.id)
        if pending.due <= self._bus.clock.now():
            await self._bus.signals.store(fires_on, due, headers)
        else:
            await self._bus.timers.set(task.notify_timer(pending.id), fires_on, pending.due, due, headers)

    def now(self) -> datetime:
        """The time."""
        return self._bus.clock.now()
