"""Receivers' limits and circuits, on a clock that the test moves."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from services.notifier.core.endpoints import AT_ONCE_MAX, FAILURES_MAX, OPEN_MAX_S, OPEN_S, Endpoints

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)


def after(seconds: float) -> datetime:
    return AT + timedelta(seconds=seconds)


def fail(endpoints: Endpoints, key: str, times: int, now: datetime = AT) -> None:
    for _ in range(times):
        assert endpoints.enter(key, now) is None
        endpoints.leave(key, now, is_down=True)


def test_so_many_attempts_at_once_and_the_others_wait_one_after_another() -> None:
    endpoints = Endpoints()
    assert [endpoints.enter("a", AT) for _ in range(AT_ONCE_MAX)] == [None] * AT_ONCE_MAX
    waits = [endpoints.enter("a", AT) for _ in range(5)]
    until = [wait.until for wait in waits if wait is not None]
    assert len(set(until)) == 5
    assert until == sorted(until)
    assert endpoints.enter("b", AT) is None
    endpoints.leave("a", AT, is_down=False)
    assert endpoints.enter("a", AT) is None


def test_a_receiver_that_fails_again_and_again_is_left_alone_and_others_are_not() -> None:
    endpoints = Endpoints()
    fail(endpoints, "a", FAILURES_MAX)
    assert endpoints.open == 1
    wait = endpoints.enter("a", after(1))
    assert wait is not None
    assert wait.until >= after(OPEN_S)
    assert "failed" in wait.why
    assert endpoints.enter("b", after(1)) is None


def test_one_success_in_between_is_enough() -> None:
    endpoints = Endpoints()
    for _ in range(10):
        fail(endpoints, "a", FAILURES_MAX - 1)
        assert endpoints.enter("a", AT) is None
        endpoints.leave("a", AT, is_down=False)
    assert endpoints.open == 0


def test_after_a_while_one_attempt_shows_whether_it_is_well_again() -> None:
    endpoints = Endpoints()
    fail(endpoints, "a", FAILURES_MAX)
    later = after(OPEN_S + 1)
    assert endpoints.enter("a", later) is None
    assert endpoints.enter("a", later) is not None
    endpoints.leave("a", later, is_down=True)
    wait = endpoints.enter("a", later)
    assert wait is not None
    assert wait.until >= later + timedelta(seconds=2 * OPEN_S)
    much_later = later + timedelta(seconds=OPEN_MAX_S)
    assert endpoints.enter("a", much_later) is None
    endpoints.leave("a", much_later, is_down=False)
    assert endpoints.open == 0
    assert [endpoints.enter("a", much_later) for _ in range(3)] == [None] * 3


def test_a_receiver_that_asks_to_wait_is_waited_for_by_all() -> None:
    endpoints = Endpoints()
    assert endpoints.enter("a", AT) is None
    endpoints.leave("a", AT, is_down=False, pause_s=30)
    wait = endpoints.enter("a", after(1))
    assert wait is not None
    assert wait.until >= after(30)
    assert [endpoints.enter("a", after(31)) for _ in range(3)] == [None] * 3
    assert endpoints.open == 0


@given(st.lists(st.tuples(st.sampled_from("ab"), st.booleans(), st.floats(0, 400)), max_size=200))
def test_nobody_waits_for_ever_and_no_more_than_allowed_are_under_way(events: list[tuple[str, bool, float]]) -> None:
    endpoints = Endpoints(at_once=2)
    under_way = {"a": 0, "b": 0}
    now = AT
    for key, is_down, passed in events:
        now += timedelta(seconds=passed)
        wait = endpoints.enter(key, now)
        if wait is None:
            under_way[key] += 1
            assert under_way[key] <= 2
        else:
            assert now < wait.until <= now + timedelta(seconds=2 * OPEN_MAX_S + 1)
        if under_way[key] and is_down:
            under_way[key] -= 1
            endpoints.leave(key, now, is_down=is_down, took_s=passed)
