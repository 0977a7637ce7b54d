"""The memory bus: one process's connection to a server in memory.

    bus = MemoryBus()                      a bus of its own, on the event loop's time
    clock = ManualClock()                  ... on a clock that only `clock.advance(seconds)` moves
    bus = MemoryBus(MemoryServer(clock=clock, partitions=2), commit="two-step")
    other = MemoryBus(bus.server)          another process on the same streams and consumers

`pause` is awaited wherever a real bus would make the caller wait: with the name of the call before it takes effect,
with `<call>:ensure` between the two steps of a commit, and with `<call>:after` when it has taken effect and the caller
does not know yet. It may wait, raise `Unavailable`, or never return; by default it lets the others run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from schemas import subjects
from services.runtime.memory.log import CommitForm, MemoryLog, MemoryTimers
from services.runtime.memory.queue import MemoryQueue
from services.runtime.memory.server import MemoryServer
from services.runtime.memory.signals import MemorySignals
from services.runtime.memory.store import MemoryStore
from services.runtime.ports import Clock, Log, Queue, Signals, Store, Survey, Timers

Pause = Callable[[str, str], Awaitable[None]]
"""Called with the name of a call and with its subject, key or consumer."""


async def let_others_run(call: str, subject: str) -> None:  # noqa: ARG001 - the default pause is the same everywhere
    """The default pause."""
    await asyncio.sleep(0)


class MemoryBus:
    """All ports of one process. It implements `services.runtime.ports.Bus`."""

    def __init__(
        self, server: MemoryServer | None = None, *, commit: CommitForm = "batch", pause: Pause = let_others_run
    ) -> None:
        self.server = server or MemoryServer()
        self.partitions: int = self.server.partitions
        self.clock: Clock = self.server.clock
        self.timers: Timers = MemoryTimers(self.server, pause)
        self.resources: Store = MemoryStore(self.server.resources, subjects.RESOURCES_BUCKET, pause)
        self.flow: Store = MemoryStore(self.server.flow, subjects.FLOW_BUCKET, pause)
        self.requests: Log = MemoryLog(self.server.requests, pause, commit)
        self.dead_letters: Log = MemoryLog(self.server.dead_letters, pause, commit)
        self._signals = MemorySignals(self.server, pause)
        self.signals: Signals = self._signals
        self._logs = tuple(MemoryLog(stream, pause, commit) for stream in self.server.tasks)
        self._pause = pause
        self._queues: list[MemoryQueue] = []

    def log(self, partition: int) -> Log:
        """The stream of a partition."""
        return self._logs[partition]

    async def queue(self, consumer: str, partition: int | None = None) -> Queue:
        """A durable consumer by its name in `schemas.subjects`."""
        await self._pause("bus.queue", consumer)
        queue = MemoryQueue(self.server.consumer(consumer, partition), self._pause)
        self._queues.append(queue)
        return queue

    async def survey(self) -> Survey:
        """All streams and durable consumers as they are."""
        await self._pause("bus.survey", "")
        return self.server.survey()

    def cut(self) -> None:
        """The server notices that this process is gone, as when it was killed: nobody listens here any more."""
        self._signals.cut()

    async def close(self) -> None:
        """End this connection. What it had in hand comes again to others when its acknowledgement wait is over."""
        for queue in self._queues:
            await queue.close()
        await self._signals.close()
