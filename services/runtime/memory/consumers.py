"""Durable consumers: what of a stream was delivered to whom, and what comes again.

They behave as the server's do, its sharp edges included: an acknowledgement names a message and not a delivery, so a
late one from a replica that was given up still counts, and so does a late `nak`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from services.runtime.memory.clock import Alarm, AlarmClock
from services.runtime.memory.stream import Stream, matches
from services.runtime.ports import ConsumerState, Entry


class DurableConsumer:
    """One durable consumer, shared by every queue that is opened on it."""

    def __init__(
        self, name: str, stream: Stream, filters: Sequence[str], clock: AlarmClock, *, ack_wait_s: float
    ) -> None:
        self.name = name
        self.stream = stream
        self.ack_wait_s = ack_wait_s
        self._filters = tuple(filters)
        self._clock = clock
        self._fresh: deque[int] = deque()
        self._again: deque[int] = deque()
        self._held: dict[int, Alarm] = {}
        self._delivered: dict[int, int] = {}
        self._waiters: list[asyncio.Future[None]] = []
        for entry in stream.entries():
            self._stored(entry)
        stream.observe(self._stored)

    @property
    def ready(self) -> bool:
        """Whether there may be something to pull."""
        return bool(self._again or self._fresh)

    @property
    def held(self) -> Sequence[int]:
        """Sequences of the messages that are in somebody's hands, or wait until they are delivered again."""
        return tuple(self._held)

    @property
    def state(self) -> ConsumerState:
        """How far it is."""
        fresh = [entry for seq in self._fresh if (entry := self.stream.at(seq)) is not None]
        in_hand = {*self._again, *self._held}
        return ConsumerState(
            name=self.name,
            stream=self.stream.name,
            pending=len(fresh),
            oldest_pending=fresh[0].at if fresh else None,
            in_hand=len(in_hand),
            redelivering=sum(self._delivered.get(seq, 0) > 1 for seq in in_hand),
        )

    @property
    def unfinished(self) -> int:
        """Messages that are not yet acknowledged: to be delivered, in hand, or to come again."""
        return len({*self._fresh, *self._again, *self._held})

    def pull(self, count: int) -> list[tuple[Entry, int]]:
        """Up to `count` messages with their number of deliveries; what comes again first."""
        pulled: list[tuple[Entry, int]] = []
        while len(pulled) < count and (source := self._again or self._fresh):
            seq = source.popleft()
            entry = self.stream.at(seq)
            if entry is None:
                self._delivered.pop(seq, None)
                continue
            self._delivered[seq] = self._delivered.get(seq, 0) + 1
            self._hold(seq, self.ack_wait_s)
            pulled.append((entry, self._delivered[seq]))
        return pulled

    async def wait(self, limit_s: float) -> None:
        """Wait until there may be something to pull, or for `limit_s`."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        alarm = self._clock.call_later(limit_s, lambda: _wake(waiter))
        try:
            await waiter
        finally:
            alarm.cancel()
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def wake_all(self) -> None:
        """End every `wait`."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            _wake(waiter)

    def ack(self, seq: int) -> None:
        """Done with a message; an unknown one is left alone."""
        if (alarm := self._held.pop(seq, None)) is not None:
            alarm.cancel()
        if seq in self._again:
            self._again.remove(seq)
        self._delivered.pop(seq, None)
        if self.stream.work_queue:
            self.stream.remove(seq)

    def nak(self, seq: int, delay_s: float) -> None:
        """Deliver a message again after `delay_s`."""
        if seq not in self._held:
            return
        if delay_s > 0:
            self._hold(seq, delay_s)
        else:
            self.redeliver(seq)

    def working(self, seq: int) -> None:
        """Begin a message's acknowledgement wait again."""
        if seq in self._held:
            self._hold(seq, self.ack_wait_s)

    def redeliver(self, seq: int) -> None:
        """Deliver a message in hand again now, as if its acknowledgement wait were over."""
        if (alarm := self._held.pop(seq, None)) is None:
            return
        alarm.cancel()
        self._again.append(seq)
        self.wake_all()

    def _hold(self, seq: int, delay_s: float) -> None:
        if (alarm := self._held.pop(seq, None)) is not None:
            alarm.cancel()
        self._held[seq] = self._clock.call_later(delay_s, lambda: self.redeliver(seq))

    def _stored(self, entry: Entry) -> None:
        if any(matches(filter_, entry.subject) for filter_ in self._filters):
            self._fresh.append(entry.seq)
            self.wake_all()


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
