"""One consumer on a memory bus whose clock the test moves."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

from schemas import subjects
from schemas.dead_letters import DeadLetter, DeadReason, FailedAttempt
from schemas.wire import decode
from services.runtime.consumer import Consumer, DeadHandler, Handler, Inbound
from services.runtime.dead_letters import DeadLetters
from services.runtime.memory.bus import MemoryBus, Pause, let_others_run
from services.runtime.memory.clock import ManualClock
from services.runtime.memory.consumers import DurableConsumer
from services.runtime.memory.server import MemoryServer
from services.runtime.ports import Outgoing
from services.runtime.tasks import spawn
from services.runtime.telemetry.metrics import Metrics


class Bench:
    """A server with a clock under control, and what consumers on its first partition's events do."""

    def __init__(self, *, slots: int = 4, deliveries_max: int = 3) -> None:
        self.clock = ManualClock()
        self.server = MemoryServer(clock=self.clock)
        self.bus = MemoryBus(self.server)
        self.metrics = Metrics()
        self.slots = slots
        self.deliveries_max = deliveries_max
        self.dead: list[tuple[str, DeadReason, str]] = []

    @property
    def planner(self) -> DurableConsumer:
        """The server's side of the consumer."""
        return self.server.consumer(subjects.PLANNER, 0)

    async def consumer(
        self, handler: Handler, *, on_dead: DeadHandler | None = None, pause: Pause = let_others_run
    ) -> Consumer:
        """A consumer of a replica of its own, not yet running."""
        bus = MemoryBus(self.server, pause=pause)
        return Consumer(
            await bus.queue(subjects.PLANNER, 0),
            handler,
            on_dead=on_dead or self.remember_dead,
            dead_letters=DeadLetters(bus.dead_letters, self.clock),
            clock=self.clock,
            slots=self.slots,
            deliveries_max=self.deliveries_max,
            replica="replica-1",
            metrics=self.metrics.consumer(subjects.PLANNER),
        )

    @asynccontextmanager
    async def running(
        self, handler: Handler, *, on_dead: DeadHandler | None = None, pause: Pause = let_others_run
    ) -> AsyncGenerator[Consumer]:
        """A running consumer, stopped at the end."""
        consumer = await self.consumer(handler, on_dead=on_dead, pause=pause)
        task = spawn(consumer.run(), name="consumer")
        try:
            yield consumer
        finally:
            await consumer.stop(0)
            await task

    async def store(self, *data: bytes) -> list[int]:
        """Store one message for each of `data`; their sequences."""
        seqs: list[int] = []
        for payload in data:
            place = self.server.tasks[0].last_seq + 1
            seq = await self.bus.log(0).record(Outgoing(f"hf.0.default.evt.t{place}.submitted", payload, {"a": "b"}))
            assert seq is not None
            seqs.append(seq)
        return seqs

    async def remember_dead(self, inbound: Inbound, reason: DeadReason, error: str) -> None:
        """The default `on_dead`."""
        self.dead.append((inbound.subject, reason, error))

    async def letters(self) -> Sequence[DeadLetter]:
        """All dead letters."""
        return [decode(e.data, DeadLetter) for e in await self.bus.dead_letters.last(["hf.dlq.letter.>"])]

    async def notes(self) -> Sequence[FailedAttempt]:
        """All failed attempts."""
        return [decode(e.data, FailedAttempt) for e in await self.bus.dead_letters.last(["hf.dlq.attempt.>"])]

    def handled(self, outcome: str) -> float:
        """How many messages were settled so."""
        labels = {"consumer": subjects.PLANNER, "outcome": outcome}
        return self.metrics.registry.get_sample_value("holdfast_messages_handled_total", labels) or 0.0
