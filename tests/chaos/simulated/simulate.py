"""Runs one seed: builds the services on the simulated world, and checks what came of it.

python -m tests.chaos.simulated.simulate 12345        one seed, with its trace
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import logging
import random
import sys
import traceback
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast
from unittest.mock import patch

import msgspec

from schemas.events import ToolFinished, ToolStarted
from schemas.interactions import InteractionAnswered
from schemas.notifications import decode_notification
from schemas.task import Cancelled, Failed, FinalAnswer
from schemas.wire import decode
from services.human_contact.channels.registry import ChannelKey
from services.human_contact.main import build as build_human_contact
from services.llm_gateway.main import build as build_llm_gateway
from services.llm_gateway.providers import scripted
from services.llm_gateway.providers.base import Provider, Setup
from services.notifier.main import build as build_notifier
from services.planner.main import Planner
from services.planner.main import build as build_planner
from services.runtime.replica import Build
from services.runtime.service import Runtime
from services.tool_executor.main import build as build_tool_executor
from tests.chaos.simulated.checks import check
from tests.chaos.simulated.faults import Rates
from tests.chaos.simulated.loop import PROCESS
from tests.chaos.simulated.outside import SimulatedModel, SimulatedServer
from tests.chaos.simulated.people import SimulatedChannel
from tests.chaos.simulated.receivers import Mood, SimulatedReceivers
from tests.chaos.simulated.world import Process, World

TRACE_LINES = 60


class Outcome(msgspec.Struct, frozen=True):
    """What came of a seed."""

    seed: int
    problems: list[str]
    trace: list[str]
    digest: str
    """Equal for equal histories."""
    crashes: int
    virtual_s: float
    ended: list[str]
    """In which states the tasks are."""
    ending_s: float
    """How long after what ended it a task was seen to have ended, at most."""
    events: Counter[str]
    """What happened how often."""

    def report(self) -> str:
        """For people."""
        found = "\n".join(f"  - {problem}" for problem in self.problems)
        return (
            f"seed {self.seed} found:\n{found}\n"
            f"run it again, with its whole trace: make sim SEED={self.seed}\n"
            f"the end of the trace:\n" + "\n".join(self.trace[-TRACE_LINES:])
        )


def simulate(seed: int, *, rates: Rates | None = None, mood: Mood | None = None, **replaced: Build) -> Outcome:
    """Run one seed. `mood`: of all receivers. `replaced`: other builds of services (with `_` for `-`)."""
    builds: dict[str, Build] = {
        "planner": _planner,
        "llm-gateway": build_llm_gateway,
        "tool-executor": build_tool_executor,
        "human-contact": build_human_contact,
        "notifier": build_notifier,
        **{name.replace("_", "-"): build for name, build in replaced.items()},
    }
    world = World(seed, builds, rates=rates, mood=mood)
    with _sealed(world):
        world.run()
    return Outcome(
        seed=seed,
        problems=check(world),
        trace=world.trace,
        digest=_digest(world),
        crashes=world.faults.crashes,
        virtual_s=world.loop.time(),
        ended=[type(state).__name__ for _, state in sorted(_ends(world).items())],
        ending_s=max((_ending_s(world, name, state) for name, state in _ends(world).items()), default=0.0),
        events=_events(world),
    )


def _ends(world: World) -> dict[str, FinalAnswer | Failed | Cancelled]:
    found = {name: world.state(world.scenario.subjects(name)) for name in world.accepted - world.removed}
    return {name: state for name, state in found.items() if isinstance(state, FinalAnswer | Failed | Cancelled)}


def _ending_s(world: World, name: str, state: FinalAnswer | Failed | Cancelled) -> float:
    task = world.scenario.subjects(name)
    ended_at = world.history.of(task, task.state)[-1].at
    causes = world.history.of(task, state.ended_by) if state.ended_by else []
    return (ended_at - causes[0].at).total_seconds() if causes else 0.0


def _events(world: World) -> Counter[str]:
    counted = Counter(line.split()[2] for line in world.trace if line.split()[2].isupper())
    counted[f"commit {world.scenario.commit}"] += 1
    for _, entry in world.history.stored:
        if ".evt." in entry.subject and ".tool." in entry.subject:
            counted[f"tool {decode(entry.data, ToolFinished).outcome}"] += 1
        if entry.subject.endswith(".0.answered"):
            answered = decode(entry.data, InteractionAnswered)
            counted[f"people {answered.via} {answered.action}"] += 1
        if ".led." in entry.subject and decode(entry.data, ToolStarted).attempt > 1:
            counted["taken over"] += 1
        if ".ntf." in entry.subject:
            counted[f"notification {type(decode_notification(entry.data)).__name__}"] += 1
    counted["redelivered"] = world.faults.redelivered
    return counted


def _planner(runtime: Runtime) -> Planner:
    planner = build_planner(runtime)
    planner.reconciler._random = random.Random(runtime.replica)
    planner.gauges._random = random.Random(runtime.replica)
    return planner


@contextmanager
def _sealed(world: World) -> Generator[None]:
    """No server is started, no provider called, nothing drawn but from the seed, nothing logged."""
    tokens = random.Random(world.seed)
    hashes = itertools.count(1)

    def token(size: int) -> str:
        return tokens.randbytes(size).hex()

    def server(name: str, *args: Any) -> SimulatedServer:
        return SimulatedServer(_process(), name, *args)

    def model(setup: Setup, *, make: Any) -> Provider:
        return SimulatedModel(_process(), make(setup))

    def place_in_a_set(timeout: asyncio.Timeout) -> int:
        return int(vars(timeout).setdefault("_number", next(hashes)))

    def receivers(_egress: object) -> SimulatedReceivers:
        return SimulatedReceivers(_process())

    async def no_addresses(*_: object) -> list[str]:
        return []

    def channel(_channels: object, key: ChannelKey, _spec: object) -> SimulatedChannel:
        return SimulatedChannel(_process(), key.name)

    with (
        _listening(world),
        patch("services.human_contact.channels.registry.Channels._make", channel),
        patch("services.notifier.sinks.http.Client", receivers),
        patch("services.runtime.egress.Egress.addresses", no_addresses),
        patch("services.tool_executor.mcp.pool.Connection", server),
        patch.object(scripted, "make", partial(model, make=scripted.make)),
        patch("services.runtime.telemetry.traces.secrets.token_hex", token),
        patch.object(asyncio.Timeout, "__hash__", place_in_a_set),
    ):
        yield


class _Failures(logging.Handler):
    """Background tasks that failed."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.ERROR)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        lines = traceback.format_exception(error)[-3:] if error else []
        self._world.problems.append(f"{record.getMessage()}: {''.join(lines)}")


@contextmanager
def _listening(world: World) -> Generator[None]:
    """Nothing is logged, but for background tasks that failed."""
    services, tasks = logging.getLogger("services"), logging.getLogger("services.runtime.tasks")
    before, handler = services.level, _Failures(world)
    services.setLevel(logging.CRITICAL)
    tasks.setLevel(logging.ERROR)
    tasks.addHandler(handler)
    tasks.propagate = False
    try:
        yield
    finally:
        services.setLevel(before)
        tasks.setLevel(logging.NOTSET)
        tasks.removeHandler(handler)
        tasks.propagate = True


def _process() -> Process:
    return cast("Process", PROCESS.get())


def _digest(world: World) -> str:
    digest = hashlib.sha256()
    for stream, entry in world.history.stored:
        digest.update(f"{stream} {entry.seq} {entry.subject} {entry.at.isoformat()}\n".encode())
    return digest.hexdigest()[:16]


if __name__ == "__main__":
    result = simulate(int(sys.argv[1]))
    sys.stdout.write("\n".join(result.trace) + "\n" + (result.report() if result.problems else f"{result.digest}\n"))
    sys.exit(bool(result.problems))
