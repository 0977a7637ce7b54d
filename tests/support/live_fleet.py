"""Replicas of all services as real processes on a real server, to be killed and replaced.

async with fleet(tmp_path, commit="two-step") as running:
    await running.start("planner", "planner", "llm-gateway", "tool-executor")
    running.kill(running.replicas("planner")[0])
    running.restart_server()
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple

from services.runtime.tasks import spawn
from tests.support import waiting
from tests.support.nats_server import NatsServer

REPOSITORY = Path(__file__).parents[2]
SERVICES = ("planner", "llm-gateway", "tool-executor")
ACK_WAIT_S = 1.5
RECONCILE_S = 5.0
START_S = 30.0
LAST_WORDS_S = 0.5


class Replica(NamedTuple):
    """A process."""

    pid: int
    service: str
    log: Path


class Death(NamedTuple):
    """The end of a process: a replica's, or the server's."""

    pid: int
    service: str
    at: datetime
    code: int


async def until(condition: Callable[[], bool | Awaitable[bool]], what: str, wait_s: float) -> None:
    """Wait until a condition holds; fails with what never came true."""
    await waiting.until(condition, what, within_s=wait_s)


class Fleet:
    """A server and the replicas on it."""

    def __init__(
        self, directory: Path, *, commit: str, ack_wait_s: float = ACK_WAIT_S, environ: Mapping[str, str] | None = None
    ) -> None:
        self.directory = directory
        self.server = NatsServer(directory, name="holdfast-embedded")
        self.deaths: list[Death] = []
        self._environ = {
            "NATS_URL": self.server.url,
            "HOLDFAST_HTTP_PORT": "-1",
            "HOLDFAST_COMMIT": commit,
            "HOLDFAST_ACK_WAIT_S": str(ack_wait_s),
            "HOLDFAST_RECONCILE_S": str(RECONCILE_S),
            **(environ or {}),
        }
        self._alive: dict[int, Replica] = {}
        self._started: list[Replica] = []
        self._numbers: asyncio.Queue[int] = asyncio.Queue()
        self._starting = asyncio.Lock()
        self._launcher: asyncio.subprocess.Process | None = None
        self._listening: asyncio.Task[None] | None = None
        self._restarting: asyncio.Task[None] | None = None

    # --- replicas ---

    def replicas(self, service: str) -> list[Replica]:
        """Those of a service that live."""
        return [replica for replica in self._alive.values() if replica.service == service]

    @property
    def started(self) -> list[Replica]:
        """All that ever were."""
        return self._started

    async def start(self, *services: str) -> None:
        """Start a replica of each, and wait until they take messages."""
        for replica in [await self._start(service) for service in services]:
            try:
                await until(partial(self._is_started, replica), f"{replica.log.stem} is ready", START_S)
            except AssertionError as error:
                raise AssertionError(f"{error}; it said:\n{await self._last_words(replica)}") from error

    async def _last_words(self, replica: Replica) -> str:
        """The end of its log, and where it hangs."""
        self.kill(replica, signal.SIGUSR1)
        await asyncio.sleep(LAST_WORDS_S)
        return replica.log.read_text(errors="replace")[-4000:] if replica.log.exists() else "nothing"

    def _is_started(self, replica: Replica) -> bool:
        """Whether it takes messages, or was killed before it did."""
        return replica.pid not in self._alive or _is_ready(replica.log)

    async def _start(self, service: str) -> Replica:
        assert self._launcher is not None
        assert self._launcher.stdin is not None
        async with self._starting:
            name = f"{service}-{len(self._started)}"
            log = self.directory / "logs" / f"{name}.log"
            order = {"service": service, "environ": {**self._environ, "HOLDFAST_REPLICA": name}, "log": str(log)}
            self._launcher.stdin.write((json.dumps(order) + "\n").encode())
            pid = await self._numbers.get()
            replica = self._alive[pid] = Replica(pid, service, log)
            self._started.append(replica)
            return replica

    def kill(self, replica: Replica, number: int = signal.SIGKILL) -> None:
        """SIGKILL."""
        os.kill(replica.pid, number)

    async def until_dead(self, pid: int) -> Death:
        """Wait for the end of a process."""
        await until(lambda: any(death.pid == pid for death in self.deaths), f"the end of process {pid}", START_S)
        return next(death for death in self.deaths if death.pid == pid)

    # --- the server ---

    async def restart_server(self, *, killed_at: datetime | None = None) -> Death:
        """Kill the server, if it was not yet, and start it again on the same port and store."""
        death = Death(self.server.pid, "server", killed_at or datetime.now(UTC), -9)
        self.deaths.append(death)
        # A thread cannot be cancelled: `close` waits until the server is there again before it ends it for good.
        self._restarting = spawn(asyncio.to_thread(self._restart_server), name="server")
        await asyncio.shield(self._restarting)
        return death

    def _restart_server(self) -> None:
        self.server.kill()
        self.server.start()

    # --- life ---

    async def open(self) -> None:
        """Start the server and the launcher of replicas."""
        (self.directory / "logs").mkdir()
        await asyncio.to_thread(self.server.start)
        environ = {
            name: value for name, value in os.environ.items() if not name.startswith(("HOLDFAST_", "OTEL_", "NATS_"))
        }
        self._launcher = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.chaos.live.launcher",
            str(self.directory),
            cwd=REPOSITORY,
            env=environ,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        self._listening = spawn(self._listen(self._launcher), name="launcher")

    async def close(self) -> None:
        """Kill everything."""
        if self._launcher is not None and self._launcher.stdin is not None:
            self._launcher.stdin.close()
            await self._launcher.wait()
        if self._listening is not None:
            await self._listening
        if self._restarting is not None:
            await asyncio.wait({self._restarting})
        await asyncio.to_thread(self.server.close)

    async def _listen(self, launcher: asyncio.subprocess.Process) -> None:
        assert launcher.stdout is not None
        while line := await launcher.stdout.readline():
            report = json.loads(line)
            if "started" in report:
                self._numbers.put_nowait(report["started"])
            elif replica := self._alive.pop(report["ended"], None):
                self.deaths.append(Death(replica.pid, replica.service, datetime.now(UTC), report["code"]))


def _is_ready(log: Path) -> bool:
    return log.exists() and "process.ready" in log.read_text(errors="replace")


@asynccontextmanager
async def fleet(
    directory: Path, *, commit: str, ack_wait_s: float = ACK_WAIT_S, environ: Mapping[str, str] | None = None
) -> AsyncGenerator[Fleet]:
    """A running server and no replicas yet; nothing of it is left at the end."""
    running = Fleet(directory, commit=commit, ack_wait_s=ack_wait_s, environ=environ)
    try:
        await running.open()
        yield running
    finally:
        await running.close()
