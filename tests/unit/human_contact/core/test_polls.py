"""When channels are asked for answers that do not bring them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from schemas.interactions import InteractionRequested, InteractionStep
from schemas.resources import ContactChannelSpec
from services.human_contact.core.moves import GiveUp, Move, Poll, Wait, next_move, poll_after_s

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
ASKED = InteractionRequested(
    kind="approval",
    namespace="default",
    task="t1",
    interaction="r1.1.0",
    message="",
    agent="helper",
    tool="box__write",
    at=AT,
    expires=AT + timedelta(days=1),
    channel="oncall",
)
SPEC = ContactChannelSpec(type="slack", timeout_s=100)
STEP = InteractionStep(
    interaction="r1.1.0", step=0, channel="oncall", at=AT, until=AT + timedelta(seconds=100), delivered=True
)


def move(after_s: float, *, polled: bool, is_polled: bool = True, look_s: float | None = None) -> Move:
    now = AT + timedelta(seconds=after_s)
    look_at = AT + timedelta(seconds=look_s) if look_s is not None else None
    return next_move(ASKED, [STEP], lambda _: SPEC, now, is_polled=lambda _: is_polled, polled=polled, look_at=look_at)


@pytest.mark.parametrize(("waited_s", "after_s"), [(0, 5), (50, 5), (100, 10), (299, 29.9), (300, 30), (1e9, 30)])
def test_the_longer_it_takes_the_less_often_a_channel_is_asked(waited_s: float, after_s: float) -> None:
    assert poll_after_s(waited_s) == pytest.approx(after_s)


def test_a_channel_is_asked_at_each_wake_up_and_then_waited_for() -> None:
    assert move(5, polled=False) == Poll((STEP,))
    assert move(5, polled=True) == Wait(AT + timedelta(seconds=10))
    assert move(98, polled=True) == Wait(AT + timedelta(seconds=100))


def test_a_channel_is_asked_once_more_before_nobody_has_answered_in_time() -> None:
    assert move(100, polled=False) == Poll((STEP,))
    assert isinstance(move(100, polled=True), GiveUp)


def test_a_channel_that_brings_its_answers_is_not_asked() -> None:
    assert move(5, polled=False, is_polled=False) == Wait(AT + timedelta(seconds=100))


def test_a_look_that_has_to_wait_for_its_place_is_taken_then() -> None:
    assert move(5, polled=False, look_s=60) == Wait(AT + timedelta(seconds=60))
    assert move(60, polled=False, look_s=60) == Poll((STEP,))
    assert move(5, polled=False, look_s=500) == Wait(AT + timedelta(seconds=100))


def test_what_the_time_decides_waits_for_the_look_before_it() -> None:
    assert move(100, polled=False, look_s=160) == Wait(AT + timedelta(seconds=160))
    assert move(160, polled=False, look_s=160) == Poll((STEP,))
    assert isinstance(move(160, polled=True), GiveUp)
