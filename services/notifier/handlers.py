"""What the notifier does: makes the notifications of a task that has ended, and sends each until it is at its end.

A wake-up is acknowledged when the record says what came of it and, if it has to come again, the next wake-up is set. A
crash before that brings the wake-up again: the receiver may then hear the same notification twice, under the same id.
A notification that waits is a record and a timer, and neither a message in hand nor a slot.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import msgspec

from schemas.dead_letters import DeadReason
from schemas.events import ModelAnswered
from schemas.notifications import (
    Notification,
    NotificationDelivered,
    NotificationDue,
    NotificationFailed,
    NotificationPending,
    Notify,
    Receiver,
)
from schemas.subjects import (
    NOTIFIER,
    NOTIFIER_TIMERS,
    NOTIFY_TIMERS_STREAM,
    REDRIVE,
    TRACEPARENT,
    TaskSubjects,
    dead_letter,
    task_of,
)
from schemas.task import Cancelled, Failed, FinalAnswer, decode_state
from schemas.tracing import derived, task_context
from schemas.wire import Malformed, decode
from services.notifier.attempts import Attempts
from services.notifier.core import machine
from services.notifier.core.words import told_of
from services.notifier.records import Kept, Records
from services.runtime.conversations import conversation
from services.runtime.errors import Conflict, Refused, RetryLater
from services.runtime.in_hand import InHand
from services.runtime.telemetry.logs import log_ids
from services.runtime.telemetry.traces import trace_headers, trace_id

if TYPE_CHECKING:
    from datetime import datetime

    from services.notifier.receivers import Receivers
    from services.runtime.consumer import Inbound
    from services.runtime.service import Runtime

logger = logging.getLogger(__name__)

CONFLICTS_MAX = 8
NOT_ENDED_S = 0.5
LETTER_LOOKS = 3
LETTER_S = 1.0


class Notifications:
    """Handlers of the notifier's consumers."""

    def __init__(self, runtime: Runtime, receivers: Receivers) -> None:
        self._bus = runtime.bus
        self._traces = runtime.traces
        self._metrics = runtime.metrics
        self._give_up_s = runtime.settings.notify_give_up_s
        self._receivers = receivers
        self._records = Records(runtime.bus)
        self._attempts = Attempts(runtime, receivers)
        self._in_hand = InHand()
        """A newer wake-up takes the place of the one in hand in the stream: it is not acknowledged before that one."""

    async def on_command(self, inbound: Inbound) -> None:
        """A task has ended and somebody wants to know: make a notification for each receiver, and wake them."""
        task = task_of(inbound.subject)
        decode(inbound.data, Notify)
        parent = inbound.headers.get(TRACEPARENT, "")
        with (
            log_ids(namespace=task.namespace, task=task.task, trace=trace_id(parent)),
            self._traces.process(inbound, task, NOTIFIER),
        ):
            state = await self._ended(task, inbound.seq)
            if state is None:
                return

            def lane(receiver: Receiver, name: str) -> str:
                return self._receivers.lane(task.namespace, state.response_url, receiver, name)

            headers = trace_headers() or _headers(state)
            for pending in machine.wanted(state, lane, self._bus.clock.now(), self._give_up_s):
                kept = await self._records.make(task, pending)
                if isinstance(kept.value, NotificationPending):
                    await self._records.wake(task, kept, headers)

    async def on_dead_command(self, inbound: Inbound, reason: DeadReason, error: str) -> None:
        """The letter says it all: sent again, it makes what is not yet made."""

    async def on_wake(self, inbound: Inbound) -> None:
        """A notification may be due: look at its record."""
        task, id_ = task_of(inbound.subject), inbound.subject.rpartition(".")[2]
        trace = trace_id(inbound.headers.get(TRACEPARENT, ""))
        with (
            log_ids(namespace=task.namespace, task=task.task, trace=trace),
            self._traces.process(inbound, task, NOTIFIER_TIMERS),
        ):
            async with self._in_hand.alone(inbound.subject):
                await self._wake(task, id_, inbound)

    async def on_dead_wake(self, inbound: Inbound, reason: DeadReason, error: str) -> None:
        """A wake-up that could not be handled fails its notification, so that the letter is what is left of it."""
        try:
            task, id_ = task_of(inbound.subject), inbound.subject.rpartition(".")[2]
        except ValueError:
            return
        while True:
            kept = (await self._records.of_task(task, 0)).get(id_)
            if kept is None or not isinstance(kept.value, NotificationPending):
                return
            failed = machine.given_up(kept.value, f"{reason}: {error}", self._bus.clock.now(), inbound.seq)
            try:
                await self._records.write(task, failed, expected=kept.revision)
            except Conflict:
                continue
            self._metrics.notifications.labels(failed.receiver, "failed").inc()
            return

    # --- one wake-up ---

    async def _wake(self, task: TaskSubjects, id_: str, inbound: Inbound) -> None:
        woken = decode(inbound.data, NotificationDue)
        # The server does not fire early, so it is `due` by now, whatever the clock of this machine says.
        now = max(woken.due, self._bus.clock.now())
        all_ = await self._records.of_task(task, woken.revision)
        kept = all_.get(id_)
        if kept is None:
            if await self._records.exists(task, id_):
                raise Malformed(f"notification {id_} of task {task.namespace}/{task.task} cannot be read")
            return  # its task was removed
        match kept.value:
            case NotificationDelivered():
                return
            case NotificationFailed() as failed:
                if failed.letter_seq == inbound.seq:
                    raise _undelivered(failed)  # its letter may not be written yet
                if REDRIVE not in inbound.headers or inbound.seq < failed.letter_seq:
                    await self._bury(task, failed, kept, inbound)
                    return
                begun = machine.redriven(failed, now, self._give_up_s)
                kept = await self._write(task, begun, kept)
            case NotificationPending():
                pass
        await self._pending(task, kept, all_, inbound, now)

    async def _bury(self, task: TaskSubjects, failed: NotificationFailed, kept: Kept, inbound: Inbound) -> None:
        """See to it that there is a letter: this wake-up may have replaced the one that was to become it.

        Whoever had that one in hand may still write it, so that is waited for.
        """
        if not failed.letter_seq or inbound.seq <= failed.letter_seq:
            return
        letter = dead_letter(NOTIFY_TIMERS_STREAM, failed.letter_seq)
        if await self._bus.dead_letters.get(letter) is not None:
            return
        if inbound.delivered <= LETTER_LOOKS:
            raise RetryLater(f"the letter of notification {failed.id} is not seen yet", after_s=LETTER_S)
        later = msgspec.structs.replace(failed, letter_seq=inbound.seq)
        await self._write(task, later, kept)
        raise _undelivered(later)

    async def _pending(
        self, task: TaskSubjects, kept: Kept, all_: dict[str, Kept], inbound: Inbound, now: datetime
    ) -> None:
        pending = kept.value
        assert isinstance(pending, NotificationPending)
        if pending.due > now:
            await self._records.wake(task, kept, _passed_on(inbound))
            return
        state = await self._ended(task, kept.revision)
        if state is None:
            return
        before = await self._before(task, state)
        first = machine.ahead(pending, tuple(one.value for one in all_.values()), before)
        if first is not None and now < pending.give_up_at:
            until = max(first.due, now) + machine.AHEAD
            await self._park(task, kept, until, f"notification {first.id} goes first", inbound)
            return
        told = told_of(state, await self._output(task, state))
        at_once = REDRIVE in inbound.headers
        thread = await self._conversation(task, pending)
        outcome = await self._attempts.make(pending, state, told, thread, now, at_once=at_once)
        if isinstance(outcome, machine.Parked):
            await self._park(task, kept, outcome.until, outcome.why, inbound)
            return
        await self._settle(task, kept, outcome, inbound)

    async def _settle(self, task: TaskSubjects, kept: Kept, made: machine.Made, inbound: Inbound) -> None:
        """Write what came of an attempt, on whatever the record is by now."""
        for _ in range(CONFLICTS_MAX):
            if not isinstance(kept.value, NotificationPending):
                break
            value = machine.settled(kept.value, made, inbound.seq)
            try:
                kept = await self._records.write(task, value, expected=kept.revision)
            except Conflict:
                newest = (await self._records.of_task(task, kept.revision + 1)).get(value.id)
                if newest is None:
                    return
                kept = newest
                continue
            self._count(value)
            self._over(task, value, inbound)
            break
        else:
            raise RetryLater(f"notification {kept.value.id} changed {CONFLICTS_MAX} times meanwhile", after_s=0.2)
        match kept.value:
            case NotificationPending():
                await self._records.wake(task, kept, _passed_on(inbound))
            case NotificationFailed(letter_seq=seq) as failed if seq == inbound.seq:
                raise _undelivered(failed)
            case NotificationFailed() as failed:
                await self._bury(task, failed, kept, inbound)
            case NotificationDelivered():
                pass

    async def _park(self, task: TaskSubjects, kept: Kept, until: datetime, why: str, inbound: Inbound) -> None:
        assert isinstance(kept.value, NotificationPending)
        later = await self._write(task, machine.parked(kept.value, until, why), kept)
        await self._records.wake(task, later, _passed_on(inbound))

    async def _write(self, task: TaskSubjects, value: Notification, kept: Kept) -> Kept:
        try:
            return await self._records.write(task, value, expected=kept.revision)
        except Conflict as conflict:
            raise RetryLater(f"notification {value.id} has just changed", after_s=0.1) from conflict

    # --- the task ---

    async def _ended(self, task: TaskSubjects, at_least: int) -> FinalAnswer | Failed | Cancelled | None:
        """The task's last state; None if the task was removed."""
        entry = await self._bus.log(task.partition).get(task.state, at_least=at_least)
        if entry is None:
            return None
        state = decode_state(entry.data)
        if not isinstance(state, FinalAnswer | Failed | Cancelled):
            raise RetryLater(f"task {task.namespace}/{task.task} has not ended", after_s=NOT_ENDED_S)
        return state

    async def _before(self, task: TaskSubjects, state: FinalAnswer | Failed | Cancelled) -> tuple[Notification, ...]:
        """The notifications of the task that this one goes on from."""
        if not state.continues:
            return ()
        earlier = await self._records.of_task(TaskSubjects(task.partition, task.namespace, state.continues), 0)
        return tuple(kept.value for kept in earlier.values())

    async def _conversation(self, task: TaskSubjects, pending: NotificationPending) -> str:
        """What the receiver calls the conversation that a notification belongs to, if it has begun."""
        channel = pending.name if pending.receiver == "ContactChannel" else ""
        log = self._bus.log(task.partition)
        return await conversation(log, task, lambda told: told.lane == pending.lane, channel)

    async def _output(self, task: TaskSubjects, state: FinalAnswer | Failed | Cancelled) -> str:
        if not isinstance(state, FinalAnswer):
            return ""
        try:
            (entry,) = await self._bus.log(task.partition).read([state.window[-1]])
        except LookupError:
            return ""  # the task is being removed
        return decode(entry.data, ModelAnswered).message.content

    def _over(self, task: TaskSubjects, value: Notification, inbound: Inbound) -> None:
        """Record the span of a notification that has come to its end."""
        if isinstance(value, NotificationPending):
            return
        within = inbound.headers.get(TRACEPARENT, "")
        failed = isinstance(value, NotificationFailed)
        self._traces.finished(
            f"notification {value.receiver}",
            derived(within, task.namespace, task.task, value.id, str(value.redriven)),
            parent=task_context(within, task.namespace, task.task),
            start=value.created_at,
            end=value.at,
            attributes={
                "holdfast.namespace": task.namespace,
                "holdfast.task": task.task,
                "holdfast.notification": value.id,
                "holdfast.receiver": value.receiver,
                "holdfast.outcome": "failed" if failed else "delivered",
                "holdfast.attempts": value.attempts,
                **({"error.type": "undelivered"} if failed else {}),
            },
        )

    def _count(self, value: Notification) -> None:
        match value:
            case NotificationDelivered():
                outcome = "delivered"
            case NotificationFailed(letter_seq=0):
                outcome = "unwanted"
            case NotificationFailed(error=error, id=id_):
                outcome = "failed"
                logger.warning("notification %s failed: %s", id_, error, extra={"action": "notification.failed"})
            case NotificationPending():
                return
        self._metrics.notifications.labels(value.receiver, outcome).inc()


def _headers(state: FinalAnswer | Failed | Cancelled) -> dict[str, str]:
    """Attempts belong to the task's trace, whoever makes them."""
    return {TRACEPARENT: state.traceparent} if state.traceparent else {}


def _passed_on(inbound: Inbound) -> dict[str, str]:
    trace = inbound.headers.get(TRACEPARENT, "")
    return {TRACEPARENT: trace} if trace else {}


def _undelivered(failed: NotificationFailed) -> Refused:
    whom = f"{failed.receiver} {failed.name}".rstrip()
    text = f"notification {failed.id} of task {failed.namespace}/{failed.task} did not reach {whom}: {failed.error}"
    return Refused(text, code="undelivered")
