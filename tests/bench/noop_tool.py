"""The cheapest MCP server there can be: the protocol over stdio, without an SDK, and tools that do nothing.

    noop   answers at once with "ok"
    text   answers at once with `bytes` characters

Run as a program. Both are declared read-only, so that calling them needs no entry in the effects ledger.
"""

from __future__ import annotations

import sys
from typing import Any

import msgspec

NOT_FOUND = -32601
HINTS = {"readOnlyHint": True, "destructiveHint": False, "idempotentHint": True, "openWorldHint": False}
TOOLS: list[dict[str, Any]] = [
    {
        "name": "noop",
        "description": "Does nothing.",
        "inputSchema": {"type": "object", "properties": {}},
        "annotations": HINTS,
    },
    {
        "name": "text",
        "description": "Says something of a given length.",
        "inputSchema": {"type": "object", "properties": {"bytes": {"type": "integer"}}, "required": ["bytes"]},
        "annotations": HINTS,
    },
]


def answer(method: str, params: dict[str, Any]) -> dict[str, Any] | None:
    """The result of a request; None for a method that is not known."""
    match method:
        case "initialize":
            return {
                "protocolVersion": params.get("protocolVersion", "2025-06-18"),
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "noop", "version": "1"},
            }
        case "tools/list":
            return {"tools": TOOLS}
        case "tools/call":
            size = int(params.get("arguments", {}).get("bytes", 0))
            return {"content": [{"type": "text", "text": "x" * size or "ok"}], "isError": False}
        case "ping":
            return {}
        case _:
            return None


def main() -> None:
    """Answer line by line until the input ends."""
    stdin, stdout = sys.stdin.buffer, sys.stdout.buffer
    for line in stdin:
        request = msgspec.json.decode(line, type=dict[str, Any])
        if "id" not in request:
            continue
        result = answer(str(request.get("method")), request.get("params") or {})
        reply: dict[str, Any] = {"jsonrpc": "2.0", "id": request["id"]}
        reply |= {"result": result} if result is not None else {"error": {"code": NOT_FOUND, "message": "not found"}}
        stdout.write(msgspec.json.encode(reply) + b"\n")
        stdout.flush()


if __name__ == "__main__":
    main()
