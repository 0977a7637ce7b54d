"""An MCP server by the SDK, over stdio or (with `--http PORT`) streamable HTTP or `--sse`; it prints its port.

What its tools do to the world is a line in the file `$RECORD`: the tools' own record of effects.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
from mcp.server.mcpserver import Context, Image, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations
from starlette.types import ASGIApp, Receive, Scope, Send

READ_ONLY = ToolAnnotations(read_only_hint=True)
IDEMPOTENT = ToolAnnotations(read_only_hint=False, idempotent_hint=True)

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)

server = MCPServer("kitchen")


def note(line: str) -> None:
    """Do it to the world."""
    with Path(os.environ["RECORD"]).open("a") as file:
        file.write(f"{line}\n")


async def _wait(line: str, seconds: float) -> str:
    note(line)
    try:
        await anyio.sleep(seconds)
    except anyio.get_cancelled_exc_class():
        note(f"{line} cancelled")
        raise
    return f"{line} done"


@server.tool()
async def effect(text: str, seconds: float = 0.0) -> str:
    """Has an effect, then takes its time."""
    return await _wait(text, seconds)


@server.tool(annotations=IDEMPOTENT)
async def set_value(text: str, seconds: float = 0.0) -> str:
    """Has an effect that is the same when it is repeated, then takes its time."""
    return await _wait(text, seconds)


@server.tool(annotations=READ_ONLY)
async def look(seconds: float = 0.0) -> str:
    """Has no effect but to be noted, and takes its time."""
    return await _wait("look", seconds)


@server.tool()
def crash(text: str) -> str:
    """Has an effect and kills its own process."""
    note(text)
    os.kill(os.getpid(), signal.SIGKILL)
    return "never"


@server.tool(annotations=IDEMPOTENT)
def crash_once(text: str) -> str:
    """Kills its own process the first time."""
    before = Path(os.environ["RECORD"])
    first = not before.exists() or text not in before.read_text()
    note(text)
    if first:
        os.kill(os.getpid(), signal.SIGKILL)
    return f"{text} at last"


@server.tool(annotations=READ_ONLY)
def fail(message: str) -> str:
    """Fails, and says why."""
    raise ToolError(message)


@server.tool(annotations=READ_ONLY)
async def steps(count: int, ctx: Context[Any, Any]) -> str:
    """Says how far it is."""
    for step in range(1, count + 1):
        await ctx.report_progress(step, count, f"step {step}")
        await anyio.sleep(0.01)
    return "all steps"


@server.tool(annotations=READ_ONLY)
def huge(size: int) -> str:
    """Says a lot."""
    return "head" + "x" * (size - 8) + "tail"


@server.tool(annotations=READ_ONLY)
def environment() -> str:
    """All variables of the process."""
    return json.dumps(dict(os.environ))


@server.tool(annotations=READ_ONLY)
def pid() -> str:
    """The process."""
    return str(os.getpid())


@server.tool(annotations=READ_ONLY)
def child() -> str:
    """Leave a process that holds our pipes and does not end by itself."""
    with subprocess.Popen(["sleep", "600"]) as process:
        process.poll()
        sys.stdout.flush()
        process.returncode = 0  # we do not wait for it
        return str(process.pid)


@server.tool(annotations=READ_ONLY, structured_output=False)
def picture() -> list[Any]:
    """Text and an image."""
    return ["before", Image(data=b"\x89PNG" + bytes(96), format="png")]


@server.tool(annotations=READ_ONLY, structured_output=False)
def gallery(count: int) -> list[Any]:
    """Real images, and what only says that it is one."""
    return [*(Image(data=PIXEL, format="jpeg") for _ in range(count)), Image(data=b"<svg/>", format="svg+xml")]


@server.resource("menu://today", mime_type="text/plain")
def menu() -> str:
    """What there is."""
    return "soup"


@server.resource("photo://today", mime_type="image/png")
def photo() -> bytes:
    """How it looks."""
    return PIXEL


@server.resource("recipe://{dish}", mime_type="text/plain")
def recipe(dish: str) -> str:
    """How it is made."""
    return f"boil the {dish}" * 10_000


@server.prompt()
def advise(dish: str) -> list[Any]:
    """Ask for advice."""
    return [f"How do I cook {dish}?"]


@server.tool(annotations=READ_ONLY)
def pair() -> dict[str, int]:
    """Structured content."""
    return {"one": 1, "two": 2}


@server.tool()
async def grow(name: str, ctx: Context[Any, Any]) -> str:
    """Gets one more tool, and says so."""
    server.add_tool(pid, name=name, annotations=READ_ONLY)
    await ctx.notify_tools_changed()
    return "grown"


def _refused() -> Sequence[str]:
    """The methods that we are too busy for."""
    busy = Path(os.environ["RECORD"] + ".busy")
    if not busy.exists():
        return ()
    return ("tools/call", "tools/list") if busy.read_text() else ("tools/call",)


def _guarded(app: ASGIApp, *, old: bool) -> ASGIApp:
    """Let in who has the `$TOKEN`, if there is one; be overloaded while the file `$RECORD.busy` is there:
    with calls, and if there is something in the file, with lists of tools too.

    An `old` server does not know the newer protocol's first question.
    """
    token = os.environ.get("TOKEN")

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        status = 0
        if scope["type"] == "http":
            headers = dict(scope["headers"])
            method = headers.get(b"mcp-method", b"").decode()
            if token and headers.get(b"authorization", b"").decode() != f"Bearer {token}":
                status = 401
            elif old and method == "server/discover":
                status = 404
            elif method in _refused() or (_refused() and scope["path"].startswith("/messages/")):
                note("busy list" if method == "tools/list" else "busy")
                status = 503
            elif scope["method"] == "DELETE":
                note("goodbye")
        if status:
            await send({"type": "http.response.start", "status": status, "headers": []})
            await send({"type": "http.response.body", "body": b""})
        else:
            await app(scope, receive, send)

    return guard


async def _serve_http(port: int, *flags: str) -> None:
    import uvicorn  # noqa: PLC0415 - only for HTTP

    listening = socket.create_server(("127.0.0.1", port))
    sys.stdout.write(f"{listening.getsockname()[1]}\n")
    sys.stdout.flush()
    app = server.sse_app() if "--sse" in flags else server.streamable_http_app(json_response="--json" in flags)
    config = uvicorn.Config(_guarded(app, old="--old" in flags), log_level="warning", timeout_graceful_shutdown=1)
    await uvicorn.Server(config).serve(sockets=[listening])


def serve() -> None:
    """Serve as the command line says."""
    if "--http" in sys.argv:
        wanted = int(sys.argv[sys.argv.index("--http") + 1])
        anyio.run(_serve_http, wanted, *sys.argv)
    else:
        server.run("stdio")


if __name__ == "__main__":
    serve()
