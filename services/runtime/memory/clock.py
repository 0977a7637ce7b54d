"""Time for the memory bus: the event loop's, or a clock that stands still until a test moves it.

Both wake sleepers, fire timers and end acknowledgement waits; the bus knows no other time.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Protocol

SETTLE_ROUNDS = 100
"""Rounds of the event loop that what an alarm woke is given before the clock moves on."""


class Alarm(Protocol):
    """Something that will happen, unless it is cancelled."""

    def cancel(self) -> None:
        """It shall not happen."""
        ...


class AlarmClock(Protocol):
    """A `Clock` that can also call back."""

    def now(self) -> datetime:
        """The time, in UTC."""
        ...

    async def sleep(self, delay_s: float) -> None:
        """Wait."""
        ...

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Alarm:
        """Call `callback` after `delay_s`."""
        ...


class LoopClock:
    """The running event loop's time, counted from `start` (by default, from the time at which it was made)."""

    def __init__(self, start: datetime | None = None) -> None:
        self._start = start or datetime.now(UTC)
        self._zero: float | None = None

    def now(self) -> datetime:
        """The time, in UTC."""
        time = asyncio.get_running_loop().time()
        if self._zero is None:
            self._zero = time
        return self._start + timedelta(seconds=time - self._zero)

    async def sleep(self, delay_s: float) -> None:
        """Wait."""
        await asyncio.sleep(delay_s)

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Alarm:
        """Call `callback` after `delay_s`."""
        return asyncio.get_running_loop().call_later(delay_s, callback)


class ManualClock:
    """A clock that only `advance` moves."""

    def __init__(self, start: datetime = datetime(2030, 1, 1, tzinfo=UTC)) -> None:
        self._start = start
        self._elapsed_s = 0.0
        self._alarms: list[tuple[float, int, _ManualAlarm]] = []
        self._made = 0

    def now(self) -> datetime:
        """The time, in UTC."""
        return self._start + timedelta(seconds=self._elapsed_s)

    async def sleep(self, delay_s: float) -> None:
        """Wait until the clock was advanced by `delay_s`."""
        if delay_s <= 0:
            await asyncio.sleep(0)
            return
        woken = asyncio.Event()
        alarm = self.call_later(delay_s, woken.set)
        try:
            await woken.wait()
        finally:
            alarm.cancel()

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Alarm:
        """Call `callback` when the clock was advanced by `delay_s`."""
        alarm = _ManualAlarm(callback)
        self._made += 1
        heapq.heappush(self._alarms, (self._elapsed_s + max(delay_s, 0.0), self._made, alarm))
        return alarm

    async def advance(self, delay_s: float) -> None:
        """Let `delay_s` pass: alarms go off in their order, each at its own time, and what they wake runs."""
        end = self._elapsed_s + delay_s
        await _settle()
        while self._alarms and self._alarms[0][0] <= end:
            due, _, alarm = heapq.heappop(self._alarms)
            if alarm.callback is None:
                continue
            self._elapsed_s = max(self._elapsed_s, due)
            alarm.callback()
            await _settle()
        self._elapsed_s = end


class _ManualAlarm:
    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


async def _settle() -> None:
    for _ in range(SETTLE_ROUNDS):
        await asyncio.sleep(0)
