"""The bus as a process of the simulation has it: the memory bus, and everything that may go wrong with it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from services.runtime.memory.bus import MemoryBus, Pause
from services.runtime.memory.log import CommitForm
from services.runtime.memory.server import MemoryServer
from services.runtime.memory.stream import Stream
from services.runtime.ports import Change, Clock, Delivery, Entry, Log, Outgoing, Queue
from tests.chaos.simulated.faults import Faults

if TYPE_CHECKING:
    from tests.chaos.simulated.history import History


LAG_MAX_S = 0.5
"""How far a replica of a stream may be behind."""


class SimulatedBus(MemoryBus):
    """One process's bus."""

    def __init__(
        self,
        server: MemoryServer,
        *,
        commit: CommitForm,
        pause: Pause,
        clock: Clock,
        faults: Faults,
        history: History,
    ) -> None:
        super().__init__(server, commit=commit, pause=pause)
        self.clock = clock
        self._faults = faults
        self._history = history

    def log(self, partition: int) -> Log:
        return LaggingLog(
            super().log(partition),
            self.server.tasks[partition],
            clock=self.server.clock,
            faults=self._faults,
            history=self._history,
        )

    async def queue(self, consumer: str, partition: int | None = None) -> Queue:
        return UnreliableQueue(await super().queue(consumer, partition), self._faults)


class LaggingLog:
    """A log some of whose reads are answered by a replica of the stream that is behind."""

    def __init__(self, log: Log, stream: Stream, *, clock: Clock, faults: Faults, history: History) -> None:
        self._log = log
        self._stream = stream
        self._clock = clock
        self._faults = faults
        self._history = history

    async def get(self, subject: str, *, at_least: int = 0) -> Entry | None:
        entry = await self._log.get(subject, at_least=at_least)
        if (seq := self._behind(at_least)) is None:
            return entry
        found = self._history.as_of(self._stream.name, seq, [subject])
        return found[0] if found else None

    async def last(self, filters: Sequence[str], *, at_least: int = 0) -> list[Entry]:
        entries = await self._log.last(filters, at_least=at_least)
        seq = self._behind(at_least)
        return entries if seq is None else self._history.as_of(self._stream.name, seq, filters)

    async def read(self, seqs: Sequence[int]) -> list[Entry]:
        return await self._log.read(seqs)

    async def record(self, message: Outgoing) -> int | None:
        return await self._log.record(message)

    async def write(self, message: Outgoing, *, expected: int) -> int:
        return await self._log.write(message, expected=expected)

    async def commit(self, change: Change) -> int:
        return await self._log.commit(change)

    async def subjects(self, filter_: str) -> list[str]:
        return await self._log.subjects(filter_)

    async def purge(self, filter_: str) -> None:
        await self._log.purge(filter_)

    async def drop(self, entry: Entry) -> None:
        await self._log.drop(entry)

    def _behind(self, at_least: int) -> int | None:
        """The sequence that the answering replica is at, if it is not the newest."""
        if not self._faults.happens(self._faults.rates.stale):
            return None
        oldest = self._history.seq_before(self._stream.name, self._clock.now() - timedelta(seconds=LAG_MAX_S))
        return self._faults.rng.randint(max(at_least, oldest), self._stream.last_seq)


class UnreliableQueue:
    """A queue whose messages come in any order, and some of whose acknowledgements are lost."""

    def __init__(self, queue: Queue, faults: Faults) -> None:
        self._queue = queue
        self._faults = faults
        self.name = queue.name
        self.stream = queue.stream
        self.ack_wait_s = queue.ack_wait_s

    async def take(self, free: int) -> Sequence[Delivery]:
        taken = [UnreliableDelivery(delivery, self._faults) for delivery in await self._queue.take(free)]
        self._faults.redelivered += sum(delivery.delivered > 1 for delivery in taken)
        if self._faults.happens(self._faults.rates.reordered):
            self._faults.rng.shuffle(taken)
        return taken

    async def close(self) -> None:
        await self._queue.close()


class UnreliableDelivery:
    """A message whose acknowledgement may be lost on its way."""

    def __init__(self, delivery: Delivery, faults: Faults) -> None:
        self._delivery = delivery
        self._faults = faults
        self.subject = delivery.subject
        self.data = delivery.data
        self.headers = delivery.headers
        self.seq = delivery.seq
        self.delivered = delivery.delivered
        self.at = delivery.at

    async def ack(self) -> None:
        if not self._lost():
            await self._delivery.ack()

    async def nak(self, delay_s: float) -> None:
        if not self._lost():
            await self._delivery.nak(delay_s)

    async def term(self, reason: str) -> None:
        if not self._lost():
            await self._delivery.term(reason)

    async def working(self) -> None:
        if not self._lost():
            await self._delivery.working()

    def _lost(self) -> bool:
        return self._faults.happens(self._faults.rates.acknowledgement_lost)
