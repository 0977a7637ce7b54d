"""A replica: the services of one process, built and running on a bus, whichever adapter that is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from services.runtime.consumer import Consumer
from services.runtime.dead_letters import DeadLetters
from services.runtime.resources import Resources
from services.runtime.secrets import Secrets
from services.runtime.service import Runtime, Service
from services.runtime.tasks import Tasks
from services.runtime.telemetry.exports import END_S, export_metrics, in_time
from services.runtime.telemetry.metrics import Metrics
from services.runtime.telemetry.traces import make_traces

if TYPE_CHECKING:
    from services.runtime.ports import Bus
    from services.runtime.settings import Settings
    from services.runtime.telemetry.otlp_metrics import MetricExport

Build = Callable[[Runtime], Service]

LAG_INTERVAL_S = 0.5
LAG_UNHEALTHY_S = 15.0
"""An event loop that has not run for this long is unhealthy."""


def package_version() -> str:
    """The version of this distribution."""
    try:
        return version("holdfast")
    except PackageNotFoundError:
        return "unknown"


class Replica:
    """The services of one process, running."""

    def __init__(self, bus: Bus, settings: Settings, builds: Mapping[str, Build], environ: Mapping[str, str]) -> None:
        self.name = "+".join(builds)
        self.metrics = Metrics(services=builds)
        self.ended = asyncio.Event()
        self.failed = ""
        self._bus = bus
        self._settings = settings
        self._background = Tasks(on_failure=self._on_failure)
        self._traces = make_traces(self.name, settings.replica_name, content=settings.trace_content)
        self._metric_export: MetricExport | None = None
        self._consumers: list[Consumer] = []
        self._started: list[Service] = []
        self._builds = builds
        self._environ = environ
        self.ready = False
        self._last_beat = 0.0

    def fail(self, why: str) -> None:
        """End the process, not cleanly."""
        self.failed = self.failed or why
        self.ended.set()

    def _on_failure(self, error: BaseException) -> None:
        self.fail(f"a background task failed: {type(error).__name__}: {error}")

    async def start(self) -> None:
        """Start everything; returns when it takes messages."""
        settings = self._settings
        for name in self._builds:
            self.metrics.build.labels(name, package_version()).set(1)
        self._background.spawn(self._watch_loop(), name="loop-lag")
        self._metric_export = export_metrics(self.metrics.registry, self.name, settings.replica_name)
        secrets = Secrets(settings.secrets_dir, self._environ)
        for name, build in self._builds.items():
            resources = Resources(self._bus.resources, self._bus.clock, service=name)
            self._background.spawn(resources.run(), name=f"{name}:resources")
            await resources.loaded()
            service = build(
                Runtime(
                    bus=self._bus,
                    settings=settings,
                    resources=resources,
                    secrets=secrets,
                    metrics=self.metrics,
                    traces=self._traces,
                    replica=settings.replica_name,
                )
            )
            await service.start()
            self._started.append(service)
            await self._consume(service)
        self.ready = True

    async def _consume(self, service: Service) -> None:
        for subscription in service.subscriptions():
            queue = await self._bus.queue(subscription.consumer, subscription.partition)
            consumer = Consumer(
                queue,
                subscription.handler,
                on_dead=subscription.on_dead,
                dead_letters=DeadLetters(self._bus.dead_letters, self._bus.clock),
                clock=self._bus.clock,
                slots=self._settings.slots,
                deliveries_max=self._settings.deliveries_max,
                replica=self._settings.replica_name,
                metrics=self.metrics.consumer(subscription.consumer),
            )
            self._consumers.append(consumer)
            self._background.spawn(consumer.run(), name=f"consume:{queue.name}")

    async def stop(self) -> None:
        """Drain and stop everything."""
        self.ready = False
        await asyncio.gather(*(consumer.stop(self._settings.drain_s) for consumer in self._consumers))
        for service in reversed(self._started):
            await service.stop()
        await self._background.close()
        sending = [self._traces.send]
        if self._metric_export is not None:
            self._metric_export.end()
            sending.append(self._metric_export.send)
        await asyncio.to_thread(in_time, END_S, *sending)

    async def _watch_loop(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            before = loop.time()
            await asyncio.sleep(LAG_INTERVAL_S)
            self.metrics.loop_lag.observe(max(loop.time() - before - LAG_INTERVAL_S, 0.0))
            self._last_beat = loop.time()

    def unhealthy(self, now: float) -> str:
        """What is wrong with the process itself, if anything; `now` on the event loop's clock."""
        if self._last_beat and now - self._last_beat > LAG_UNHEALTHY_S:
            return f"the event loop has not run for {now - self._last_beat:.0f} s"
        return self.failed
