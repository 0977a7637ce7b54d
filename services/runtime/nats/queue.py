"""A durable consumer as a `Queue`: a continuous pull that never holds more than there is room for."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import datetime

from schemas.subjects import PAYLOAD_REF, SEALED
from schemas.wire import Malformed
from services.runtime.errors import KeyMissing, Unavailable
from services.runtime.nats import topology
from services.runtime.nats.connection import Connection
from services.runtime.nats.payloads import PayloadLost, Payloads
from services.runtime.nats.pull import SILENCE_S, Pull
from services.runtime.nats.topology import ConsumerPlan, Incompatible
from services.runtime.nats.wire import Raw, decode_headers, own_headers, time_of_ns
from services.runtime.ports import Delivery
from services.runtime.tasks import Tasks

logger = logging.getLogger(__name__)

LOOK_AROUND_S = 1.0
"""How long `take` waits before it returns nothing."""
PAUSE_MIN_S = 0.05
PAUSE_MAX_S = 1.0
PAUSE_FORGOTTEN_S = 10.0
"""After this time without trouble, the next one is met without a pause."""
REPAIR_BUDGET_S = 2.0
PAYLOAD_RETRY_S = 1.0
KEY_LOOK_S = 1.0
KEY_PATIENCE_S = 600.0
KEY_AGAIN_S = 60.0
"""How often a missing key is looked for, for how long a message is kept in hand for it, and then handed back."""
WAITING_MAX = 256
"""Messages of one consumer that are kept in hand for their keys."""
NANOSECONDS = 1_000_000_000


class NatsDelivery:
    """A message in hand. Answers to the server never raise: if one is lost, the message comes again."""

    __slots__ = ("_connection", "_reply", "at", "data", "delivered", "headers", "reference", "sealed", "seq", "subject")

    def __init__(self, connection: Connection, raw: Raw) -> None:
        self._connection = connection
        self._reply = raw.reply
        self.subject = raw.subject
        self.data = raw.data
        headers = decode_headers(raw.headers)
        self.reference: str | None = headers.get(PAYLOAD_REF)
        self.sealed: str | None = headers.get(SEALED)
        self.headers: Mapping[str, str] = own_headers(headers)
        tokens = raw.reply.split(".")
        first = 4 if len(tokens) == 9 else 6  # the second form has the domain and the account before the stream
        self.delivered = int(tokens[first])
        self.seq = int(tokens[first + 1])
        self.at: datetime = time_of_ns(int(tokens[first + 3]))

    async def ack(self) -> None:
        """Done with it."""
        await self._answer(b"+ACK")

    async def nak(self, delay_s: float) -> None:
        """Hand it back; it comes again after `delay_s`."""
        await self._answer(b'-NAK {"delay": %d}' % int(delay_s * NANOSECONDS) if delay_s > 0 else b"-NAK")

    async def term(self, reason: str) -> None:
        """Never deliver it again."""
        await self._answer(b"+TERM " + reason.encode())

    async def working(self) -> None:
        """Still at it: the acknowledgement wait starts again."""
        await self._answer(b"+WPI")

    async def _answer(self, what: bytes) -> None:
        try:
            await self._connection.send(self._reply, what)
        except Unavailable as failure:
            logger.info("could not answer %s: %s", self.subject, failure, extra={"action": "nats.answer"})


class NatsQueue:
    """A durable pull consumer."""

    def __init__(
        self, connection: Connection, plan: ConsumerPlan, payloads: Payloads, *, ack_wait_s: float, repairs: bool = True
    ) -> None:
        """`repairs`: make the consumer again if somebody has removed it."""
        self.name = plan.name
        self.stream = plan.stream
        self.ack_wait_s = ack_wait_s
        self._connection = connection
        self._plan = plan
        self._payloads = payloads
        self._buffer: deque[NatsDelivery] = deque()
        self._pull = Pull(connection, plan.stream, plan.name, self._received)
        self._repairs = repairs
        self._waiting = Tasks()
        self._pause_s = 0.0
        self._recovered_at = 0.0
        self._closed = False

    async def take(self, free: int) -> Sequence[Delivery]:
        """Wait for messages; at most `free`."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + LOOK_AROUND_S
        while not self._buffer:
            if self._closed or (remaining := deadline - loop.time()) <= 0:
                return ()
            if self._pull.lost or self._pull.asked > free:
                await self._recover(self._pull.lost)
            await self._pull.ask(free)
            await self._pull.wait(min(remaining, SILENCE_S))
        self._pause_s = 0.0
        taken = [self._buffer.popleft() for _ in range(min(free, len(self._buffer)))]
        if any(delivery.reference or delivery.sealed for delivery in taken):
            return await self._with_payloads(taken)
        return taken

    async def close(self) -> None:
        """Stop taking; what was buffered goes back to the stream."""
        self._closed = True
        await self._waiting.close()
        await self._pull.close()
        while self._buffer:
            await self._buffer.popleft().nak(0)

    def _received(self, raw: Raw) -> None:
        self._buffer.append(NatsDelivery(self._connection, raw))

    async def _recover(self, why: str) -> None:
        """Ask anew, after a pause that grows; the consumer is made again if it is gone."""
        now = asyncio.get_running_loop().time()
        if now - self._recovered_at > PAUSE_FORGOTTEN_S:
            self._pause_s = 0.0
        self._recovered_at = now
        if self._pause_s:
            await asyncio.sleep(self._pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
        self._pause_s = min(max(self._pause_s * 2, PAUSE_MIN_S), PAUSE_MAX_S)
        if not self._connection.is_connected or self._closed:
            return
        try:
            if self._repairs and (why.startswith("503") or "Deleted" in why):
                await topology.ensure_consumer(self._connection, self._plan, budget_s=REPAIR_BUDGET_S)
            await self._pull.renew()
        except (Unavailable, Incompatible) as failure:
            logger.warning(
                "cannot take from %s of %s: %s", self.name, self.stream, failure, extra={"action": "nats.pull"}
            )
            return
        if why:
            logger.debug("taking from %s of %s again: %s", self.name, self.stream, why)

    async def _with_payloads(self, taken: Sequence[NatsDelivery]) -> list[NatsDelivery]:
        ready = await asyncio.gather(*map(self._with_payload, taken))
        return [delivery for delivery, complete in zip(taken, ready, strict=True) if complete]

    async def _with_payload(self, delivery: NatsDelivery) -> bool:
        """Fetch what the message stands for, and open it. False: it goes back.

        What is gone, or was changed, ends as a dead letter: nobody can make sense of it.
        """
        try:
            if delivery.reference is not None:
                delivery.data = await self._payloads.fetch(
                    delivery.subject, delivery.reference, working=delivery.working
                )
            if delivery.sealed is not None:
                delivery.data = self._payloads.opened(delivery.subject, delivery.data, {SEALED: delivery.sealed})
        except PayloadLost as lost:
            logger.error("%s", lost, extra={"action": "nats.payload_lost"})  # noqa: TRY400 - the text says it all
            delivery.headers = {**delivery.headers, PAYLOAD_REF: delivery.reference or ""}
        except Malformed as changed:
            logger.error("%s", changed, extra={"action": "nats.payload_changed"})  # noqa: TRY400 - the text says it all
        except KeyMissing as missing:
            logger.warning("%s waits: %s", delivery.subject, missing, extra={"action": "nats.key"})
            if len(self._waiting) < WAITING_MAX:
                self._waiting.spawn(self._until_opened(delivery), name=f"key:{delivery.subject}")
            else:
                await delivery.nak(KEY_AGAIN_S)
            return False
        except Unavailable as failure:
            logger.warning("%s goes back: %s", delivery.subject, failure, extra={"action": "nats.payload"})
            await delivery.nak(PAYLOAD_RETRY_S)
            return False
        return True

    async def _until_opened(self, delivery: NatsDelivery) -> None:
        """Keep a message in hand until somebody brings its key: handing it back would use its deliveries up."""
        loop = asyncio.get_running_loop()
        give_up = loop.time() + KEY_PATIENCE_S
        while loop.time() < give_up:
            await asyncio.sleep(min(KEY_LOOK_S, self.ack_wait_s / 3))
            await delivery.working()
            with contextlib.suppress(KeyMissing, Malformed):
                self._payloads.opened(delivery.subject, delivery.data, {SEALED: delivery.sealed or ""})
                self._buffer.append(delivery)
                self._pull.wake()
                return
        await delivery.nak(KEY_AGAIN_S)
