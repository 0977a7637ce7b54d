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

ChannelOf = Callable[[str], ContactChannelSpec | None]
"""The channel of this name, as it is declared now."""


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


class Wait(msgspec.Struct, frozen=True):
    """Nothing to do before then."""

    until: datetime


Move = Deliver | Remind | GiveUp | Wait


def next_move(
    asked: InteractionRequested, steps: Sequence[InteractionStep], channel_of: ChannelOf, now: datetime
) -> Move:
    """What to do about a question that has no answer. `steps`: the channels that were asked, in order."""
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
    return Wait(min(looks))


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
