"""What is used of limits that all replicas share. Written at a revision by whoever makes model calls.

Times are those of the writers' clocks. Nothing here is the truth about a task: a record that is lost makes the limits
too generous for a minute, and a day's count too low.
"""

from __future__ import annotations

from decimal import Decimal

from schemas.requests import Priority
from schemas.wire import Instant, Wire


class Reservation(Wire, frozen=True, kw_only=True):
    """A model call under way: counted with what it is expected to use, until it is settled or its time is over."""

    namespace: str
    tokens: int
    at: Instant
    expires: Instant
    cost_usd: Decimal = Decimal(0)


class Claim(Wire, frozen=True, kw_only=True):
    """Room that is kept for the call that has waited longest in its line."""

    name: str
    """`<namespace>/<task>.<turn>`."""
    since: Instant
    """When it began to wait."""
    tokens: int
    until: Instant
    """It should have looked again by then."""


class Line(Wire, frozen=True, kw_only=True):
    """The waiting calls of a namespace and priority: only where the line ends, for each is a timer of its task."""

    tail: Instant | None = None
    """When there is a place for the next call that comes."""
    again: Instant | None = None
    """The same for calls that have looked again in vain."""
    claim: Claim | None = None


class Share(Wire, frozen=True, kw_only=True):
    """A namespace's part in a pool."""

    served: float = 0.0
    """Seconds of the whole limit that it was given, divided by its weight: whoever has least goes first."""
    weight: int = 1
    used: Instant | None = None
    """When it was last given some."""
    lines: dict[Priority, Line] = {}


class Learned(Wire, frozen=True, kw_only=True):
    """What settled calls have shown. Each call moves a mean a little."""

    calls: int = 0
    output_tokens: float = 0.0
    output_spread: float = 0.0
    """How far outputs are from their mean."""
    used_share: float = 1.0
    """What is used of what was reserved."""
    call_s: float = 0.0
    """How long a call takes."""


class Flow(Wire, frozen=True, kw_only=True):
    """What calls have used of some limits, what they are about to use, and who waits."""

    tokens_until: Instant | None = None
    """When the tokens that were let through are used up at the steady rate of the limit."""
    requests_until: Instant | None = None
    """The same of the requests."""
    seconds: dict[str, tuple[int, int]] = {}
    """Requests and tokens by the second (of Unix time) in which they were let through, for a minute."""
    under_way: dict[str, Reservation] = {}
    """By the call's name: `<namespace>/<task>.<turn>.<attempt>`."""
    shares: dict[str, Share] = {}
    """By namespace."""
    served: float = 0.0
    """On the scale of the shares: where the namespaces are that take all they can get."""
    held_until: Instant | None = None
    """The provider refused a call for its own rate limit, and asked to wait so long."""
    learned: Learned = Learned()


class PoolFlow(Flow, frozen=True, kw_only=True, tag="flow.pool.v1"):
    """A pool: a provider's account and model. All LLMs that use the same key for the same model share it."""


class MailboxLease(Wire, frozen=True, kw_only=True):
    """Who looks into a contact channel's mailbox, and until when."""

    by: str
    until: Instant


class NamespaceFlow(Flow, frozen=True, kw_only=True, tag="flow.namespace.v1"):
    """A namespace."""

    day: str = ""
    """UTC, `2026-03-01`."""
    tokens: int = 0
    """Used on that day by calls that have ended."""
    cost_usd: Decimal = Decimal(0)
