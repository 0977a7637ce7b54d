from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.events import ToolStarted
from services.tool_executor.core.ledger import Begin, Unknown, Wait, decide

NOW = datetime(2030, 1, 1, tzinfo=UTC)
OnUncertain = Literal["fail", "retry"]


def entry(age_s: float, *, lease_s: float = 1.5, attempt: int = 1) -> ToolStarted:
    return ToolStarted(attempt=attempt, replica="other", at=NOW - timedelta(seconds=age_s), lease_s=lease_s)


@pytest.mark.parametrize("on_uncertain", ["fail", "retry"])
def test_a_call_that_was_never_started_begins(on_uncertain: OnUncertain) -> None:
    assert decide(None, 0, now=NOW, unchanged_for_s=0, on_uncertain=on_uncertain) == Begin(1, 0)


@pytest.mark.parametrize("on_uncertain", ["fail", "retry"])
def test_a_call_whose_lease_runs_is_left_alone(on_uncertain: OnUncertain) -> None:
    assert decide(entry(0.5), 7, now=NOW, unchanged_for_s=0, on_uncertain=on_uncertain) == Wait(1.0)


def test_a_call_whose_lease_is_over_is_not_repeated() -> None:
    found = entry(2.0)
    assert decide(found, 7, now=NOW, unchanged_for_s=0, on_uncertain="fail") == Unknown(found)


def test_a_call_that_may_be_repeated_is_taken_over_at_the_revision_that_was_seen() -> None:
    assert decide(entry(2.0, attempt=2), 7, now=NOW, unchanged_for_s=0, on_uncertain="retry") == Begin(3, 7)


def test_an_entry_from_the_future_is_waited_for_no_longer_than_its_lease() -> None:
    ahead = entry(-3600.0)
    assert decide(ahead, 7, now=NOW, unchanged_for_s=0, on_uncertain="fail") == Wait(1.5)
    assert decide(ahead, 7, now=NOW, unchanged_for_s=1.5, on_uncertain="fail") == Unknown(ahead)


@given(
    st.floats(-1e6, 1e6), st.floats(0, 1e3), st.floats(0.1, 100), st.integers(1, 9), st.sampled_from(["fail", "retry"])
)
def test_waiting_as_long_as_one_is_told_ends_the_waiting(
    age_s: float, unchanged_for_s: float, lease_s: float, attempt: int, on_uncertain: OnUncertain
) -> None:
    found = entry(age_s, lease_s=lease_s, attempt=attempt)
    first = decide(found, 7, now=NOW, unchanged_for_s=unchanged_for_s, on_uncertain=on_uncertain)
    if not isinstance(first, Wait):
        return
    assert 0 < first.for_s <= lease_s
    waited_s = unchanged_for_s + first.for_s + 1e-6
    later = NOW + timedelta(seconds=first.for_s + 1e-5)
    second = decide(found, 7, now=later, unchanged_for_s=waited_s, on_uncertain=on_uncertain)
    assert second == (Unknown(found) if on_uncertain == "fail" else Begin(attempt + 1, 7))


@given(st.floats(-100, 100), st.floats(0, 100), st.integers(1, 9))
def test_a_started_call_is_never_begun_again_without_permission(
    age_s: float, unchanged_for_s: float, attempt: int
) -> None:
    found = decide(entry(age_s, attempt=attempt), 3, now=NOW, unchanged_for_s=unchanged_for_s, on_uncertain="fail")
    assert not isinstance(found, Begin)
