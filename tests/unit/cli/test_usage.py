from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest

from schemas.flow import NamespaceFlow
from schemas.resources import QuotaSpec
from schemas.task import FinalAnswer, LLMSpend, Spend
from services.cli.commands.usage import span_of
from services.cli.exits import Stop
from services.cli.usage import UNNAMED, By, Line, quota_line, total, usage
from tests.support.cli import AT

MAIN = LLMSpend(model_calls=2, input_tokens=100, output_tokens=10, cached_tokens=50, cost_usd=Decimal("0.5"))
SPARE = LLMSpend(model_calls=1, input_tokens=1000, output_tokens=20, reasoning_tokens=5, cost_usd=Decimal("0.25"))


def task(name: str, *, namespace: str = "default", agent: str = "helper", **by_llm: LLMSpend) -> FinalAnswer:
    every = by_llm.values()
    spend = Spend(
        model_calls=sum(one.model_calls for one in every),
        input_tokens=sum(one.input_tokens for one in every),
        output_tokens=sum(one.output_tokens for one in every),
        cost_usd=sum((one.cost_usd for one in every), Decimal(0)),
        by_llm=by_llm,
    )
    return FinalAnswer(
        namespace=namespace,
        task=name,
        agent=agent,
        submitted_seq=1,
        created_at=AT,
        updated_at=AT,
        ended_at=AT,
        turn=1,
        ended_by="",
        spend=spend,
    )


STATES = (
    task("a", main=MAIN, spare=SPARE),
    task("b", main=MAIN),
    task("c", namespace="other", agent="boss", spare=SPARE),
)


def test_usage_is_added_up_by_llm_the_dearest_first() -> None:
    main, spare = usage(STATES, "llm")
    assert main == Line("main", 4, 200, 20, 100, 0, Decimal("1.0"))
    assert spare == Line("spare", 2, 2000, 40, 0, 10, Decimal("0.50"))
    assert total([main, spare]) == Line("total", 6, 2200, 60, 100, 10, Decimal("1.50"))
    assert main.cells == ("4", "200", "20", "100", "0", "$1.00")


@pytest.mark.parametrize(
    ("by", "costs"),
    [
        ("task", {"default/a": "0.75", "default/b": "0.5", "other/c": "0.25"}),
        ("agent", {"default/helper": "1.25", "other/boss": "0.25"}),
        ("namespace", {"default": "1.25", "other": "0.25"}),
    ],
)
def test_usage_is_added_up_by_what_is_asked_for_and_the_total_is_the_same(by: By, costs: dict[str, str]) -> None:
    lines = usage(STATES, by)
    assert {line.name: line.cost_usd for line in lines} == {name: Decimal(cost) for name, cost in costs.items()}
    assert total(lines) == total(usage(STATES, "llm"))


def test_what_was_used_before_llms_were_told_apart_is_counted_too() -> None:
    old = FinalAnswer(
        namespace="default",
        task="old",
        agent="helper",
        submitted_seq=1,
        created_at=AT,
        updated_at=AT,
        ended_at=AT,
        turn=1,
        ended_by="",
        spend=Spend(model_calls=3, input_tokens=150, output_tokens=10, by_llm={"main": MAIN}, cost_usd=Decimal("0.6")),
    )
    lines = {line.name: line for line in usage([old], "llm")}
    assert lines[UNNAMED] == Line(UNNAMED, 1, 50, 0, 0, 0, Decimal("0.1"))
    assert usage([task("new")], "llm") == []


def test_a_quota_of_another_day_is_unused() -> None:
    flow = NamespaceFlow(day=f"{AT:%Y-%m-%d}", tokens=900, cost_usd=Decimal("1.5"))
    spec = QuotaSpec(max_tokens_per_day=1000)
    today = quota_line("team", spec, flow, AT)
    assert today.cells == ("team", "900", "1000", "$1.50", "", "0")
    assert quota_line("team", spec, flow, AT + timedelta(days=1)).cells == ("team", "0", "1000", "$0.00", "", "0")


def test_spans_of_time_are_read_and_others_refused() -> None:
    assert span_of("1h30m") == timedelta(minutes=90)
    assert span_of("7d") == timedelta(days=7)
    for text in ("7", "d", "1 h", "-1h", "1w", "1h!", "9" * 30 + "d"):
        with pytest.raises(Stop, match="--since"):
            span_of(text)
