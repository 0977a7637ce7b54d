"""An MCP server whose tools keep a record of what they did, which no crash takes away.

    python tools.py RECORD

Every effect is one line of JSON in the file RECORD, appended in one write and synced before the tool answers.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from datetime import UTC, datetime

from mcp.server import MCPServer
from mcp.types import ToolAnnotations

SLOW_S = 2.5
"""Longer than the acknowledgement wait: only heartbeats keep such a call with its replica."""
ENDLESS_S = 15.0
"""Longer than a test waits for a call that was told to stop."""

server = MCPServer("effects")


def _did(tool: str, key: str) -> None:
    line = json.dumps({"tool": tool, "key": key, "pid": os.getpid(), "at": datetime.now(UTC).isoformat()}) + "\n"
    file = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, line.encode())
        os.fsync(file)
    finally:
        os.close(file)


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
async def lookup(key: str) -> str:
    """Look something up."""
    _did("lookup", key)
    return f"looked up {key}"


@server.tool(annotations=ToolAnnotations(idempotent_hint=True))
async def save(key: str) -> str:
    """Do what may be done twice, slowly."""
    _did("save", key)
    await asyncio.sleep(SLOW_S)
    return f"saved {key}"


@server.tool(annotations=ToolAnnotations(destructive_hint=True))
async def charge(key: str) -> str:
    """Do what must not be done twice."""
    _did("charge", key)
    return f"charged {key}"


@server.tool(annotations=ToolAnnotations(destructive_hint=True))
async def slow_charge(key: str) -> str:
    """Do what must not be done twice, and answer long after."""
    _did("slow_charge", key)
    await asyncio.sleep(SLOW_S)
    return f"charged {key} slowly"


@server.tool(annotations=ToolAnnotations(destructive_hint=True))
async def endless(key: str) -> str:
    """Do what must not be done twice, and be stopped before the answer."""
    _did("endless", key)
    await asyncio.sleep(ENDLESS_S)
    return f"never said of {key}"


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
async def broken(key: str) -> str:
    """Fail."""
    raise RuntimeError(f"no luck with {key}")


if __name__ == "__main__":
    server.run("stdio")
