"""What flow control costs the modest, and whether it keeps within a provider's limit: `python -m tests.bench flow`.

In simulated time: a victim's calls alone, and beside a namespace that has ten thousand waiting. In real time: two
gateways, a planner and a provider that refuses what is too much, with a few hundred.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NamedTuple

from schemas.resources import LLMLimits
from tests.bench.flow_real import real
from tests.bench.flow_sim import PROVIDERS, Outcome, Simulation, Source, bursts, poisson
from tests.bench.machine import machine, revision
from tests.bench.report import Row, columns
from tests.bench.suite import quantile

Results = dict[str, Any]

TOKENS_PER_MINUTE = 300_000
TOKENS_PER_CALL = 2000
WARM_S = 120.0
VICTIM_FROM_S = 100.0
NOISY_FROM_S = 50.0
SEED = 7


class Budget(NamedTuple):
    """How much is measured."""

    noisy: int
    """Waiting calls of the noisy namespace, simulated."""
    simulated_s: float
    real_noisy: int
    real_victims: int


FULL = Budget(noisy=10_000, simulated_s=1200.0, real_noisy=400, real_victims=40)
SMOKE = Budget(noisy=300, simulated_s=240.0, real_noisy=40, real_victims=5)


async def measure_flow(directory: Path, budget: Budget) -> Results:
    """Measure everything."""
    found: Results = {"revision": revision(), "machine": machine(directory), "noisy": budget.noisy}
    found |= await _victims(budget)
    found |= await _limits(budget)
    _say(f"two gateways and a provider, with {budget.real_noisy} waiting tasks")
    found["real"] = await real(directory, noisy=budget.real_noisy, victims=budget.real_victims)
    return found


async def _victims(budget: Budget) -> Results:
    per_s = TOKENS_PER_MINUTE / TOKENS_PER_CALL / 60
    end = budget.simulated_s - 60
    shapes = {
        "at random": poisson(per_s * 0.2, VICTIM_FROM_S, end, SEED),
        "in bursts": bursts(round(per_s * 8), 60.0, VICTIM_FROM_S, end),
    }
    found: Results = {}
    for shape, arrivals in shapes.items():
        _say(f"a victim whose calls come {shape}, alone and beside {budget.noisy} waiting calls")
        victim = Source("victim", arrivals)
        alone = await _run([victim], budget)
        beside = await _run([victim, _noisy(budget)], budget)
        found[shape] = {
            "calls": len(arrivals),
            "answered": len(beside.times("victim")),
            "alone": _times(alone),
            "beside": _times(beside),
            "time_ratio_p99": _ratio(quantile(beside.times("victim"), 0.99), quantile(alone.times("victim"), 0.99)),
        }
        if quantile(alone.waits("victim"), 0.99) > 0:
            waits = (quantile(one.waits("victim"), 0.99) for one in (beside, alone))
            found[shape]["wait_ratio_p99"] = _ratio(*waits)
    return {"victim": found}


async def _limits(budget: Budget) -> Results:
    found: Results = {}
    for provider in PROVIDERS:
        _say(f"a provider that counts by {provider.__name__}")
        outcome = await _run([_noisy(budget)], budget, provider=provider(TOKENS_PER_MINUTE))
        last = max(at for at, _ in outcome.sent)
        found[provider.__name__] = {
            "refused": outcome.refused,
            "sent": len(outcome.sent),
            "used_share": _rounded(outcome.rate(WARM_S, min(budget.simulated_s, last)) / TOKENS_PER_MINUTE),
            "parks_per_call": _rounded(sum(call.parks for call in outcome.calls) / len(outcome.sent)),
        }
    return {"providers": found}


def _noisy(budget: Budget) -> Source:
    return Source("noisy", [NOISY_FROM_S + n * 0.001 for n in range(budget.noisy)])


async def _run(sources: list[Source], budget: Budget, *, provider: Any = None) -> Outcome:
    simulation = Simulation(LLMLimits(tokens_per_minute=TOKENS_PER_MINUTE), provider, SEED)
    return await simulation.run(sources, budget.simulated_s)


def _times(outcome: Outcome) -> Results:
    waits, times = outcome.waits("victim"), outcome.times("victim")
    return {
        "wait_s_p50": _rounded(quantile(waits, 0.5)),
        "wait_s_p99": _rounded(quantile(waits, 0.99)),
        "time_s_p50": _rounded(quantile(times, 0.5)),
        "time_s_p99": _rounded(quantile(times, 0.99)),
    }


def flow_rows(found: Results) -> list[Row]:
    """What people want to read first, first."""
    rows: list[Row] = []
    for shape, one in found["victim"].items():
        rows += [
            Row(f"victim, calls {shape}: p99 wait alone", one["alone"]["wait_s_p99"], "s"),
            Row(f"  beside {found['noisy']} waiting calls", one["beside"]["wait_s_p99"], "s"),
            *([Row("  ratio of the waits", one["wait_ratio_p99"], "", most=2)] if "wait_ratio_p99" in one else []),
            Row("  ratio of the p99 times to the answer", one["time_ratio_p99"], "", most=2),
        ]
    for name, one in found["providers"].items():
        rows += [
            Row(f"provider ({name}): 429s at saturation", one["refused"], "", most=0),
            Row("  used of its token limit", one["used_share"], "", least=0.9),
            Row("  parks for a call", one["parks_per_call"]),
        ]
    real_ = found["real"]
    return [
        *rows,
        Row("real: 429s, two gateways", real_["refused"], "", most=0),
        Row(f"  used of the limit while {real_['noisy']} tasks wait", real_["used_share"], "", least=0.9),
        Row("  victim's p99 time alone", real_["alone_s_p99"], "s"),
        Row("  beside them", real_["beside_s_p99"], "s"),
        Row("  ratio", real_["ratio_p99"], "", most=2),
    ]


def flow_table(found: Results) -> str:
    """The rows in columns."""
    return columns(flow_rows(found))


def _ratio(one: float, other: float) -> float:
    return _rounded(one / other)


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _say(what: str) -> None:
    sys.stderr.write(f"bench: {what}\n")
