"""What tasks have used, added up from their states, and what namespaces have used of their quotas today."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Literal

import msgspec

from schemas.flow import NamespaceFlow
from schemas.resources import QuotaSpec
from schemas.task import LLMSpend, State
from services.cli.flow import spent_today, used_now
from services.cli.text import money

By = Literal["llm", "task", "namespace", "agent"]

UNNAMED = "(unnamed)"
"""What a task used before states said which LLM it was."""
USAGE_HEADER = ("CALLS", "IN", "OUT", "CACHED", "REASONING", "COST")
QUOTA_HEADER = ("NAMESPACE", "TOKENS TODAY", "OF", "COST TODAY", "OF", "UNDER WAY")


class Line(msgspec.Struct, frozen=True, rename="camel"):
    """A line of the account."""

    name: str
    model_calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    cost_usd: Decimal = Decimal(0)

    def plus(self, spend: LLMSpend) -> Line:
        """With what was spent besides."""
        return Line(
            self.name,
            self.model_calls + spend.model_calls,
            self.input_tokens + spend.input_tokens,
            self.output_tokens + spend.output_tokens,
            self.cached_tokens + spend.cached_tokens,
            self.reasoning_tokens + spend.reasoning_tokens,
            self.cost_usd + spend.cost_usd,
        )

    @property
    def cells(self) -> tuple[str, ...]:
        """For a table, after the name."""
        counts = (
            self.model_calls,
            self.input_tokens,
            self.output_tokens,
            self.cached_tokens,
            self.reasoning_tokens,
        )
        return (*map(str, counts), money(self.cost_usd))


class QuotaLine(msgspec.Struct, frozen=True, rename="camel"):
    """What a namespace has used of its quota today."""

    namespace: str
    tokens: int
    tokens_max: int | None
    cost_usd: Decimal
    cost_max_usd: Decimal | None
    calls_under_way: int

    @property
    def cells(self) -> tuple[str, ...]:
        """For a table."""
        return (
            self.namespace,
            str(self.tokens),
            "" if self.tokens_max is None else str(self.tokens_max),
            money(self.cost_usd),
            "" if self.cost_max_usd is None else money(self.cost_max_usd),
            str(self.calls_under_way),
        )


def usage(states: Iterable[State], by: By) -> list[Line]:
    """The account, the dearest first."""
    lines: dict[str, Line] = {}
    for state in states:
        for llm, spend in _spends(state):
            name = {
                "llm": llm,
                "task": f"{state.namespace}/{state.task}",
                "namespace": state.namespace,
                "agent": f"{state.namespace}/{state.agent}",
            }[by]
            lines[name] = lines.get(name, Line(name)).plus(spend)
    return sorted(lines.values(), key=lambda line: (-line.cost_usd, -line.input_tokens - line.output_tokens, line.name))


def total(lines: Sequence[Line]) -> Line:
    """All lines together."""
    whole = Line("total")
    for line in lines:
        rest = {name: getattr(line, name) for name in LLMSpend.__struct_fields__}
        whole = whole.plus(LLMSpend(**rest))
    return whole


def _spends(state: State) -> Iterable[tuple[str, LLMSpend]]:
    """A task's spend by LLM, and what is not told apart."""
    spend = state.spend
    named = spend.by_llm.values()
    rest = LLMSpend(
        model_calls=spend.model_calls - sum(one.model_calls for one in named),
        input_tokens=spend.input_tokens - sum(one.input_tokens for one in named),
        output_tokens=spend.output_tokens - sum(one.output_tokens for one in named),
        cost_usd=spend.cost_usd - sum((one.cost_usd for one in named), Decimal(0)),
    )
    yield from spend.by_llm.items()
    if rest != LLMSpend():
        yield UNNAMED, rest


def quota_line(namespace: str, spec: QuotaSpec, flow: NamespaceFlow, now: datetime) -> QuotaLine:
    """A namespace's day."""
    tokens, cost = spent_today(flow, now)
    return QuotaLine(
        namespace, tokens, spec.max_tokens_per_day, cost, spec.max_cost_per_day, used_now(flow, now).calls_under_way
    )
