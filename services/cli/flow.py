"""What is used of limits now: of a namespace's quota, and of an LLM's pool."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

import msgspec

from schemas.flow import Flow, NamespaceFlow, PoolFlow
from schemas.resources import LLM, LLMLimits, Quota, QuotaSpec
from schemas.subjects import flow_namespace, flow_pool
from schemas.wire import decode
from services.cli.text import money, stamp

if TYPE_CHECKING:
    from services.cli.client import Client, Declared

MINUTE_S = 60


class Used(msgspec.Struct, frozen=True, rename="camel"):
    """What was used of some limits, and what calls under way are expected to use."""

    requests: int
    """In the last minute."""
    tokens: int
    calls_under_way: int
    tokens_under_way: int
    cost_under_way_usd: Decimal
    waiting: bool
    """Whether a call waits for room."""


def used_now(flow: Flow, now: datetime) -> Used:
    """What a record says, as of now: what is older than a minute is over, and so is what has run out."""
    since = now.timestamp() - MINUTE_S
    lately = [counts for second, counts in flow.seconds.items() if int(second) > since]
    under_way = [call for call in flow.under_way.values() if call.expires > now]
    lines = [line for share in flow.shares.values() for line in share.lines.values()]
    return Used(
        requests=sum(requests for requests, _ in lately),
        tokens=sum(tokens for _, tokens in lately),
        calls_under_way=len(under_way),
        tokens_under_way=sum(call.tokens for call in under_way),
        cost_under_way_usd=sum((call.cost_usd for call in under_way), Decimal(0)),
        waiting=any(at is not None and at > now for line in lines for at in (line.tail, line.again)),
    )


def today(now: datetime) -> str:
    """The day that a namespace's count is of."""
    return now.astimezone(UTC).strftime("%Y-%m-%d")


async def namespace_flow(client: Client, namespace: str) -> NamespaceFlow:
    """What a namespace has used of its quota; nothing, if it never had one."""
    entry = await client.bus.flow.get(flow_namespace(namespace))
    return NamespaceFlow() if entry is None or entry.data is None else decode(entry.data, NamespaceFlow)


def spent_today(flow: NamespaceFlow, now: datetime) -> tuple[int, Decimal]:
    """Tokens and cost of the day, by calls that have ended."""
    return (flow.tokens, flow.cost_usd) if flow.day == today(now) else (0, Decimal(0))


async def used_of(client: Client, declared: Declared, now: datetime) -> list[tuple[str, str]]:
    """What is used now of a resource's limits, by what it is about; nothing for a resource without."""
    match declared.resource:
        case Quota(spec=spec, metadata=metadata):
            flow = await namespace_flow(client, metadata.namespace)
            tokens, cost = spent_today(flow, now)
            most = "" if spec.max_cost_per_day is None else f" of {money(spec.max_cost_per_day)}"
            day = f"{tokens}{_of(spec.max_tokens_per_day)} tokens, {money(cost)}{most}"
            return [("Today", day), *_lately(flow, now, _limits_of(spec))]
        case LLM(spec=spec) if declared.status is not None and declared.status.pool:
            entry = await client.bus.flow.get(flow_pool(declared.status.pool))
            pool = PoolFlow() if entry is None or entry.data is None else decode(entry.data, PoolFlow)
            return _lately(pool, now, spec.limits)
        case _:
            return []


def _limits_of(quota: QuotaSpec) -> LLMLimits:
    return LLMLimits(requests_per_minute=quota.requests_per_minute, tokens_per_minute=quota.tokens_per_minute)


def _lately(flow: Flow, now: datetime, limits: LLMLimits) -> list[tuple[str, str]]:
    used = used_now(flow, now)
    requests, tokens = _of(limits.requests_per_minute), _of(limits.tokens_per_minute)
    held = flow.held_until is not None and flow.held_until > now
    return [
        ("Last minute", f"{used.requests}{requests} requests, {used.tokens}{tokens} tokens"),
        ("Under way", f"{used.calls_under_way}{_of(limits.concurrency)} calls, about {used.tokens_under_way} tokens"),
        ("Waiting", "calls wait for room" if used.waiting else ""),
        ("Held until", f"{stamp(flow.held_until)}, as the provider asked" if held and flow.held_until else ""),
    ]


def _of(limit: int | None) -> str:
    return "" if limit is None else f" of {limit}"
