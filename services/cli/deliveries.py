"""Who was told what became of a task, for `describe`."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import assert_never

from schemas.notifications import (
    Notification,
    NotificationDelivered,
    NotificationFailed,
    NotificationPending,
)
from services.cli.history import Recorded
from services.cli.render import plain_rows
from services.cli.text import age, duration, one_line

DETAIL_WIDTH = 100


def notifications(records: Iterable[Recorded]) -> list[Notification]:
    """The notifications of a task's end, in their order."""
    found = [
        record.fact
        for record in records
        if isinstance(record.fact, NotificationPending | NotificationDelivered | NotificationFailed)
    ]
    return sorted(found, key=lambda one: one.place)


def notification_rows(found: Iterable[Notification], now: datetime) -> list[str]:
    """A table of them."""
    header = ("RECEIVER", "STATUS", "ATTEMPTS", "AGE", "ID", "DETAIL")
    rows = [
        (
            f"{one.receiver} {one.name}".rstrip(),
            _status(one),
            str(one.attempts),
            age(one.created_at, now),
            one.id,
            one_line(_detail(one, now), DETAIL_WIDTH),
        )
        for one in found
    ]
    return plain_rows(header, rows)


def _status(one: Notification) -> str:
    match one:
        case NotificationPending():
            return "Pending"
        case NotificationDelivered():
            return "Delivered"
        case NotificationFailed():
            return "Failed"
        case _:
            assert_never(one)


def _detail(one: Notification, now: datetime) -> str:
    match one:
        case NotificationPending(due=due, waits_for=waits_for):
            last = one.tried[-1].error if one.tried else ""
            when = f"again in {duration(due - now)}" if due > now else "due now"
            return f"{when}: {waits_for or last}".rstrip(": ")
        case NotificationDelivered():
            status = one.tried[-1].status if one.tried else None
            return "" if status is None else f"status {status}"
        case NotificationFailed(error=error, letter_seq=letter):
            return f"{error}; see `holdfast dlq list`" if letter else error
        case _:
            assert_never(one)
