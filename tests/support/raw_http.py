"""An HTTP server that says exactly the bytes that a test wants, and remembers what it was asked."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

Answer = Callable[["Asked", asyncio.StreamWriter], Awaitable[None]]


class Asked:
    """A request as it came in."""

    def __init__(self, head: str, body: bytes) -> None:
        first, *lines = head.split("\r\n")
        self.method, self.target, _ = first.split(" ", 2)
        self.headers = {
            name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)
        }
        self.body = body


class RawServer:
    """A server on a free port of 127.0.0.1. `paths` says what it answers: bytes, or a function that writes them."""

    def __init__(self) -> None:
        self.paths: dict[str, bytes | Answer] = {}
        self.asked: list[Asked] = []
        self.port = 0
        self.gone = asyncio.Event()
        """A client has gone away before its answer was whole."""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            asked = Asked(head.removesuffix("\r\n\r\n"), b"")
            asked.body = await reader.readexactly(int(asked.headers.get("content-length", "0")))
            self.asked.append(asked)
            answer = self.paths.get(asked.target.partition("?")[0], response(b"nothing here", status="404 Not Found"))
            try:
                if isinstance(answer, bytes):
                    writer.write(answer)
                    await writer.drain()
                else:
                    await answer(asked, writer)
            except OSError:
                self.gone.set()
        with contextlib.suppress(OSError):
            writer.close()
            await writer.wait_closed()


async def hung_up(reader: asyncio.StreamReader, within_s: float) -> bool:
    """Whether the other side hangs up within a time."""
    try:
        async with asyncio.timeout(within_s):
            return await reader.read(1) == b""
    except TimeoutError:
        return False


def response(body: bytes = b"", *, status: str = "200 OK", kind: str = "text/plain", **headers: str) -> bytes:
    """A whole answer. Underscores in the names of headers become hyphens."""
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode("latin-1") + b"\r\nConnection: close\r\n\r\n" + body


def redirect(target: str, status: str = "302 Found") -> bytes:
    """An answer that sends the client on."""
    return response(status=status, Location=target)


@asynccontextmanager
async def raw_server(*, tls: ssl.SSLContext | None = None) -> AsyncGenerator[RawServer]:
    """A running server."""
    server = RawServer()
    listening = await asyncio.start_server(server.handle, "127.0.0.1", 0, ssl=tls)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()
