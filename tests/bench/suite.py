"""All measurements, one after another on one server, into one dictionary."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from schemas.resources import Resource
from tests.bench.floor import Turn, floor, make_stream, sample_turn
from tests.bench.machine import load, machine, revision
from tests.bench.mcp_alone import mcp_alone
from tests.bench.memory import commercial_llms, idle, park
from tests.bench.recovery import recovery
from tests.bench.resources import TOOLS, Script, script
from tests.bench.storage import long_script, storage
from tests.bench.streaming import streaming
from tests.bench.system import SERVICES, System, running_system
from tests.bench.turns import lone, many

WARM_TURNS = 20

Results = dict[str, Any]


class Budget(NamedTuple):
    """How much is measured."""

    lone_tasks: int
    lone_turns: int
    rounds: int
    """Of the floor and of ours, in turns."""
    tasks: int
    """At once."""
    turns: int
    kills: int
    """Of each service."""
    long_tasks: int
    long_turns: int
    parked: int
    mcp_calls: int
    streamed_calls: int


FULL = Budget(
    lone_tasks=5,
    lone_turns=80,
    rounds=5,
    tasks=64,
    turns=30,
    kills=4,
    long_tasks=3,
    long_turns=202,
    parked=10_000,
    mcp_calls=1024,
    streamed_calls=100,
)
SMOKE = Budget(
    lone_tasks=1,
    lone_turns=6,
    rounds=1,
    tasks=4,
    turns=5,
    kills=1,
    long_tasks=1,
    long_turns=26,
    parked=20,
    mcp_calls=16,
    streamed_calls=3,
)
RECOVERY_TASKS = 8
RECOVERY_TURNS = 60
RECOVERY_DELAY_S = 0.01
"""Of the model, so that a replica is killed between two steps of many tasks, and not of the fastest only."""
MCP_AT_ONCE = 16


async def measure(directory: Path, budget: Budget) -> Results:
    """Measure everything."""
    found: Results = {"sync": "always", "revision": revision(), "machine": machine(directory)}
    async with running_system(directory) as system:
        found["commit"] = system.bus.commit
        await system.start(*SERVICES)
        scripts = await _apply(system, budget)
        found |= await _memory_idle(system)
        found |= await _speed(system, budget, scripts)
        found |= await _mcp(budget)
        found |= await _streaming(system, budget)
        found |= await _storage(system, budget, scripts["long"].name)
        found |= await _parked(system, budget)
        found |= await _recovery(system, budget, scripts["slow"].name)
        found["machine"]["load_after"] = load()
        found["server_log_errors"] = system.server.log.read_text(errors="replace").count("[ERR]")
    return found


async def _apply(system: System, budget: Budget) -> dict[str, Script]:
    scripts = {
        "warm": script("warm", turns=WARM_TURNS),
        "lone": script("lone", turns=budget.lone_turns),
        "many": script("many", turns=budget.turns),
        "long": long_script(budget.long_turns),
        "slow": script("slow", turns=RECOVERY_TURNS, delay_s=RECOVERY_DELAY_S),
    }
    ours: list[Resource] = [TOOLS]
    for one in scripts.values():
        ours += [one.llm, one.agent]
    await system.apply(*ours, *commercial_llms())
    await system.until_ready(*ours)
    for llm in commercial_llms():
        await system.until_said(llm)
    return scripts


async def _memory_idle(system: System) -> Results:
    _say("memory of idle services")
    return {"rss_mb_idle": {name: round(value, 1) for name, value in (await idle(system)).items()}}


async def _speed(system: System, budget: Budget, scripts: dict[str, Script]) -> Results:
    _say("a task alone")
    await lone(system, scripts["warm"].name, "warm", turns=WARM_TURNS)
    alone = [
        await lone(system, scripts["lone"].name, f"lone-{n}", turns=budget.lone_turns) for n in range(budget.lone_tasks)
    ]
    took = [each for one in alone for each in one.turn_ms]
    turn = await sample_turn(system, system.task("lone-0"), budget.lone_turns // 2)
    await make_stream(system)
    rounds = [await _round(system, budget, scripts["many"].name, turn, n) for n in range(budget.rounds)]
    return {
        "turn_ms_p50": _rounded(quantile(took, 0.5)),
        "turn_ms_p99": _rounded(quantile(took, 0.99)),
        "stored_messages_per_turn": _rounded(median(one.messages_per_turn for one in alone)),
        "floor_turn_ms_p50": _rounded(await _floor_alone(system, turn, budget)),
        "transitions_per_s": _rounded(median(one.ours for one in rounds)),
        "floor_transitions_per_s": _rounded(median(one.floor for one in rounds)),
        "transitions_over_floor": _rounded(median(one.ours / one.floor for one in rounds)),
        "rounds": [
            {"transitions_per_s": round(one.ours), "floor_transitions_per_s": round(one.floor)} for one in rounds
        ],
        "cpu_ms_per_turn": {name: _rounded(median(one.cpu_ms[name] for one in rounds)) for name in rounds[0].cpu_ms},
        "tasks_at_once": budget.tasks,
        "turn_bytes": sum(len(sample.data) for sample in turn),
    }


class Round(NamedTuple):
    """The floor, and ours right after it."""

    ours: float
    floor: float
    cpu_ms: dict[str, float]
    """Processor time for a turn, by process."""


async def _round(system: System, budget: Budget, agent: str, turn: Turn, number: int) -> Round:
    _say(f"{budget.tasks} tasks at once, and the floor ({number + 1} of {budget.rounds})")
    base = await floor(system, turn, tasks=budget.tasks, turns=budget.turns, run=f"r{number}")
    names = [f"many-{number}-{n}" for n in range(budget.tasks)]
    before = system.cpu_s()
    ours = await many(system, agent, names, turns=budget.turns)
    after = system.cpu_s()
    turns = budget.tasks * budget.turns
    return Round(ours, base, {name: (after[name] - before[name]) * 1e3 / turns for name in after})


async def _floor_alone(system: System, turn: Turn, budget: Budget) -> float:
    """Milliseconds that the floor takes for a turn of a task that is alone."""
    return 2e3 / await floor(system, turn, tasks=1, turns=budget.lone_turns, run="alone")


async def _mcp(budget: Budget) -> Results:
    _say("calls of the tool without the bus")
    alone = await mcp_alone(calls=budget.mcp_calls, at_once=MCP_AT_ONCE)
    return {
        "mcp_call_ms_p50": _rounded(quantile(alone.call_ms, 0.5)),
        "mcp_call_ms_p99": _rounded(quantile(alone.call_ms, 0.99)),
        "mcp_calls_per_s": _rounded(alone.calls_per_s),
    }


async def _streaming(system: System, budget: Budget) -> Results:
    _say(f"the first text of {budget.streamed_calls} model calls at a watcher")
    found = await streaming(system, calls=budget.streamed_calls)
    first, hop = quantile(found.first_text_ms, 0.5), quantile(found.hop_ms, 0.5)
    return {
        "first_text_ms_p50": _rounded(first),
        "first_text_ms_p99": _rounded(quantile(found.first_text_ms, 0.99)),
        "hop_ms_p50": _rounded(hop),
        "first_text_over_hop": _rounded(first / hop),
    }


async def _storage(system: System, budget: Budget, agent: str) -> Results:
    _say(f"a task of {budget.long_turns - 2} turns of 5 KB")
    tasks = [await storage(system, agent, f"long-{n}", turns=budget.long_turns) for n in range(budget.long_tasks)]
    return {
        "storage_amplification": _rounded(median(one.amplification for one in tasks)),
        "written_amplification": _rounded(median(one.written_amplification for one in tasks)),
        "per_turn_ms_at_200_over_at_10": _rounded(median(one.late_over_early for one in tasks)),
        "long_turns": budget.long_turns - 2,
    }


async def _parked(system: System, budget: Budget) -> Results:
    _say(f"{budget.parked} tasks that wait for an agent")
    parked = await park(system, budget.parked)
    return {
        "parked_tasks": parked.tasks,
        "parked_consumers_added": parked.consumers_added,
        "parked_rss_mb_added": {name: round(value, 1) for name, value in parked.rss_mb_added.items()},
    }


async def _recovery(system: System, budget: Budget, agent: str) -> Results:
    by_service: dict[str, list[float]] = {}
    for service in SERVICES:
        _say(f"kill -9 of a {service} while another runs")
        by_service[service] = []
        for kill in range(budget.kills):
            by_service[service] += await recovery(
                system, agent, service, tasks=RECOVERY_TASKS, turns=RECOVERY_TURNS, run=f"kill-{kill}"
            )
    every = [gap for gaps in by_service.values() for gap in gaps]
    return {
        "recovery_s_p50": _rounded(quantile(every, 0.5)),
        "recovery_s_p99": _rounded(quantile(every, 0.99)),
        "recovery_samples": len(every),
        "recovery_s_by_service": {
            service: {"p50": _rounded(quantile(gaps, 0.5)), "p99": _rounded(quantile(gaps, 0.99)), "samples": len(gaps)}
            for service, gaps in by_service.items()
        },
    }


def quantile(values: Sequence[float], share: float) -> float:
    """The value that this share of the values is not above."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def _rounded(value: float) -> float:
    """Four digits: more would only look like knowledge."""
    return float(f"{value:.4g}")


def _say(what: str) -> None:
    sys.stderr.write(f"bench: {what}\n")
