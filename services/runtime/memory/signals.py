"""Ephemeral messages: whoever listens at the moment gets them, each listener in their order."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from services.runtime.errors import Unavailable, Unheard
from services.runtime.memory.stream import matches
from services.runtime.ports import Outgoing, Signal, SignalHandler, Unsubscribe
from services.runtime.tasks import Tasks, spawn

if TYPE_CHECKING:
    from services.runtime.memory.bus import Pause
    from services.runtime.memory.server import MemoryServer


class Listener:
    """One subscription: what it hears, and where that goes."""

    def __init__(self, subject: str, hear: Callable[[Signal], None], *, group: str = "") -> None:
        self.subject = subject
        self.hear = hear
        self.group = group


class Listeners:
    """Who listens to what."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []
        self._inboxes = itertools.count(1)
        self._turns = itertools.count()

    def add(self, listener: Listener) -> Callable[[], None]:
        """Let it listen, until what is returned is called."""
        self._listeners.append(listener)

        def remove() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return remove

    def tell(self, signal: Signal) -> int:
        """Give a signal to all who listen now, of each group to one; how many that were."""
        groups: dict[str, list[Listener]] = {}
        chosen: list[Listener] = []
        for listener in self._listeners:
            if matches(listener.subject, signal.subject):
                (groups.setdefault(listener.group, []) if listener.group else chosen).append(listener)
        chosen += [members[next(self._turns) % len(members)] for members in groups.values()]
        for listener in chosen:
            listener.hear(signal)
        return len(chosen)

    def new_inbox(self) -> str:
        """A subject that nobody else uses."""
        return f"_INBOX.{next(self._inboxes)}"


class MemorySignals:
    """The `Signals` port of one process."""

    def __init__(self, server: MemoryServer, pause: Pause) -> None:
        self._server = server
        self._pause = pause
        self._tasks = Tasks()
        self._removals: list[Callable[[], None]] = []

    async def publish(self, subject: str, data: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Say it to whoever listens now; a stream that captures the subject stores it, too."""
        await self._pause("signals.publish", subject)
        self._publish(Signal(subject, data, dict(headers or {})))

    async def subscribe(self, subject: str, handler: SignalHandler, *, queue: str = "") -> Unsubscribe:
        """Listen."""
        await self._pause("signals.subscribe", subject)
        heard: asyncio.Queue[Signal] = asyncio.Queue()
        remove = self._server.listeners.add(Listener(subject, heard.put_nowait, group=queue))
        self._removals.append(remove)
        task = self._tasks.spawn(_serve(heard, handler), name=f"signals:{subject}")

        async def unsubscribe() -> None:
            remove()
            task.cancel()
            await asyncio.wait({task})

        return unsubscribe

    async def request(
        self, subject: str, data: bytes, headers: Mapping[str, str] | None = None, *, timeout_s: float = 5.0
    ) -> Signal:
        """Ask and wait for one answer."""
        await self._pause("signals.request", subject)
        answer: asyncio.Future[Signal] = asyncio.get_running_loop().create_future()

        def hear(signal: Signal) -> None:
            if not answer.done():
                answer.set_result(signal)

        def give_up() -> None:
            if not answer.done():
                answer.set_exception(Unavailable(f"nobody answered on {subject} within {timeout_s} s"))

        inbox = Listener(self._server.listeners.new_inbox(), hear)
        remove = self._server.listeners.add(inbox)
        alarm = self._server.clock.call_later(timeout_s, give_up)
        try:
            if not self._publish(Signal(subject, data, dict(headers or {}), inbox.subject)):
                raise Unheard(f"nobody listens to {subject}")
            return await answer
        finally:
            alarm.cancel()
            remove()

    async def store(self, subject: str, data: bytes, headers: Mapping[str, str] | None = None) -> int:
        """Store a message in the stream that captures its subject."""
        await self._pause("signals.store", subject)
        stream = self._server.capturing(subject)
        if stream is None:
            raise Unavailable(f"no stream captures {subject}")
        seq = stream.append_once(Outgoing(subject, data, dict(headers or {})))
        await self._pause("signals.store:after", subject)
        return seq

    def cut(self) -> None:
        """Let the server forget who listened."""
        for remove in self._removals:
            remove()

    async def close(self) -> None:
        """Listen no more."""
        self.cut()
        await self._tasks.close()

    def _publish(self, signal: Signal) -> int:
        stream = self._server.capturing(signal.subject)
        if stream is None:
            return self._server.listeners.tell(signal)
        return stream.append_once(Outgoing(signal.subject, signal.data, signal.headers))


async def _serve(heard: asyncio.Queue[Signal], handler: SignalHandler) -> None:
    while True:
        signal = await heard.get()
        handling = spawn(_handle(handler, signal), name=f"signal:{signal.subject}")
        try:
            await asyncio.wait({handling})
        finally:
            handling.cancel()


async def _handle(handler: SignalHandler, signal: Signal) -> None:
    await handler(signal)
