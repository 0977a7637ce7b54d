"""Messages that are not stored, and storing in whatever stream captures a subject."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from schemas.subjects import MSG_ID
from services.runtime.errors import Unavailable, Unheard
from services.runtime.nats.connection import Away, Connection, NoResponders
from services.runtime.nats.payloads import Payloads
from services.runtime.nats.publish import store
from services.runtime.nats.wire import Raw, decode_headers, own_headers
from services.runtime.ports import Signal, SignalHandler, Unsubscribe
from services.runtime.tasks import Tasks

logger = logging.getLogger(__name__)

BACKLOG_MAX = 10_000
"""Signals that wait for one handler; more are dropped, and said."""
REQUEST_PAYLOAD_KEPT_S = 30 * 86_400
"""How long the payload of a large request is kept: nobody purges it when the request is done."""
EMPTY: Mapping[str, str] = {}


class NatsSignals:
    """Core NATS."""

    def __init__(self, connection: Connection, payloads: Payloads) -> None:
        self._connection = connection
        self._payloads = payloads
        self._tasks = Tasks()

    async def publish(self, subject: str, data: bytes, headers: Mapping[str, str] = EMPTY) -> None:
        """Say it to whoever listens now."""
        await self._connection.send(subject, data, headers)

    async def subscribe(self, subject: str, handler: SignalHandler, *, queue: str = "") -> Unsubscribe:
        """Listen; one message after another, in their order."""
        backlog: asyncio.Queue[Raw] = asyncio.Queue(BACKLOG_MAX)

        def receive(raw: Raw) -> None:
            if backlog.full():
                logger.warning("dropping a signal on %s", subject, extra={"action": "nats.signal_dropped"})
            else:
                backlog.put_nowait(raw)

        subscription = await self._connection.listen(subject, receive, queue=queue)
        await self._connection.flush()
        task = self._tasks.spawn(_handle(backlog, handler), name=f"signals:{subject}")

        async def unsubscribe() -> None:
            await subscription.close()
            task.cancel()

        return unsubscribe

    async def request(
        self, subject: str, data: bytes, headers: Mapping[str, str] = EMPTY, *, timeout_s: float = 5.0
    ) -> Signal:
        """Ask and wait for one answer."""
        try:
            return _signal(await self._connection.request(subject, data, headers, timeout_s=timeout_s))
        except Away:
            raise
        except NoResponders as nobody:
            if not self._connection.is_settled:
                raise Unavailable(f"nobody listens to {subject} yet") from nobody
            raise Unheard(str(nobody)) from nobody

    async def store(self, subject: str, data: bytes, headers: Mapping[str, str] = EMPTY) -> int:
        """Store a message in whatever stream captures the subject; its sequence."""
        message = await self._payloads.outgoing(subject, data, headers, kept_s=REQUEST_PAYLOAD_KEPT_S)
        return await store(self._connection, message, repeatable=MSG_ID in headers)

    async def close(self) -> None:
        """End all handlers."""
        await self._tasks.close()


async def _handle(backlog: asyncio.Queue[Raw], handler: SignalHandler) -> None:
    while True:
        raw = await backlog.get()
        try:
            await handler(_signal(raw))
        except Exception:  # one bad signal must not silence the rest; there is nobody to hand it back to
            logger.exception("handling a signal on %s failed", raw.subject, extra={"action": "nats.signal"})


def _signal(raw: Raw) -> Signal:
    return Signal(raw.subject, raw.data, own_headers(decode_headers(raw.headers)), raw.reply)
