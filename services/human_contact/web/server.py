"""The port: HTTP/1.1 by uvicorn's protocol, on a listener of ours. The one place that knows uvicorn."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from services.human_contact.web.base import Received, Reply, Unfit, said
from services.human_contact.web.gate import BODY_BYTES_MAX, HEADERS, Gate
from services.runtime.errors import Broken

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

logger = logging.getLogger(__name__)

HEAD_BYTES_MAX = 16 * 1024
"""Of a request's line and header fields together."""
HEAD_S = 10.0
"""How long a new connection has for its request's head."""
BODY_S = 10.0
CONNECTION_S = 45.0
"""How long a connection lasts at most: it has one request. Who does not read the answer holds it no longer."""
CONNECTIONS_MAX = 256
"""Beyond these, requests are refused; beyond twice as many, connections are."""
CONNECTIONS_EACH_MAX = 64
"""Of one address, unless it is a proxy of ours."""
STOP_S = 5.0


class _Protocol(H11Protocol):
    """Uvicorn's, and it hangs up on those who never say what they want, never read, or come by the hundred."""

    def __init__(self, gate: Gate, peers: Counter[str], config: uvicorn.Config, state: ServerState) -> None:
        super().__init__(config, state, {})
        self._gate = gate
        self._peers = peers
        self._peer = ""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._head = self.loop.call_later(HEAD_S, self._too_slow)
        self._end = self.loop.call_later(CONNECTION_S, transport.abort)
        self._peer = self._gate.holder(self.client[0] if self.client else "")
        self._peers[self._peer] += 1
        is_many = bool(self._peer) and self._peers[self._peer] > CONNECTIONS_EACH_MAX
        if is_many or self._peers.total() > 2 * CONNECTIONS_MAX:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head.cancel()
        self._end.cancel()
        self._peers[self._peer] -= 1
        if not self._peers[self._peer]:
            del self._peers[self._peer]
        super().connection_lost(exc)

    def _too_slow(self) -> None:
        if self.cycle is None and not self.transport.is_closing():  # pyright: ignore[reportUnnecessaryComparison] - None until the first request
            self.transport.close()


class WebServer:
    """Serves a gate."""

    def __init__(self, gate: Gate, host: str, port: int) -> None:
        self._gate = gate
        self._host = host
        self._port = port
        self._state = ServerState()
        self._peers: Counter[str] = Counter()
        self._server: asyncio.Server | None = None
        self.port = 0
        """Once it is started."""

    async def start(self) -> None:
        """Listen; raises `Broken` if the port cannot be had."""
        config = uvicorn.Config(
            self._app,
            http="h11",
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            log_level="error",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            limit_concurrency=CONNECTIONS_MAX,
            h11_max_incomplete_event_size=HEAD_BYTES_MAX,
        )
        config.load()
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(
                lambda: _Protocol(self._gate, self._peers, config, self._state), self._host, self._port
            )
        except OSError as error:
            where = f"{self._host}:{self._port}"
            raise Broken(f"cannot listen on {where} (HOLDFAST_PEOPLE_HTTP_PORT): {error.strerror or error}") from error
        self.port = int(self._server.sockets[0].getsockname()[1])
        logger.info(
            "people's answers come in on %s:%s",
            self._host,
            self.port,
            extra={"action": "inbound.listening", "port": self.port},
        )

    async def stop(self) -> None:
        """Take no more requests, and end those in hand within a while."""
        if self._server is None:
            return
        self._server.close()
        for connection in list(self._state.connections):
            connection.shutdown()
        if self._state.tasks:
            _, late = await asyncio.wait(set(self._state.tasks), timeout=STOP_S)
            for task in late:
                task.cancel()

    async def _app(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
        send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ) -> None:
        headers: dict[str, str] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1"), value.decode("latin-1"))
        peer = scope["client"][0] if scope["client"] else ""
        try:
            remote = self._gate.admit(peer, scope["path"], headers, len(scope["headers"]))
            body = await _body(headers, receive)
            received = Received(
                method=scope["method"],
                path=scope["path"],
                query=scope["query_string"].decode("latin-1"),
                headers=headers,
                body=body,
                remote=remote,
            )
            reply = await self._gate.answer(received)
        except Unfit as unfit:
            reply = said(unfit.status, str(unfit))
        with contextlib.suppress(OSError):
            await _send(reply, send)


async def _body(headers: Mapping[str, str], receive: Callable[[], Awaitable[MutableMapping[str, Any]]]) -> bytes:
    too_long = Unfit(413, f"More than {BODY_BYTES_MAX} bytes are not taken.")
    length = headers.get("content-length", "0")
    if not length.isdigit() or int(length) > BODY_BYTES_MAX:
        raise too_long
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Unfit(400, "The request is not whole.")
                body += message.get("body", b"")
                if len(body) > BODY_BYTES_MAX:
                    raise too_long
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError as error:
        raise Unfit(408, "The request took too long to arrive.") from error


async def _send(reply: Reply, send: Callable[[MutableMapping[str, Any]], Awaitable[None]]) -> None:
    """Answer. A connection has one request: so each has its time limits, and what is left of it is not read."""
    own = {"Content-Type": reply.kind, "Content-Length": str(len(reply.body)), "Connection": "close"}
    headers = {**own, **HEADERS, **reply.headers}
    pairs = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": reply.status, "headers": pairs})
    await send({"type": "http.response.body", "body": reply.body})
