from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.events import ToolStarted
from services.tool_executor.core import ledger
from services.tool_executor.core.ledger import (
    GONE_S,
    LOOK_S,
    SILENT_S,
    Ask,
    Begin,
    Decision,
    Heard,
    Says,
    Unknown,
    Wait,
)

NOW = datetime(2030, 1, 1, tzinfo=UTC)
OnUncertain = Literal["fail", "retry"]
POLICIES: list[OnUncertain] = ["fail", "retry"]
SAYS: list[Says] = ["running", "unused", "ended", "silent", "gone"]
every_policy = pytest.mark.parametrize("on_uncertain", POLICIES)


def entry(age_s: float, *, lease_s: float = 1.5, attempt: int = 1, holder: str = "") -> ToolStarted:
    at = NOW - timedelta(seconds=age_s)
    return ToolStarted(attempt=attempt, replica="other", at=at, lease_s=lease_s, holder=holder)


def decide(
    found: ToolStarted | None,
    revision: int = 7,
    *,
    now: datetime = NOW,
    unchanged_for_s: float = 0,
    on_uncertain: OnUncertain = "fail",
    heard: Heard | None = None,
) -> Decision:
    return ledger.decide(
        found, revision, now=now, unchanged_for_s=unchanged_for_s, on_uncertain=on_uncertain, heard=heard
    )


@every_policy
def test_a_call_that_was_never_started_begins(on_uncertain: OnUncertain) -> None:
    assert decide(None, 0, on_uncertain=on_uncertain) == Begin(1, 0)


@every_policy
def test_a_call_whose_lease_runs_is_left_alone(on_uncertain: OnUncertain) -> None:
    assert decide(entry(0.5, holder="h"), on_uncertain=on_uncertain) == Wait(1.0)


@every_policy
def test_a_holder_is_asked_before_its_call_is_given_up(on_uncertain: OnUncertain) -> None:
    assert decide(entry(2.0, holder="h"), on_uncertain=on_uncertain) == Ask("h")


@every_policy
def test_a_call_that_its_holder_runs_is_left_alone_however_long_it_takes(on_uncertain: OnUncertain) -> None:
    for for_s in (0.0, SILENT_S, 3600.0):
        heard = Heard("running", for_s)
        assert decide(entry(4000.0, holder="h"), on_uncertain=on_uncertain, heard=heard) == Wait(LOOK_S)


@every_policy
def test_a_call_that_was_begun_and_not_made_is_begun_by_somebody_else(on_uncertain: OnUncertain) -> None:
    found = entry(2.0, attempt=2, holder="h")
    assert decide(found, on_uncertain=on_uncertain, heard=Heard("unused", 0)) == Begin(2, 7)


def test_a_call_that_its_holder_left_without_a_result_is_uncertain() -> None:
    found = entry(2.0, holder="h")
    assert decide(found, heard=Heard("ended", 0)) == Unknown(found, 7)
    assert decide(found, heard=Heard("ended", 0), on_uncertain="retry") == Begin(2, 7)


@pytest.mark.parametrize(("says", "patience_s"), [("gone", GONE_S), ("silent", SILENT_S)])
def test_a_holder_that_does_not_answer_is_waited_for_and_not_for_ever(says: Says, patience_s: float) -> None:
    found = entry(2.0, holder="h")
    decision = decide(found, heard=Heard(says, patience_s * 0.9))
    assert isinstance(decision, Wait)
    assert decision.for_s <= LOOK_S
    assert decide(found, heard=Heard(says, patience_s)) == Unknown(found, 7)
    assert decide(found, heard=Heard(says, patience_s), on_uncertain="retry") == Begin(2, 7)


def test_an_entry_that_names_no_holder_counts_for_its_lease() -> None:
    found = entry(2.0)
    assert decide(found) == Unknown(found, 7)


def test_a_call_that_may_be_repeated_is_taken_over_at_the_revision_that_was_seen() -> None:
    assert decide(entry(2.0, attempt=2), on_uncertain="retry") == Begin(3, 7)


def test_an_entry_from_the_future_is_waited_for_no_longer_than_its_lease() -> None:
    ahead = entry(-3600.0)
    assert decide(ahead) == Wait(1.5)
    assert decide(ahead, unchanged_for_s=1.5) == Unknown(ahead, 7)


@given(
    st.floats(-1e6, 1e6), st.floats(0, 1e3), st.floats(0.1, 100), st.integers(1, 9), st.sampled_from(["fail", "retry"])
)
def test_waiting_as_long_as_one_is_told_ends_the_waiting(
    age_s: float, unchanged_for_s: float, lease_s: float, attempt: int, on_uncertain: OnUncertain
) -> None:
    found = entry(age_s, lease_s=lease_s, attempt=attempt)
    first = decide(found, unchanged_for_s=unchanged_for_s, on_uncertain=on_uncertain)
    if not isinstance(first, Wait):
        return
    assert 0 < first.for_s <= lease_s
    waited_s = unchanged_for_s + first.for_s + 1e-6
    later = NOW + timedelta(seconds=first.for_s + 1e-5)
    second = decide(found, now=later, unchanged_for_s=waited_s, on_uncertain=on_uncertain)
    assert second == (Begin(attempt + 1, 7) if on_uncertain == "retry" else Unknown(found, 7))


@given(
    st.floats(-100, 100),
    st.floats(0, 100),
    st.integers(1, 9),
    st.sampled_from(["", "h"]),
    st.none() | st.builds(Heard, st.sampled_from(SAYS), st.floats(0, 100)),
)
def test_a_started_call_is_never_begun_again_without_permission(
    age_s: float, unchanged_for_s: float, attempt: int, holder: str, heard: Heard | None
) -> None:
    """The policy's, or that of the holder, who has not made the call and gives it up."""
    found = decide(entry(age_s, attempt=attempt, holder=holder), 3, unchanged_for_s=unchanged_for_s, heard=heard)
    assert not isinstance(found, Begin) or (heard is not None and heard.says == "unused")
