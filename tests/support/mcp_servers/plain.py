"""An MCP server of the older protocol, by hand and without the SDK: quick to start, and as odd as its `$PLAIN` says.

`$PLAIN` is a JSON object:
    tools     the tools as they are listed; each may have `does`: echo (default), sleep, grow, meta, pid, ask,
              ask-twice, or ask-all (until nobody answers);
              one that is called `sign` wants somebody to go to a page before
    page      how many tools are on a page of the list
    deaf      answer nothing
    garbage   say things on standard output that are no messages
    pad       the length of the descriptions of tools that have none
    endless   say that there is one more page, after every page
    chatter   say long things that nobody asked for, without end, and note how many megabytes, once it was greeted
    flood     say nothing but empty lines, without end, once it was greeted
    stubborn  ignore the end of input and SIGTERM
    fail      say this on standard error and leave with status 3
What happens is noted in the file `$RECORD`, if there is one.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

CONFIG: dict[str, Any] = json.loads(os.environ.get("PLAIN", "{}"))
TOOLS: list[dict[str, Any]] = CONFIG.get("tools", [{"name": "echo"}])

ANSWERS: dict[str, asyncio.Future[Any]] = {}
"""To our own requests, by their ids."""


def note(line: str) -> None:
    """Write it down."""
    if record := os.environ.get("RECORD"):
        with Path(record).open("a") as file:
            file.write(f"{line}\n")


def say(message: dict[str, Any]) -> None:
    """Send a message."""
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def listed(cursor: str | None) -> dict[str, Any]:
    """A page of the tools."""
    size = CONFIG.get("page", 1000)
    start = int(cursor or 0)
    tools = [
        {
            "inputSchema": {"type": "object"},
            "description": "d" * CONFIG.get("pad", 0),
            **{key: value for key, value in tool.items() if key != "does"},
        }
        for tool in TOOLS[start : start + size]
    ]
    more = {"nextCursor": str(start + size)} if start + size < len(TOOLS) else {}
    if CONFIG.get("endless"):
        more = {"nextCursor": str(start + size)}
    return {"tools": tools, **more}


async def call(params: dict[str, Any]) -> dict[str, Any]:
    """Run a tool."""
    name: str = params["name"]
    arguments: dict[str, Any] = params.get("arguments") or {}
    tool = next(tool for tool in TOOLS if tool["name"] == name)
    note(name)
    text = json.dumps({"tool": name, "arguments": arguments})
    match tool.get("does"):
        case "sleep":
            await asyncio.sleep(arguments.get("seconds", 600))
        case "grow":
            TOOLS.append({"name": arguments["name"]})
            say({"method": "notifications/tools/list_changed"})
        case "meta":
            text = json.dumps(params.get("_meta", {}))
        case "ask":
            text = json.dumps(await ask("What is your name?"))
        case "ask-twice":
            text = json.dumps([await ask("What is your name?") for _ in range(2)])
        case "ask-all":
            while (said := await ask("And now?"))["action"] != "cancel":
                pass
            text = json.dumps(said)
        case "pid":
            text = str(os.getpid())
        case _:
            pass
    return {"content": [{"type": "text", "text": text}]}


async def ask(message: str) -> Any:
    """Ask the user something."""
    number = f"ask-{len(ANSWERS)}"
    ANSWERS[number] = asyncio.get_running_loop().create_future()
    schema = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
    say({"id": number, "method": "elicitation/create", "params": {"message": message, "requestedSchema": schema}})
    return await ANSWERS[number]


def flood() -> None:
    """Never stop."""
    while True:
        os.write(1, b"\n" * 65536)


def chatter() -> None:
    """Never stop talking."""
    words = {"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "x" * 100_000}}
    line = json.dumps(words).encode() + b"\n"
    for n in itertools.count():
        os.write(1, line)
        if n % 10 == 0:
            note(f"chatter {n // 10}")


async def answer(message: dict[str, Any]) -> None:
    """Answer a request."""
    method: str = message["method"]
    params: dict[str, Any] = message.get("params") or {}
    result: dict[str, Any]
    match method:
        case "initialize":
            result = {
                "protocolVersion": "2025-06-18",
                "capabilities": {"tools": {"listChanged": True}},
                "serverInfo": {"name": "plain", "version": "1"},
            }
        case "ping":
            result = {}
        case "tools/list":
            result = listed(params.get("cursor"))
        case "tools/call" if params["name"] == "sign":
            pages = [{"mode": "url", "elicitationId": "e1", "url": "https://example.org/form", "message": "Sign."}]
            say({"id": message["id"], "error": {"code": -32042, "message": "no", "data": {"elicitations": pages}}})
            return
        case "tools/call":
            result = await call(params)
        case _:
            say({"id": message["id"], "error": {"code": -32601, "message": f"no method {method}"}})
            return
    say({"id": message["id"], "result": result})
    if method == "tools/list" and CONFIG.get("flood"):
        threading.Thread(target=flood, daemon=True).start()
    if method == "tools/list" and CONFIG.get("chatter"):
        threading.Thread(target=chatter, daemon=True).start()


async def main() -> None:
    """Serve until the input ends."""
    if CONFIG.get("fail"):
        sys.stderr.write(CONFIG["fail"] + "\n")
        sys.exit(3)
    if CONFIG.get("stubborn"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if CONFIG.get("garbage"):
        sys.stdout.write("Welcome to the plain server!\n{\n[1]\n\n")
        sys.stdout.flush()
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    running: dict[Any, asyncio.Task[None]] = {}
    while line := await reader.readline():
        message = json.loads(line)
        if CONFIG.get("deaf"):
            continue
        if message.get("method") == "notifications/cancelled":
            note("cancelled")
            if task := running.pop(message["params"]["requestId"], None):
                task.cancel()
        elif "method" not in message:
            ANSWERS[message["id"]].set_result(message.get("result") or message.get("error"))
        elif "id" in message:
            running[message["id"]] = asyncio.get_running_loop().create_task(answer(message))
    if CONFIG.get("stubborn"):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
