"""The whole bus on one connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Self

from schemas import subjects
from services.runtime.nats import topology
from services.runtime.nats.connection import Connection
from services.runtime.nats.log import CommitForm, NatsLog, commit_form
from services.runtime.nats.payloads import Payloads
from services.runtime.nats.queue import NatsQueue
from services.runtime.nats.signals import NatsSignals
from services.runtime.nats.store import NatsStore
from services.runtime.nats.survey import survey
from services.runtime.nats.timers import NatsTimers
from services.runtime.nats.topology import DEAD_LETTER_S, Durability
from services.runtime.ports import Survey
from services.runtime.settings import Settings

if TYPE_CHECKING:
    from services.runtime.sealing import Sealer

PAYLOAD_GRACE_S = 86_400


class SystemClock:
    """The time of this machine."""

    def now(self) -> datetime:
        """The time, in UTC."""
        return datetime.now(UTC)

    async def sleep(self, delay_s: float) -> None:
        """Wait."""
        await asyncio.sleep(delay_s)


class NatsBus:
    """The ports of `services.runtime.ports`, on a server."""

    def __init__(self, connection: Connection, settings: Settings, durability: Durability) -> None:
        self.partitions = settings.partitions
        self.clock = SystemClock()
        self.durability: Durability = durability
        """What an acknowledgement of the server promises."""
        self.commit: CommitForm = commit_form(
            settings.commit, replicas=settings.stream_replicas, storage=settings.storage
        )
        self._connection = connection
        self._settings = settings
        self._payloads = Payloads(connection, replicas=settings.stream_replicas, sealer=_sealer(settings))
        self.timers = NatsTimers(connection)
        self.resources = NatsStore(
            connection,
            subjects.RESOURCES_BUCKET,
            replicas=settings.stream_replicas,
            news=subjects.RESOURCE_NEWS,
        )
        self.flow = NatsStore(
            connection, subjects.FLOW_BUCKET, replicas=settings.stream_replicas, news=subjects.FLOW_NEWS
        )
        self.signals = NatsSignals(connection, self._payloads)
        # Dead letters expire; what they name must live as long.
        self.requests = self._log(subjects.REQUESTS_STREAM, self.commit)
        self.dead_letters = self._log(
            subjects.DEAD_LETTERS_STREAM, "two-step", payloads_kept_s=DEAD_LETTER_S + PAYLOAD_GRACE_S
        )
        self._logs = [
            self._log(subjects.task_stream(partition), self.commit) for partition in range(settings.partitions)
        ]
        self._plans = {(plan.stream, plan.name): plan for plan in topology.consumer_plans(settings)}

    def _log(self, stream: str, commit: CommitForm, payloads_kept_s: int | None = None) -> NatsLog:
        return NatsLog(
            self._connection,
            stream,
            self._payloads,
            replicas=self._settings.stream_replicas,
            commit=commit,
            payloads_kept_s=payloads_kept_s,
        )

    def log(self, partition: int) -> NatsLog:
        """The stream of a partition."""
        return self._logs[partition]

    async def queue(self, consumer: str, partition: int | None = None) -> NatsQueue:
        """A durable consumer by its name."""
        stream = topology.stream_of(consumer, partition)
        plan = self._plans[stream, consumer]
        return NatsQueue(
            self._connection,
            plan,
            self._payloads,
            ack_wait_s=self._settings.ack_wait_s,
            repairs=self._settings.topology == "make",
        )

    async def survey(self) -> Survey:
        """All streams and durable consumers as they are."""
        return await survey(self._connection, self._settings)

    async def close(self) -> None:
        """Send what is written and disconnect."""
        await self.signals.close()
        await self._connection.close()

    async def __aenter__(self) -> Self:
        """The bus, closed at the end of `async with`."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close it."""
        await self.close()


def _sealer(settings: Settings) -> Sealer | None:
    if not settings.payload_keys_dir:
        return None
    from services.runtime.sealing import Sealer  # noqa: PLC0415 - costs memory, and few need it

    return Sealer(settings.payload_keys_dir)


async def connect(settings: Settings, *, service: str, on_closed: Callable[[], None] | None = None) -> NatsBus:
    """Connect, make or check the streams and consumers, and say what the server promises.

    `on_closed` is called when the connection is closed for good by somebody else than `NatsBus.close`: nothing works
    from then on, and the process should end. Raises `Unavailable` or `topology.Incompatible`, both with a text for
    people.
    """
    connection = Connection(settings, service=service, on_closed=on_closed)
    await connection.open()
    try:
        await topology.ensure(connection, settings)
        durability = topology.check_durability(connection, settings)
    except BaseException:
        await connection.close()
        raise
    return NatsBus(connection, settings, durability)
