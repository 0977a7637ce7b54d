"""What to do about a question now: ask a channel, remind people, ask the next channel, or give up. Pure.

It is decided from what is recorded and from the channels as they are now, so any replica decides the same, and a
restart while people think asks nobody again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import msgspec

from schemas.interactions import InteractionRequested, InteractionStep
from schemas.resources import ContactChannelSpec, OnTimeout

STEPS_MAX = 8
"""Channels that one question goes through."""

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
    """Say it again to the channel of a step."""

    step: InteractionStep


class GiveUp(msgspec.Struct, frozen=True):
    """Nobody answered in time."""

    outcome: OnTimeout
    waited_s: float


class Poll(msgspec.Struct, frozen=True):
    """Ask the channels of these steps for an answer."""

    steps: tuple[InteractionStep, ...]


class Wait(msgspec.Struct, frozen=True):
    """Nothing to do before then."""

    until: datetime


Move = Deliver | Remind | GiveUp | Poll | Wait


def next_move(
    asked: InteractionRequested,
    steps: Sequence[InteractionStep],
    channel_of: ChannelOf,
    now: datetime,
    *,
    is_polled: IsPolled = _unpolled,
    polled: bool = True,
) -> Move:
    """What to do about a question that has no answer. `steps`: the channels that were asked, in order.

    `polled`: the channels that have to be asked for answers were asked just now. That comes before anything that the
    time decides, so that an answer that was given in time counts.
    """
    waiting = tuple(step for step in steps if step.delivered and is_polled(step.channel))
    if waiting and not polled:
        return Poll(waiting)
    if now >= asked.expires:
        return GiveUp("deny", (now - asked.at).total_seconds())
    if not steps:
        return Deliver(0, asked.channel)
    last = steps[-1]
    if not last.delivered:
        return Deliver(last.step, last.channel)
    spec = channel_of(last.channel)
    if last.until is not None and now >= last.until:
        return _after(asked, steps, spec, now)
    looks = [asked.expires] if last.until is None else [asked.expires, last.until]
    if spec is not None and spec.remind_s is not None:
        due = last.at + timedelta(seconds=spec.remind_s * (last.reminded + 1))
        if now >= due:
            return Remind(last)
        looks.append(due)
    if waiting:
        looks.append(now + timedelta(seconds=poll_after_s((now - waiting[-1].at).total_seconds())))
    return Wait(min(looks))


def poll_after_s(waited_s: float) -> float:
    """How long until a channel is asked again whose question has waited so long."""
    return min(max(POLL_SHARE * waited_s, POLL_MIN_S), POLL_MAX_S)


def _after(
    asked: InteractionRequested, steps: Sequence[InteractionStep], spec: ContactChannelSpec | None, now: datetime
) -> Move:
    """The channel that was asked last had its time."""
    outcome: OnTimeout = spec.on_timeout if spec is not None else "deny"
    if outcome == "escalate" and spec is not None and spec.escalate_to is not None:
        following = spec.escalate_to.name
        if len(steps) < STEPS_MAX and all(step.channel != following for step in steps):
            return Deliver(len(steps), following)
    if outcome == "escalate" or (outcome == "approve" and asked.kind != "approval"):
        outcome = "deny"
    return GiveUp(outcome, (now - asked.at).total_seconds())
