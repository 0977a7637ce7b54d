"""Waiting on a condition, bounded."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

POLL_S = 0.01


async def until(condition: Callable[[], bool | Awaitable[bool]], what: str, *, within_s: float = 5.0) -> None:
    """Wait until the condition holds; fails with `what` was waited for."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within_s
    while True:
        holds = condition()
        if not isinstance(holds, bool):
            holds = await holds
        if holds:
            return
        assert loop.time() < deadline, f"waited {within_s} s in vain: {what}"
        await asyncio.sleep(POLL_S)


def wait_until(condition: Callable[[], bool], what: str, *, within_s: float = 5.0, every_s: float = POLL_S) -> None:
    """The same without an event loop."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {within_s} s in vain: {what}"
        time.sleep(every_s)
