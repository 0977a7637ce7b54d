"""The `Queue` and `Delivery` ports of one process, on a durable consumer that all processes share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from services.runtime.memory.consumers import DurableConsumer
from services.runtime.ports import Delivery, Entry

if TYPE_CHECKING:
    from services.runtime.memory.bus import Pause

IDLE_S = 5.0
"""How long `take` waits for messages before it returns none."""


class MemoryDelivery:
    """A message in this process's hands."""

    def __init__(self, consumer: DurableConsumer, entry: Entry, delivered: int, pause: Pause) -> None:
        self._consumer = consumer
        self._pause = pause
        self.subject: str = entry.subject
        self.data: bytes = entry.data
        self.headers: Mapping[str, str] = entry.headers
        self.seq: int = entry.seq
        self.delivered: int = delivered
        self.at: datetime = entry.at

    async def ack(self) -> None:
        """Done with it."""
        await self._pause("delivery.ack", self.subject)
        self._consumer.ack(self.seq)

    async def nak(self, delay_s: float) -> None:
        """Hand it back; it comes again after `delay_s`."""
        await self._pause("delivery.nak", self.subject)
        self._consumer.nak(self.seq, delay_s)

    async def term(self, reason: str) -> None:  # noqa: ARG002 - nobody reads the reason here
        """Never deliver it again."""
        await self._pause("delivery.term", self.subject)
        self._consumer.ack(self.seq)

    async def working(self) -> None:
        """Still at it."""
        await self._pause("delivery.working", self.subject)
        self._consumer.working(self.seq)


class MemoryQueue:
    """One process's end of a durable consumer. It buffers nothing."""

    def __init__(self, consumer: DurableConsumer, pause: Pause) -> None:
        self._consumer = consumer
        self._pause = pause
        self._closed = False
        self.name: str = consumer.name
        self.stream: str = consumer.stream.name
        self.ack_wait_s: float = consumer.ack_wait_s

    async def take(self, free: int) -> Sequence[Delivery]:
        """Wait for messages; at most `free`. None when the queue is closed, and now and then."""
        await self._pause("queue.take", self.name)
        if not self._closed and not self._consumer.ready:
            await self._consumer.wait(IDLE_S)
        if self._closed:
            return ()
        return [
            MemoryDelivery(self._consumer, entry, delivered, self._pause)
            for entry, delivered in self._consumer.pull(free)
        ]

    async def close(self) -> None:
        """Stop taking."""
        self._closed = True
        self._consumer.wake_all()
