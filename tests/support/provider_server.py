"""An HTTP server that is both providers: it records what it is sent and answers as it was told.

Each request to generate takes the next behaviour; without one it answers "ok". It checks keys and requests as the
providers do, so that a conversation they would refuse is refused here.

    async with provider_server() as server:
        server.then(Stream(chat_stream("hello")), Reply(429, RATE_LIMITED_CHAT, {"retry-after": "7"}))
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import uvicorn

from services.runtime.tasks import spawn
from tests.support.provider_wire import (
    BAD_KEY_CHAT,
    BAD_KEY_MESSAGES,
    MODELS_CHAT,
    MODELS_MESSAGES,
    Json,
    chat_error,
    chat_problem,
    chat_stream,
    messages_error,
    messages_problem,
    messages_stream,
)

Send = Callable[[Any], Awaitable[None]]


class Recorded(NamedTuple):
    """A request as it arrived."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: Json
    raw: bytes


class Stream(NamedTuple):
    """Answer with these server-sent events, each in a packet of its own."""

    events: Sequence[bytes]
    cut_after: int | None = None
    """Break the connection after so many events."""
    stall_after: int | None = None
    """Say no more after so many events, until the server is released."""
    bytewise: bool = False
    """Each byte in a packet of its own."""


class Reply(NamedTuple):
    """Answer with a status and a body."""

    status: int
    body: Json | list[Any] | str
    headers: Mapping[str, str] = {}


class Silence(NamedTuple):
    """Take the request and say nothing until the server is released."""


Behaviour = Stream | Reply | Silence


class ConnectionCut(Exception):
    """Makes the HTTP server drop the connection."""


class ProviderServer:
    """What tests see of it."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.reset()

    def reset(self) -> None:
        """Forget what was, and behave."""
        self.requests: list[Recorded] = []
        self.keys: set[str] | None = None
        """Keys that are accepted; None: any, or none at all."""
        self.models: Behaviour | None = None
        """What the list of models is answered with, if not with a list."""
        self.token: Behaviour = Reply(200, {"access_token": "ya29.token", "expires_in": 3599, "token_type": "Bearer"})
        """What a service account's statement is answered with."""
        self.choose: Callable[[Recorded], Behaviour] | None = None
        """Decides how each request to generate is answered, if the next behaviours do not."""
        self.arrived = asyncio.Event()
        """Set when a request to generate has come."""
        self.gone = asyncio.Event()
        """Set when a client left in the middle of an answer."""
        self.released = asyncio.Event()
        self._next: deque[Behaviour] = deque()

    @property
    def openai_url(self) -> str:
        """The base URL of the OpenAI family."""
        return f"{self.url}/v1"

    def then(self, *behaviours: Behaviour) -> None:
        """What to do with the next requests."""
        self._next.extend(behaviours)

    def generations(self) -> list[Recorded]:
        """The requests to generate."""
        return [request for request in self.requests if request.method == "POST" and request.path != "/token"]

    async def app(self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Send) -> None:
        """The ASGI application."""
        if scope["type"] != "http":
            return
        raw = b""
        while True:
            message = await receive()
            raw += message.get("body", b"")
            if not message.get("more_body"):
                break
        headers = {name.decode().lower(): value.decode() for name, value in scope["headers"]}
        body: Json = json.loads(raw) if raw.startswith(b"{") else {}
        request = Recorded(scope["method"], scope["path"], scope["query_string"].decode(), headers, body, raw)
        self.requests.append(request)
        left = spawn(self._watch(receive), name="client")
        try:
            await self._act(self._behaviour(request), send)
        finally:
            left.cancel()

    async def _watch(self, receive: Callable[[], Awaitable[Any]]) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.gone.set()

    def _behaviour(self, request: Recorded) -> Behaviour:
        if request.path == "/token":
            return self.token
        of_anthropic = "anthropic-version" in request.headers
        if self.keys is not None and _key(request.headers) not in self.keys:
            return Reply(401, BAD_KEY_MESSAGES if of_anthropic else BAD_KEY_CHAT)
        if request.method == "GET" and request.path.endswith("/models"):
            return (
                self.models if self.models is not None else Reply(200, MODELS_MESSAGES if of_anthropic else MODELS_CHAT)
            )
        if request.path.endswith("/chat/completions"):
            return self._generation(chat_problem(request.body), request, Stream(chat_stream("ok")))
        if request.path == "/v1/messages":
            problem = messages_problem(request.body, request.headers["anthropic-version"])
            return self._generation(problem, request, Stream(messages_stream("ok")))
        return Reply(404, messages_error("not_found_error", "Not found") if of_anthropic else chat_error("Not found"))

    def _generation(self, problem: Json | None, request: Recorded, default: Behaviour) -> Behaviour:
        self.arrived.set()
        if problem is not None:
            return Reply(400, problem)
        if self._next:
            return self._next.popleft()
        return self.choose(request) if self.choose is not None else default

    async def _act(self, behaviour: Behaviour, send: Send) -> None:
        match behaviour:
            case Reply(status=status, body=body, headers=headers):
                text = body if isinstance(body, str) else json.dumps(body)
                kind = "text/html" if isinstance(body, str) else "application/json"
                await _start(send, status, {"content-type": kind, **headers})
                await send({"type": "http.response.body", "body": text.encode()})
            case Stream(events=events, cut_after=cut_after, stall_after=stall_after, bytewise=bytewise):
                await _start(send, 200, {"content-type": "text/event-stream; charset=utf-8"})
                for n, event in enumerate(events):
                    if n == cut_after:
                        raise ConnectionCut
                    if n == stall_after:
                        await self.released.wait()
                    for packet in (bytes((byte,)) for byte in event) if bytewise else (event,):
                        await send({"type": "http.response.body", "body": packet, "more_body": True})
                        await asyncio.sleep(0)
                await send({"type": "http.response.body", "body": b""})
            case Silence():
                await self.released.wait()
                await _start(send, 503, {})
                await send({"type": "http.response.body", "body": b""})


@asynccontextmanager
async def provider_server() -> AsyncGenerator[ProviderServer]:
    """A running server on a free port of the loopback."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = ProviderServer(listening.getsockname()[1])
        config = uvicorn.Config(
            server.app,
            interface="asgi3",
            log_config=None,
            log_level="critical",
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=1,
        )
        running = uvicorn.Server(config)
        serving = spawn(running._serve([listening]), name="provider-server")
        try:
            async with asyncio.timeout(5):
                while True:
                    if running.started:
                        break
                    await asyncio.sleep(0.005)
            yield server
        finally:
            server.released.set()
            running.should_exit = True
            await asyncio.wait({serving})


async def _start(send: Send, status: int, headers: Mapping[str, str]) -> None:
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})


def _key(headers: Mapping[str, str]) -> str:
    return (
        headers.get("api-key") or headers.get("x-api-key") or headers.get("authorization", "").removeprefix("Bearer ")
    )
