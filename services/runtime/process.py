"""A process: one or several services on one connection, from start to a clean end.

SIGTERM or SIGINT drains: nothing more is taken, what is in hand is finished within `drain_s` or handed back, spans are
sent, and the process exits 0. A second signal ends it at once. A closed bus connection, or a background task of ours
that failed, ends the process with 1, for its supervisor to start it again: a replica is cattle.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from services.runtime.errors import Broken, RetryLater
from services.runtime.health import HealthServer
from services.runtime.nats.bus import connect
from services.runtime.replica import Build, Replica
from services.runtime.telemetry.exports import check_protocol, exported_logs
from services.runtime.telemetry.logs import configure_logs

if TYPE_CHECKING:
    from services.runtime.nats.bus import NatsBus
    from services.runtime.settings import Settings

logger = logging.getLogger(__name__)

EXIT_FAILED = 1
EXIT_UNREACHABLE = 5
GARBAGE_THRESHOLDS = (20_000, 20, 50)
"""Allocations before each generation is collected. With the defaults a busy planner spent 4 % of its time on it, and
what a message leaves behind is freed by reference counts anyhow."""


def run_services(builds: Mapping[str, Build], settings: Settings) -> int:
    """Run services until a signal ends them; the process's exit code."""
    name = "+".join(builds)
    configure_logs(name, settings.replica_name, level=settings.log_level, form=settings.log_format)
    check_protocol(os.environ)
    with exported_logs(name, settings.replica_name), asyncio.Runner(loop_factory=_loop_factory()) as runner:
        try:
            return runner.run(_serve(builds, settings))
        except RetryLater as error:
            logger.error("no bus at %s: %s", settings.nats_shown, error, extra={"action": "process.unreachable"})  # noqa: TRY400 - the text says it all
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
    running: list[Replica] = []

    def closed() -> None:
        for replica in running:
            replica.fail("the connection to the bus is closed for good")

    bus: NatsBus = await connect(settings, service="-".join(builds), on_closed=closed)
    replica = Replica(bus, settings, builds, os.environ)
    running.append(replica)
    _on_signals(replica.ended)
    health = _health(replica, settings)
    try:
        await replica.start()
        _spare_the_collector()
        port = health.port if health else None
        logger.info("%s is running", replica.name, extra={"action": "process.ready", "port": port})
        await replica.ended.wait()
        logger.info("%s is draining", replica.name, extra={"action": "process.drain"})
        await replica.stop()
    finally:
        if health is not None:
            health.stop()
        with contextlib.suppress(RetryLater):
            await bus.close()
    if replica.failed:
        logger.error("%s failed: %s", replica.name, replica.failed, extra={"action": "process.failed"})
        return EXIT_FAILED
    return 0


def _spare_the_collector() -> None:
    """Never look again at what the start has left behind, which stays for as long as the process does."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GARBAGE_THRESHOLDS)


def _health(replica: Replica, settings: Settings) -> HealthServer | None:
    if settings.http_port < 0:
        return None
    loop = asyncio.get_running_loop()
    health = HealthServer(
        settings.http_host,
        settings.http_port,
        replica.metrics.registry,
        unhealthy=lambda: replica.unhealthy(loop.time()),
        unready=lambda: replica.unhealthy(loop.time()) or ("" if replica.ready else "starting or draining"),
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
