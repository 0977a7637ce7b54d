"""What is used of limits that all replicas share. Written at a revision by whoever makes model calls.

Times are those of the writers' clocks. Nothing here is the truth about a task: a record that is lost makes the limits
too generous for a minute, and a day's count too low.
"""

from __future__ import annotations

from decimal import Decimal

from schemas.wire import Instant, Wire


class Reservation(Wire, frozen=True, kw_only=True):
    """A model call under way: counted with what it is expected to use, until it is settled or its time is over."""

    namespace: str
    tokens: int
    at: Instant
    expires: Instant
    cost_usd: Decimal = Decimal(0)


class Share(Wire, frozen=True, kw_only=True):
    """A namespace's part in a pool."""

    served: float = 0.0
    """Tokens it was given, divided by its weight, on a scale common to all: whoever has least goes first."""
    waiting_tokens: int = 0
    """What its next waiting call needs."""
    waiting_until: Instant | None = None
    """How long room is kept for that call."""
    tail: Instant | None = None
    """When the last of its waiting calls will look again."""


class PoolFlow(Wire, frozen=True, kw_only=True, tag="flow.pool.v1"):
    """A provider's account and model."""

    paced_until: Instant | None = None
    """When what was let through is used up at the steady rate of the limit."""
    seconds: dict[str, tuple[int, int]] = {}
    """Requests and tokens by the second (of Unix time) in which they were let through, for a minute."""
    under_way: dict[str, Reservation] = {}
    """By the call's name: `<namespace>/<task>.<turn>`."""
    shares: dict[str, Share] = {}


class NamespaceFlow(Wire, frozen=True, kw_only=True, tag="flow.namespace.v1"):
    """A namespace."""

    day: str = ""
    """UTC, `2026-03-01`."""
    tokens: int = 0
    cost_usd: Decimal = Decimal(0)
    seconds: dict[str, tuple[int, int]] = {}
    under_way: dict[str, Reservation] = {}
