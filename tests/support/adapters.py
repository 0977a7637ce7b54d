"""The adapters of the bus as one thing to test: how to open it, and how to let time pass on it.

In memory the clock stands still until `arrives` or `passes` moves it; on a real server both wait for the real thing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Literal, Protocol, TypeVar

import nats

from schemas import subjects
from services.runtime.memory.bus import MemoryBus
from services.runtime.memory.clock import ManualClock
from services.runtime.memory.server import MemoryServer
from services.runtime.nats.bus import connect
from services.runtime.ports import Bus, Delivery, Outgoing, Queue
from services.runtime.settings import Settings

T = TypeVar("T")

CommitForm = Literal["batch", "two-step"]
STEP_S = 0.05
NATS_ACK_WAIT_S = 0.6
"""Short, because a test waits for it; long enough for a busy machine."""


class Adapter(Protocol):
    """One kind of bus, empty at the start of a test."""

    name: str

    async def open(self) -> Bus:
        """Connect another process."""
        ...

    async def arrives(self, awaitable: Awaitable[T], *, within_s: float = 20.0) -> T:
        """What `awaitable` gives, while time passes; fails after `within_s`."""
        ...

    async def close(self) -> None:
        """Close every bus."""
        ...


class MemoryAdapter:
    """The memory bus on a clock under control."""

    def __init__(self, form: CommitForm) -> None:
        self.name = f"memory-{form}"
        self._form: CommitForm = form
        self.clock = ManualClock()
        self.server = MemoryServer(clock=self.clock, partitions=2)
        self._buses: list[MemoryBus] = []

    async def open(self) -> Bus:
        bus = MemoryBus(self.server, commit=self._form)
        self._buses.append(bus)
        return bus

    async def arrives(self, awaitable: Awaitable[T], *, within_s: float = 20.0) -> T:
        task = asyncio.ensure_future(awaitable)  # noqa: TID251 - awaited right here
        passed_s = 0.0
        while not task.done() and passed_s < within_s:
            await self.clock.advance(STEP_S)
            passed_s += STEP_S
        if not task.done():
            task.cancel()
            raise AssertionError(f"nothing arrived within {within_s} s")
        return task.result()

    async def close(self) -> None:
        for bus in self._buses:
            await bus.close()


class NatsAdapter:
    """A real server."""

    def __init__(self, url: str, form: CommitForm) -> None:
        self.name = f"nats-{form}"
        self._settings = Settings(nats_url=url, commit=form, partitions=2, ack_wait_s=NATS_ACK_WAIT_S)
        self._stack = AsyncExitStack()
        self._opened = 0

    async def open(self) -> Bus:
        self._opened += 1
        bus = await connect(self._settings, service=f"test-{self._opened}", on_closed=_unexpected)
        self._stack.push_async_callback(bus.close)
        return bus

    async def arrives(self, awaitable: Awaitable[T], *, within_s: float = 20.0) -> T:
        return await asyncio.wait_for(awaitable, within_s)

    async def close(self) -> None:
        await self._stack.aclose()
        client = await nats.connect(self._settings.nats_url)  # pyright: ignore[reportUnknownMemberType]  # untyped there
        try:
            js = client.jetstream()  # pyright: ignore[reportUnknownMemberType]  # untyped there
            for info in await js.streams_info():
                await js.delete_stream(info.config.name or "")
        finally:
            await client.close()


def _unexpected() -> None:
    raise AssertionError("the connection was closed for good")


# --- what several suites do --------------------------------------------------------------


async def take(queue: Queue, count: int = 1) -> list[Delivery]:
    """The next `count` deliveries of a queue."""
    taken: list[Delivery] = []
    while len(taken) < count:
        taken += await queue.take(count - len(taken))
    return taken


async def keep(
    queue: Queue, on: Callable[[Delivery], Awaitable[None]], until: Callable[[Delivery], bool]
) -> list[Delivery]:
    """Take deliveries one by one and treat each, up to and including the one that `until` names; all of them."""
    taken: list[Delivery] = []
    while True:
        (delivery,) = await take(queue)
        taken.append(delivery)
        if until(delivery):
            return taken
        await on(delivery)


def tool_command(n: int, *, task: str = "t1") -> str:
    """The subject of a tool command in partition 0."""
    return subjects.TaskSubjects(0, "default", task).tool_command("r1", n)


def tool_event(n: int, *, task: str = "t1") -> str:
    """The subject of a tool result in partition 0."""
    return subjects.TaskSubjects(0, "default", task).tool_event("r1", n)


def message(subject: str, data: bytes = b"{}") -> Outgoing:
    """A message without headers."""
    return Outgoing(subject, data)
