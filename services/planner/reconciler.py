"""The reconciler: walks all live tasks, slowly, and repairs what should not need repair.

It is also what wakes tasks that wait for an agent, when that becomes ready. Everything it finds missing is counted in
`holdfast_reconciler_repairs_total`, which must stay 0.
"""

from __future__ import annotations

import asyncio
import logging
import random
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, assert_never

from schemas.subjects import TaskSubjects, state_bucket, task_of
from schemas.task import (
    AwaitingModel,
    AwaitingTools,
    Cancelled,
    Failed,
    FinalAnswer,
    Initializing,
    Live,
    RetryingModel,
    State,
    Waiting,
    decode_state,
)
from schemas.wire import Malformed
from services.planner.gauges import Census
from services.runtime.consumer import Inbound
from services.runtime.errors import Broken, RetryLater
from services.runtime.tasks import Tasks

if TYPE_CHECKING:
    from services.planner.events import Events
    from services.planner.gauges import Gauges
    from services.planner.steps import Steps
    from services.planner.table import TaskTable
    from services.runtime.ports import Bus, Entry
    from services.runtime.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

CHUNK = 200
"""States read at once."""
GRACE = timedelta(seconds=15)
"""A task that has moved within this time is left alone: its messages are under way."""
SAID_AGAIN = timedelta(seconds=60)
"""A task that ended within this time before a planner began may have ended with one that died: a process that is killed
takes the spans along that it has not exported."""
ENDED_REMEMBERED_WALKS = 20
"""Walks after which ended tasks are looked at again, since a name may be used anew."""


class Reconciler:
    """Walks the tasks of all partitions."""

    def __init__(
        self,
        bus: Bus,
        steps: Steps,
        events: Events,
        table: TaskTable,
        metrics: Metrics,
        *,
        gauges: Gauges,
        every_s: float,
        retention_s: float,
    ) -> None:
        self._bus = bus
        self._steps = steps
        self._events = events
        self._table = table
        self._metrics = metrics
        self._gauges = gauges
        self._every_s = every_s
        self._retention_s = retention_s
        self._ended: set[str] = set()
        self._began: datetime | None = None
        """Until the first walk is over."""
        self._tasks = Tasks()
        self._random = random.Random()  # noqa: S311 - spreads the walks of replicas

    def start(self) -> None:
        """Walk from now on."""
        self._began = self._bus.clock.now()
        self._tasks.spawn(self._run(), name="reconciler")

    async def stop(self) -> None:
        """Stop walking."""
        await self._tasks.close()

    async def _run(self) -> None:
        walks = 0
        while True:
            await self._bus.clock.sleep(self._every_s * self._random.uniform(0.5, 1.5))
            try:
                with self._metrics.walk_seconds.time():
                    await self.walk()
            except RetryLater as later:
                logger.warning("walk broken off: %s", later, extra={"action": "reconcile.interrupted"})
                self._gauges.not_counted()
            walks += 1
            if walks % ENDED_REMEMBERED_WALKS == 0:
                self._ended.clear()

    async def walk(self) -> int:
        """Look at every live task once; how many there are."""
        live, census = 0, Census()
        for partition in range(self._bus.partitions):
            for entry, state in await self._states(partition, f"$KV.{state_bucket(partition)}.>"):
                if isinstance(state, FinalAnswer | Failed | Cancelled):
                    await self._look_at_ended(entry.subject, state)
                    continue
                live += 1
                task = task_of(entry.subject)
                census.add(task, state)
                await self._look(task, state)
        self._began = None
        await self._gauges.counted(census)
        return live

    async def _look_at_ended(self, subject: str, state: FinalAnswer | Failed | Cancelled) -> None:
        if self._began is not None and timedelta() <= self._began - state.ended_at <= SAID_AGAIN:
            self._table.end_span(state)
        if not self._retention_s:
            self._ended.add(subject)
        elif (self._bus.clock.now() - state.ended_at).total_seconds() <= self._retention_s:
            return
        elif not await self._steps.remove(task_of(subject)):
            logger.info("removed ended task %s", subject, extra={"action": "task.removed"})

    async def wake(self, agents: set[tuple[str, str]]) -> None:
        """Move the tasks that wait for agents which have become ready; each is a namespace and a name."""
        for namespace in sorted({namespace for namespace, _ in agents}):
            for partition in range(self._bus.partitions):
                for entry, state in await self._states(partition, f"$KV.{state_bucket(partition)}.{namespace}.*"):
                    if isinstance(state, Initializing | Waiting) and (namespace, state.agent) in agents:
                        await self._steps.look_at_agent(task_of(entry.subject))

    async def _states(self, partition: int, filter_: str) -> list[tuple[Entry, State]]:
        log = self._bus.log(partition)
        subjects = [subject for subject in await log.subjects(filter_) if subject not in self._ended]
        found: list[tuple[Entry, State]] = []
        for chunk in _chunks(subjects, CHUNK):
            for entry in await log.last(chunk):
                try:
                    found.append((entry, decode_state(entry.data)))
                except Malformed as error:
                    logger.error("state %s is malformed: %s", entry.subject, error, extra={"action": "reconcile"})  # noqa: TRY400 - the text says it all
                    self._metrics.repaired.labels("malformed").inc()
            await asyncio.sleep(0)
        return found

    async def _look(self, task: TaskSubjects, state: Live) -> None:
        now = self._bus.clock.now()
        if now - state.updated_at < GRACE:
            return
        try:
            if state.deadline is not None and now - state.deadline > GRACE:
                if await self._events.deadline(task, task.state, now):
                    self._repaired(task, "deadline")
                return
            await self._look_at_phase(task, state)
        except Broken as broken:
            self._repaired(task, "broken")
            logger.error("task %s: %s", task.task, broken, extra={"action": "reconcile.broken"})  # noqa: TRY400 - the text says it all

    async def _look_at_phase(self, task: TaskSubjects, state: Live) -> None:
        match state:
            case Initializing() | Waiting():
                await self._steps.look_at_agent(task)
            case RetryingModel(not_before=due):
                now = self._bus.clock.now()
                if now - due > GRACE and await self._events.retry(task, now):
                    self._repaired(task, "timer")
            case AwaitingModel(turn=turn, attempt=attempt):
                await self._look_for_event(task, state, task.model_event(turn, attempt), 1)
            case AwaitingTools(request=request, calls=calls):
                await self._look_for_event(task, state, task.tool_events(request), len(calls))
            case _:
                assert_never(state)

    async def _look_for_event(self, task: TaskSubjects, state: Live, filter_: str, wanted: int) -> None:
        """If all that a task waits for has long been recorded, its event was lost; else its commands must be there."""
        log = self._bus.log(task.partition)
        results = await log.last([filter_])
        if len(results) >= wanted and self._bus.clock.now() - results[-1].at > GRACE:
            newest = results[-1]
            inbound = Inbound(newest.subject, newest.data, newest.headers, newest.seq, 2, newest.at)
            before = (await self._table.load(task, 0)).revision
            await self._events.on_event(inbound)
            if (await self._table.load(task, 0)).revision != before:
                self._repaired(task, "event")
                return
        if await self._table.ensure(task, state):
            self._repaired(task, "command")

    def _repaired(self, task: TaskSubjects, what: str) -> None:
        self._metrics.repaired.labels(what).inc()
        logger.warning(
            "repaired a %s of task %s/%s", what, task.namespace, task.task, extra={"action": "reconcile.repair"}
        )


def _chunks(items: list[str], size: int) -> list[list[str]]:
    """`items` in runs of `size`."""
    return [items[start : start + size] for start in range(0, len(items), size)]
