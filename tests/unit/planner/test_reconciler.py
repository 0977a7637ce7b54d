"""Histories in which something was lost, and how the reconciler finds it. Time is the test's."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from schemas.commands import CallModel
from schemas.events import ModelAnswered
from schemas.messages import AssistantMessage, Usage
from schemas.subjects import TaskSubjects
from schemas.task import AwaitingModel, AwaitingTools, Budget, CallRef, FinalAnswer, RetryingModel, State
from schemas.wire import decode, encode
from services.planner import reconciler
from services.planner.main import Planner
from services.runtime.memory.bus import MemoryBus
from services.runtime.memory.server import MemoryServer
from services.runtime.ports import Outgoing
from services.runtime.resources import Resources
from services.runtime.secrets import Secrets
from services.runtime.service import Runtime
from services.runtime.settings import Settings
from services.runtime.tasks import Tasks
from services.runtime.telemetry.metrics import Metrics
from services.runtime.telemetry.traces import Traces
from tests.support.stage import Stage

TASK = TaskSubjects(0, "default", "job")
LONG_AGO = datetime.now(UTC) - timedelta(hours=1)


class Bench:
    """A planner that takes no messages: only its reconciler moves tasks."""

    def __init__(self, *, retention_s: float = 0.0) -> None:
        server = MemoryServer()
        self.bus = MemoryBus(server)
        self.stage = Stage(MemoryBus(server))
        self.metrics = Metrics()
        self.resources = Resources(self.bus.resources, self.bus.clock, service="planner")
        self.planner = Planner(
            Runtime(
                bus=self.bus,
                settings=Settings(retention_s=retention_s),
                resources=self.resources,
                secrets=Secrets("", {}),
                metrics=self.metrics,
                traces=Traces(),
                replica="test",
            )
        )

    async def start(self) -> Tasks:
        tasks = Tasks()
        tasks.spawn(self.resources.run(), name="resources")
        await self.resources.loaded()
        await self.stage.with_agent()
        for _ in range(20):
            await asyncio.sleep(0)
        return tasks

    def repaired(self, what: str) -> float:
        return self.metrics.registry.get_sample_value("holdfast_reconciler_repairs_total", {"what": what}) or 0.0

    async def put(self, state: State) -> None:
        await self.bus.log(0).write(Outgoing(TASK.state, encode(state)), expected=0)


HEADER: dict[str, Any] = {
    "namespace": "default",
    "task": "job",
    "agent": "helper",
    "submitted_seq": 1,
    "created_at": LONG_AGO,
    "updated_at": LONG_AGO,
}


def awaiting() -> AwaitingModel:
    return AwaitingModel(**HEADER, budget=Budget(max_turns=20), turn=1)


async def test_a_command_that_is_missing_is_ensured_and_counted() -> None:
    bench = Bench()
    tasks = await bench.start()
    await bench.put(awaiting())
    assert await bench.planner.reconciler.walk() == 1
    command = await bench.bus.log(0).get(TASK.model_command(1, 1))
    assert command is not None
    assert decode(command.data, CallModel).turn == 1
    assert bench.repaired("command") == 1
    await bench.planner.reconciler.walk()
    assert bench.repaired("command") == 1
    await tasks.close()


async def test_a_retry_whose_timer_was_lost_goes_on() -> None:
    bench = Bench()
    tasks = await bench.start()
    await bench.put(
        RetryingModel(
            **HEADER,
            budget=Budget(max_turns=20),
            turn=1,
            attempt=2,
            not_before=LONG_AGO,
            error="why",
        )
    )
    await bench.planner.reconciler.walk()
    assert isinstance(await bench.stage.state(TASK), AwaitingModel)
    assert bench.repaired("timer") == 1
    await tasks.close()


async def test_a_fresh_task_is_left_alone() -> None:
    bench = Bench()
    tasks = await bench.start()
    fresh = awaiting()
    await bench.put(msgspec.structs.replace(fresh, updated_at=datetime.now(UTC)))
    assert await bench.planner.reconciler.walk() == 1
    assert await bench.bus.log(0).get(TASK.model_command(1, 1)) is None
    await tasks.close()


async def test_an_ended_task_is_removed_after_its_retention() -> None:
    bench = Bench(retention_s=60)
    tasks = await bench.start()
    answer = ModelAnswered(turn=1, attempt=1, message=AssistantMessage(content="x"), usage=Usage(), at=LONG_AGO)
    await bench.bus.log(0).record(Outgoing(TASK.model_event(1, 1), encode(answer)))
    ended = FinalAnswer(**HEADER, ended_at=LONG_AGO, turn=1, ended_by=TASK.model_event(1, 1))
    await bench.put(ended)
    await bench.planner.reconciler.walk()
    assert await bench.stage.state(TASK) is None
    assert await bench.bus.log(0).subjects("hf.>") == []
    await tasks.close()


async def test_a_request_with_some_of_its_results_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconciler, "GRACE", timedelta(seconds=-1))
    bench = Bench()
    tasks = await bench.start()
    calls = tuple(CallRef(n=n, id=f"call-{n}", tool="a__x") for n in (1, 2))
    await bench.put(
        AwaitingTools(**HEADER, budget=Budget(max_turns=20), turn=1, request="r1", answer_seq=1, calls=calls)
    )
    await bench.planner.reconciler.walk()
    await bench.stage.finish(TASK, "r1", 1)
    await bench.planner.reconciler.walk()
    ignored = bench.metrics.registry.get_sample_value("holdfast_task_events_ignored_total", {"event": "ToolFinished"})
    assert not ignored, "the result that is there was taken for one that was lost"
    assert bench.repaired("event") == 0
    await tasks.close()
