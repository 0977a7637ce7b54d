"""The stdio transport: a server as a child process, in a process group of its own.

The SDK has one, but it keeps the process to itself. This one knows when the process ends (a descendant that still
holds the pipes cannot hide it), why (exit status and last words on standard error), bounds what one message may
weigh, and leaves nothing of the process group behind, however it is left: the last step is a SIGKILL that waits for
nothing. The child's environment is the declared one over what the SDK holds safe to inherit (`PATH` and `HOME`, so that
programs and their caches are found, and the user's and terminal's names), never the executor's own, which has secrets.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import cast

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.client.stdio import get_default_environment
from mcp.shared.message import SessionMessage
from mcp_types import jsonrpc_message_adapter

from services.runtime.tasks import Tasks
from services.tool_executor.mcp.errors import ConnectFailed
from services.tool_executor.mcp.launch import Launch, Redactor

logger = logging.getLogger(__name__)

MESSAGE_BYTES_MAX = 16 * 1024 * 1024
"""Longest line that a server may say."""
EXIT_GRACE_S = 2.0
"""How long a server may take to leave when its standard input ends, and again after SIGTERM."""
LAST_WORDS_GRACE_S = 0.1
"""How long the rest of the output is read after the process has ended."""
WORDS_MAX = 20
WORD_LENGTH_MAX = 500
"""Lines of standard error that are kept, and characters of each."""

Streams = tuple[MemoryObjectReceiveStream[SessionMessage | Exception], MemoryObjectSendStream[SessionMessage]]


class _Protocol(asyncio.subprocess.SubprocessStreamProtocol):
    """Says at once that the process has ended; `Process.wait` also waits for whoever holds its pipes."""

    def __init__(self, exited: asyncio.Event) -> None:
        super().__init__(limit=MESSAGE_BYTES_MAX, loop=asyncio.get_running_loop())
        self._exited = exited

    def process_exited(self) -> None:
        """Called by the event loop."""
        super().process_exited()
        self._exited.set()


class StdioServer:
    """One run of a server's process."""

    def __init__(self, launch: Launch, name: str, redactor: Redactor) -> None:
        self._launch = launch
        self._redactor = redactor
        self._name = name
        self._words: deque[str] = deque(maxlen=WORDS_MAX)
        self._process: asyncio.subprocess.Process | None = None
        self._exited = asyncio.Event()
        self.closed = asyncio.Event()
        """Set when nothing more will come from the server."""

    @property
    def pid(self) -> int | None:
        """The process, and its group."""
        return self._process.pid if self._process else None

    @property
    def last_words(self) -> str:
        """How the process ended, if it has, and the end of what it said on standard error."""
        status = self._process.returncode if self._process else None
        if status is None:
            ending = ""
        elif status < 0:
            ending = f"the process was ended by {_signal_name(-status)}"
        else:
            ending = f"the process ended with status {status}"
        said = " | ".join(list(self._words)[-3:])
        return "; it said: ".join(filter(None, (ending or ("the process runs" if said else ""), said)))

    @asynccontextmanager
    async def streams(self) -> AsyncGenerator[Streams]:
        """Start the process; what is yielded goes to the SDK's session. Raises `ConnectFailed`."""
        transport, process = await self._spawn()
        self._process = process
        to_session, from_server = anyio.create_memory_object_stream[SessionMessage | Exception](0)
        to_server, from_session = anyio.create_memory_object_stream[SessionMessage](0)
        tasks = Tasks()
        tasks.spawn(self._read(process, to_session), name=f"{self._name}:stdout")
        tasks.spawn(self._write(process, from_session), name=f"{self._name}:stdin")
        tasks.spawn(self._watch(process), name=f"{self._name}:exit")
        listening = tasks.spawn(self._listen(process), name=f"{self._name}:stderr")
        try:
            yield from_server, to_server
            await self._ask_to_leave(process)
        finally:
            _kill_group(process, signal.SIGKILL)
            for stream in (to_session, from_server, to_server, from_session):
                stream.close()
            if await self._left():
                await asyncio.wait({listening}, timeout=LAST_WORDS_GRACE_S)
            transport.close()
            await tasks.close()

    async def _spawn(self) -> tuple[asyncio.SubprocessTransport, asyncio.subprocess.Process]:
        loop = asyncio.get_running_loop()
        try:
            transport, protocol = await loop.subprocess_exec(
                lambda: _Protocol(self._exited),
                *self._launch.command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env={**get_default_environment(), **self._launch.env},
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            raise ConnectFailed(f"{self._launch.command[0]!r} could not be started: {error}") from error
        return transport, asyncio.subprocess.Process(transport, protocol, loop)

    async def _read(
        self, process: asyncio.subprocess.Process, to_session: MemoryObjectSendStream[SessionMessage | Exception]
    ) -> None:
        stdout = cast("asyncio.StreamReader", process.stdout)
        with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError), to_session:
            try:
                while line := await stdout.readline():
                    await self._pass_on(line, to_session)
            except ValueError:
                self._words.append(f"a message of more than {MESSAGE_BYTES_MAX} bytes")
        self.closed.set()

    async def _pass_on(self, line: bytes, to_session: MemoryObjectSendStream[SessionMessage | Exception]) -> None:
        try:
            message = jsonrpc_message_adapter.validate_json(line, by_name=False)
        except ValueError:
            logger.debug("%s: %d bytes on standard output are not a message", self._name, len(line))
            await asyncio.sleep(0)  # nothing else here waits, and a server may go on like this for ever
            return
        await to_session.send(SessionMessage(message))

    async def _write(
        self, process: asyncio.subprocess.Process, from_session: MemoryObjectReceiveStream[SessionMessage]
    ) -> None:
        stdin = cast("asyncio.StreamWriter", process.stdin)
        try:
            with from_session:
                async for message in from_session:
                    stdin.write(message.message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n")
                    await stdin.drain()
        except OSError:
            self.closed.set()

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        stderr = cast("asyncio.StreamReader", process.stderr)
        while data := await stderr.read(8192):
            for line in data.decode(errors="replace").splitlines():
                if words := self._redactor.words(line).strip():
                    self._words.append(words[:WORD_LENGTH_MAX])
                    logger.debug("%s says: %s", self._name, words[:WORD_LENGTH_MAX])
            await asyncio.sleep(0)

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        await self._exited.wait()
        await asyncio.sleep(LAST_WORDS_GRACE_S)
        _kill_group(process, signal.SIGKILL)

    async def _ask_to_leave(self, process: asyncio.subprocess.Process) -> None:
        cast("asyncio.StreamWriter", process.stdin).close()
        if await self._left() or sys.platform == "win32":
            return
        _kill_group(process, signal.SIGTERM)
        await self._left()

    async def _left(self) -> bool:
        try:
            async with asyncio.timeout(EXIT_GRACE_S):
                await self._exited.wait()
        except TimeoutError:
            return False
        return True


def _kill_group(process: asyncio.subprocess.Process, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if sys.platform == "win32":
            process.kill()
        else:
            os.killpg(process.pid, number)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
