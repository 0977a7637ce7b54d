"""Who goes first, and when those look again who must wait.

Between namespaces: start-time fair queueing. Each has a place on a scale of what it was given by its weight, and the
one that stands furthest back goes first. A namespace that has taken less than others may catch up some seconds; for
those the pace of the limits does not count. Within a namespace: higher priorities first, then who has waited longest.
A call that has waited for long rises in priority, so each is let through in the end. Whoever goes first and is not
there yet has a claim: room is kept for it.

Nobody's waiting call is stored: it is a timer of its task. A line has two ends: where the next new call is told to
look, and where one is that has looked in vain. The wake-ups of a line are spread by the rate at which it may be served,
with some to spare: ten thousand waiting calls cost no more at a time than ten, and all that is allowed is used.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import NamedTuple, TypeVar

import msgspec

from schemas.flow import Claim, Flow, Line, Share
from schemas.requests import Priority
from schemas.resources import LLMLimits, Pricing
from services.llm_gateway.core.meter import Need, Reason, Wanting, cost_of

F = TypeVar("F", bound=Flow)

CREDIT_S = 30.0
"""What a namespace may catch up that has taken less than others, in seconds of the steady rate."""
CREDIT_NEW_S = 6.0
"""The same for one of which nothing is known."""
ACTIVE_S = 60.0
"""A namespace that was given something, or waits, in this time is one of those that share."""
FORGET_S = 600.0
"""After so long, nothing is known of a namespace's past."""
SPARE = 1.3
"""Wake-ups for each call that can be let through: some tasks end while they wait, and some calls take less."""
SHARES_WOKEN = 2.0
"""A namespace is woken for so many times its part, if there is more: others may leave."""
WAKES_PER_S = 20.0
"""Wake-ups of all namespaces that cost little."""
LEARNED_AFTER = 3
"""Calls that must have ended until what they showed is believed."""
USED_SHARE_DEFAULT = 0.3
"""What is used of what was reserved, before that."""
WAIT_MIN_S = 0.1
NAP_S = 600.0
"""The longest wait without a look, until a call has waited for longer than that: limits change, and others leave."""
GRACE_S = 2.0
"""How long a claim is kept after its call should have looked again."""
NEAR_S = 10.0
"""A call that looks again after that has no claim."""
RISE_S = 120.0
"""A call that has waited for so long counts as one of the next higher priority."""

RANKS: tuple[Priority, ...] = ("low", "normal", "high")


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """A call that would be made."""

    namespace: str
    name: str
    """Of this attempt: a delivery that comes again has the same."""
    waiter: str = ""
    """What waits, over all attempts; absent: `name`."""
    input_tokens: int
    output_tokens_max: int
    """Room for the answer; how much of it is needed is learned."""
    expires: datetime
    """The call has ended by then, however it ends."""
    since: datetime | None = None
    """When it began to wait, if it has waited."""
    priority: Priority = "normal"
    weight: int = 1
    """Of its namespace."""
    pricing: Pricing | None = None

    @property
    def waits_as(self) -> str:
        """Who has the claim, if this call has one."""
        return self.waiter or self.name


class Parked(NamedTuple):
    """The call must look again later."""

    for_s: float
    reason: Reason


class Standing(NamedTuple):
    """A call among the others."""

    ask: Ask
    now: datetime
    tokens: int
    cost_s: float
    """Seconds of the steady rate that it takes."""
    start: float
    """Its namespace's place on the scale."""
    claimed: Need
    """What must be left for those who go first."""
    contended: bool
    """Whether anybody waits."""
    credit: bool
    """Whether its namespace catches up."""
    behind: bool
    """Whether it is new and its line is not empty."""

    @property
    def since(self) -> datetime:
        """When it began to wait: now, if it does."""
        return self.ask.since or self.now


def standing_of(flow: Flow, limits: LLMLimits, ask: Ask, tokens: int, now: datetime) -> Standing:
    """How a call stands."""
    start = _start(flow, ask.namespace, ask.weight)
    cost_s = cost_of(flow, limits, Need(tokens, 1)).most
    line = _line(flow, ask.namespace, ask.priority)
    shared = any(_is_active(share, now) for key, share in flow.shares.items() if key != ask.namespace)
    ahead = [claim.tokens for claim in _ahead_of(flow, ask, start, now)]
    return Standing(
        ask=ask,
        now=now,
        tokens=tokens,
        cost_s=cost_s,
        start=start,
        claimed=Need(max(ahead), 1) if ahead else Need(0, 0),
        contended=ask.since is not None or any(_waits(share, now) for share in flow.shares.values()),
        credit=shared and start + cost_s / ask.weight <= flow.served,
        behind=ask.since is None and _is_busy(line, now),
    )


def serve(flow: F, standing: Standing) -> F:
    """The call is let through: its namespace moves on by what it takes."""
    ask, now = standing.ask, standing.now
    share = flow.shares.get(ask.namespace, Share())
    lines: dict[Priority, Line] = {
        priority: msgspec.structs.replace(line, claim=None) if line.claim and line.claim.name == ask.waits_as else line
        for priority, line in share.lines.items()
        if _is_busy(line, now) or _claim(line, now)
    }
    share = Share(served=standing.start + standing.cost_s / ask.weight, weight=ask.weight, used=now, lines=lines)
    shares = {**_known(flow, now), ask.namespace: share}
    return msgspec.structs.replace(flow, shares=shares, served=max(flow.served, standing.start))


def park(flow: F, standing: Standing, wanting: Wanting) -> tuple[F, Parked]:
    """The call waits: at the end of its line, or soon if it is the one that goes first."""
    ask, now = standing.ask, standing.now
    share = flow.shares.get(ask.namespace, Share(served=standing.start, weight=ask.weight))
    line = share.lines.get(ask.priority, Line())
    at = _place(share, line, standing, wanting)
    gap = timedelta(seconds=_gap_s(flow, standing))
    nap_s = max(NAP_S, (now - standing.since).total_seconds())
    if (at - now).total_seconds() > nap_s:
        at = now + timedelta(seconds=nap_s * _between(0.5, 1.0, f"{ask.waits_as}/{now.timestamp():.0f}"))
    elif ask.since is None:
        line = msgspec.structs.replace(line, tail=at + gap)
    elif not _is_mine(line.claim, ask):
        line = msgspec.structs.replace(line, again=at + gap)
    line = msgspec.structs.replace(line, claim=_claimed(line, standing, at))
    lines: dict[Priority, Line] = {**share.lines, ask.priority: line}
    share = msgspec.structs.replace(share, served=standing.start, weight=ask.weight, lines=lines)
    flow = msgspec.structs.replace(flow, shares={**flow.shares, ask.namespace: share})
    return flow, Parked((at - now).total_seconds(), wanting.reason)


def give_back(flow: F, namespace: str, cost_s: float) -> F:
    """A call has taken so much less than was thought."""
    share = flow.shares.get(namespace)
    if share is None or not cost_s:
        return flow
    share = msgspec.structs.replace(share, served=share.served - cost_s / share.weight)
    return msgspec.structs.replace(flow, shares={**flow.shares, namespace: share})


# --- who goes first ---------------------------------------------------------------------


def _start(flow: Flow, namespace: str, weight: int) -> float:
    """A namespace's place on the scale: what was not taken is lost, but for the credit."""
    share = flow.shares.get(namespace)
    if share is None:
        return flow.served - CREDIT_NEW_S / weight
    return max(share.served, flow.served - CREDIT_S / weight)


def _rank(priority: Priority, since: datetime, now: datetime) -> int:
    risen = int((now - since).total_seconds() // RISE_S)
    return min(RANKS.index(priority) + max(risen, 0), len(RANKS) - 1)


def _ahead_of(flow: Flow, ask: Ask, start: float, now: datetime) -> Iterator[Claim]:
    """The claims of those who go before a call."""
    since = ask.since or now
    mine = (-_rank(ask.priority, since, now), since)
    for namespace, share in flow.shares.items():
        theirs = start if namespace == ask.namespace else _start(flow, namespace, share.weight)
        for priority, line in share.lines.items():
            claim = _claim(line, now)
            if claim is None or claim.name == ask.waits_as:
                continue
            if namespace == ask.namespace:
                goes_first = (-_rank(priority, claim.since, now), claim.since) < mine
            else:
                goes_first = (theirs, claim.since) < (start, since)
            if goes_first:
                yield claim


def _claim(line: Line, now: datetime) -> Claim | None:
    return line.claim if line.claim is not None and line.claim.until > now else None


def _claimed(line: Line, standing: Standing, at: datetime) -> Claim | None:
    """Who has the line's claim after this call was given a time: whoever has waited longest and looks soon."""
    ask, now = standing.ask, standing.now
    held = _claim(line, now)
    if held is not None and held.name != ask.waits_as and held.since <= standing.since:
        return held
    if (at - now).total_seconds() > max(NEAR_S, 3 * standing.cost_s):
        return None if _is_mine(held, ask) else held
    return Claim(name=ask.waits_as, since=standing.since, tokens=standing.tokens, until=at + timedelta(seconds=GRACE_S))


def _is_mine(claim: Claim | None, ask: Ask) -> bool:
    return claim is not None and claim.name == ask.waits_as


# --- when the others look again -----------------------------------------------------------


def _place(share: Share, line: Line, standing: Standing, wanting: Wanting) -> datetime:
    """When a call should look again."""
    ask, now = standing.ask, standing.now
    soonest = now + timedelta(seconds=max(wanting.for_s, WAIT_MIN_S))
    if ask.since is not None:
        return soonest if _is_mine(line.claim, ask) else max(line.again or soonest, soonest)
    before = RANKS[RANKS.index(ask.priority) :]
    tails = (one.tail for priority, one in share.lines.items() if priority in before)
    return max((tail for tail in tails if tail is not None and tail > soonest), default=soonest)


def _gap_s(flow: Flow, standing: Standing) -> float:
    """How long after this call the next of its line should look."""
    waiting = {key: share for key, share in flow.shares.items() if _waits(share, standing.now)}
    waiting.pop(standing.ask.namespace, None)
    weights = standing.ask.weight + sum(share.weight for share in waiting.values())
    cheap = WAKES_PER_S * standing.cost_s / (len(waiting) + 1)
    part = min(1.0, max(SHARES_WOKEN * standing.ask.weight / weights, cheap))
    learned = flow.learned
    used = min(max(learned.used_share, 0.1), 1.0) if learned.calls >= LEARNED_AFTER else USED_SHARE_DEFAULT
    return standing.cost_s * used / (part * SPARE)


def _between(least: float, most: float, name: str) -> float:
    return least + (most - least) * zlib.crc32(name.encode()) / 2**32


# --- shares -----------------------------------------------------------------------------


def _line(flow: Flow, namespace: str, priority: Priority) -> Line:
    share = flow.shares.get(namespace)
    return share.lines.get(priority, Line()) if share is not None else Line()


def _is_busy(line: Line, now: datetime) -> bool:
    """Whether somebody in the line will look again."""
    return any(end is not None and end > now for end in (line.tail, line.again))


def _waits(share: Share, now: datetime) -> bool:
    return any(_is_busy(line, now) for line in share.lines.values())


def _is_active(share: Share, now: datetime) -> bool:
    return _waits(share, now) or (share.used is not None and (now - share.used).total_seconds() < ACTIVE_S)


def _known(flow: Flow, now: datetime) -> dict[str, Share]:
    """The shares but those of which nothing was heard for long."""
    return {
        key: share
        for key, share in flow.shares.items()
        if _waits(share, now) or (share.used is not None and (now - share.used).total_seconds() < FORGET_S)
    }
