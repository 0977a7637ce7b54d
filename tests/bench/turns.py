"""How fast a task turns, alone and among many, by the times at which the stream stored the messages."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from typing import NamedTuple

from schemas.subjects import TaskSubjects
from tests.bench.system import Step, System

TRANSITIONS_PER_TURN = 2
TRIM = 0.1
"""The part of the turns at either end that is not counted: not all tasks are under way then."""


class Lone(NamedTuple):
    """What a task that is alone took."""

    turn_ms: list[float]
    messages_per_turn: float


async def lone(system: System, agent: str, name: str, *, turns: int) -> Lone:
    """Run one task; the milliseconds from each model command to the next, and what was stored between."""
    (task,) = await run_tasks(system, agent, [name], turns=turns)
    commands = (await system.model_commands([task]))[name]
    return Lone(turn_ms(commands), (commands[-1].seq - commands[0].seq) / (turns - 1))


def turn_ms(commands: Sequence[Step]) -> list[float]:
    """Milliseconds between the commands."""
    return [(after.at - before.at).total_seconds() * 1e3 for before, after in pairwise(commands)]


async def many(system: System, agent: str, names: Sequence[str], *, turns: int) -> float:
    """Transitions per second of many tasks at once, in the middle of the run."""
    tasks = await run_tasks(system, agent, names, turns=turns)
    commands = await system.model_commands(tasks)
    times = sorted(step.at for steps in commands.values() for step in steps[1:])
    return rate(times) * TRANSITIONS_PER_TURN


def rate(times: Sequence[datetime]) -> float:
    """How many a second, without the beginning and the end."""
    first, last = int(len(times) * TRIM), int(len(times) * (1 - TRIM)) - 1
    return (last - first) / (times[last] - times[first]).total_seconds()


async def run_tasks(system: System, agent: str, names: Sequence[str], *, turns: int) -> list[TaskSubjects]:
    """Submit tasks and wait until the last of them has ended."""
    tasks = await asyncio.gather(*(system.submit(agent, name, turns=turns + 1) for name in names))
    for task in tasks:
        await system.until_stored(task.model_event(turns, 1), within_s=120 + turns * len(names) * 0.05)
    return list(tasks)
