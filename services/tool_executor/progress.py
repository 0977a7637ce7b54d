"""Passes on how far a call is to whoever watches its task; not every word of it."""

from __future__ import annotations

import asyncio
import logging

from schemas.commands import RunTool
from schemas.live import ToolProgress
from schemas.subjects import TaskSubjects
from schemas.wire import encode
from services.runtime.errors import Unavailable
from services.runtime.ports import Signals

logger = logging.getLogger(__name__)

INTERVAL_S = 0.1
"""Shortest time between two reports of one call; what comes sooner is dropped, but not the last step."""
MESSAGE_LENGTH_MAX = 500


class ProgressReport:
    """Hears the progress of one call."""

    def __init__(self, signals: Signals, subjects: TaskSubjects, command: RunTool) -> None:
        self._signals = signals
        self._subject = subjects.live
        self._command = command
        self._next = 0.0

    async def __call__(self, progress: float, total: float | None, message: str | None) -> None:
        """Tell it to whoever listens now."""
        now = asyncio.get_running_loop().time()
        if now < self._next and progress != total:
            return
        self._next = now + INTERVAL_S
        report = ToolProgress(
            request=self._command.request,
            n=self._command.n,
            tool=self._command.tool,
            progress=progress,
            total=total,
            message=(message or "")[:MESSAGE_LENGTH_MAX],
        )
        try:
            await self._signals.publish(self._subject, encode(report))
        except Unavailable as error:
            logger.debug("progress was not published: %s", error)
