"""A time limit on the bus's clock, so that a test or a simulation that owns the clock owns the limit too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from services.runtime.tasks import spawn

if TYPE_CHECKING:
    from services.runtime.ports import Clock


@asynccontextmanager
async def time_limit(clock: Clock, limit_s: float) -> AsyncGenerator[None]:
    """Raises `TimeoutError` in the block when it takes longer; a cancellation by others stays one."""
    task = asyncio.current_task()
    assert task is not None
    rung = False

    async def ring() -> None:
        nonlocal rung
        await clock.sleep(limit_s)
        rung = True
        task.cancel()

    alarm = spawn(ring(), name="time-limit")
    try:
        yield
    except asyncio.CancelledError:
        if rung and task.uncancel() == 0:
            raise TimeoutError from None
        raise
    finally:
        alarm.cancel()
