"""The signal to stop, which is not stored."""

from __future__ import annotations

from datetime import UTC, datetime

from schemas.subjects import STOP_ALL, TaskSubjects
from schemas.task import Cancelled
from services.planner.table import TaskTable
from services.runtime.memory.bus import MemoryBus
from services.runtime.memory.server import MemoryServer
from services.runtime.ports import Signal
from services.runtime.telemetry.metrics import Metrics
from services.runtime.telemetry.traces import Traces
from tests.support.stage import until

AT = datetime(2026, 1, 1, tzinfo=UTC)


async def test_whoever_looks_at_an_ended_task_again_says_again_that_it_is_to_stop() -> None:
    bus = MemoryBus(MemoryServer())
    heard: list[str] = []

    async def hear(signal: Signal) -> None:
        heard.append(signal.subject)

    async def was_heard() -> bool:
        return bool(heard)

    await bus.signals.subscribe(STOP_ALL, hear)
    task = TaskSubjects(0, "default", "job")
    state = Cancelled(
        namespace="default",
        task="job",
        agent="helper",
        submitted_seq=1,
        created_at=AT,
        updated_at=AT,
        ended_at=AT,
        turn=1,
        ended_by=task.cancel,
        reason="",
        by="",
    )
    await TaskTable(bus, Metrics(), Traces()).ensure(task, state)
    await until(was_heard, "a signal to stop")
    assert heard == [task.stop]
