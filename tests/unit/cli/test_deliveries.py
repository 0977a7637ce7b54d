from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from schemas.notifications import (
    NotificationAttempt,
    NotificationDelivered,
    NotificationFailed,
    NotificationPending,
)
from schemas.subjects import TaskSubjects
from schemas.task import FinalAnswer
from schemas.wire import encode
from services.cli.deliveries import notification_rows, notifications
from services.cli.events import event_lines
from services.cli.history import history
from services.runtime.memory.bus import MemoryBus
from services.runtime.ports import Outgoing

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
TASK = TaskSubjects(0, "default", "t1")


def header(id_: str, place: int, **fields: Any) -> dict[str, Any]:
    return {
        "id": id_,
        "namespace": "default",
        "task": "t1",
        "event": "task.finished",
        "receiver": "Subscription",
        "name": "ops",
        "place": place,
        "lane": "l",
        "created_at": NOW - timedelta(minutes=2),
        **fields,
    }


TRIED = {"attempts": 1, "tried": (NotificationAttempt(n=1, at=NOW, status=503, error="HTTP error 503"),)}
LATER = NOW + timedelta(seconds=40)
PENDING = NotificationPending(**header("a", 2, **TRIED), due=LATER, give_up_at=LATER)
TAKEN = NotificationAttempt(n=1, at=NOW, status=200)
DELIVERED = NotificationDelivered(**header("b", 1, receiver="responseURL", name="", attempts=1, tried=(TAKEN,)), at=NOW)
STATE = FinalAnswer(
    namespace="default",
    task="t1",
    agent="helper",
    submitted_seq=1,
    created_at=NOW,
    updated_at=NOW,
    ended_at=NOW,
    turn=1,
    ended_by="",
)
FAILED = NotificationFailed(**header("c", 3), at=NOW, error="HTTP error 410", letter_seq=4)


async def test_who_was_told_is_shown_in_order_with_what_it_waits_for() -> None:
    bus = MemoryBus()
    for one in (PENDING, DELIVERED, FAILED):
        await bus.log(0).record(Outgoing(TASK.notification(one.id), encode(one)))
    await bus.log(0).record(Outgoing(TASK.notification("later"), b'{"type":"notification.other.v9"}'))
    records = await history(bus.log(0), TASK)
    found = notifications(records)
    assert found == [DELIVERED, PENDING, FAILED]
    lines = notification_rows(found, NOW)
    assert [line.split()[0] for line in lines] == ["RECEIVER", "responseURL", "Subscription", "Subscription"]
    assert "Delivered" in lines[1]
    assert "status 200" in lines[1]
    assert "again in 40s: HTTP error 503" in lines[2]
    assert "HTTP error 410; see `holdfast dlq list`" in lines[3]
    events = event_lines("t1", STATE, records)
    assert [(event.type, event.reason) for event in events] == [
        ("Warning", "NotificationPending"),
        ("Normal", "ResponseURLSent"),
        ("Warning", "NotificationError"),
    ]
    assert events[1].message == "responseURL was told"
    assert events[2].message == "Subscription ops: HTTP error 410"
