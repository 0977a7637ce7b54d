"""What a namespace may use: its limits of a minute, as those of a pool, and before them its budget of a day."""

from __future__ import annotations

import zlib
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import NamedTuple

import msgspec

from schemas.flow import NamespaceFlow
from schemas.resources import LLMLimits, QuotaSpec
from services.llm_gateway.core.budget import estimated_usd
from services.llm_gateway.core.flow import Admitted, TooLarge, admit, expected_tokens, settle
from services.llm_gateway.core.lines import Ask, Parked

DAWN_S = 60.0
"""Those who wait for the next day look again within its first minute, not all at once."""
SOON_S = 5.0
"""How long to wait for calls under way, which may use less than they reserved."""


class DaySpent(NamedTuple):
    """The day has no room for the call."""

    error: str
    for_s: float | None
    """How long until there may be room; None: there will never be."""
    passing: bool = False
    """Whether there may be room once the calls under way have ended."""


def admit_to_day(
    flow: NamespaceFlow, quota: QuotaSpec, ask: Ask, now: datetime
) -> tuple[NamespaceFlow, Admitted | Parked | TooLarge | DaySpent]:
    """Let a call through, or say why not."""
    flow = _on_day(flow, ask.name, now)
    if spent := _day_spent(flow, quota, ask, now):
        return flow, spent
    return admit(flow, minute_limits(quota), ask, now)


def settle_in_day(
    flow: NamespaceFlow, quota: QuotaSpec, admitted: Admitted, used: tuple[int, Decimal] | None, now: datetime
) -> NamespaceFlow:
    """A call has ended and has used so many tokens and so much money; None: nobody knows."""
    flow = _on_day(flow, "", now)
    reserved = flow.under_way.get(admitted.name)
    if reserved is None or reserved.at != admitted.at:
        return flow
    tokens, cost = used or (reserved.tokens, reserved.cost_usd)
    flow = _booked(flow, tokens, cost)
    return settle(flow, minute_limits(quota), admitted, None if used is None else tokens, now)


def minute_limits(quota: QuotaSpec) -> LLMLimits:
    """The limits of a minute."""
    return LLMLimits(requests_per_minute=quota.requests_per_minute, tokens_per_minute=quota.tokens_per_minute)


def has_limits(quota: QuotaSpec) -> bool:
    """Whether there is anything to count; a weight alone is the pools' business."""
    counted = (quota.requests_per_minute, quota.tokens_per_minute, quota.max_tokens_per_day, quota.max_cost_per_day)
    return any(limit is not None for limit in counted)


def _on_day(flow: NamespaceFlow, name: str, now: datetime) -> NamespaceFlow:
    """The record as of today. What a replica that has died had reserved counts as used."""
    day = now.astimezone(UTC).date().isoformat()
    if flow.day != day:
        flow = msgspec.structs.replace(flow, day=day, tokens=0, cost_usd=Decimal(0))
    dead = {key: one for key, one in flow.under_way.items() if key == name or one.expires <= now}
    for one in dead.values():
        flow = _booked(flow, one.tokens, one.cost_usd)
    if dead:
        kept = {key: one for key, one in flow.under_way.items() if key not in dead}
        flow = msgspec.structs.replace(flow, under_way=kept)
    return flow


def _day_spent(flow: NamespaceFlow, quota: QuotaSpec, ask: Ask, now: datetime) -> DaySpent | None:
    """Calls under way count as what they reserved."""
    tokens = expected_tokens(flow.learned, minute_limits(quota), ask)
    under_way = flow.under_way.values()
    if (most_tokens := quota.max_tokens_per_day) is not None:
        reserved = sum(one.tokens for one in under_way)
        if flow.tokens + reserved + tokens > most_tokens:
            said = f"{flow.tokens + reserved} of {most_tokens} tokens of {flow.day} (maxTokensPerDay) are used"
            never = ask.input_tokens > most_tokens
            passing = flow.tokens + tokens <= most_tokens
            return _spent(f"{said}; the next call needs about {tokens}", ask, now, never=never, passing=passing)
    if (most_usd := quota.max_cost_per_day) is not None:
        cost = estimated_usd(ask.input_tokens, tokens - ask.input_tokens, ask.pricing)
        spent = flow.cost_usd + sum((one.cost_usd for one in under_way), Decimal(0))
        if spent >= most_usd or spent + cost > most_usd:
            said = f"{spent} of {most_usd} US dollars of {flow.day} (maxCostPerDay) are spent"
            never = estimated_usd(ask.input_tokens, 0, ask.pricing) > most_usd
            passing = flow.cost_usd < most_usd and flow.cost_usd + cost <= most_usd
            return _spent(f"{said}; the next call costs about {cost}", ask, now, never=never, passing=passing)
    return None


def _spent(error: str, ask: Ask, now: datetime, *, never: bool, passing: bool) -> DaySpent:
    if never:
        return DaySpent(error, None)
    spread = zlib.crc32(ask.waits_as.encode()) / 2**32
    if passing:
        return DaySpent(error, SOON_S * (0.5 + spread / 2), passing=True)
    return DaySpent(error, _until_tomorrow_s(now) + DAWN_S * spread)


def _booked(flow: NamespaceFlow, tokens: int, cost: Decimal) -> NamespaceFlow:
    return msgspec.structs.replace(flow, tokens=flow.tokens + tokens, cost_usd=flow.cost_usd + cost)


def _until_tomorrow_s(now: datetime) -> float:
    at = now.astimezone(UTC)
    midnight = at.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    return (midnight - at).total_seconds()
