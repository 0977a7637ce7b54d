"""What is left for a call: of a task's budget, and of its namespace's day."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from schemas.flow import NamespaceFlow
from schemas.resources import Pricing, QuotaSpec
from schemas.task import Budget, Spend
from services.llm_gateway.core.budget import Spent, answer_room
from services.llm_gateway.core.flow import Admitted, TooLarge
from services.llm_gateway.core.lines import Ask, Parked
from services.llm_gateway.core.quota import DaySpent, admit_to_day, has_limits, settle_in_day

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
PRICING = Pricing(input=Decimal(2), output=Decimal(10))


def ask(name: str = "t1", *, tokens: int = 1000, at: datetime = NOON, pricing: Pricing | None = None) -> Ask:
    return Ask(
        namespace="team",
        name=f"team/{name}.1",
        input_tokens=tokens,
        output_tokens_max=0,
        expires=at + timedelta(seconds=150),
        pricing=pricing,
    )


# --- a task's budget --------------------------------------------------------------------


def test_a_task_without_limits_has_all_the_room() -> None:
    assert answer_room(Budget(max_turns=5), Spend(), 10**9, PRICING) is None


def test_the_answer_has_what_the_tokens_leave() -> None:
    budget, spend = Budget(max_turns=5, max_tokens=1000), Spend(input_tokens=300, output_tokens=100)
    assert answer_room(budget, spend, 250, None) == 350
    assert answer_room(budget, spend, 599, None) == 1


def test_a_call_whose_input_alone_is_more_than_what_is_left_is_refused_before_it_is_made() -> None:
    spent = answer_room(Budget(max_turns=5, max_tokens=1000), Spend(input_tokens=400), 600, None)
    assert isinstance(spent, Spent)
    assert spent.cause == "maxTokens"
    assert "used 400 of 1000 tokens (maxTokens)" in spent.error
    assert "600" in spent.error


def test_the_answer_has_what_the_money_leaves() -> None:
    budget, spend = Budget(max_turns=5, max_cost_usd=Decimal("0.01")), Spend(cost_usd=Decimal("0.004"))
    assert answer_room(budget, spend, 1000, PRICING) == 400  # 0.002 for the input, 0.004 left at 10 a million
    assert answer_room(budget, spend, 1000, None) is None  # no price is known
    assert answer_room(budget, spend, 1000, Pricing(input=Decimal(2), output=Decimal(0))) is None
    spent = answer_room(budget, spend, 3000, PRICING)
    assert isinstance(spent, Spent)
    assert spent.cause == "maxCost"


def test_the_narrower_of_tokens_and_money_counts() -> None:
    budget = Budget(max_turns=5, max_tokens=2000, max_cost_usd=Decimal("0.01"))
    assert answer_room(budget, Spend(), 1000, PRICING) == 800


# --- a namespace's day ------------------------------------------------------------------


def test_calls_under_way_count_as_what_they_reserved() -> None:
    quota = QuotaSpec(max_tokens_per_day=2500)
    flow, first = admit_to_day(NamespaceFlow(), quota, ask("t1"), NOON)
    assert isinstance(first, Admitted)
    flow, second = admit_to_day(flow, quota, ask("t2"), NOON)
    assert isinstance(second, Admitted)
    flow, third = admit_to_day(flow, quota, ask("t3"), NOON)
    assert isinstance(third, DaySpent)
    assert "2000 of 2500 tokens of 2030-01-01 (maxTokensPerDay)" in third.error
    assert third.passing  # they may use less
    flow = settle_in_day(flow, quota, first, (100, Decimal(0)), NOON)
    _, third = admit_to_day(flow, quota, ask("t3"), NOON)
    assert isinstance(third, Admitted)
    assert flow.tokens == 100


def test_money_is_counted_by_the_day_as_well() -> None:
    quota = QuotaSpec(max_cost_per_day=Decimal("0.005"))
    flow, first = admit_to_day(NamespaceFlow(), quota, ask("t1", pricing=PRICING), NOON)
    assert isinstance(first, Admitted)
    flow = settle_in_day(flow, quota, first, (1200, Decimal("0.004")), NOON)
    _, second = admit_to_day(flow, quota, ask("t2", pricing=PRICING), NOON)
    assert isinstance(second, DaySpent)
    assert "0.004 of 0.005 US dollars" in second.error


def test_the_next_day_begins_at_midnight_utc_with_nothing_used() -> None:
    quota = QuotaSpec(max_tokens_per_day=1000)
    flow, first = admit_to_day(NamespaceFlow(), quota, ask("t1"), NOON)
    assert isinstance(first, Admitted)
    flow = settle_in_day(flow, quota, first, (1000, Decimal(0)), NOON)
    flow, spent = admit_to_day(flow, quota, ask("t2"), NOON)
    assert isinstance(spent, DaySpent)
    assert not spent.passing
    assert spent.for_s is not None
    assert 0 <= spent.for_s - 12 * 3600 < 60
    tomorrow = NOON + timedelta(hours=12, seconds=1)
    _, second = admit_to_day(flow, quota, ask("t2", at=tomorrow), tomorrow)
    assert isinstance(second, Admitted)


def test_a_call_that_no_day_has_room_for_is_not_told_to_wait() -> None:
    _, spent = admit_to_day(NamespaceFlow(), QuotaSpec(max_tokens_per_day=10), ask(), NOON)
    assert isinstance(spent, DaySpent)
    assert spent.for_s is None


def test_what_a_dead_replica_had_reserved_counts_as_used() -> None:
    quota = QuotaSpec(max_tokens_per_day=100_000)
    flow, _ = admit_to_day(NamespaceFlow(), quota, ask("t1"), NOON)
    flow, again = admit_to_day(flow, quota, ask("t1"), NOON)
    assert isinstance(again, Admitted)
    assert (flow.tokens, len(flow.under_way)) == (1000, 1)
    flow, _ = admit_to_day(flow, quota, ask("t2"), NOON + timedelta(hours=1))
    assert (flow.tokens, list(flow.under_way)) == (2000, ["team/t2.1"])


def test_a_namespace_has_limits_of_a_minute_too() -> None:
    quota = QuotaSpec(requests_per_minute=1, tokens_per_minute=5000)
    flow, first = admit_to_day(NamespaceFlow(), quota, ask("t1"), NOON)
    assert isinstance(first, Admitted)
    _, second = admit_to_day(flow, quota, ask("t2"), NOON)
    assert isinstance(second, Parked)
    _, third = admit_to_day(flow, quota, ask("t3", tokens=5001), NOON)
    assert third == TooLarge(5001, 5000)


def test_a_call_of_which_nothing_is_known_costs_the_day_what_it_reserved() -> None:
    quota = QuotaSpec(max_tokens_per_day=100_000)
    flow, first = admit_to_day(NamespaceFlow(), quota, ask("t1"), NOON)
    assert isinstance(first, Admitted)
    assert settle_in_day(flow, quota, first, None, NOON).tokens == 1000


def test_a_weight_alone_is_no_limit() -> None:
    assert not has_limits(QuotaSpec(weight=5))
    assert has_limits(QuotaSpec(max_cost_per_day=Decimal(1)))
