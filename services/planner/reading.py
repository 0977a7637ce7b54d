"""Reads of one namespace, for those whose credentials are for nothing else.

The namespace is that of the subject that is asked on, which the server has let the asker use. Nothing outside of it is
told: not a message at a sequence that belongs to another, nor a subject that a filter would match.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from schemas import subjects
from schemas.ids import InvalidId, check_token
from schemas.reading import ANSWER_BYTES_MAX, ReadEntries, ReadEntry, ReadSettings, ReadStored, ReadSubjects
from schemas.requests import InvalidRequest, Rejected
from schemas.wire import Malformed, decode, encode
from services.runtime.errors import RetryLater, Unavailable
from services.runtime.tasks import Tasks

if TYPE_CHECKING:
    from services.runtime.ports import Bus, Entry, Signal
    from services.runtime.resources import Resources

logger = logging.getLogger(__name__)

FILTERS_MAX = 64
SEQS_MAX = 1024
READS_MAX = 32
"""Reads that one planner does at once: its own work comes first."""
Answer = ReadSettings | ReadEntries | ReadSubjects | Rejected


class Reading:
    """Answers reads."""

    def __init__(self, bus: Bus, resources: Resources) -> None:
        self._bus = bus
        self._resources = resources
        self._tasks = Tasks()

    async def on_read(self, signal: Signal) -> None:
        """Answer one read; what cannot be told is refused with a sentence."""
        if not subjects.is_inbox(signal.reply):
            return
        if len(self._tasks) >= READS_MAX:
            await self._say(signal.reply, Rejected(code="unavailable", error="too many reads at once; try again"))
            return
        self._tasks.spawn(self._read(signal), name=f"read:{signal.subject}")

    async def close(self) -> None:
        """Break off what is being read."""
        await self._tasks.close()

    async def _read(self, signal: Signal) -> None:
        _, _, namespace, what = signal.subject.split(".")
        try:
            check_token("namespace", namespace)
            answer = await self._answer(namespace, what, decode(signal.data or b"{}", ReadStored))
        except (InvalidId, InvalidRequest) as error:
            answer = Rejected(code="invalid", error=str(error))
        except Malformed as error:
            answer = Rejected(code="malformed", error=str(error))
        except LookupError as error:
            answer = Rejected(code="not_found", error=str(error))
        except RetryLater as later:
            answer = Rejected(code="unavailable", error=str(later))
        await self._say(signal.reply, answer)

    async def _say(self, inbox: str, answer: Answer) -> None:
        try:
            await self._bus.signals.publish(inbox, encode(answer))
        except Unavailable as error:
            logger.debug("a reader was not answered: %s", error, extra={"action": "read.reply"})

    async def _answer(self, namespace: str, what: str, asked: ReadStored) -> Answer:
        match what:
            case "settings":
                return ReadSettings(partitions=self._bus.partitions)
            case "entries":
                return _fitted(await self._entries(namespace, asked), asked.offset)
            case "subjects":
                log = self._bus.log(self._partition(asked))
                found = [name for filter_ in self._filters(namespace, asked) for name in await log.subjects(filter_)]
                return ReadSubjects(subjects=tuple(sorted(set(found))))
            case "resources":
                return await self._declared(namespace, asked)
            case "flow":
                entry = await self._bus.flow.get(subjects.flow_namespace(namespace))
                if entry is None or entry.data is None:
                    return ReadEntries(entries=())
                return ReadEntries(entries=(_entry(entry.key, entry.revision, entry.data),))
            case _:
                raise InvalidRequest(f"there is nothing called {what!r} to read")

    async def _entries(self, namespace: str, asked: ReadStored) -> Sequence[Entry]:
        log = self._bus.log(self._partition(asked))
        if not asked.seqs:
            return await log.last(self._filters(namespace, asked), at_least=asked.at_least)
        if len(asked.seqs) > SEQS_MAX:
            raise InvalidRequest(f"{len(asked.seqs)} messages are asked for at once; {SEQS_MAX} at most")
        entries = await log.read(asked.seqs)
        roots = _roots(asked.partition, namespace)
        if any(not entry.subject.startswith(roots) for entry in entries):
            raise LookupError(f"not all of these messages are in namespace {namespace!r}")
        return entries

    def _partition(self, asked: ReadStored) -> int:
        if not 0 <= asked.partition < self._bus.partitions:
            raise InvalidRequest(f"there is no partition {asked.partition}")
        return asked.partition

    def _filters(self, namespace: str, asked: ReadStored) -> tuple[str, ...]:
        roots = _roots(asked.partition, namespace)
        if not asked.filters or len(asked.filters) > FILTERS_MAX:
            raise InvalidRequest(f"give 1 to {FILTERS_MAX} filters")
        for filter_ in asked.filters:
            if not filter_.startswith(roots):
                raise InvalidRequest(f"{filter_[:100]!r} is not about namespace {namespace!r}")
        return asked.filters

    async def _declared(self, namespace: str, asked: ReadStored) -> ReadEntries:
        """The resources of a namespace that are asked for by their keys, or all of them."""
        keys = asked.filters or tuple(self._resources.keys(namespace))
        found: list[ReadEntry] = []
        size = 0
        for key in keys:
            if _namespace_of(key) != namespace:
                raise InvalidRequest(f"{key[:100]!r} is not about namespace {namespace!r}")
            entry = await self._bus.resources.get(key)
            if entry is None or entry.data is None:
                continue
            size += len(entry.data)
            if found and size > ANSWER_BYTES_MAX:
                raise InvalidRequest("there are too many resources for one answer: ask for them by their keys")
            found.append(_entry(entry.key, entry.revision, entry.data))
        return ReadEntries(entries=tuple(found))


def _roots(partition: int, namespace: str) -> tuple[str, str]:
    """What all subjects of a namespace begin with."""
    return f"{subjects.PREFIX}.{partition}.{namespace}.", f"$KV.{subjects.state_bucket(partition)}.{namespace}."


def _namespace_of(key: str) -> str:
    try:
        return subjects.parse_resource_key(key).namespace
    except ValueError as error:
        raise InvalidRequest(str(error)) from error


def _fitted(entries: Iterable[Entry], offset: int) -> ReadEntries:
    """As many as fit into one answer; of the first, what is left after `offset`."""
    found: list[ReadEntry] = []
    rest: list[int] = []
    room = ANSWER_BYTES_MAX
    for entry in entries:
        data = entry.data[offset if not found and not rest else 0 :]
        if rest or (found and len(data) > room):
            rest.append(entry.seq)
            continue
        part = data[:room]
        room -= len(part)
        found.append(
            ReadEntry(
                subject=entry.subject,
                seq=entry.seq,
                at=entry.at,
                headers=dict(entry.headers),
                data=part,
                size=len(entry.data),
            )
        )
    return ReadEntries(entries=tuple(found), rest=tuple(rest))


def _entry(key: str, revision: int, data: bytes) -> ReadEntry:
    return ReadEntry(subject=key, seq=revision, data=data, size=len(data))
