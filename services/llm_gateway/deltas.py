"""A model's text while it comes, for whoever watches: a few messages a second, however many pieces there are."""

from __future__ import annotations

import asyncio
import logging
from types import TracebackType
from typing import Self

from schemas.live import TextDelta
from schemas.wire import encode
from services.runtime.errors import RetryLater
from services.runtime.ports import Clock, Signals
from services.runtime.tasks import spawn

logger = logging.getLogger(__name__)

INTERVAL_S = 0.05
"""At most one message in this time: 20 a second for a task."""


class Deltas:
    """Publishes the pieces of one attempt, in order; all of them by the time the block ends without an error."""

    def __init__(self, signals: Signals, clock: Clock, subject: str, *, turn: int, attempt: int) -> None:
        self._signals = signals
        self._clock = clock
        self._subject = subject
        self._turn = turn
        self._attempt = attempt
        self._pending: list[str] = []
        self._offset = 0
        self._publishing = asyncio.Lock()
        self._pacer: asyncio.Task[None] | None = None

    def add(self, text: str) -> None:
        """A piece has come."""
        self._pending.append(text)
        if self._pacer is None or self._pacer.done():
            self._pacer = spawn(self._pace(), name=f"deltas:{self._subject}")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        async with self._publishing:
            if self._pacer is not None:
                self._pacer.cancel()
            if error is None:
                await self._publish()

    async def _pace(self) -> None:
        while self._pending:
            async with self._publishing:
                await self._publish()
            await self._clock.sleep(INTERVAL_S)

    async def _publish(self) -> None:
        if not self._pending:
            return
        text = "".join(self._pending)
        self._pending.clear()
        delta = TextDelta(turn=self._turn, attempt=self._attempt, offset=self._offset, text=text)
        self._offset += len(text)
        try:
            await self._signals.publish(self._subject, encode(delta))
        except RetryLater:
            logger.debug("a delta of %s was lost", self._subject, extra={"action": "model.delta"})
