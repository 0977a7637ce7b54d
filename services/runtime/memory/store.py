"""The `Store` port of one process: the bucket's keys are the subjects of a stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from services.runtime.errors import Conflict
from services.runtime.memory.stream import Stream
from services.runtime.ports import Entry, Outgoing, StoreEntry

if TYPE_CHECKING:
    from services.runtime.memory.bus import Pause

OPERATION = "KV-Operation"
DELETED = "DEL"


class MemoryStore:
    """A key-value bucket."""

    def __init__(self, stream: Stream, bucket: str, pause: Pause) -> None:
        self._stream = stream
        self._prefix = f"$KV.{bucket}."
        self._pause = pause

    async def get(self, key: str) -> StoreEntry | None:
        """The value of a key, or None."""
        await self._pause("store.get", key)
        entry = self._stream.newest(self._prefix + key)
        return None if entry is None or _is_deleted(entry) else self._read(entry)

    async def put(self, key: str, data: bytes, *, expected: int | None = None) -> int:
        """Write a key, at a revision if `expected` is given."""
        await self._pause("store.put", key)
        newest = self._stream.newest(self._prefix + key)
        revision = 0 if newest is None or (_is_deleted(newest) and expected == 0) else newest.seq
        if expected is not None and expected != revision:
            raise Conflict(f"{key} is at revision {revision}, not at {expected}")
        entry = self._stream.append(Outgoing(self._prefix + key, data))
        await self._pause("store.put:after", key)
        return entry.seq

    async def delete(self, key: str, *, expected: int | None = None) -> None:
        """Remove a key, at a revision if `expected` is given: what remains is a mark, which watchers are told of."""
        await self._pause("store.delete", key)
        newest = self._stream.newest(self._prefix + key)
        if newest is None or _is_deleted(newest):
            return
        if expected is not None and expected != newest.seq:
            raise Conflict(f"{key} is at revision {newest.seq}, not at {expected}")
        self._stream.append(Outgoing(self._prefix + key, b"", {OPERATION: DELETED}))

    async def watch(self) -> AsyncIterator[StoreEntry | None]:
        """All keys as they are now, then None once, then every change."""
        changes: asyncio.Queue[Entry] = asyncio.Queue()
        forget = self._stream.observe(changes.put_nowait)
        try:
            for entry in self._stream.last([self._prefix + ">"]):
                if not _is_deleted(entry):
                    yield self._read(entry)
            yield None
            while True:
                entry = await changes.get()
                await self._pause("store.watch", entry.subject)
                yield self._read(entry)
        finally:
            forget()

    def _read(self, entry: Entry) -> StoreEntry:
        key = entry.subject.removeprefix(self._prefix)
        return StoreEntry(key, entry.seq, None if _is_deleted(entry) else entry.data)


def _is_deleted(entry: Entry) -> bool:
    return entry.headers.get(OPERATION) == DELETED
