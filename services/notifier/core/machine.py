"""A notification from its making to its end: pure functions from one record to the next.

- Pending, until it is delivered or failed. A record that is not pending changes by a redrive only.
- Attempts are counted, waits are not: who waits for its turn, or for a receiver in trouble, has not failed.
- `give_up_at` bounds all of it: nothing waits for longer, and the attempt that is made then is the last one.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from datetime import datetime, timedelta

import msgspec

from schemas.ids import digest
from schemas.notifications import (
    Notification,
    NotificationAttempt,
    NotificationDelivered,
    NotificationFailed,
    NotificationPending,
    Receiver,
    ending_of,
)
from schemas.task import Cancelled, Failed, FinalAnswer
from services.notifier.core.outcomes import NotTaken, Outcome, Taken, Unwanted

ID_LENGTH = 20
"""Base-32 characters: 100 bits, and short enough for receivers that bound it."""
LANE_LENGTH = 12
BACKOFF_BASE_S = 2.0
BACKOFF_MAX_S = 3600.0
TRIED_KEPT = 8
ERROR_LENGTH = 300

AHEAD = timedelta(seconds=0.5)
"""How long after the one that goes first the next one looks again."""


class Made(msgspec.Struct, frozen=True):
    """An attempt that was made."""

    outcome: Outcome
    at: datetime
    """When it ended."""
    took_s: float


class Parked(msgspec.Struct, frozen=True):
    """None was: the receiver has no room for it."""

    until: datetime
    why: str


Lane = Callable[[Receiver, str], str]
"""Where a receiver of this name is reached, and how."""


def notification_id(namespace: str, task: str, submitted_seq: int, receiver: Receiver, name: str) -> str:
    """The same however often it is asked for; another one for a task that takes a removed one's name."""
    return digest("notification", namespace, task, str(submitted_seq), receiver, name)[:ID_LENGTH]


def wanted(
    state: FinalAnswer | Failed | Cancelled, lane: Lane, now: datetime, give_up_s: float
) -> tuple[NotificationPending, ...]:
    """A notification for each receiver that a task's end has, in the order in which they are made."""
    receivers: list[tuple[Receiver, str]] = []
    if state.response_url:
        receivers.append(("responseURL", ""))
    if state.contact_channel:
        receivers.append(("ContactChannel", state.contact_channel))
    receivers.extend(("Subscription", name) for name in state.subscriptions)
    return tuple(
        NotificationPending(
            id=notification_id(state.namespace, state.task, state.submitted_seq, receiver, name),
            namespace=state.namespace,
            task=state.task,
            event=ending_of(state),
            receiver=receiver,
            name=name,
            place=place,
            lane=digest("lane", lane(receiver, name))[:LANE_LENGTH],
            created_at=now,
            due=now,
            give_up_at=now + timedelta(seconds=give_up_s),
        )
        for place, (receiver, name) in enumerate(receivers, start=1)
    )


def ahead(
    pending: NotificationPending, others: tuple[Notification, ...], before: tuple[Notification, ...] = ()
) -> NotificationPending | None:
    """The one that goes first: it takes the same way, and is not yet at its end.

    `others`: those of the same task, of which earlier ones do; `before`: those of the task that this one goes on from.
    """
    waiting = [one for one in before if isinstance(one, NotificationPending) and one.lane == pending.lane]
    waiting += [
        one
        for one in others
        if isinstance(one, NotificationPending) and one.lane == pending.lane and one.place < pending.place
    ]
    return min(waiting, key=lambda one: one.place, default=None)


def parked(pending: NotificationPending, until: datetime, why: str) -> NotificationPending:
    """Not tried now; that is no failure."""
    return msgspec.structs.replace(pending, due=min(until, pending.give_up_at), waits_for=why[:ERROR_LENGTH])


def settled(pending: NotificationPending, made: Made, letter_seq: int) -> Notification:
    """The record after an attempt. `letter_seq`: of the message that becomes its dead letter, if it must."""
    outcome, at = made.outcome, made.at
    header = {name: getattr(pending, name) for name in NotificationPending.__struct_fields__}
    for own in ("due", "give_up_at", "waits_for"):
        del header[own]
    if isinstance(outcome, Unwanted):
        return NotificationFailed(**header, at=at, error=outcome.why[:ERROR_LENGTH])
    attempts = pending.attempts + 1
    error = outcome.error[:ERROR_LENGTH] if isinstance(outcome, NotTaken) else ""
    attempt = NotificationAttempt(n=attempts, at=at, status=outcome.status, error=error, took_s=round(made.took_s, 3))
    header |= {"attempts": attempts, "tried": (*pending.tried, attempt)[-TRIED_KEPT:]}
    if isinstance(outcome, Taken):
        return NotificationDelivered(**header, at=at, thread=outcome.thread)
    if not outcome.again:
        return NotificationFailed(**header, at=at, error=error, letter_seq=letter_seq)
    if at >= pending.give_up_at:
        given_up = f"given up after {attempts} attempts, lastly: {error}"[:ERROR_LENGTH]
        return NotificationFailed(**header, at=at, error=given_up, letter_seq=letter_seq)
    due = at + timedelta(seconds=wait_s(pending.id, attempts, outcome.retry_after_s))
    return NotificationPending(**header, due=min(due, pending.give_up_at), give_up_at=pending.give_up_at)


def wait_s(id_: str, attempts: int, asked_s: float | None) -> float:
    """How long to wait after so many failures: exponential with full jitter, never less than was asked for.

    The jitter is drawn from the id, so a replay waits just as long.
    """
    ceiling = min(BACKOFF_MAX_S, BACKOFF_BASE_S * 2.0 ** min(attempts - 1, 30))
    draw = zlib.crc32(f"{id_}/{attempts}".encode()) / 2**32
    return max(asked_s or 0.0, ceiling * draw, 0.05)


def redriven(failed: NotificationFailed, now: datetime, give_up_s: float) -> NotificationPending:
    """Begun again, with the whole time that a new one has."""
    header = {name: getattr(failed, name) for name in NotificationFailed.__struct_fields__}
    for own in ("at", "error", "letter_seq"):
        del header[own]
    header |= {"attempts": 0, "redriven": failed.redriven + 1}
    return NotificationPending(**header, due=now, give_up_at=now + timedelta(seconds=give_up_s))


def given_up(pending: NotificationPending, error: str, at: datetime, letter_seq: int) -> NotificationFailed:
    """Failed without an attempt: its wake-up could not be handled."""
    header = {name: getattr(pending, name) for name in NotificationPending.__struct_fields__}
    for own in ("due", "give_up_at", "waits_for"):
        del header[own]
    return NotificationFailed(**header, at=at, error=error[:ERROR_LENGTH], letter_seq=letter_seq)
