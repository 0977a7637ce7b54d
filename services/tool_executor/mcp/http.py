"""What goes over HTTP: by the SDK, which is told how long to wait and how much to read.

The SDK reports every refused request in the same words; the status that a response had is kept here, for the call
that it belongs to and for the connection's status text.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from http import HTTPStatus

import httpx2
import msgspec
from mcp.client._transport import TransportStreams
from mcp.client.streamable_http import streamable_http_client

from services.tool_executor.mcp.launch import Launch, Redactor
from services.tool_executor.mcp.stdio import MESSAGE_BYTES_MAX

CONNECT_TIMEOUT_S = 10.0
GOODBYE_TIMEOUT_S = 2.0
REFUSAL_BYTES_MAX = 256 * 1024
REFUSAL_LENGTH_MAX = 500


class Answered:
    """The status of the last response to the requests that were made with this in the context."""

    def __init__(self) -> None:
        self.status = 0
        self.taken = False
        """A request was taken: what it asks for may be done, whatever becomes of its answer."""
        self.said = ""
        """What the server said of a request that it refused."""
        self.not_signed_in = ""
        """Why there is no token to send, if one is needed."""

    @property
    def text(self) -> str:
        """The status and its phrase."""
        try:
            return f"HTTP {self.status} {HTTPStatus(self.status).phrase}"
        except ValueError:
            return f"HTTP {self.status}"


answered: ContextVar[Answered | None] = ContextVar("holdfast_mcp_answered", default=None)


@asynccontextmanager
async def http_streams(launch: Launch, redactor: Redactor) -> AsyncGenerator[TransportStreams]:
    """A connection by streamable HTTP; what is yielded goes to the SDK's session."""
    async with (
        http_client(launch, redactor) as client,
        streamable_http_client(launch.url, http_client=client, max_sse_event_size=MESSAGE_BYTES_MAX) as streams,
    ):
        yield streams


def http_client(
    launch: Launch, redactor: Redactor, kind: type[httpx2.AsyncClient] = httpx2.AsyncClient
) -> httpx2.AsyncClient:
    """A client of one server: with its headers, signed in as its manifest says, and wary."""
    auth = None
    if launch.sign_in is not None:
        from services.tool_executor.mcp.oauth import ClientCredentials  # noqa: PLC0415 - few servers need it

        auth = ClientCredentials(launch.url, launch.sign_in, redactor)
    return kind(
        auth=auth,
        headers={"Accept-Encoding": "identity", **launch.headers},
        timeout=httpx2.Timeout(CONNECT_TIMEOUT_S, read=launch.read_timeout_s),
        limits=httpx2.Limits(max_connections=launch.concurrency + 8, max_keepalive_connections=4),
        event_hooks={"request": [_hurry], "response": [_note]},
        follow_redirects=False,
    )


async def _hurry(request: httpx2.Request) -> None:
    """The goodbye of a session waits for nobody."""
    if request.method == "DELETE":
        request.extensions["timeout"] = dict.fromkeys(("connect", "read", "write", "pool"), GOODBYE_TIMEOUT_S)


async def _note(response: httpx2.Response) -> None:
    refused = response.status_code >= 400
    bound(response, REFUSAL_BYTES_MAX if refused else MESSAGE_BYTES_MAX)
    note = answered.get()
    if note is None:
        return
    note.status, note.said = response.status_code, ""
    if response.request.method == "POST" and not refused:
        note.taken = True
    if refused:
        with contextlib.suppress(httpx2.StreamError):
            note.said = _words(await response.aread())


def _words(body: bytes) -> str:
    """What a refusal says, if it says it as JSON-RPC has it."""
    try:
        return msgspec.json.decode(body, type=_Refusal).error.message[:REFUSAL_LENGTH_MAX]
    except msgspec.DecodeError:
        return ""


class _RefusalError(msgspec.Struct):
    message: str = ""


class _Refusal(msgspec.Struct):
    error: _RefusalError


def bound(response: httpx2.Response, bytes_max: int) -> None:
    """Have no more read of a body than `bytes_max`. A stream of events is bounded by the event, where it is read."""
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        # What a compressed answer weighs is known only when it is unpacked.
        raise httpx2.RemoteProtocolError("the server answered in an encoding that it was not asked for")
    if not response.headers.get("content-type", "").lower().startswith("text/event-stream"):
        response.stream = _Bounded(response.stream, bytes_max)


class _Bounded(httpx2.AsyncByteStream):
    """A body that may not be longer than one message."""

    def __init__(self, stream: httpx2.SyncByteStream | httpx2.AsyncByteStream, bytes_max: int) -> None:
        assert isinstance(stream, httpx2.AsyncByteStream)
        self._stream = stream
        self._bytes_max = bytes_max

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for chunk in self._stream:
            size += len(chunk)
            if size > self._bytes_max:
                raise httpx2.StreamError(f"the answer has more than {self._bytes_max} bytes")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()
