"""What a call cost."""

from __future__ import annotations

from decimal import Decimal

import msgspec

from schemas.messages import Usage
from schemas.resources import Pricing

MILLION = Decimal(1_000_000)
RESOLUTION = Decimal("0.000000001")
"""Costs are kept to a billionth of a dollar: below the price of one token of the cheapest model."""


def priced(usage: Usage, pricing: Pricing | None) -> Usage:
    """`usage` with its cost, if the price is known."""
    if pricing is None:
        return usage
    cached = min(usage.cached_tokens, usage.input_tokens)
    cached_price = pricing.input if pricing.cached_input is None else pricing.cached_input
    total = (usage.input_tokens - cached) * pricing.input + cached * cached_price + usage.output_tokens * pricing.output
    return msgspec.structs.replace(usage, cost_usd=(total / MILLION).quantize(RESOLUTION))
