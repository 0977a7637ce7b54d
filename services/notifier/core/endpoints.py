"""Receivers as this replica knows them: how many attempts each has under way, and whether it is in trouble.

A receiver that fails several times in a row is left alone for a while, and for longer each time; then one attempt
shows whether it is well again. Whoever has to wait is told until when, and holds neither a slot nor a message
meanwhile. Nothing of this is kept on the bus: another replica finds out by itself.
"""

from __future__ import annotations

from collections import OrderedDict
from datetime import datetime, timedelta

import msgspec

AT_ONCE_MAX = 8
"""Attempts under way at one receiver, in one replica."""
FAILURES_MAX = 5
"""In a row: then the circuit opens."""
OPEN_S = 10.0
OPEN_MAX_S = 300.0
PAUSE_MAX_S = 3600.0
QUEUE_MAX_S = 300.0
"""How far ahead those that wait are spread."""
KNOWN_MAX = 10_000
SMOOTHING = 0.2


class Wait(msgspec.Struct, frozen=True):
    """Not now."""

    until: datetime
    why: str


class Endpoint(msgspec.Struct):
    """One receiver."""

    under_way: int = 0
    failures: int = 0
    opened: int = 0
    """How often in a row the circuit opened."""
    closed_again_at: datetime | None = None
    """Until then it is left alone."""
    probing: bool = False
    booked_until: datetime | None = None
    mean_s: float = 0.2


class Endpoints:
    """All of them. Time comes in."""

    def __init__(self, *, at_once: int = AT_ONCE_MAX) -> None:
        self._known: OrderedDict[str, Endpoint] = OrderedDict()
        self._at_once = at_once

    @property
    def open(self) -> int:
        """How many circuits are open."""
        return sum(one.opened > 0 for one in self._known.values())

    def enter(self, key: str, now: datetime, *, at_once: bool = False) -> Wait | None:
        """Begin an attempt; or wait. `at_once`: there is no other time for it."""
        one = self._known.setdefault(key, Endpoint())
        self._known.move_to_end(key)
        if not at_once and (wait := self._wait(one, now)) is not None:
            return wait
        one.probing = one.opened > 0
        one.under_way += 1
        self._forget()
        return None

    def _wait(self, one: Endpoint, now: datetime) -> Wait | None:
        if one.closed_again_at is not None and now < one.closed_again_at:
            why = f"failed {one.failures} times in a row" if one.opened else "asked to wait"
            return Wait(self._book(one, one.closed_again_at), f"the receiver {why}")
        if one.opened:
            if one.probing:
                return Wait(self._book(one, now), "the receiver failed, and is being tried by another notification")
        elif one.under_way >= self._at_once:
            return Wait(self._book(one, now), f"{self._at_once} attempts are under way at the receiver")
        return None

    def leave(
        self, key: str, now: datetime, *, is_down: bool, took_s: float = 0.0, pause_s: float | None = None
    ) -> None:
        """End an attempt that was begun. `is_down`: the receiver is in trouble; `pause_s`: it asked for this wait."""
        one = self._known.setdefault(key, Endpoint())
        one.under_way = max(one.under_way - 1, 0)
        one.mean_s += SMOOTHING * (took_s - one.mean_s)
        was_probe, one.probing = one.probing, False
        if is_down:
            one.failures += 1
            if was_probe or (one.failures >= FAILURES_MAX and not one.opened):
                one.opened += 1
                open_s = min(OPEN_S * 2.0 ** min(one.opened - 1, 10), OPEN_MAX_S)
                one.closed_again_at = now + timedelta(seconds=open_s)
        else:
            one.failures, one.opened, one.closed_again_at, one.booked_until = 0, 0, None, None
        if pause_s:
            until = now + timedelta(seconds=min(pause_s, PAUSE_MAX_S))
            one.closed_again_at = max(until, one.closed_again_at or until)

    def _book(self, one: Endpoint, base: datetime) -> datetime:
        """A place among those that wait, one after another, so that they do not all come at once."""
        step = timedelta(seconds=max(one.mean_s, 0.05) / self._at_once)
        after = max(one.booked_until or base, base) + step
        one.booked_until = min(after, base + timedelta(seconds=QUEUE_MAX_S))
        return one.booked_until

    def _forget(self) -> None:
        """Remember no more than so many, the ones that were last used."""
        while len(self._known) > KNOWN_MAX:
            key = next(iter(self._known))
            if self._known[key].under_way:
                return
            del self._known[key]
