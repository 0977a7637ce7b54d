"""`@modelcontextprotocol/server-everything` behind a port, as a process that can be killed and started again."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Self

from tests.support.mcp_servers.bench import environ_of
from tests.support.npm import node_program

PACKAGES = Path("node_modules", "@modelcontextprotocol")
LOOPBACK = Path(__file__).parents[2] / "integration" / "tool_executor" / "npm" / "loopback.cjs"


def program(packages: Path, name: str, *arguments: str) -> tuple[str, ...]:
    """The command of one of the servers."""
    return (node_program(), str(packages / PACKAGES / name / "dist" / "index.js"), *arguments)


class EverythingServer:
    """The server over `sse` or `streamableHttp`."""

    def __init__(self, packages: Path, transport: str) -> None:
        node, script, *arguments = program(packages, "server-everything", transport)
        self._command = (node, "--require", str(LOOPBACK), script, *arguments)
        self._path = "sse" if transport == "sse" else "mcp"
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self._port}/{self._path}"

    def start(self) -> None:
        """Start it, on the same port as before; returns when it listens."""
        told, tell = os.pipe()
        with os.fdopen(told) as said:
            try:
                environ = environ_of(PORT=str(self._port), TELL=str(tell))
                self._process = subprocess.Popen(
                    self._command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, pass_fds=(tell,)
                )
            finally:
                os.close(tell)
            self._port = int(said.readline())

    def signal(self, number: int) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, if it runs."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
