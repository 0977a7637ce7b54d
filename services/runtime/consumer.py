"""The consumer loop: the only code that acknowledges, hands back or dead-letters a message.

A handler returns (done), raises `RetryLater` (hand it back with a delay), `Refused` (a dead letter at once: nobody can
do it) or anything else (our bug: tried again with a growing delay, then a dead letter with all that went wrong). When
it raises `Unavailable`, only the bus is in the way, and not the message: it is called again, with the message still in
hand, so that no delivery is used up (ADR 0014).
The loop takes only what free slots allow, says `working` while a handler runs, and counts deliveries itself: the
server's own limit would make a message invisible, ours makes it a letter (ADR 0005).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import traceback
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import msgspec

from schemas.dead_letters import DeadReason, FailedAttempt
from schemas.wire import Malformed
from services.runtime.errors import Broken, Refused, RetryLater, Unavailable
from services.runtime.tasks import Tasks, spawn

if TYPE_CHECKING:
    from services.runtime.dead_letters import DeadLetters
    from services.runtime.ports import Clock, Delivery, Queue
    from services.runtime.telemetry.metrics import ConsumerMetrics

logger = logging.getLogger(__name__)

HAND_BACK_DELAY_S = 0.05
HAND_BACK_DELAY_MAX_S = 5.0
"""How soon a message that is handed back comes again, at least: later each time, so that deliveries last longer."""
FAILURE_DELAY_S = 0.2
FAILURE_DELAY_MAX_S = 30.0
BUS_PAUSE_S = 0.1
BUS_PAUSE_MAX_S = 0.5
BUS_PATIENCE_S = 30.0
"""How long a message is kept in hand while the bus does not let it be handled."""
OLD = timedelta(seconds=10)
"""A message older than this may have been handled before (ADR 0038). Clocks that differ cost a look, and no more."""
ATTEMPT_TEXT_MAX = 4000
"""Characters kept of a traceback."""


class Inbound(msgspec.Struct, frozen=True):
    """A message as a handler sees it."""

    subject: str
    data: bytes
    headers: Mapping[str, str]
    seq: int
    delivered: int
    at: datetime
    again: bool = False
    """It may have been handled before, whatever its count says: this process has begun to, and the bus went away; or it
    is so old that its consumer may have been made anew since, which counts from one."""

    @property
    def redelivered(self) -> bool:
        """Whether somebody may have handled it before, at least in part."""
        return self.again or self.delivered > 1


Handler = Callable[[Inbound], Awaitable[None]]
DeadHandler = Callable[[Inbound, DeadReason, str], Awaitable[None]]
"""Called before a message is given up, with the reason and the error: the place to tell whoever waits for it. It may
be called twice for the same message, and raises `RetryLater` if it cannot do its work now."""


class Consumer:
    """Runs one queue's messages through a handler until it is stopped."""

    def __init__(
        self,
        queue: Queue,
        handler: Handler,
        *,
        on_dead: DeadHandler,
        dead_letters: DeadLetters,
        clock: Clock,
        slots: int,
        deliveries_max: int,
        replica: str,
        metrics: ConsumerMetrics,
    ) -> None:
        self._queue = queue
        self._handler = handler
        self._on_dead = on_dead
        self._dead_letters = dead_letters
        self._clock = clock
        self._slots = slots
        self._deliveries_max = deliveries_max
        self._replica = replica
        self._metrics = metrics
        self._running = Tasks()
        self._held: dict[int, Delivery] = {}
        self._freed = asyncio.Event()
        self._stopping = False
        self._drained = asyncio.Event()

    @property
    def in_hand(self) -> int:
        """Messages that are being handled."""
        return len(self._held)

    async def run(self) -> None:
        """Take and handle messages until `stop` is called, and hold on to those in hand until it has ended."""
        heartbeat = spawn(self._heartbeat(), name=f"{self._queue.name}:heartbeat")
        try:
            await self._run()
            await self._drained.wait()
        finally:
            heartbeat.cancel()

    async def _run(self) -> None:
        while not self._stopping:
            free = self._slots - len(self._held)
            if free <= 0:
                self._freed.clear()
                await self._freed.wait()
                continue
            for delivery in await self._queue.take(free):
                self._metrics.delivered(redelivered=delivery.delivered > 1)
                self._held[id(delivery)] = delivery
                self._running.spawn(self._handle(delivery), name=f"{self._queue.name}:{delivery.seq}")

    async def stop(self, grace_s: float) -> None:
        """Take no more; give what is in hand `grace_s` to finish, then hand it back to the stream."""
        self._stopping = True
        self._freed.set()
        await self._queue.close()
        try:
            async with asyncio.timeout(grace_s):
                await self._running.join()
        except TimeoutError:
            logger.warning(
                "handing back %d messages of %s that did not finish in time",
                len(self._held),
                self._queue.name,
                extra={"action": "consumer.handback"},
            )
        await self._running.close()
        self._drained.set()

    async def _handle(self, delivery: Delivery) -> None:
        inbound = Inbound(
            delivery.subject,
            delivery.data,
            delivery.headers,
            delivery.seq,
            delivery.delivered,
            delivery.at,
            again=self._clock.now() - delivery.at > OLD,
        )
        try:
            await self._settle(delivery, inbound)
        except asyncio.CancelledError:
            await delivery.nak(0)
            raise
        finally:
            del self._held[id(delivery)]
            self._freed.set()

    async def _settle(self, delivery: Delivery, inbound: Inbound) -> None:
        try:
            if delivery.delivered > self._deliveries_max:
                await self._bury(
                    delivery, inbound, "deliveries_exhausted", f"not done after {self._deliveries_max} deliveries"
                )
                return
            await self._while_the_bus_is_away(inbound)
            await delivery.ack()
            self._metrics.handled("done")
        except RetryLater as later:
            self._metrics.handled("retried")
            delay_s = max(later.after_s, min(HAND_BACK_DELAY_S * 2**inbound.delivered, HAND_BACK_DELAY_MAX_S))
            logger.info(
                "%s; again in %.1f s",
                later,
                delay_s,
                extra={"action": "consumer.retry", "subject": inbound.subject},
            )
            await delivery.nak(delay_s)
        except (Refused, Malformed) as refusal:
            await self._try_to_bury(delivery, inbound, _why_dead(refusal), str(refusal))
        except Exception as error:  # noqa: BLE001 - whatever a handler's bug is, it ends as a dead letter, not as a stopped loop
            await self._failed(delivery, inbound, error)

    async def _while_the_bus_is_away(self, inbound: Inbound) -> None:
        """Call the handler, and again while it is only the bus that does not let it do its work."""
        give_up = self._clock.now() + timedelta(seconds=BUS_PATIENCE_S)
        pause_s = BUS_PAUSE_S
        while True:
            try:
                return await self._handler(inbound)
            except Unavailable as away:
                if self._stopping or self._clock.now() + timedelta(seconds=pause_s) > give_up:
                    raise
                logger.info(
                    "%s; handled again in %.1f s",
                    away,
                    pause_s,
                    extra={"action": "consumer.again", "subject": inbound.subject},
                )
            await self._clock.sleep(pause_s)
            pause_s = min(pause_s * 2, BUS_PAUSE_MAX_S)
            inbound = msgspec.structs.replace(inbound, again=True)

    async def _failed(self, delivery: Delivery, inbound: Inbound, error: Exception) -> None:
        self._metrics.handled("failed")
        logger.error("handling %s failed", inbound.subject, exc_info=error, extra={"action": "consumer.failed"})
        attempt = FailedAttempt(
            delivery=inbound.delivered,
            at=self._clock.now(),
            replica=self._replica,
            error=f"{type(error).__name__}: {error}",
            traceback="".join(traceback.format_exception(error))[-ATTEMPT_TEXT_MAX:],
        )
        try:
            await self._dead_letters.note(self._queue.stream, inbound.seq, inbound.subject, attempt)
        except RetryLater:
            logger.warning(
                "could not note the failed attempt of %s", inbound.subject, extra={"action": "consumer.note"}
            )
        if inbound.delivered >= self._deliveries_max or isinstance(error, Broken):
            await self._try_to_bury(delivery, inbound, "broken", f"{type(error).__name__}: {error}")
        else:
            await delivery.nak(min(FAILURE_DELAY_S * 2**inbound.delivered, FAILURE_DELAY_MAX_S))

    async def _try_to_bury(self, delivery: Delivery, inbound: Inbound, reason: DeadReason, error: str) -> None:
        try:
            await self._bury(delivery, inbound, reason, error)
        except RetryLater as later:
            await delivery.nak(later.after_s)

    async def _bury(self, delivery: Delivery, inbound: Inbound, reason: DeadReason, error: str) -> None:
        await self._dead_letters.bury(self._queue, inbound, reason, error)
        await self._on_dead(inbound, reason, error)
        await delivery.term(reason)
        self._metrics.buried(reason)
        logger.error("dead letter: %s: %s", inbound.subject, error, extra={"action": "consumer.dead", "reason": reason})

    async def _heartbeat(self) -> None:
        held_before: set[int] = set()
        while True:
            # What is held at two looks in a row is spoken for: the first heartbeat comes within a third of the wait.
            await self._clock.sleep(self._queue.ack_wait_s / 6)
            held = dict(self._held)
            for key, delivery in held.items():
                # One that does not get through is made up for by the next; a heartbeat that ended would give up
                # everything that is in hand.
                if key in held_before:
                    with contextlib.suppress(RetryLater):
                        await delivery.working()
            held_before = set(held)


def _why_dead(refusal: Refused | Malformed) -> DeadReason:
    if isinstance(refusal, Malformed):
        return "malformed"
    return "undelivered" if refusal.code == "undelivered" else "invalid_request"
