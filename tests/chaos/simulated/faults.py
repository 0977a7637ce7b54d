"""What goes wrong, and when: drawn from the seed, at every call of every port, until it is calm."""

from __future__ import annotations

import random

import msgspec

UNREACHABLE = ("log.", "timers.", "store.get", "store.put", "store.delete", "signals.publish", "signals.store")
"""Calls that a bus which is away answers with `Unavailable`."""


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """Chances, by call or by message."""

    crash: float = 0.0
    unavailable: float = 0.0
    delay: float = 0.0
    """A few milliseconds up to a second."""
    stall: float = 0.0
    """Longer than an acknowledgement wait."""
    acknowledgement_lost: float = 0.0
    reordered: float = 0.0
    stale: float = 0.0
    """A read that a replica of the stream answers which is behind."""
    duplicated: float = 0.0
    """Spurious redeliveries, by second."""
    crashes_max: int = 0


class Faults:
    """Draws what happens next."""

    def __init__(self, rng: random.Random, rates: Rates) -> None:
        self.rng = rng
        self.rates = rates
        self.calm = False
        self.crashes = 0
        self.redelivered = 0

    def happens(self, chance: float) -> bool:
        """Whether something of this chance happens now."""
        return not self.calm and chance > 0 and self.rng.random() < chance

    def crash(self) -> bool:
        """Whether the process dies at this call."""
        if self.crashes >= self.rates.crashes_max or not self.happens(self.rates.crash):
            return False
        self.crashes += 1
        return True

    def unavailable(self, call: str) -> bool:
        """Whether the bus does not answer this call."""
        return call.startswith(UNREACHABLE) and self.happens(self.rates.unavailable)

    def wait_s(self) -> float:
        """How long this call takes; mostly, the others run once."""
        if self.happens(self.rates.stall):
            return self.rng.uniform(1.0, 4.0)
        if self.happens(self.rates.delay):
            return self.rng.choice((0.001, 0.01, 0.1, 1.0)) * self.rng.random()
        return 0.0


def draw_rates(rng: random.Random) -> Rates:
    """The weather of one seed: each kind of fault is absent, rare or frequent."""
    return Rates(
        crash=rng.choice((0.0, 0.002, 0.01, 0.03)),
        crashes_max=rng.choice((1, 2, 4, 8)),
        unavailable=rng.choice((0.0, 0.0, 0.003, 0.02)),
        delay=rng.choice((0.0, 0.05, 0.3)),
        stall=rng.choice((0.0, 0.0, 0.002, 0.01)),
        acknowledgement_lost=rng.choice((0.0, 0.0, 0.05, 0.2)),
        reordered=rng.choice((0.0, 0.3)),
        stale=rng.choice((0.0, 0.0, 0.2)),
        duplicated=rng.choice((0.0, 0.0, 0.2, 1.0)),
    )
