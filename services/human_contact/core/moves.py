"""What to do about a question now: ask a channel, remind people, ask the next channel, or give up. Pure.

It is decided from what is recorded and from the channels as they are now, so any replica decides the same, and a
restart while people think asks nobody again. A channel's time begins when it has the question, and before that when it
was first tried: one that is out of reach for so long is passed over like one where nobody answers. One that refuses
for good is passed over at once; whoever was asked before may still answer in the time that it would have had.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import msgspec

from schemas.interactions import InteractionRequested, InteractionStep
from schemas.resources import ContactChannelSpec, OnTimeout

STEPS_MAX = 8
"""Channels that one question goes through."""
AGAIN_MIN_S = 2.0
AGAIN_MAX_S = 300.0
"""How soon a channel is tried again that could not be reached: later each time."""
SPAN_MIN_S = 0.001
SPAN_MAX_S = 10 * 366 * 86_400.0
POLL_MIN_S = 5.0
POLL_MAX_S = 30.0
"""How often a channel is asked for answers that does not bring them: less often the longer it takes."""
POLL_SHARE = 0.1
"""Of the time that a question has waited: how long until the channel is asked again."""

ChannelOf = Callable[[str], ContactChannelSpec | None]
"""The channel of this name, as it is declared now."""
IsPolled = Callable[[str], bool]
"""Whether the channel of this name has to be asked for its answers."""


def _unpolled(_channel: str) -> bool:
    return False


class Deliver(msgspec.Struct, frozen=True):
    """Ask a channel."""

    step: int
    channel: str


class Remind(msgspec.Struct, frozen=True):
    """Say it again to the channel of a step: the reminder `n`, from 1. Those that were missed are not made up for."""

    step: InteractionStep
    n: int


class GiveUp(msgspec.Struct, frozen=True):
    """Nobody answered in time."""

    outcome: OnTimeout
    waited_s: float
    asked: bool = True
    """Whether anybody was."""


class Fail(msgspec.Struct, frozen=True):
    """No channel takes the question."""

    reason: str


class Poll(msgspec.Struct, frozen=True):
    """Ask the channels of these steps for an answer."""

    steps: tuple[InteractionStep, ...]


class Wait(msgspec.Struct, frozen=True):
    """Nothing to do before then."""

    until: datetime


Move = Deliver | Remind | GiveUp | Fail | Poll | Wait


def next_move(
    asked: InteractionRequested,
    steps: Sequence[InteractionStep],
    channel_of: ChannelOf,
    now: datetime,
    *,
    is_polled: IsPolled = _unpolled,
    polled: bool = True,
    look_at: datetime | None = None,
) -> Move:
    """What to do about a question that has no answer. `steps`: the channels that were asked, in order.

    `polled`: the channels that have to be asked for answers were asked just now. That comes before anything that the
    time decides, so that an answer that was given in time counts; `look_at`: they may not be asked before then, and
    what the time decides waits for that.
    """
    waiting = tuple(step for step in steps if step.delivered and is_polled(step.channel))
    if not waiting:
        return _move(asked, steps, channel_of, now)
    if not polled and (look_at is None or now >= look_at):
        return Poll(waiting)
    move = _move(asked, steps, channel_of, now)
    if polled or look_at is None:
        look_at = now + timedelta(seconds=poll_after_s((now - waiting[-1].at).total_seconds()))
    match move:
        case Wait(until=until):
            return Wait(min(until, look_at))
        case GiveUp() if not polled:
            return Wait(look_at)
        case _:
            return move


def _move(asked: InteractionRequested, steps: Sequence[InteractionStep], channel_of: ChannelOf, now: datetime) -> Move:
    """What to do, looks at channels aside."""
    if now >= asked.expires:
        return _give_up(asked, steps, "deny", now)
    if not steps:
        return Deliver(0, asked.channel)
    last = steps[-1]
    spec = channel_of(last.channel)
    if last.refused and not last.delivered:
        if (following := _following(steps, spec)) is not None:
            return following
        if not any(step.delivered for step in steps):
            return Fail("; ".join(step.refused for step in steps if step.refused))
    until = _until(last, spec)
    if until is not None and now >= until:
        return _after(asked, steps, spec, now)
    if not (last.delivered or last.refused):
        return Deliver(last.step, last.channel)
    looks = [asked.expires] if until is None else [asked.expires, until]
    if last.delivered and not last.refused and spec is not None and spec.remind_s is not None:
        every = span(spec.remind_s)
        n = (now - last.at) // every
        if n > last.reminded:
            return Remind(last, n)
        looks.append(last.at + every * (n + 1))
    return Wait(min(looks))


def try_again_at(
    asked: InteractionRequested, step: InteractionStep, spec: ContactChannelSpec | None, now: datetime, after_s: float
) -> datetime:
    """When a channel is tried again that could not be reached; `after_s`: not before then, as it said itself.

    Not later than its time is over, or the question's.
    """
    waited_s = (now - step.at).total_seconds()
    again = now + timedelta(seconds=max(min(max(waited_s, AGAIN_MIN_S), AGAIN_MAX_S), after_s))
    until = _until(step, spec)
    return min(again, asked.expires) if until is None else min(again, asked.expires, max(until, now))


def span(seconds: float) -> timedelta:
    """A time that somebody declared, as far as it can be counted with."""
    return timedelta(seconds=min(max(seconds, SPAN_MIN_S), SPAN_MAX_S))


def poll_after_s(waited_s: float) -> float:
    """How long until a channel is asked again whose question has waited so long."""
    return min(max(POLL_SHARE * waited_s, POLL_MIN_S), POLL_MAX_S)


def _until(step: InteractionStep, spec: ContactChannelSpec | None) -> datetime | None:
    """When a channel's time is over."""
    if step.delivered or spec is None or spec.timeout_s is None:
        return step.until
    return step.at + span(spec.timeout_s)


def _after(
    asked: InteractionRequested, steps: Sequence[InteractionStep], spec: ContactChannelSpec | None, now: datetime
) -> Move:
    """The channel that was asked last had its time."""
    outcome: OnTimeout = spec.on_timeout if spec is not None else "deny"
    if outcome == "escalate":
        return _following(steps, spec) or _give_up(asked, steps, "deny", now)
    if outcome == "approve" and (asked.kind != "approval" or not steps[-1].delivered):
        # Who was not asked has not consented.
        outcome = "deny"
    return _give_up(asked, steps, outcome, now)


def _following(steps: Sequence[InteractionStep], spec: ContactChannelSpec | None) -> Deliver | None:
    """The channel after the last, if there is one that was not asked yet."""
    if spec is None or spec.escalate_to is None or len(steps) >= STEPS_MAX:
        return None
    following = spec.escalate_to.name
    return Deliver(len(steps), following) if all(step.channel != following for step in steps) else None


def _give_up(
    asked: InteractionRequested, steps: Sequence[InteractionStep], outcome: OnTimeout, now: datetime
) -> GiveUp:
    return GiveUp(outcome, (now - asked.at).total_seconds(), asked=any(step.delivered for step in steps))
