"""A bus that answers most calls and not all, or delivers what is in hand again: nobody dies, so nothing is given up."""

from __future__ import annotations

from collections import Counter

import pytest

from services.runtime.ports import Bus
from services.runtime.telemetry.metrics import Metrics
from services.tool_executor.core.ledger import Says, Unknown
from services.tool_executor.ledger import Ledger
from tests.chaos.simulated.faults import Rates
from tests.chaos.simulated.simulate import simulate

SEEDS = range(1, 31)
UNANSWERED = 0.15

make, ask = Ledger.__init__, Ledger._says


def test_a_bus_that_leaves_every_seventh_call_unanswered_loses_nothing() -> None:
    unanswered = 0
    for seed in SEEDS:
        outcome = simulate(seed, rates=Rates(unavailable=UNANSWERED))
        assert not outcome.problems, outcome.report()
        unanswered += outcome.events["UNAVAILABLE"]
    assert unanswered > 50 * len(SEEDS)


def test_no_call_is_taken_from_an_executor_that_is_at_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its messages are delivered again, as if it had been silent, and its leases are over at once."""
    heard: Counter[str] = Counter()
    taken: list[str] = []

    def without_lease(self: Ledger, bus: Bus, replica: str, lease_s: float, metrics: Metrics) -> None:
        make(self, bus, replica, 0.0, metrics)

    async def listen(self: Ledger, *args: object) -> Says:
        says = await ask(self, *args)  # type: ignore[arg-type]  # as it was called
        heard[says] += 1
        return says

    def remember(self: Ledger, subject: str, found: object, decision: object, _: object) -> None:
        if isinstance(decision, Unknown):
            taken.append(subject)

    monkeypatch.setattr(Ledger, "__init__", without_lease)
    monkeypatch.setattr(Ledger, "_says", listen)
    monkeypatch.setattr(Ledger, "_took_over", remember)
    for seed in range(1, 91):
        taken.clear()
        outcome = simulate(seed, rates=Rates(stall=0.03, duplicated=2.0))
        assert not outcome.problems, outcome.report()
        if not outcome.events["STOP"]:  # one that ends in an orderly way leaves what takes too long
            assert not taken, f"seed {seed}: {taken}"
    assert heard["running"] > 0, heard
