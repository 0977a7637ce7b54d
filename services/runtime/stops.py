"""Which tasks were said to have ended a moment ago: a stop signal may come before what it is to stop has begun."""

from __future__ import annotations

import asyncio


class Stops:
    """Tasks that were stopped in the last `kept_s` seconds, by namespace and name."""

    def __init__(self, kept_s: float) -> None:
        self._kept_s = kept_s
        self._at: dict[tuple[str, str], float] = {}
        """On the event loop's clock, the oldest first."""

    def remember(self, namespace: str, task: str) -> None:
        """A task was stopped now."""
        now = asyncio.get_running_loop().time()
        self._at.pop((namespace, task), None)
        self._at[namespace, task] = now
        while self._at and now - next(iter(self._at.values())) > self._kept_s:
            del self._at[next(iter(self._at))]

    def at(self, namespace: str, task: str) -> float | None:
        """When a task was stopped, on the event loop's clock; None if that is not known."""
        return self._at.get((namespace, task))
