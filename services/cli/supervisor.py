"""Services as child processes: started, started again when they die, their logs read, ended together.

Children have a session of their own, so Ctrl-C reaches only us, and they die with us (`services.runtime.leash`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from services.runtime.leash import leashed
from services.runtime.tasks import Tasks

BACKOFF_S = 0.2
BACKOFF_MAX_S = 10.0
STEADY_S = 20.0
"""A child that lived this long died for a new reason: its backoff starts from the beginning."""
STARTS_MAX = 3
"""How often a child may die before it was ever ready."""
DRAIN_S = 25.0
LINE_BYTES_MAX = 1 << 20


class LogLine(msgspec.Struct, frozen=True):
    """A line of a child's log, as far as it could be read."""

    child: str
    message: str
    level: str = "INFO"
    action: str = ""
    at: str = ""
    detail: str = ""
    port: int = 0
    """Where a service that is ready serves its metrics."""


OnLine = Callable[[LogLine], None]


class GaveUp(RuntimeError):
    """A child keeps dying before it is ready. The text has its last words."""


class Child:
    """One place in the system, held by one process after another."""

    def __init__(self, name: str, command: Sequence[str], env: Mapping[str, str], cwd: str | None) -> None:
        self.name = name
        self.command = command
        self.env = env
        self.cwd = cwd
        self.ready = asyncio.Event()
        self.pid: int | None = None
        self.http_port = 0
        self.starts = 0
        self.last_words: list[str] = []
        self.restart = True


class Supervisor:
    """Runs children until `stop`."""

    def __init__(self, on_line: OnLine) -> None:
        self.children: dict[str, Child] = {}
        self._on_line = on_line
        self._tasks = Tasks()
        self._stopping = asyncio.Event()
        self._failed = asyncio.Event()
        self._why = ""

    def start(
        self, name: str, command: Sequence[str], env: Mapping[str, str], *, cwd: str | None = None, restart: bool = True
    ) -> Child:
        """Run a command under a name, again whenever it ends."""
        child = self.children[name] = Child(name, command, env, cwd)
        child.restart = restart
        self._tasks.spawn(self._keep(child), name=f"child:{name}")
        return child

    async def until_ready(self, timeout_s: float) -> None:
        """Wait until every child has said that it is ready; raises `GaveUp` or `TimeoutError`."""
        async with asyncio.timeout(timeout_s):
            await first_of(self._all_ready(), self.failure())

    async def _all_ready(self) -> None:
        for child in list(self.children.values()):
            await child.ready.wait()

    async def failure(self) -> None:
        """Wait until a child cannot be run, and raise `GaveUp`."""
        await self._failed.wait()
        raise GaveUp(self._why)

    def kill(self, name: str) -> int:
        """SIGKILL a child by its own pid, which is returned."""
        pid = self.children[name].pid
        if pid is None:
            raise ProcessLookupError(f"{name} does not run")
        os.kill(pid, signal.SIGKILL)
        return pid

    async def stop(self) -> None:
        """SIGTERM all, wait until they have drained, SIGKILL what is left."""
        self._stopping.set()
        self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(DRAIN_S):
                await self._tasks.join()
        except TimeoutError:
            self._signal(signal.SIGKILL)
            await self._tasks.join()

    def kill_all(self) -> None:
        """SIGKILL all, now."""
        self._stopping.set()
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        for child in self.children.values():
            if child.pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child.pid, number)

    async def _keep(self, child: Child) -> None:
        backoff_s = BACKOFF_S
        loop = asyncio.get_running_loop()
        while not self._stopping.is_set():
            began = loop.time()
            code = await self._run(child)
            if self._stopping.is_set():
                return
            lived_s = loop.time() - began
            if child.starts >= STARTS_MAX and not child.ready.is_set():
                self._give_up(child, code)
                return
            if not child.restart:
                self._say(child, f"{how_it_ended(code)}", "WARNING")
                return
            backoff_s = BACKOFF_S if lived_s > STEADY_S else min(backoff_s * 2, BACKOFF_MAX_S)
            self._say(child, f"{how_it_ended(code)}; starting again in {backoff_s:.1f} s", "WARNING")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(backoff_s):
                    await self._stopping.wait()

    async def _run(self, child: Child) -> int:
        """One process, from start to end; its exit code."""
        child.starts += 1
        process = await asyncio.create_subprocess_exec(
            *leashed(child.command),
            env=dict(child.env),
            cwd=child.cwd,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=LINE_BYTES_MAX,
            start_new_session=True,
        )
        child.pid = process.pid
        if self._stopping.is_set():
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        try:
            assert process.stdout is not None
            await self._read(child, process.stdout)
            return await process.wait()
        finally:
            child.pid = None

    async def _read(self, child: Child, output: asyncio.StreamReader) -> None:
        while True:
            try:
                line = await output.readline()
            except ValueError:
                self._say(child, f"(a line of more than {LINE_BYTES_MAX} bytes)", "WARNING")
                continue
            if not line:
                return
            parsed = parse_line(child.name, line)
            child.last_words = [*child.last_words[-9:], f"{parsed.message} {parsed.detail}".strip()]
            if parsed.action == "process.ready":
                child.http_port = parsed.port
                child.ready.set()
            self._on_line(parsed)

    def _say(self, child: Child, message: str, level: str) -> None:
        self._on_line(LogLine(child.name, message, level, action="supervisor"))

    def _give_up(self, child: Child, code: int) -> None:
        words = "\n".join(f"  {line}" for line in child.last_words)
        self._why = f"{child.name} does not start: it {how_it_ended(code)}; it said\n{words}"
        self._failed.set()


async def first_of(*coroutines: Coroutine[Any, Any, object]) -> None:
    """Wait until one of these is done, cancel the others, and raise what the first raised."""
    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(coroutine) for coroutine in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


class _Line(msgspec.Struct):
    """What a service logs as JSON."""

    msg: str
    level: str = "INFO"
    action: str = ""
    ts: str = ""
    error: str = ""
    port: int | None = None


_DECODER = msgspec.json.Decoder(_Line)


def parse_line(child: str, line: bytes) -> LogLine:
    """A line of a log: JSON as the services write it, or anything else as it is."""
    try:
        parsed = _DECODER.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return LogLine(child, line.decode(errors="replace").rstrip("\n"))
    return LogLine(child, parsed.msg, parsed.level, parsed.action, parsed.ts, parsed.error, parsed.port or 0)


def how_it_ended(code: int) -> str:
    """An exit code in words."""
    if code < 0:
        try:
            return f"was ended by {signal.Signals(-code).name}"
        except ValueError:
            return f"was ended by signal {-code}"
    return f"ended with code {code}"


def service_command(service: str) -> list[str]:
    """How to run a service as a process of its own."""
    return [sys.executable, "-m", "services.cli.main", "serve", service]


def without_server(environ: Mapping[str, str]) -> dict[str, str]:
    """An environment without what it says about another server: ours has neither credentials nor TLS."""
    return {key: value for key, value in environ.items() if key != "NATS_URL" and not key.startswith("HOLDFAST_NATS_")}


def service_env(environ: Mapping[str, str], url: str, **more: str) -> dict[str, str]:
    """The environment of a service's process: ours, the bus, and logs that we can read.

    Programs that are installed beside this one (MCP servers, for example) are found without an activated environment.
    """
    path = os.pathsep.join(filter(None, (str(Path(sys.executable).parent), environ.get("PATH", ""))))
    return {**without_server(environ), "PATH": path, "HOLDFAST_NATS_URL": url, "HOLDFAST_LOG_FORMAT": "json", **more}
