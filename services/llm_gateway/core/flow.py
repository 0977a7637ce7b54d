"""Flow control: which call is let through now, and which waits. Pure; the record is shared by all replicas.

What is used of the limits is in `meter.py`; who goes first, and when the others look again, is in `lines.py`.
"""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple, TypeVar

import msgspec

from schemas.flow import Flow, Learned, Reservation
from schemas.resources import LLMLimits
from services.llm_gateway.core.budget import estimated_usd
from services.llm_gateway.core.lines import LEARNED_AFTER, Ask, Parked, Standing, give_back, park, serve, standing_of
from services.llm_gateway.core.meter import Look, Need, Wanting, correct, cost_of, take, tidied, uncounted

F = TypeVar("F", bound=Flow)

BURST_S = 6.0
"""What may be let through at once when nobody waits, in seconds of the steady rate."""
BURST_CALLS = 3
"""The same in calls, if that is more."""
STEADY_S = 1.5
"""The same while somebody waits: enough for timers that are late."""
STEADY_CALLS = 1.25
"""The same in calls, if that is more."""
LEARNING = 0.1
"""How far one call moves a mean."""


class Admitted(NamedTuple):
    """The call may be made; what is kept for it."""

    name: str
    at: datetime
    tokens: int


class TooLarge(NamedTuple):
    """The call will never fit."""

    tokens: int
    limit: int


def expected_tokens(learned: Learned, limits: LLMLimits, ask: Ask) -> int:
    """What a call will use, on the high side; never more than could be let through, if its input fits."""
    output = ask.output_tokens_max
    if learned.calls >= LEARNED_AFTER:
        output = min(output, round(learned.output_tokens + 2 * learned.output_spread))
    tokens = ask.input_tokens + output
    limit = limits.tokens_per_minute
    return tokens if limit is None else max(min(tokens, limit), ask.input_tokens)


def admit(flow: F, limits: LLMLimits, ask: Ask, now: datetime) -> tuple[F, Admitted | Parked | TooLarge]:
    """Let a call through, or give it a time to look again.

    A call of that name that is under way was given up by its replica: the provider may have seen it, so it stays
    counted, but it holds no place any more.
    """
    flow = _without_dead(tidied(flow, now), ask.name, now)
    tokens = expected_tokens(flow.learned, limits, ask)
    if limits.tokens_per_minute is not None and tokens > limits.tokens_per_minute:
        return flow, TooLarge(tokens, limits.tokens_per_minute)
    standing = standing_of(flow, limits, ask, tokens, now)
    look = Look(flow, limits, Need(tokens, 1), standing.claimed, now)
    if look.wanting(ahead_s=_ahead_s(standing)) is not None:
        if standing.behind:
            return park(flow, standing, Wanting(0.0, "line"))
        # Whoever waits is let through at the steady pace, so that is what the wait is reckoned by.
        wanting = look.wanting(ahead_s=None if standing.credit else _steady_s(standing))
        return park(flow, standing, wanting or Wanting(0.0, "line"))
    flow = take(serve(flow, standing), limits, Need(tokens, 1), now)
    cost = estimated_usd(ask.input_tokens, tokens - ask.input_tokens, ask.pricing)
    kept = Reservation(namespace=ask.namespace, tokens=tokens, at=now, expires=ask.expires, cost_usd=cost)
    flow = msgspec.structs.replace(flow, under_way={**flow.under_way, ask.name: kept})
    return flow, Admitted(ask.name, now, tokens)


def undo(flow: F, limits: LLMLimits, admitted: Admitted, now: datetime) -> F:
    """The call was not made after all."""
    flow = settle(flow, limits, admitted, 0, now)
    return uncounted(flow, limits, admitted.at, now)


def settle(flow: F, limits: LLMLimits, admitted: Admitted, used_tokens: int | None, now: datetime) -> F:
    """A call has ended and has used so many tokens; None: nobody knows, so what was reserved counts."""
    flow = tidied(flow, now)
    reserved = flow.under_way.get(admitted.name)
    if reserved is None or reserved.at != admitted.at:
        return flow  # its time was over, or another replica took it over
    others = {name: one for name, one in flow.under_way.items() if name != admitted.name}
    flow = msgspec.structs.replace(flow, under_way=others)
    if used_tokens is None:
        return flow
    was, is_ = (cost_of(flow, limits, Need(tokens, 1)).most for tokens in (reserved.tokens, used_tokens))
    flow = give_back(flow, reserved.namespace, was - is_)
    return correct(flow, limits, reserved.at, used_tokens - reserved.tokens, now)


def learn(flow: F, reserved: int, used: int, output: int, call_s: float) -> F:
    """What a call has shown."""
    old = flow.learned
    rate = max(LEARNING, 1 / (old.calls + 1))
    off = abs(output - old.output_tokens) if old.calls else output / 2
    learned = Learned(
        calls=old.calls + 1,
        output_tokens=old.output_tokens + rate * (output - old.output_tokens),
        output_spread=old.output_spread + rate * (off - old.output_spread),
        used_share=old.used_share + rate * (min(used / max(reserved, 1), 2.0) - old.used_share),
        call_s=old.call_s + rate * (call_s - old.call_s),
    )
    return msgspec.structs.replace(flow, learned=learned)


def hold(flow: F, until: datetime) -> F:
    """The provider asked to wait: somebody else uses the account too."""
    if flow.held_until is not None and flow.held_until >= until:
        return flow
    return msgspec.structs.replace(flow, held_until=until)


def _ahead_s(standing: Standing) -> float | None:
    """How far the pace may be ahead after a call."""
    if standing.behind:
        return 0.0  # nobody uses what there is: those before it sleep longer than they would have to
    if standing.credit:
        return None
    return _steady_s(standing) if standing.contended else max(BURST_S, BURST_CALLS * standing.cost_s)


def _without_dead(flow: F, name: str, now: datetime) -> F:
    """Without the calls whose replica has died. What they reserved stays used."""
    if name not in flow.under_way and all(one.expires > now for one in flow.under_way.values()):
        return flow
    kept = {key: one for key, one in flow.under_way.items() if one.expires > now and key != name}
    return msgspec.structs.replace(flow, under_way=kept)


def _steady_s(standing: Standing) -> float:
    return max(STEADY_S, STEADY_CALLS * standing.cost_s)
