"""How long a task stands still when the replica that has it in hand is killed, while another one runs.

Some tasks run over two replicas of a service. One replica is stopped in the middle (SIGSTOP), so that what it was given
stays in its hands, and killed (SIGKILL) a tenth of a second later. What is counted for a task is the time between the
two of its stored messages that the kill lies between: from the message that the dead one had in hand to the next
recorded step. That is how long the task stood still, and never less than the time since the kill.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

from services.runtime.tasks import spawn
from tests.bench.system import System
from tests.bench.turns import run_tasks

STARTED_TURN = 3
"""Every task is at least here when the replica is stopped."""
START_S = 60.0
FROZEN_S = 0.1
HELD_S = 0.5
"""A task that never stood still as long as this was in nobody's hands at the kill."""


async def recovery(system: System, agent: str, service: str, *, tasks: int, turns: int, run: str) -> list[float]:
    """Kill one of the two replicas of a service; seconds that each task stood still which it had in hand."""
    while len(system.replicas(service)) < 2:
        await system.start(service)
    await run_tasks(system, agent, [f"{run}-{service}-warm-{n}" for n in range(tasks)], turns=turns)
    victim = system.replicas(service)[0]
    names = [f"{run}-{service}-{n}" for n in range(tasks)]
    running = spawn(run_tasks(system, agent, names, turns=turns), name=run)
    for name in names:
        await system.until_stored(system.task(name).model_command(STARTED_TURN, 1), within_s=START_S)
    victim.freeze()
    await asyncio.sleep(FROZEN_S)
    victim.kill()
    killed_at = datetime.now(UTC)
    system.forget(victim)
    gaps = [gap_around(killed_at, [step.at for step in await system.steps(task)]) for task in await running]
    return [gap for gap in gaps if gap >= HELD_S]


def gap_around(moment: datetime, times: Sequence[datetime]) -> float:
    """Seconds between the last time before a moment and the first one after it; 0 if it was over by then."""
    before, after = [at for at in times if at <= moment], [at for at in times if at > moment]
    return (min(after) - max(before)).total_seconds() if before and after else 0.0
