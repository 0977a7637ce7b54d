"""The tool-executor as a process of its own: `python -m tests.support.mcp_servers.serve`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from services.runtime.process import run_services
from services.runtime.settings import Settings
from services.tool_executor.main import build
from tests.support.mcp_servers.bench import environ_of, module


class ExecutorProcess:
    """A replica that can be killed."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self.log = log

    @classmethod
    async def start(cls, url: str, log: Path, **environ: str) -> ExecutorProcess:
        """Start it; it says what it does in `log`."""
        variables = environ_of(NATS_URL=url, HOLDFAST_HTTP_PORT="-1", HOME=os.environ.get("HOME", "/"), **environ)
        with log.open("ab") as file:
            process = await asyncio.create_subprocess_exec(*module("serve"), env=variables, stdout=file, stderr=file)
        return cls(process, log)

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    @property
    def rss_mb(self) -> float:
        """What it occupies in memory."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def freeze(self) -> None:
        """SIGSTOP: it stands still, with everything in its hands."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self._process.send_signal(signal.SIGCONT)

    async def kill(self) -> None:
        """SIGKILL."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> int:
        """SIGTERM; its exit code."""
        return await self._end(signal.SIGTERM)

    async def _end(self, number: int) -> int:
        if self._process.returncode is None:
            self._process.send_signal(number)
        return await self._process.wait()


if __name__ == "__main__":
    sys.exit(run_services({"tool-executor": build}, Settings.from_env(os.environ)))
