"""The real services in a world where everything goes wrong, seed by seed.

make sim                    a thousand seeds (SEEDS=... for another number)
make sim SEED=12345         one of them again, with its whole trace
"""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from services.tool_executor.mcp.connection import Connection
from tests.chaos.simulated.faults import Rates
from tests.chaos.simulated.outside import SimulatedServer
from tests.chaos.simulated.simulate import Outcome, simulate

SEEDS_DEFAULT = 80
REPOSITORY = Path(__file__).parents[3]
ONE = os.environ.get("SEED")


def seeds() -> list[int]:
    return [int(ONE)] if ONE else list(range(1, int(os.environ.get("SEEDS") or SEEDS_DEFAULT) + 1))


@pytest.mark.parametrize("seed", seeds())
def test_whatever_goes_wrong_every_task_ends_once_and_rightly(seed: int) -> None:
    outcome = simulate(seed)
    if ONE:
        sys.stdout.write("\n".join(outcome.trace) + "\n")
    assert not outcome.problems, outcome.report()


def test_a_seed_is_one_history() -> None:
    """Whatever the order of sets of strings is in a process."""
    script = "import sys; from tests.chaos.simulated.simulate import simulate; print(simulate(int(sys.argv[1])).digest)"
    for seed in (7, 22):
        digests = {simulate(seed).digest}
        for hash_seed in ("1", "2"):
            environ = {**os.environ, "PYTHONHASHSEED": hash_seed}
            command = [sys.executable, "-c", script, str(seed)]
            done = subprocess.run(command, cwd=REPOSITORY, env=environ, capture_output=True, text=True, check=True)
            digests.add(done.stdout.strip())
        assert len(digests) == 1, f"seed {seed} has several histories"


def test_the_weather_is_bad_and_all_paths_are_walked() -> None:
    """A simulation that finds nothing because nothing happens would be worse than none."""
    outcomes = [simulate(seed) for seed in range(1, 101)]
    assert sum(outcome.crashes for outcome in outcomes) > 100
    ended = sum((_ended(outcome) for outcome in outcomes), Counter[str]())
    assert ended.keys() >= {"FinalAnswer", "Failed", "Cancelled"}
    assert ended["FinalAnswer"] > ended.total() / 3
    happened = sum((outcome.events for outcome in outcomes), Counter[str]())
    for event in (
        "CRASH",
        "UNAVAILABLE",
        "STOP",
        "redelivered",
        "tool unknown",
        "tool succeeded",
        "tool cancelled",
        "taken over",
        "notification NotificationDelivered",
        "notification NotificationFailed",
        "commit two-step",
        "commit batch",
    ):
        assert happened[event] > 0, f"{event} never happened: {happened}"


def test_no_task_waits_for_those_who_are_told_of_it() -> None:
    """Nobody takes anything until it is calm: tasks end as soon as what ends them is there."""
    tried = 0
    for seed in range(1, 13):
        outcome = simulate(seed, rates=Rates(), mood="down")
        assert not outcome.problems, outcome.report()
        assert outcome.ending_s < 1.0, f"seed {seed}: {outcome.ending_s}"
        tried += outcome.events["notification NotificationPending"]
    assert tried > 100


def test_the_simulated_server_has_all_that_a_connection_has() -> None:
    assert _public(Connection) <= _public(SimulatedServer)


def _public(kind: type) -> set[str]:
    set_at_first = re.findall(r"self\.([a-z]\w*)(?:: [^=]*)? = ", inspect.getsource(kind))
    return {name for name in (*dir(kind), *set_at_first) if not name.startswith("_")}


def _ended(outcome: Outcome) -> Counter[str]:
    return Counter(outcome.ended)
