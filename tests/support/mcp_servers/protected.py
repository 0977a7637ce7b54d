"""An MCP server that lets in who has a token, and the authorization server that gives tokens; both in this process."""

from __future__ import annotations

import asyncio
import base64
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from mcp.types import ToolAnnotations
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from services.runtime.tasks import spawn

CLIENT = "holdfast-tests"
SECRET = "a client/secret: of some length"


class Authority:
    """Gives tokens by the client credentials grant, and remembers what it was asked."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[dict[str, str]] = []
        """The forms of all token requests, with how the client said who it is under `by`."""
        self.valid: set[str] = set()
        self.life_s = 3600.0
        self.issuer = ""
        """What its metadata says, if not the truth."""
        self.endpoint = ""
        """What its metadata says where tokens are, if not the truth."""
        self.gone = False
        """It has no metadata."""
        self.fail = 0
        """The status that it answers with instead of a token."""
        self.hold = asyncio.Event()
        self.hold.set()

    async def token(self, request: Request) -> Response:
        """The token endpoint."""
        form = {name: str(value) for name, value in (await request.form()).items()}
        await self.hold.wait()
        basic = request.headers.get("authorization", "").removeprefix("Basic ")
        if basic:
            said = base64.b64decode(basic).decode()
            right = said == f"{CLIENT}:a%20client%2Fsecret%3A%20of%20some%20length"
        else:
            right = (form.pop("client_id", ""), form.pop("client_secret", "")) == (CLIENT, SECRET)
        self.asked.append({**form, "by": "basic" if basic else "post"})
        if self.fail:
            return JSONResponse({"error": "temporarily_unavailable"}, self.fail)
        if not right or form.get("grant_type") != "client_credentials":
            words = f"unknown client; you said {basic or SECRET}"
            return JSONResponse({"error": "invalid_client", "error_description": words}, 401)
        token = f"token-number-{len(self.asked)}-of-this-test"
        self.valid.add(token)
        return JSONResponse({"access_token": token, "token_type": "bearer", "expires_in": self.life_s})

    async def metadata(self, _: Request) -> Response:
        """What it says of itself."""
        if self.gone:
            return Response(status_code=404)
        said = {"issuer": self.issuer or self.url, "token_endpoint": self.endpoint or f"{self.url}/token"}
        return JSONResponse({**said, "response_types_supported": ["code"], "authorization_endpoint": f"{self.url}/a"})

    def app(self) -> ASGIApp:
        """The authorization server."""
        return Starlette(
            routes=[
                Route("/token", self.token, methods=["POST"]),
                Route("/.well-known/oauth-authorization-server", self.metadata),
            ]
        )


class Protected:
    """The MCP server."""

    def __init__(self, authority: Authority, *, sse: bool) -> None:
        self.authority = authority
        self.base = ""
        self.sse = sse
        self.refused = 0
        self.resource = ""
        """What its metadata says that it is, if not the truth."""
        self.started = asyncio.Event()
        self.hold = asyncio.Event()

    @property
    def url(self) -> str:
        """Where it is."""
        return f"{self.base}/{'sse' if self.sse else 'mcp'}"

    async def metadata(self, _: Request) -> Response:
        """What it says of itself."""
        said: dict[str, Any] = {"resource": self.resource or self.url, "authorization_servers": [self.authority.url]}
        return JSONResponse({**said, "scopes_supported": ["tools:call"]})

    def app(self) -> Starlette:
        """The server, behind its guard."""
        server = MCPServer("protected")
        reads = ToolAnnotations(read_only_hint=True)

        @server.tool(annotations=reads)
        def whoami(ctx: Context[Any, Any]) -> str:
            """What we were sent."""
            headers = ctx.headers
            assert headers is not None
            return headers["authorization"]

        @server.tool(annotations=reads)
        async def slow() -> str:
            """Answers when it may."""
            self.started.set()
            await self.hold.wait()
            return "at last"

        app = server.sse_app() if self.sse else server.streamable_http_app(json_response=True)
        app.router.routes.insert(0, Route("/.well-known/oauth-protected-resource", self.metadata))
        app.add_middleware(lambda inner: self._guarded(inner))  # noqa: PLW0108 - typed as a class
        return app

    def _guarded(self, inner: ASGIApp) -> ASGIApp:
        async def guard(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http" or scope["path"].startswith("/.well-known"):
                await inner(scope, receive, send)
                return
            token = dict(scope["headers"]).get(b"authorization", b"").decode().removeprefix("Bearer ")
            if token in self.authority.valid:
                await inner(scope, receive, send)
                return
            self.refused += 1
            where = f'Bearer resource_metadata="{self.base}/.well-known/oauth-protected-resource"'
            await Response(status_code=401, headers={"WWW-Authenticate": where})(scope, receive, send)

        return guard


@asynccontextmanager
async def serving(app: ASGIApp) -> AsyncGenerator[str]:
    """The address of a server that runs in this event loop."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
    task = spawn(server.serve(sockets=[listening]), name="uvicorn")
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        await asyncio.wait({task}, timeout=5)


@asynccontextmanager
async def protected(*, sse: bool = False) -> AsyncGenerator[Protected]:
    """A protected server and its authority."""
    server = Protected(Authority(), sse=sse)
    async with serving(server.authority.app()) as server.authority.url, serving(server.app()) as server.base:
        yield server
