"""What this process is at: never the same thing twice at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager


class InHand:
    """The things in hand, by a subject that stands for each."""

    def __init__(self) -> None:
        self._done: dict[str, asyncio.Event] = {}

    def __contains__(self, subject: str) -> bool:
        return subject in self._done

    @asynccontextmanager
    async def alone(self, subject: str) -> AsyncGenerator[bool]:
        """Wait until nobody in this process is at it any more; True if somebody was.

        The message of something that takes long may be delivered again, to the same process too.
        """
        waited = False
        while (other := self._done.get(subject)) is not None:
            waited = True
            await other.wait()
        done = self._done[subject] = asyncio.Event()
        try:
            yield waited
        finally:
            del self._done[subject]
            done.set()
