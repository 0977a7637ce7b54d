"""A continuous pull from a consumer, supervised by idle heartbeats: what the client lacks.

The server is asked for as many messages as there is room for, and says every second that it still knows of the
request. When it falls silent, hands the consumer to another leader, or comes back after a restart, the owner renews
the request on a new inbox. A message that was on its way to the old one comes again after the acknowledgement wait.
"""

from __future__ import annotations

import asyncio
import contextlib

import msgspec

from services.runtime.errors import Unavailable
from services.runtime.nats.client import RawSubscription
from services.runtime.nats.connection import Connection
from services.runtime.nats.wire import JS_PULL_PENDING, Raw, Receiver, decode_headers, description_of

EXPIRES_S = 30.0
HEARTBEAT_S = 1.0
SILENCE_S = 2 * HEARTBEAT_S + 0.25
"""Silence after which a request is taken for lost."""
NANOSECONDS = 1_000_000_000

HEARTBEAT = 100
ENDED = frozenset({404, 408})
"""The request came to its end: nothing there, or its time is up."""


class _Request(msgspec.Struct):
    batch: int
    expires: int = int(EXPIRES_S * NANOSECONDS)
    idle_heartbeat: int = int(HEARTBEAT_S * NANOSECONDS)


class Pull:
    """Requests to one consumer. `receiver` gets every message, from the read loop."""

    def __init__(self, connection: Connection, stream: str, consumer: str, receiver: Receiver) -> None:
        self._connection = connection
        self._subject = f"{connection.api_prefix}.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._receiver = receiver
        self._inbox: RawSubscription | None = None
        self._loop = asyncio.get_running_loop()
        self._heard_at = 0.0
        self._lost = "no request was made yet"
        self._changed = asyncio.Event()
        self._forget = connection.on_reconnect(self._reconnected)
        self.asked = 0
        """Messages that the server still owes."""

    @property
    def lost(self) -> str:
        """Why the server may have forgotten the request; empty while it has not."""
        if not self._lost and self.asked and self._loop.time() - self._heard_at > SILENCE_S:
            self._lost = "the server is silent"
        return self._lost

    async def renew(self) -> None:
        """Forget what was asked, and listen on a new inbox; raises `Unavailable`."""
        await self._drop_inbox()
        self._inbox = await self._connection.listen(self._connection.new_inbox(), self._received)
        self.asked = 0
        self._lost = ""

    async def ask(self, room: int) -> None:
        """Have the server owe about `room` messages; never more. Nothing happens while it is away."""
        more = room - self.asked
        if self._inbox is None or not self._connection.is_connected or more < max(1, room // 2):
            return
        if self.asked == 0:
            self._heard_at = self._loop.time()
        self.asked += more
        try:
            await self._connection.send(self._subject, msgspec.json.encode(_Request(more)), reply=self._inbox.subject)
        except Unavailable as failure:
            self._lost = str(failure)

    async def wait(self, timeout_s: float) -> None:
        """Wait until there is something to look at: a message, a status, a reconnection."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        self._changed.clear()

    def wake(self) -> None:
        """End the wait."""
        self._changed.set()

    async def close(self) -> None:
        """Ask for nothing more."""
        self._forget()
        await self._drop_inbox()
        self.asked = 0
        self.wake()

    async def _drop_inbox(self) -> None:
        if self._inbox is not None:
            inbox, self._inbox = self._inbox, None
            await inbox.close()

    def _received(self, raw: Raw) -> None:
        self._heard_at = self._loop.time()
        status = raw.status
        if not status:
            self.asked = max(0, self.asked - 1)
            self._receiver(raw)
        elif status == HEARTBEAT:
            return
        else:
            self._ended(status, raw)
        self._changed.set()

    def _ended(self, status: int, raw: Raw) -> None:
        assert raw.headers is not None
        pending = decode_headers(raw.headers).get(JS_PULL_PENDING, "")
        if status in ENDED and pending.isdecimal():
            self.asked = max(0, self.asked - int(pending))
        else:
            self._lost = f"{status} {description_of(raw.headers)}".strip()

    def _reconnected(self) -> None:
        self._lost = "the connection was lost"
        self._changed.set()
