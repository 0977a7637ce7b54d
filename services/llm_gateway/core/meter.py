"""What is used of limits of a minute, and how long until there is room.

Two guards stand one behind the other. The *window* is hard: what was let through in the last 60 s and the next call
together are never more than the limit, whatever way the provider counts its minutes. The *pace* is soft: what was let
through drains at a little less than the limit, and may be ahead of that by some seconds only. Under a steady load the
pace keeps the window from filling up, so nobody waits for a whole minute, and whoever comes anew finds a little room.

Each caller applies its own numbers to what all have used.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal, NamedTuple, TypeVar

import msgspec

from schemas.flow import Flow
from schemas.resources import LLMLimits

F = TypeVar("F", bound=Flow)

MINUTE_S = 60
WINDOW_S = MINUTE_S + 1
"""How long a second counts from its beginning: to the end of the last call in it, for a whole minute."""
PACE = 0.95
"""The steady rate, as a part of the limit."""
NEGLIGIBLE_S = 1e-5
CALL_S_DEFAULT = 2.0
"""How long a call takes, before any has ended."""

Reason = Literal["requests", "tokens", "concurrency", "provider", "line"]
"""What a call waits for. `provider`: it asked us to wait; `line`: others of the namespace came before."""


class Cost(NamedTuple):
    """What some calls take of each limit: seconds of its steady rate."""

    tokens: float
    requests: float
    concurrency: float

    @property
    def most(self) -> float:
        """Of the limit that is the narrowest for them."""
        return max(self)


class Need(NamedTuple):
    """Some calls, or none."""

    tokens: int
    requests: int


class Wanting(NamedTuple):
    """How long until there may be room."""

    for_s: float
    reason: Reason


def cost_of(flow: Flow, limits: LLMLimits, need: Need) -> Cost:
    """What some calls take of the limits."""
    tokens, requests, concurrency = limits.tokens_per_minute, limits.requests_per_minute, limits.concurrency
    call_s = flow.learned.call_s or CALL_S_DEFAULT
    return Cost(
        tokens=need.tokens * MINUTE_S / (tokens * PACE) if tokens else 0.0,
        requests=need.requests * MINUTE_S / (requests * PACE) if requests else 0.0,
        concurrency=need.requests * call_s / concurrency if concurrency else 0.0,
    )


class Look(NamedTuple):
    """A call before the limits."""

    flow: Flow
    limits: LLMLimits
    need: Need
    claimed: Need
    """What must be left for others."""
    now: datetime

    def wanting(self, *, ahead_s: float | None) -> Wanting | None:
        """How long the call must wait for its room; None: it need not.

        `ahead_s`: how far the pace may be ahead of the time; None: the pace does not count.
        """
        found = [self._provider(), self._slots(), self._window("requests"), self._window("tokens")]
        if ahead_s is not None:
            cost, kept = (cost_of(self.flow, self.limits, need) for need in (self.need, self.claimed))
            found.append(_drain(self._ahead(self.flow.tokens_until), cost.tokens, kept.tokens, ahead_s, "tokens"))
            found.append(
                _drain(self._ahead(self.flow.requests_until), cost.requests, kept.requests, ahead_s, "requests")
            )
        return max((one for one in found if one is not None), default=None)

    def _provider(self) -> Wanting | None:
        held_s = self._ahead(self.flow.held_until)
        return Wanting(held_s, "provider") if held_s else None

    def _slots(self) -> Wanting | None:
        limit = self.limits.concurrency
        if limit is None or len(self.flow.under_way) + 1 + self.claimed.requests <= limit:
            return None
        return Wanting(cost_of(self.flow, self.limits, Need(0, 1)).concurrency, "concurrency")

    def _window(self, what: Literal["requests", "tokens"]) -> Wanting | None:
        place = 0 if what == "requests" else 1
        limit = self.limits.requests_per_minute if what == "requests" else self.limits.tokens_per_minute
        if limit is None:
            return None
        seconds = self.flow.seconds
        wanted = getattr(self.need, what) + getattr(self.claimed, what)
        excess = sum(used[place] for used in seconds.values()) + wanted - limit
        if excess <= 0:
            return None
        for second in sorted(seconds, key=int):
            excess -= seconds[second][place]
            if excess <= 0:
                return Wanting(max(int(second) + WINDOW_S - self.now.timestamp(), 0.0), what)
        return Wanting(float(MINUTE_S), what)  # not before a claim is served or given up

    def _ahead(self, until: datetime | None) -> float:
        return max((until - self.now).total_seconds(), 0.0) if until is not None else 0.0


def take(flow: F, limits: LLMLimits, need: Need, now: datetime) -> F:
    """What is used after these calls are let through."""
    cost = cost_of(flow, limits, need)
    return msgspec.structs.replace(
        _counted(flow, now, requests=need.requests, tokens=need.tokens),
        tokens_until=_later(flow.tokens_until, cost.tokens, now),
        requests_until=_later(flow.requests_until, cost.requests, now),
    )


def correct(flow: F, limits: LLMLimits, at: datetime, tokens: int, now: datetime) -> F:
    """What is used after a call that was let through `at` has taken so many tokens more, or fewer, than was thought.

    What it took more is used now, when it was told; what it took less was never used.
    """
    cost = cost_of(flow, limits, Need(abs(tokens), 0)).tokens
    flow = _counted(flow, now if tokens > 0 else at, requests=0, tokens=tokens)
    until = _later(flow.tokens_until, cost if tokens > 0 else -cost, now)
    return msgspec.structs.replace(flow, tokens_until=until)


def uncounted(flow: F, limits: LLMLimits, at: datetime, now: datetime) -> F:
    """What is used after a request that was let through `at` was not made."""
    flow = _counted(flow, at, requests=-1, tokens=0)
    until = _later(flow.requests_until, -cost_of(flow, limits, Need(0, 1)).requests, now)
    return msgspec.structs.replace(flow, requests_until=until)


def tidied(flow: F, now: datetime) -> F:
    """Without the seconds that count no more."""
    oldest = now.timestamp() - WINDOW_S
    if all(int(second) > oldest for second in flow.seconds):
        return flow
    kept = {second: used for second, used in flow.seconds.items() if int(second) > oldest}
    return msgspec.structs.replace(flow, seconds=kept)


def _drain(ahead_of_time_s: float, cost: float, kept: float, ahead_s: float, reason: Reason) -> Wanting | None:
    """A call that is larger than what the pace may be ahead is let through when all before it has drained."""
    excess = ahead_of_time_s + cost + kept - max(ahead_s, cost)
    return Wanting(excess, reason) if cost > 0 and excess > NEGLIGIBLE_S else None


def _counted(flow: F, at: datetime, *, requests: int, tokens: int) -> F:
    second = str(int(at.timestamp()))
    before = flow.seconds.get(second)
    if before is None and (requests < 0 or tokens < 0):
        return flow  # counts no more
    had_requests, had_tokens = before or (0, 0)
    after = (max(had_requests + requests, 0), max(had_tokens + tokens, 0))
    return msgspec.structs.replace(flow, seconds={**flow.seconds, second: after})


def _later(until: datetime | None, cost_s: float, now: datetime) -> datetime:
    start = until if until is not None and until > now else now
    return start + timedelta(seconds=cost_s)
