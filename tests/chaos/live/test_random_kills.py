"""Replicas and the server are killed at random moments, while thirty tasks of all kinds are always under way.

make chaos KILLS=500            more of it
make chaos KILLS=50 SEED=123    the same choices again; what they hit depends on the machine
"""

# ruff: noqa: T201 - the seed and the numbers are what this prints
from __future__ import annotations

import asyncio
import itertools
import os
import random
from collections import Counter
from pathlib import Path

import pytest

from services.runtime.tasks import Tasks
from tests.chaos.live.arena import LOST_STOP_S, Arena, arena
from tests.chaos.live.crew import CREW_SERVICES, EveryWorkload
from tests.chaos.live.rows import Commit
from tests.support.live_fleet import until

KILLS_IN_CI = 8
LOAD = 30
"""Tasks under way at once."""
LOAD_IN_CI = 10
"""The same without `KILLS`: thirty make two processors so late that living replicas miss their acknowledgement wait."""
SERVER_SHARE = 0.15
PAUSE_S = (0.1, 1.2)
LAST_S = 90.0
"""How long tasks may take after the last kill: they end one after another on a small machine."""


class Storm:
    """Load, and kills."""

    def __init__(self, place: Arena, choices: random.Random, tasks: int) -> None:
        self._place = place
        self._tasks = tasks
        self._random = choices
        self._names = itertools.count(1)
        self._load = Tasks()
        self._raining = True
        self.killed: Counter[str] = Counter()

    async def run(self, kills: int) -> list[str]:
        """All the kills, under load; the tasks that were still stuck at the end."""
        lanes = [self._load.spawn(self._lane(), name="load") for _ in range(self._tasks)]
        for _ in range(kills):
            await asyncio.sleep(self._random.uniform(*PAUSE_S))
            await self._kill()
        self._raining = False
        await asyncio.gather(*lanes)
        return await self._place.until_ended(self._place.workload.accepted, LAST_S)

    async def _lane(self) -> None:
        """One task after another."""
        while self._raining:
            name = f"storm-{next(self._names)}"
            scenario = self._random.choice(list(EveryWorkload.scenarios.values()))
            await self._place.workload.run(scenario, name)
            await self._place.until_ended([name], LAST_S)
            await self._place.workload.clear_away(scenario, name)

    async def _kill(self) -> None:
        fleet = self._place.fleet
        if self._random.random() < SERVER_SHARE:
            self.killed["server"] += 1
            await fleet.restart_server()
            return
        service = self._random.choice(CREW_SERVICES)
        replica = self._random.choice(fleet.replicas(service))
        self.killed[service] += 1
        fleet.kill(replica)
        await fleet.until_dead(replica.pid)
        # Its successor is there a moment later: sometimes before the next kill, sometimes not.
        self._load.spawn(fleet.start(service), name="successor")
        await until(lambda: bool(fleet.replicas(service)), f"a {service} is there", LAST_S)

    async def join(self) -> None:
        """Wait for the successors."""
        await self._load.join()


@pytest.mark.parametrize("commit", ["two-step", "batch"])
async def test_random_kills_lose_and_repeat_nothing(tmp_path: Path, commit: Commit) -> None:
    kills = int(os.environ.get("KILLS") or KILLS_IN_CI)
    seed = int(os.environ.get("SEED") or random.SystemRandom().randrange(1_000_000))
    print(f"\n{commit}: {kills} kills with seed {seed}; again: make chaos KILLS={kills} SEED={seed}")
    async with arena(tmp_path, commit=commit, services=CREW_SERVICES, workload=EveryWorkload) as place:
        storm = Storm(place, random.Random(seed), LOAD if os.environ.get("KILLS") else LOAD_IN_CI)
        stuck = await storm.run(kills)
        await storm.join()
        wrong = stuck + await place.judge(LOST_STOP_S)
        accepted = len(place.workload.accepted)
        unknown = sum(
            message.body.get("outcome") == "unknown"
            for message in place.witness.messages
            if ".tool." in message.subject
        )
        print(f"{dict(storm.killed)} killed, {accepted} tasks, {unknown} calls of unknown outcome, {len(wrong)} wrong")
        assert not wrong, f"seed {seed}:\n" + "\n".join(wrong[:40])
