"""An MCP server by the SDK that asks people; over stdio, or as the kitchen over HTTP. Notes it in `$RECORD`."""

from __future__ import annotations

from typing import Annotated, Any

from mcp.server.elicitation import ElicitationResult
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.resolve import Elicit, Resolve
from pydantic import BaseModel, Field

from tests.support.mcp_servers.kitchen import IDEMPOTENT, note, serve, server


class Trip(BaseModel):
    """What is wanted."""

    city: str = Field(min_length=1)
    nights: int = Field(default=1, le=30)


def _trip(where: str) -> Elicit[Trip]:
    return Elicit(f"Where to from {where}?", Trip)


@server.tool(annotations=IDEMPOTENT)
async def book(trip: Annotated[ElicitationResult[Trip], Resolve(_trip)], where: str = "here") -> str:
    """Ask for the rest, whichever protocol is spoken."""
    said = trip.model_dump_json(exclude_defaults=False)
    note(f"{where}: {said}")
    return said


@server.tool()
async def visit(ctx: Context[Any, Any]) -> str:
    """Send somebody to a page."""
    result = await ctx.elicit_url("Please sign the form.", "https://example.org/form", "e1")
    return result.action


if __name__ == "__main__":
    serve()
