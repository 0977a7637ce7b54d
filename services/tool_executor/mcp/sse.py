"""The transport of servers before 2025-03-26, by the SDK: events come on one long answer, messages go by POST.

Here the SDK only logs a POST that fails, and whoever waits for its answer would wait for ever. So what comes from the
server ends with the first POST that fails: the session ends with it, and the next one is opened in order. And an
event may be as long as a message may be anywhere; the SDK offers no way to say so.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import httpx2
from anyio.streams.memory import MemoryObjectSendStream
from mcp.client import sse
from mcp.client._transport import ReadStream, TransportStreams
from mcp.shared._httpx_utils import sse_within_origin
from mcp.shared.message import SessionMessage

from services.runtime.tasks import Tasks
from services.tool_executor.mcp.http import http_client
from services.tool_executor.mcp.launch import Launch, Redactor
from services.tool_executor.mcp.stdio import MESSAGE_BYTES_MAX

setattr(sse, "sse_within_origin", partial(sse_within_origin, max_event_size=MESSAGE_BYTES_MAX))  # noqa: B010 - typed as closed


@asynccontextmanager
async def sse_streams(launch: Launch, redactor: Redactor, closed: asyncio.Event) -> AsyncGenerator[TransportStreams]:
    """A connection to a server; what is yielded goes to the SDK's session. `closed` is set when it ends."""

    class Client(httpx2.AsyncClient):
        async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
            taken = False
            try:
                response = await super().send(request, **options)
                taken = response.status_code < 400
            finally:
                if not taken:
                    closed.set()
            return response

    def make(headers: object = None, timeout: object = None, auth: object = None) -> httpx2.AsyncClient:  # noqa: ARG001 - ours has its own
        assert headers is None
        assert auth is None
        return http_client(launch, redactor, Client)

    tasks = Tasks()
    to_session, from_server = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    try:
        async with sse.sse_client(launch.url, httpx_client_factory=make) as (said, to_server):
            tasks.spawn(_pass_on(said, to_session, closed), name="mcp:sse:read")
            tasks.spawn(_end(to_session, closed), name="mcp:sse:end")
            yield from_server, to_server
    finally:
        await tasks.close()
        to_session.close()
        from_server.close()


async def _pass_on(
    said: ReadStream[SessionMessage | Exception],
    to_session: MemoryObjectSendStream[SessionMessage | Exception],
    closed: asyncio.Event,
) -> None:
    try:
        with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            async for message in said:
                await to_session.send(message)
    finally:
        closed.set()


async def _end(to_session: MemoryObjectSendStream[SessionMessage | Exception], closed: asyncio.Event) -> None:
    await closed.wait()
    to_session.close()
