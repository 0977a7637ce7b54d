"""A whole stack for end-to-end tests: a real server, every service its own process, and a client's view of it.

    async with stack(tmp_path) as running:
        await running.stage.apply(...)
        running.kill("tool-executor")      SIGKILL
        running.start("tool-executor")

Every process that was started is dead when the `async with` ends. `ACCOUNTS=1 make test ARGS=tests/e2e` gives each
service an account of its own, with its own credentials, and all of it must work as without.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from services.runtime.nats.bus import connect
from services.runtime.settings import Settings
from tests.support.nats_server import NatsServer
from tests.support.secured import Secured
from tests.support.stage import Stage, until

REPOSITORY = Path(__file__).parents[2]
SERVICES = ("planner", "llm-gateway", "tool-executor")
STOP_S = 15.0


class Stack:
    """Processes of one test."""

    def __init__(
        self, server: NatsServer, directory: Path, environ: Mapping[str, str], secured: Secured | None = None
    ) -> None:
        self.server = server
        self._directory = directory
        self._secured = secured
        self._environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("HOLDFAST_", "OTEL_"))},
            "NATS_URL": server.url,
            "HOLDFAST_HTTP_PORT": "-1",
            "HOLDFAST_SECRETS_DIR": str(directory / "secrets"),
            **environ,
        }
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.stage: Stage

    def start(self, service: str) -> None:
        """Start a service as a process of its own; its log goes to a file of the test."""
        with (self._directory / f"{service}.log").open("ab") as log:
            self._processes[service] = subprocess.Popen(
                [sys.executable, "-m", "services.cli.main", "serve", service],
                cwd=REPOSITORY,
                env=self._environ | (self._secured.environ(service) if self._secured is not None else {}),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    @property
    def settings(self) -> Settings:
        """How a test connects: as the operator, where there are accounts."""
        return Settings(nats_url=self.server.url) if self._secured is None else self._secured.settings("operator")

    @property
    def client(self) -> dict[str, str]:
        """What a command line is told to connect with."""
        return {"NATS_URL": self.server.url} if self._secured is None else self._secured.environ("operator")

    def kill(self, service: str) -> None:
        """SIGKILL."""
        process = self._processes.pop(service)
        process.kill()
        process.wait()

    def stop(self, service: str) -> int:
        """SIGTERM; the exit code."""
        process = self._processes.pop(service)
        process.terminate()
        return process.wait(STOP_S)

    def log(self, service: str) -> str:
        """What a service has logged so far."""
        return (self._directory / f"{service}.log").read_text()

    def end(self) -> None:
        """Kill what still runs."""
        for service in list(self._processes):
            self.kill(service)


@asynccontextmanager
async def stack(
    directory: Path, *, services: Sequence[str] = SERVICES, environ: Mapping[str, str] | None = None
) -> AsyncGenerator[Stack]:
    """Run a stack; it takes requests when this returns."""
    secured = Secured(directory, ()) if os.environ.get("ACCOUNTS") else None
    server = secured.server if secured is not None else NatsServer(directory, name="holdfast-embedded")
    running = Stack(server, directory, environ or {}, secured)
    try:
        server.start()
        for service in services:
            running.start(service)
        async with await connect(running.settings, service="test") as bus:
            running.stage = Stage(bus)

            async def all_ready() -> bool:
                return all("process.ready" in running.log(service) for service in services)

            await until(all_ready, "all services ready", wait_s=20)
            yield running
    finally:
        running.end()
        server.close()
