"""One server of one namespace: kept connected for as long as it is declared.

A connection is opened at once, checked now and then, and opened again with a growing delay when it ends. When what it
is launched from changes, calls in flight get a little time, the old process is stopped, and only then the new one is
started. Whoever wants to call waits for a session here, a bounded time.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import itertools
import logging
import random
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol

from services.runtime.tasks import spawn
from services.tool_executor.core.results import Reply
from services.tool_executor.mcp.errors import ConnectFailed, NotStarted
from services.tool_executor.mcp.launch import Launch

if TYPE_CHECKING:
    from schemas.resources import ToolInfo
    from services.tool_executor.mcp.session import Session

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 60.0
"""Longest start of a server, until its tools are known; a first start may have to download it."""
RECONNECT_S = 0.5
RECONNECT_MAX_S = 30.0
SILENT_S = 1.0
"""A connection that ended is said to be failing if it is not opened again within this time."""
STABLE_S = 30.0
"""A session that lived this long makes the next delay a short one again."""
CHECK_S = 15.0
"""How often a session is asked whether it is alive."""
RECHECK_S = 1.0
FAILED_CHECKS_MAX = 3
"""A session with calls in flight is not ended for one answer that fails to come."""
DOUBT_S = 0.2
CHECKS_PER_RELOAD = 20
"""The tools are loaded again at every so manieth check, in case the news of a change was lost."""
DRAIN_S = 10.0
"""What calls in flight get when their server is to be started anew or was deleted."""
CLOSE_S = 8.0
"""Longest orderly end of a session."""


class Progress(Protocol):
    """Hears how far a call is."""

    async def __call__(self, progress: float, total: float | None, message: str | None) -> None:
        """So far, of how much, in the server's words."""
        ...


class Connection:
    """A server's connection. `on_change` is called when it opens, fails or ends, and when its tools change."""

    def __init__(self, name: str, launch: Launch, on_change: Callable[[], None]) -> None:
        self.name = name
        self.launch = launch
        """What it runs, or will run as soon as the one before is stopped."""
        self.detail = ""
        """Why there is no session, as far as is known."""
        self.failing = False
        """There is no session, and it is not just about to open."""
        self._on_change = on_change
        self._session: Session | None = None
        self._opened = asyncio.Event()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._in_flight = 0
        self._slots = asyncio.Semaphore(launch.concurrency)
        self._stopping = False
        self._closing = False
        self._attempt = 0
        self._limit = asyncio.timeout(CONNECT_TIMEOUT_S)
        self.calls = 0
        """Calls that run or wait for a slot."""
        self._task = spawn(self._run(), name=f"mcp:{name}")

    @property
    def tools(self) -> tuple[ToolInfo, ...] | None:
        """The tools of the open session; None without one, and while the server is to be started anew."""
        return self._session.tools if self._session and not self._stopping else None

    @property
    def left_out(self) -> int:
        """How many more tools the server has than can be offered."""
        return self._session.left_out if self._session else 0

    def relaunch(self, launch: Launch) -> None:
        """Start the server anew, from `launch`."""
        self.launch = launch
        self.detail, self.failing, self._attempt = "", False, 0
        self._interrupt()

    async def close(self) -> None:
        """End the connection; when this returns, nothing of the server's process is left."""
        self._closing = True
        self._interrupt()
        await asyncio.wait({self._task}, timeout=DRAIN_S + CLOSE_S)
        self._task.cancel()
        await asyncio.wait({self._task})

    @asynccontextmanager
    async def slot(self) -> AsyncGenerator[None]:
        """One of the calls that may run at once."""
        self.calls += 1
        try:
            async with self._slots:
                yield
        finally:
            self.calls -= 1

    async def ready(self, timeout_s: float) -> bool:
        """Wait for a session."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._opened.wait()
        except TimeoutError:
            return False
        return True

    async def call(
        self,
        tool: str,
        arguments: Mapping[str, Any],
        *,
        timeout_s: float,
        meta: Mapping[str, Any],
        progress: Progress | None = None,
    ) -> Reply:
        """Call a tool. Raises `NotStarted`, `Lost` or `TimedOut`."""
        async with self._used() as session:
            return await session.call(tool, arguments, timeout_s=timeout_s, meta=meta, progress=progress)

    async def ask(
        self, extra: str, arguments: Mapping[str, Any], *, timeout_s: float, meta: Mapping[str, Any]
    ) -> Reply:
        """Ask for resources or prompts. Raises what `call` raises."""
        async with self._used() as session:
            return await session.ask(extra, arguments, timeout_s=timeout_s, meta=meta)

    @asynccontextmanager
    async def _used(self) -> AsyncGenerator[Session]:
        """The session, which is not closed in peace while it is used. Raises `NotStarted`."""
        session = self._session
        if session is None or self._stopping:
            raise NotStarted(self.detail or "the server is being started")
        if session.closed.is_set():
            self._gone()
            raise NotStarted("the connection to the server ended")
        self._in_flight += 1
        self._idle.clear()
        try:
            yield session
        finally:
            if session.closed.is_set() and self._session is session:
                self._gone()
            self._in_flight -= 1
            if not self._in_flight:
                self._idle.set()

    def _gone(self) -> None:
        self._session = None
        self._opened.clear()

    def _interrupt(self) -> None:
        self._stopping = True
        self._opened.clear()
        self._wake.set()
        with contextlib.suppress(RuntimeError):  # it is not connecting
            self._limit.reschedule(asyncio.get_running_loop().time())

    async def _run(self) -> None:
        await asyncio.to_thread(importlib.import_module, "services.tool_executor.mcp.session")
        from services.tool_executor.mcp.session import open_session  # noqa: PLC0415 - 37 MB that an executor without servers does without

        while not self._closing:
            self._wake.clear()
            self._stopping = False
            self._slots = asyncio.Semaphore(self.launch.concurrency)
            self._limit = asyncio.timeout(CONNECT_TIMEOUT_S)
            began = asyncio.get_running_loop().time()
            opened = False
            try:
                async with open_session(self.launch, self.name, self._limit) as session:
                    opened = True
                    await self._attend(session)
            except ConnectFailed as error:
                lived_s = asyncio.get_running_loop().time() - began
                self._attempt = 1 if opened and lived_s > STABLE_S else self._attempt + 1
                if not self._stopping:
                    await self._pause(str(error), was_open=opened)

    async def _attend(self, session: Session) -> None:
        """Keep a session until it ends or is not wanted any more."""
        self._session = session
        if not self._stopping:
            self._opened.set()
        self.detail, self.failing = "", False
        logger.info("connected to %s: %d tools", self.name, len(session.tools), extra={"action": "mcp.connected"})
        self._on_change()
        news = spawn(session.follow_changes(), name=f"mcp:{self.name}:changes")
        try:
            await self._look_after(session)
            if self._stopping and not session.closed.is_set():
                await self._drain(session)
        finally:
            self._gone()
            news.cancel()
            await asyncio.wait({news})

    async def _look_after(self, session: Session) -> None:
        failed = 0
        for checks in itertools.count(1):
            await _any(session.closed, self._wake, session.doubt, timeout_s=RECHECK_S if failed else CHECK_S)
            doubt = session.doubt.is_set()
            if doubt:  # several at once are one
                await _any(session.closed, self._wake, timeout_s=DOUBT_S)
                session.doubt.clear()
            if session.closed.is_set() or self._stopping:
                return
            try:
                await self._check(session, reload=doubt or checks % CHECKS_PER_RELOAD == 0)
                failed = 0
            except ConnectFailed:
                failed += 1
                if not self._in_flight or failed == FAILED_CHECKS_MAX:
                    raise

    async def _check(self, session: Session, *, reload: bool) -> None:
        before = session.tools
        await session.check(reload=reload)
        if session.tools != before:
            self._on_change()

    async def _drain(self, session: Session) -> None:
        await _any(self._idle, session.closed, timeout_s=DRAIN_S)

    async def _pause(self, why: str, *, was_open: bool) -> None:
        delay_s = min(RECONNECT_S * 2 ** (self._attempt - 1), RECONNECT_MAX_S) * random.uniform(0.7, 1.3)  # noqa: S311 - jitter
        self.detail = why
        self.failing = not was_open or delay_s > SILENT_S
        logger.warning(
            "%s: %s; again in %.1f s",
            self.name,
            why,
            delay_s,
            extra={"action": "mcp.disconnected" if was_open else "mcp.connect-failed"},
        )
        self._on_change()
        await _any(self._wake, timeout_s=delay_s)


class Extras:
    """What a server has beyond its tools, called as tools are."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.slot = connection.slot
        self.ready = connection.ready

    @property
    def detail(self) -> str:
        """Why it cannot be called now, as far as is known."""
        return self._connection.detail

    @property
    def calls(self) -> int:
        """Calls of the server that run or wait for a slot."""
        return self._connection.calls

    async def call(
        self,
        tool: str,
        arguments: Mapping[str, Any],
        *,
        timeout_s: float,
        meta: Mapping[str, Any],
        progress: Progress | None = None,  # noqa: ARG002 - it is quick
    ) -> Reply:
        """Ask for resources or prompts. Raises `NotStarted`, `Lost` or `TimedOut`."""
        return await self._connection.ask(tool, arguments, timeout_s=timeout_s, meta=meta)


async def _any(*events: asyncio.Event, timeout_s: float) -> bool:
    """Wait until one of the events is set; False if none was in time."""
    if any(event.is_set() for event in events):
        return True
    waits = {spawn(event.wait(), name="mcp:wait") for event in events}
    try:
        done, _ = await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        return bool(done)
    finally:
        for wait in waits:
            wait.cancel()
