"""The bus as those see it whose credentials are for one namespace only: what is stored is read by asking a planner."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, NoReturn, Self, cast

from schemas import subjects
from schemas.reading import ReadEntries, ReadEntry, ReadSettings, ReadStored, ReadSubjects, ReadWhat
from schemas.requests import Rejected
from schemas.wire import decode, encode
from services.cli.exits import ExitCode, Stop
from services.runtime.errors import Unavailable
from services.runtime.nats.bus import SystemClock
from services.runtime.nats.connection import Connection
from services.runtime.nats.payloads import Payloads
from services.runtime.nats.signals import NatsSignals
from services.runtime.ports import Entry, StoreEntry

if TYPE_CHECKING:
    from services.runtime.ports import Change, Outgoing, Signals
    from services.runtime.settings import Settings

ASK_S = 5.0
FILTERS_AT_ONCE = 64
SEQS_AT_ONCE = 512
FORBIDDEN = "these credentials are for tasks of namespace {namespace!r} only; this needs an operator's"

Answer = ReadSettings | ReadEntries | ReadSubjects | Rejected


class Reader:
    """Asks planners what is stored of a namespace."""

    def __init__(self, signals: Signals, namespace: str) -> None:
        self.namespace = namespace
        self._signals = signals

    async def ask(self, what: ReadWhat, asked: ReadStored) -> ReadSettings | ReadEntries | ReadSubjects:
        """Ask; raises `Unavailable`, `LookupError`, or `Stop` for what may not be read."""
        subject = subjects.read(self.namespace, what)
        signal = await self._signals.request(subject, encode(asked), timeout_s=ASK_S)
        answer = decode(signal.data, cast("type[Answer]", Answer))
        if isinstance(answer, Rejected):
            match answer.code:
                case "unavailable":
                    raise Unavailable(answer.error)
                case "not_found":
                    raise LookupError(answer.error)
                case _:
                    raise Stop(answer.error, ExitCode.REFUSED)
        return answer

    async def entries(self, what: ReadWhat, asked: ReadStored) -> list[ReadEntry]:
        """All entries that are asked for, whole, however many answers that takes."""
        answer = await self.ask(what, asked)
        assert isinstance(answer, ReadEntries)
        found = [await self._whole(asked.partition, entry) for entry in answer.entries]
        rest = answer.rest
        while rest:
            answer = await self.ask(what, ReadStored(partition=asked.partition, seqs=rest[:SEQS_AT_ONCE]))
            assert isinstance(answer, ReadEntries)
            found += [await self._whole(asked.partition, entry) for entry in answer.entries]
            rest = (*answer.rest, *rest[SEQS_AT_ONCE:])
        return found

    async def _whole(self, partition: int, entry: ReadEntry) -> ReadEntry:
        data = entry.data
        while len(data) < entry.size:
            asked = ReadStored(partition=partition, seqs=(entry.seq,), offset=len(data))
            answer = await self.ask("entries", asked)
            assert isinstance(answer, ReadEntries)
            data += answer.entries[0].data
        return ReadEntry(
            subject=entry.subject, seq=entry.seq, at=entry.at, headers=entry.headers, data=data, size=entry.size
        )


class TenantLog:
    """A partition's stream, as far as the namespace goes."""

    def __init__(self, reader: Reader, partition: int) -> None:
        self._reader = reader
        self._partition = partition

    async def get(self, subject: str, *, at_least: int = 0) -> Entry | None:
        """The newest message of a subject, or None."""
        found = await self.last([subject], at_least=at_least)
        return found[0] if found else None

    async def read(self, seqs: Sequence[int]) -> list[Entry]:
        """The messages at these sequences, in this order."""
        found: list[Entry] = []
        for start in range(0, len(seqs), SEQS_AT_ONCE):
            asked = ReadStored(partition=self._partition, seqs=tuple(seqs[start : start + SEQS_AT_ONCE]))
            found += map(_entry, await self._reader.entries("entries", asked))
        return found

    async def last(self, filters: Sequence[str], *, at_least: int = 0) -> list[Entry]:
        """The newest message of each subject that matches a filter, by sequence."""
        found: dict[int, Entry] = {}
        for start in range(0, len(filters), FILTERS_AT_ONCE):
            some = tuple(filters[start : start + FILTERS_AT_ONCE])
            asked = ReadStored(partition=self._partition, filters=some, at_least=at_least)
            found |= {entry.seq: _entry(entry) for entry in await self._reader.entries("entries", asked)}
        return [found[seq] for seq in sorted(found)]

    async def subjects(self, filter_: str) -> list[str]:
        """All subjects that match a filter."""
        answer = await self._reader.ask("subjects", ReadStored(partition=self._partition, filters=(filter_,)))
        assert isinstance(answer, ReadSubjects)
        return list(answer.subjects)

    async def record(self, message: Outgoing) -> int | None:
        """Not for tenants."""
        self._refuse(message)

    async def write(self, message: Outgoing, *, expected: int) -> int:
        """Not for tenants."""
        self._refuse(message, expected)

    async def commit(self, change: Change) -> int:
        """Not for tenants."""
        self._refuse(change)

    async def purge(self, filter_: str) -> None:
        """Not for tenants."""
        self._refuse(filter_)

    async def drop(self, entry: Entry) -> None:
        """Not for tenants."""
        self._refuse(entry)

    def _refuse(self, *_: object) -> NoReturn:
        raise Stop(FORBIDDEN.format(namespace=self._reader.namespace), ExitCode.REFUSED)


class TenantStore:
    """A bucket, as far as the namespace goes: read only."""

    def __init__(self, reader: Reader, what: ReadWhat) -> None:
        self._reader = reader
        self._what: ReadWhat = what

    async def get(self, key: str) -> StoreEntry | None:
        """The value of a key, or None."""
        found = await self._entries(ReadStored(filters=(key,)))
        return next((entry for entry in found if entry.key == key), None)

    async def watch(self) -> AsyncIterator[StoreEntry | None]:
        """All keys as they are now, then None; what changes afterwards is not said."""
        for entry in await self._entries(ReadStored()):
            yield entry
        yield None

    async def put(self, key: str, data: bytes, *, expected: int | None = None) -> int:
        """Not for tenants."""
        self._refuse(key, data, expected)

    async def delete(self, key: str, *, expected: int | None = None) -> None:
        """Not for tenants."""
        self._refuse(key, expected)

    async def _entries(self, asked: ReadStored) -> list[StoreEntry]:
        found = await self._reader.entries(self._what, asked)
        return [StoreEntry(entry.subject, entry.seq, entry.data) for entry in found]

    def _refuse(self, *_: object) -> NoReturn:
        raise Stop(FORBIDDEN.format(namespace=self._reader.namespace), ExitCode.REFUSED)


class TenantBus:
    """What of a bus a tenant may use."""

    def __init__(self, connection: Connection, signals: NatsSignals, reader: Reader, partitions: int) -> None:
        self._connection = connection
        self._reader = reader
        self.partitions = partitions
        self.clock = SystemClock()
        self.signals = signals
        self.resources = TenantStore(reader, "resources")
        self.flow = TenantStore(reader, "flow")

    def log(self, partition: int) -> TenantLog:
        """The stream of a partition."""
        return TenantLog(self._reader, partition)

    async def close(self) -> None:
        """Disconnect."""
        await self.signals.close()
        await self._connection.close()

    async def __aenter__(self) -> Self:
        """The bus, closed at the end of `async with`."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close it."""
        await self.close()

    def __getattr__(self, name: str) -> Any:
        """Whatever else a bus has is an operator's."""
        raise Stop(f"{FORBIDDEN.format(namespace=self._reader.namespace)} ({name})", ExitCode.REFUSED)


async def attached(settings: Settings) -> TenantBus:
    """Connect with a tenant's credentials. Raises `Unavailable`."""
    async with AsyncExitStack() as undo:
        connection = Connection(settings, service="cli")
        await connection.open()
        undo.push_async_callback(connection.close)
        signals = NatsSignals(connection, Payloads(connection, replicas=1))
        undo.push_async_callback(signals.close)
        reader = Reader(signals, settings.nats_namespace)
        answer = await reader.ask("settings", ReadStored())
        assert isinstance(answer, ReadSettings)
        undo.pop_all()
        return TenantBus(connection, signals, reader, answer.partitions)


def _entry(entry: ReadEntry) -> Entry:
    assert entry.at is not None
    return Entry(entry.subject, entry.seq, entry.data, entry.headers, entry.at)
