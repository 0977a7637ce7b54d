"""A process: one or several services on one connection, from start to a clean end.

SIGTERM or SIGINT drains: nothing more is taken, what is in hand is finished within `drain_s` or handed back, spans are
sent, and the process exits 0. A second signal ends it at once. A closed bus connection, or a background task of ours
that failed, ends the process with 1, for its supervisor to start it again: a replica is cattle.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from services.runtime.consumer import Consumer
from services.runtime.dead_letters import DeadLetters
from services.runtime.errors import Broken, RetryLater
from services.runtime.health import HealthServer
from services.runtime.nats.bus import connect
from services.runtime.resources import Resources
from services.runtime.secrets import Secrets
from services.runtime.service import Runtime, Service
from services.runtime.tasks import Tasks
from services.runtime.telemetry.logs import configure_logs
from services.runtime.telemetry.metrics import Metrics
from services.runtime.telemetry.traces import make_traces

if TYPE_CHECKING:
    from services.runtime.nats.bus import NatsBus
    from services.runtime.ports import Bus
    from services.runtime.settings import Settings

logger = logging.getLogger(__name__)

Build = Callable[[Runtime], Service]

LAG_INTERVAL_S = 0.5
LAG_UNHEALTHY_S = 15.0
"""An event loop that has not run for this long is unhealthy."""
EXIT_FAILED = 1
EXIT_UNREACHABLE = 5


def package_version() -> str:
    """The version of this distribution."""
    try:
        return version("holdfast")
    except PackageNotFoundError:
        return "unknown"


class Process:
    """The services of one process, running."""

    def __init__(self, bus: Bus, settings: Settings, builds: Mapping[str, Build], environ: Mapping[str, str]) -> None:
        self.name = "+".join(builds)
        self.metrics = Metrics()
        self.ended = asyncio.Event()
        self.failed = ""
        self._bus = bus
        self._settings = settings
        self._background = Tasks(on_failure=self._on_failure)
        self._traces = make_traces(self.name, settings.replica_name)
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
        await asyncio.to_thread(self._traces.flush)

    async def _watch_loop(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            before = loop.time()
            await asyncio.sleep(LAG_INTERVAL_S)
            self.metrics.loop_lag.set(max(loop.time() - before - LAG_INTERVAL_S, 0.0))
            self._last_beat = loop.time()

    def unhealthy(self, now: float) -> str:
        """What is wrong with the process itself, if anything; `now` on the event loop's clock."""
        if self._last_beat and now - self._last_beat > LAG_UNHEALTHY_S:
            return f"the event loop has not run for {now - self._last_beat:.0f} s"
        return self.failed


def run_services(builds: Mapping[str, Build], settings: Settings) -> int:
    """Run services until a signal ends them; the process's exit code."""
    name = "+".join(builds)
    configure_logs(name, settings.replica_name, level=settings.log_level, form=settings.log_format)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        try:
            return runner.run(_serve(builds, settings))
        except RetryLater as error:
            logger.error("no bus at %s: %s", settings.nats_url, error, extra={"action": "process.unreachable"})  # noqa: TRY400 - the text says it all
            return EXIT_UNREACHABLE
        except Broken as error:
            logger.error("cannot run: %s", error, extra={"action": "process.refused"})  # noqa: TRY400 - the text says it all
            return EXIT_FAILED


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if sys.platform == "win32":
        return None
    try:
        import uvloop  # noqa: PLC0415 - where it exists
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _serve(builds: Mapping[str, Build], settings: Settings) -> int:
    running: list[Process] = []

    def closed() -> None:
        for process in running:
            process.fail("the connection to the bus is closed for good")

    bus: NatsBus = await connect(settings, service="-".join(builds), on_closed=closed)
    process = Process(bus, settings, builds, os.environ)
    running.append(process)
    _on_signals(process.ended)
    health = _health(process, settings)
    try:
        await process.start()
        port = health.port if health else None
        logger.info("%s is running", process.name, extra={"action": "process.ready", "port": port})
        await process.ended.wait()
        logger.info("%s is draining", process.name, extra={"action": "process.drain"})
        await process.stop()
    finally:
        if health is not None:
            health.stop()
        with contextlib.suppress(RetryLater):
            await bus.close()
    if process.failed:
        logger.error("%s failed: %s", process.name, process.failed, extra={"action": "process.failed"})
        return EXIT_FAILED
    return 0


def _health(process: Process, settings: Settings) -> HealthServer | None:
    if settings.http_port < 0:
        return None
    loop = asyncio.get_running_loop()
    health = HealthServer(
        settings.http_host,
        settings.http_port,
        process.metrics.registry,
        unhealthy=lambda: process.unhealthy(loop.time()),
        unready=lambda: process.unhealthy(loop.time()) or ("" if process.ready else "starting or draining"),
    )
    health.start()
    return health


def _on_signals(ended: asyncio.Event) -> None:
    """Drain at the first SIGTERM or SIGINT, exit at the second."""

    def on_signal(number: int) -> None:
        if ended.is_set():
            os._exit(128 + number)
        ended.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
