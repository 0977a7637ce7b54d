"""What a task's budget leaves for its next call. Looked at before the call; what it used is booked by the planner."""

from __future__ import annotations

from decimal import ROUND_DOWN, Decimal
from typing import NamedTuple

from schemas.messages import Usage
from schemas.requests import FailureCause
from schemas.resources import Pricing
from schemas.task import Budget, Spend
from services.llm_gateway.core.cost import MILLION, priced


class Spent(NamedTuple):
    """There is no budget for a call, and why."""

    cause: FailureCause
    error: str


def answer_room(budget: Budget, spend: Spend, input_tokens: int, pricing: Pricing | None) -> int | Spent | None:
    """Tokens that a task's budget leaves for the answer to so many; None: it has no such limit."""
    rooms: list[int] = []
    if budget.max_tokens is not None:
        used = spend.input_tokens + spend.output_tokens
        left = budget.max_tokens - used - input_tokens
        if left < 1:
            error = f"used {used} of {budget.max_tokens} tokens (maxTokens); the next call's input alone has about"
            return Spent("maxTokens", f"{error} {input_tokens}")
        rooms.append(left)
    if budget.max_cost_usd is not None and pricing is not None:
        cost = estimated_usd(input_tokens, 0, pricing)
        affordable = _affordable(budget.max_cost_usd - spend.cost_usd - cost, pricing)
        if affordable is not None and affordable < 1:
            error = f"spent {spend.cost_usd} of {budget.max_cost_usd} US dollars (maxCost); the next call's input alone"
            return Spent("maxCost", f"{error} costs about {cost}")
        rooms += [affordable] if affordable is not None else []
    return min(rooms, default=None)


def estimated_usd(input_tokens: int, output_tokens: int, pricing: Pricing | None) -> Decimal:
    """What a call will cost, if nothing of it is read from a cache; 0 if no price is known."""
    return priced(Usage(input_tokens=input_tokens, output_tokens=output_tokens), pricing).cost_usd or Decimal(0)


def _affordable(left_usd: Decimal, pricing: Pricing) -> int | None:
    """Tokens of output for this much money; None: output costs nothing."""
    if left_usd <= 0:
        return 0
    if pricing.output <= 0:
        return None
    return int((left_usd * MILLION / pricing.output).to_integral_value(rounding=ROUND_DOWN))
