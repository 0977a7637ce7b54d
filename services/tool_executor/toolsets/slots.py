"""How many calls of one toolset run at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager


class Slots:
    """The calls of one toolset that run at once in this process."""

    def __init__(self, concurrency: int) -> None:
        self.concurrency = concurrency
        self.calls = 0
        self._semaphore = asyncio.Semaphore(concurrency)

    @asynccontextmanager
    async def one(self) -> AsyncGenerator[None]:
        """Wait for one."""
        self.calls += 1
        try:
            async with self._semaphore:
                yield
        finally:
            self.calls -= 1
