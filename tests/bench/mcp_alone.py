"""What a call of the tool costs by itself: the executor's own client and the server's process, without the bus."""

from __future__ import annotations

import asyncio
import time
from typing import NamedTuple

from services.runtime.secrets import Secrets
from services.tool_executor.mcp.connection import Connection
from services.tool_executor.mcp.launch import launch_of
from tests.bench.resources import TOOLS

TIMEOUT_S = 30.0


class Alone(NamedTuple):
    """Calls and nothing else."""

    call_ms: list[float]
    calls_per_s: float


async def mcp_alone(*, calls: int, at_once: int) -> Alone:
    """Call the tool one after another, and then several at once."""
    connection = Connection("bench", launch_of(TOOLS.spec, Secrets("", {})), lambda: None)
    try:
        if not await connection.ready(TIMEOUT_S):
            raise RuntimeError(f"the tools did not start: {connection.detail}")
        await _call(connection)
        took = [await _call(connection) for _ in range(calls)]
        started = time.perf_counter()
        await asyncio.gather(*(_several(connection, calls // at_once) for _ in range(at_once)))
        return Alone(took, (calls // at_once) * at_once / (time.perf_counter() - started))
    finally:
        await connection.close()


async def _several(connection: Connection, calls: int) -> None:
    for _ in range(calls):
        await _call(connection)


async def _call(connection: Connection) -> float:
    started = time.perf_counter()
    reply = await connection.call("noop", {}, timeout_s=TIMEOUT_S, meta={})
    if reply.is_error:
        raise RuntimeError(f"the tool failed: {reply}")
    return (time.perf_counter() - started) * 1e3
