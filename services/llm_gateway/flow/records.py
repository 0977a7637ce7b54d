"""The shared records, each changed by one writer in this process and by compare-and-set among the replicas.

What comes while a write is under way waits and goes into the next one together: ten thousand changes are a few writes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from schemas.flow import Flow, NamespaceFlow, PoolFlow
from schemas.subjects import flow_namespace, flow_pool
from schemas.wire import Malformed, decode, encode
from services.runtime.errors import Conflict, RetryLater, Unavailable
from services.runtime.tasks import Tasks

if TYPE_CHECKING:
    from datetime import datetime

    from services.runtime.ports import Clock, Store

logger = logging.getLogger(__name__)

F = TypeVar("F", bound=Flow)
A = TypeVar("A")

BATCH_MAX = 200
"""Changes in one write, so that the event loop is not held for long."""
PAUSES_S = (0.0, 0.0, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 0.5, 0.5)
"""Before each try to write a record that others write too."""
IDLE_MAX = 4096
"""Records that are remembered."""


class _Change(Generic[F]):
    def __init__(self, step: Callable[[F, datetime], tuple[F, Any]]) -> None:
        self.step = step
        self.answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()


class Record(Generic[F]):
    """One key of the bucket."""

    def __init__(self, store: Store, clock: Clock, key: str, empty: F) -> None:
        self._store = store
        self._clock = clock
        self._key = key
        self._empty = empty
        self._waiting: list[_Change[F]] = []
        self._tasks = Tasks()
        self._is_writing = False
        self._seen = empty
        self._revision = -1
        """Of `_seen`; -1: nothing is known."""

    @property
    def is_idle(self) -> bool:
        """Whether nobody waits for it."""
        return not self._is_writing

    def peek(self, step: Callable[[F, datetime], tuple[F, A]]) -> A:
        """What a change would answer by what is known here, without making it."""
        return step(self._seen, self._clock.now())[1]

    async def change(self, step: Callable[[F, datetime], tuple[F, A]]) -> A:
        """Make a change and get its answer, once it is stored; raises `RetryLater`.

        `step` may be called several times, on newer records; what it answers without changing anything is believed
        only of a record that has just been read. Whoever is cancelled while it waits cannot know whether the change
        was made.
        """
        change: _Change[F] = _Change(step)
        self._waiting.append(change)
        if not self._is_writing:
            self._is_writing = True
            self._tasks.spawn(self._write(), name=f"flow:{self._key}")
        answer: A = await change.answer
        return answer

    async def close(self) -> None:
        """Write no more; whoever waits is told."""
        await self._tasks.close()

    async def _write(self) -> None:
        batch: list[_Change[F]] = []
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:BATCH_MAX], self._waiting[BATCH_MAX:]
                try:
                    await self._write_batch([change for change in batch if not change.answer.done()])
                except RetryLater as error:
                    _fail(batch, error)
        finally:
            left, self._waiting = [*batch, *self._waiting], []
            self._is_writing = False
            _fail(left, Unavailable(f"the limits of {self._key} cannot be written now"))

    async def _write_batch(self, batch: list[_Change[F]]) -> None:
        is_fresh = not batch
        for pause_s in PAUSES_S:
            if pause_s:
                await self._clock.sleep(pause_s)
            if self._revision < 0 and batch:
                await self._read()
                is_fresh = True
            record, answers = self._made(batch)
            if record is self._seen and not is_fresh:
                self._revision = -1
                continue
            try:
                if record is not self._seen:
                    await self._put(record)
            except Conflict:
                self._revision = -1
                continue
            for change, answer in zip(batch, answers, strict=True):
                if not change.answer.done():
                    change.answer.set_result(answer)
            return
        raise RetryLater(f"too many replicas write the limits of {self._key} at once", after_s=0.5)

    def _made(self, batch: list[_Change[F]]) -> tuple[F, list[Any]]:
        now = self._clock.now()
        record, answers = self._seen, list[Any]()
        for change in batch:
            record, answer = change.step(record, now)
            answers.append(answer)
        return record, answers

    async def _put(self, record: F) -> None:
        revision, self._revision = self._revision, -1  # what is there after a failure must be read
        self._revision = await self._store.put(self._key, encode(record), expected=revision)
        self._seen = record

    async def _read(self) -> None:
        entry = await self._store.get(self._key)
        self._seen = self._empty
        if entry is not None and entry.data is not None:
            try:
                self._seen = decode(entry.data, type(self._empty))
            except Malformed as error:
                logger.error("the limits of %s begin anew: %s", self._key, error, extra={"action": "flow.malformed"})  # noqa: TRY400 - the text says it all
        self._revision = entry.revision if entry is not None else 0


class Records:
    """All that this process uses."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._pools: dict[str, Record[PoolFlow]] = {}
        self._namespaces: dict[str, Record[NamespaceFlow]] = {}

    def pool(self, account: str) -> Record[PoolFlow]:
        """The record of a pool."""
        return _known(self._pools, account) or self._made(self._pools, account, flow_pool(account), PoolFlow())

    def namespace(self, namespace: str) -> Record[NamespaceFlow]:
        """The record of a namespace."""
        known = _known(self._namespaces, namespace)
        return known or self._made(self._namespaces, namespace, flow_namespace(namespace), NamespaceFlow())

    async def close(self) -> None:
        """Write no more."""
        for pool in self._pools.values():
            await pool.close()
        for namespace in self._namespaces.values():
            await namespace.close()

    def _made(self, records: dict[str, Record[F]], name: str, key: str, empty: F) -> Record[F]:
        while len(records) >= IDLE_MAX:
            oldest = next((known for known, record in records.items() if record.is_idle), None)
            if oldest is None:
                break
            del records[oldest]
        records[name] = Record(self._store, self._clock, key, empty)
        return records[name]


def _known(records: dict[str, Record[F]], name: str) -> Record[F] | None:
    record = records.pop(name, None)
    if record is not None:
        records[name] = record  # the newest last
    return record


def _fail(batch: list[_Change[F]], error: Exception) -> None:
    for change in batch:
        if not change.answer.done():
            change.answer.set_exception(error)
