"""A loopback proxy between a client and a server that can lose what tests want lost.

proxy.cut()       every connection breaks now; new ones are accepted
proxy.mute()      what the server says is swallowed from now on; what the client says arrives
proxy.unmute()
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Self

from services.runtime.tasks import Tasks

CHUNK_BYTES = 1 << 16


class TcpProxy:
    """Forwards a free loopback port to a server's port."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._pipes = Tasks()
        self._muted = False
        self.port = 0

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        await self._pipes.close()

    def cut(self) -> None:
        """Break every connection, without a word."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    def mute(self) -> None:
        """Swallow what the server says."""
        self._muted = True

    def unmute(self) -> None:
        """Let the server be heard again; what was swallowed stays so."""
        self._muted = False

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, server_writer}
        self._pipes.spawn(self._pipe(reader, server_writer, from_server=False), name="proxy:up")
        self._pipes.spawn(self._pipe(server_reader, writer, from_server=True), name="proxy:down")

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, from_server: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK_BYTES):
                if from_server and self._muted:
                    continue
                writer.write(data)
                await writer.drain()
        writer.transport.abort()
