"""What a call cost."""

from __future__ import annotations

from decimal import ROUND_UP, Decimal

import msgspec

from schemas.messages import Usage
from schemas.resources import Pricing

MILLION = Decimal(1_000_000)
RESOLUTION = Decimal("0.000001")
"""Costs are kept to a millionth of a dollar, rounded up: no budget is overrun by rounding, and none is written with an
exponent."""


def priced(usage: Usage, pricing: Pricing | None) -> Usage:
    """`usage` with its cost, if the price is known."""
    if pricing is None:
        return usage
    cached = min(usage.cached_tokens, usage.input_tokens)
    written = min(usage.cache_write_tokens, usage.input_tokens - cached)
    cached_price = pricing.input if pricing.cached_input is None else pricing.cached_input
    write_price = pricing.input if pricing.cache_write is None else pricing.cache_write
    total = (
        (usage.input_tokens - cached - written) * pricing.input
        + cached * cached_price
        + written * write_price
        + usage.output_tokens * pricing.output
    )
    return msgspec.structs.replace(usage, cost_usd=(total / MILLION).quantize(RESOLUTION, rounding=ROUND_UP))
