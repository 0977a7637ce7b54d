"""The planner, put together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from schemas import subjects
from services.planner.agents import Agents
from services.planner.events import Events
from services.planner.gauges import Gauges
from services.planner.reading import Reading
from services.planner.reconciler import Reconciler
from services.planner.requests import Requests
from services.planner.steps import Steps
from services.planner.subscribers import Subscribers
from services.planner.table import TaskTable
from services.planner.threads import Threads
from services.runtime.service import Runtime, Subscription

if TYPE_CHECKING:
    from services.runtime.ports import Unsubscribe


class Planner:
    """The service."""

    def __init__(self, runtime: Runtime) -> None:
        self._bus = runtime.bus
        self._table = TaskTable(runtime.bus, runtime.metrics, runtime.traces)
        self._agents = Agents(runtime.resources, runtime.bus.clock)
        subscribers = Subscribers(runtime.resources)
        steps = Steps(runtime.bus, self._table, self._agents, subscribers, runtime.metrics)
        threads = Threads(runtime.bus, self._table, runtime.traces)
        self._events = Events(runtime.bus, steps, self._table, threads, metrics=runtime.metrics, traces=runtime.traces)
        self._requests = Requests(runtime.bus, steps, threads, runtime.traces)
        self.gauges = Gauges(runtime.bus, runtime.metrics, every_s=runtime.settings.survey_s)
        self.reconciler = Reconciler(
            runtime.bus,
            steps,
            self._events,
            self._table,
            runtime.metrics,
            gauges=self.gauges,
            every_s=runtime.settings.reconcile_s,
            retention_s=runtime.settings.retention_s,
        )
        self._reading = Reading(runtime.bus, runtime.resources)
        self._unsubscribes: list[Unsubscribe] = []

    def subscriptions(self) -> Sequence[Subscription]:
        """Events by partition, requests, timers."""
        events, requests = self._events, self._requests
        return [
            *(
                Subscription(subjects.PLANNER, partition, events.on_event, events.on_dead_event)
                for partition in range(self._bus.partitions)
            ),
            Subscription(subjects.PLANNER_REQUESTS, None, requests.on_request, requests.on_dead_request),
            Subscription(subjects.PLANNER_TIMERS, None, events.on_timer, events.on_dead_event),
        ]

    async def start(self) -> None:
        """Listen for requests and reads, keep agents' statuses, walk, and look at the bus."""
        for subject, handler in (
            (subjects.ASK_ALL, self._requests.on_ask),
            (subjects.READ_ALL, self._reading.on_read),
        ):
            self._unsubscribes.append(await self._bus.signals.subscribe(subject, handler, queue=subjects.ASK_QUEUE))
        self._agents.start(self.reconciler.wake)
        self.reconciler.start()
        self.gauges.start()

    async def stop(self) -> None:
        """End all that."""
        while self._unsubscribes:
            await self._unsubscribes.pop()()
        await self._reading.close()
        await self._agents.stop()
        await self.gauges.stop()
        await self.reconciler.stop()


def build(runtime: Runtime) -> Planner:
    """The planner on a runtime."""
    return Planner(runtime)
