"""The records of notifications, from one to the next."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from schemas.notifications import (
    Notification,
    NotificationDelivered,
    NotificationFailed,
    NotificationPending,
    decode_notification,
)
from schemas.task import Cancelled, FinalAnswer
from schemas.wire import encode
from services.notifier.core import machine
from services.notifier.core.machine import Made
from services.notifier.core.outcomes import NotTaken, Outcome, Taken, Unwanted, of_status
from services.runtime.outbound import retry_after

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY_S = 86_400.0
SPARE: dict[str, Any] = {
    "namespace": "default",
    "task": "t",
    "agent": "helper",
    "submitted_seq": 7,
    "created_at": AT,
    "updated_at": AT,
    "ended_at": AT,
    "turn": 1,
    "ended_by": "",
}


def ended(**fields: Any) -> FinalAnswer:
    return FinalAnswer(**{**SPARE, **fields})


def lane(receiver: str, name: str) -> str:
    return f"{receiver} {name}"


def pending(**fields: Any) -> NotificationPending:
    (one,) = machine.wanted(ended(response_url="https://a.example/"), lane, AT, DAY_S)
    return NotificationPending(
        **{**{name: getattr(one, name) for name in NotificationPending.__struct_fields__}, **fields}
    )


def made(outcome: Outcome, at: datetime = AT) -> Made:
    return Made(outcome, at, 0.1)


DOWN = NotTaken(error="HTTP error from responseURL (status 503)", again=True, status=503, is_down=True)


def test_a_task_that_nobody_asked_about_has_no_notifications() -> None:
    assert machine.wanted(ended(), lane, AT, DAY_S) == ()


def test_each_receiver_has_one_notification_with_an_id_of_its_own() -> None:
    state = ended(response_url="https://a.example/", contact_channel="oncall", subscriptions=("ops", "sales"))
    found = machine.wanted(state, lane, AT, DAY_S)
    assert [(one.receiver, one.name, one.place) for one in found] == [
        ("responseURL", "", 1),
        ("ContactChannel", "oncall", 2),
        ("Subscription", "ops", 3),
        ("Subscription", "sales", 4),
    ]
    assert len({one.id for one in found}) == 4
    assert [one.id for one in machine.wanted(state, lane, AT + timedelta(days=1), DAY_S)] == [one.id for one in found]


def test_a_task_that_takes_a_removed_ones_name_is_told_of_under_another_id() -> None:
    first, second = (machine.notification_id("default", "t", place, "responseURL", "") for place in (7, 8))
    assert first != second
    assert len(f"{first}") <= 20


def test_what_a_cancelled_task_is_called() -> None:
    state = Cancelled(**SPARE, response_url="https://a.example/", reason="", by="")
    assert machine.wanted(state, lane, AT, DAY_S)[0].event == "task.cancelled"


def test_what_was_taken_is_at_its_end() -> None:
    done = machine.settled(pending(), made(Taken(status=200, thread="17.1")), 9)
    assert isinstance(done, NotificationDelivered)
    assert (done.attempts, done.tried[0].status, done.thread) == (1, 200, "17.1")


def test_what_may_be_taken_later_is_due_later_and_never_before_the_receiver_asked_for() -> None:
    asked = NotTaken(error="429", again=True, status=429, retry_after_s=90)
    later = machine.settled(pending(), made(asked), 9)
    assert isinstance(later, NotificationPending)
    assert later.due >= AT + timedelta(seconds=90)


def test_what_no_attempt_can_change_fails_at_once_and_names_its_letter() -> None:
    failed = machine.settled(pending(), made(of_status("webhook", 410)), 9)
    assert isinstance(failed, NotificationFailed)
    assert failed.letter_seq == 9
    assert "410" in failed.error


def test_what_nobody_wants_any_more_ends_without_a_letter() -> None:
    failed = machine.settled(pending(), made(Unwanted("Subscription 'ops' was removed")), 9)
    assert isinstance(failed, NotificationFailed)
    assert failed.letter_seq == 0
    assert failed.attempts == 0


def test_waiting_is_no_failure_and_never_longer_than_the_whole_time() -> None:
    later = machine.parked(pending(), AT + timedelta(days=3), "the receiver is down")
    assert later.due == later.give_up_at
    assert (later.attempts, later.waits_for) == (0, "the receiver is down")


def test_an_earlier_one_that_takes_the_same_way_goes_first() -> None:
    first, second, third = (pending(id=str(n), place=n, lane="l") for n in (1, 2, 3))
    other = pending(id="4", place=1, lane="m")
    assert machine.ahead(third, (other, second, first, third)) == first
    assert machine.ahead(first, (other, second, first, third)) is None
    at_its_end = machine.settled(first, made(Taken()), 9)
    assert machine.ahead(second, (other, second, at_its_end, third)) is None


def test_a_redrive_begins_again_with_the_whole_time() -> None:
    failed = machine.settled(pending(), made(NotTaken(error="no", again=False)), 9)
    assert isinstance(failed, NotificationFailed)
    now = AT + timedelta(days=9)
    again = machine.redriven(failed, now, DAY_S)
    assert (again.id, again.attempts, again.redriven, again.due) == (failed.id, 0, 1, now)
    assert again.give_up_at == now + timedelta(seconds=DAY_S)
    assert again.tried == failed.tried


@given(st.lists(st.none() | st.floats(0, 7200), min_size=1, max_size=400))
def test_a_receiver_that_is_down_for_ever_is_given_up_after_the_whole_time_and_one_last_attempt(
    waits: list[float | None],
) -> None:
    one: Notification = pending()
    now = AT
    for n, wait in enumerate(waits * 400):
        assert isinstance(one, NotificationPending)
        assert one.due >= now or n == 0
        now = one.due
        assert now <= one.give_up_at
        assert len(one.tried) <= machine.TRIED_KEPT
        outcome = NotTaken(error="x" * 1000, again=True, retry_after_s=wait)
        was_last = now == one.give_up_at
        one = machine.settled(one, made(outcome, now), 9)
        assert decode_notification(encode(one)) == one
        assert len(encode(one)) < 8192
        if was_last:
            assert isinstance(one, NotificationFailed)
            assert one.letter_seq == 9
            return
    assert isinstance(one, NotificationPending)


@given(st.text(max_size=20), st.integers(1, 10_000), st.none() | st.floats(0, 1e6))
def test_a_wait_is_bounded_and_the_same_each_time(id_: str, attempts: int, asked: float | None) -> None:
    wait = machine.wait_s(id_, attempts, asked)
    assert wait == machine.wait_s(id_, attempts, asked)
    assert (asked or 0.0) <= wait <= max(asked or 0.0, machine.BACKOFF_MAX_S)


def test_what_http_statuses_mean() -> None:
    for status in (200, 201, 204):
        assert isinstance(of_status("webhook", status), Taken)
    for status in (408, 425, 429, 500, 502, 503, 504, 599):
        assert of_status("webhook", status).again  # type: ignore[union-attr]
    for status in (301, 302, 303, 400, 401, 403, 404, 409, 410, 413, 422):
        assert not of_status("webhook", status).again  # type: ignore[union-attr]


def test_retry_after_is_seconds_or_a_date() -> None:
    assert retry_after("120", AT) == 120
    assert retry_after("Sun, 01 Mar 2026 12:02:00 GMT", AT) == 120
    assert retry_after("Sun, 01 Mar 2026 11:00:00 GMT", AT) == 0
    for nonsense in (None, "", "soon", "-5", "1e9", "²"):
        assert retry_after(nonsense, AT) is None
