"""A key-value bucket as a `Store`. Any tool that reads NATS buckets reads it.

A watch is a listing and the stored messages as the server republishes them. It has no consumer: whoever may make one
can have the server deliver to any subject of the stream's account (ADR 0035). What is republished is numbered, so a
message that was lost is noticed by the next one, and at the latest when the end of the stream is asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator

from schemas.subjects import EXPECTED_LAST_SUBJECT_SEQUENCE
from services.runtime.errors import Conflict, Unavailable
from services.runtime.nats import api
from services.runtime.nats.client import RawSubscription
from services.runtime.nats.connection import Connection
from services.runtime.nats.publish import Command, Mismatch, store
from services.runtime.nats.read import Reader
from services.runtime.nats.wire import JS_SEQUENCE, JS_SUBJECT, Raw, decode_headers
from services.runtime.ports import StoreEntry

logger = logging.getLogger(__name__)

OPERATION = "KV-Operation"
DELETED = frozenset({"DEL", "PURGE"})
RESTART_S = 0.25
LOOK_S = 5.0
"""How long a republished message that was lost can go unnoticed, if no other comes."""
GRACE_S = 1.0
"""How long a republished message may be on its way."""
NEWS_MAX = 10_000
"""Republished messages that wait to be taken; more are as if they were lost."""


class NatsStore:
    """A bucket."""

    def __init__(self, connection: Connection, bucket: str, *, replicas: int, news: str) -> None:
        """`news`: what the subjects begin with on which the server republishes the bucket."""
        self._connection = connection
        self._stream = f"KV_{bucket}"
        self._prefix = f"$KV.{bucket}."
        self._news = news
        self._reader = Reader(connection, self._stream, replicas=replicas)

    async def get(self, key: str) -> StoreEntry | None:
        """The value of a key, or None."""
        found = await self._reader.get(self._prefix + key, at_least=0)
        if found is None or found.headers.get(OPERATION) in DELETED:
            return None
        return StoreEntry(key, found.seq, found.data)

    async def put(self, key: str, data: bytes, *, expected: int | None = None) -> int:
        """Write a key, at a revision if `expected` is given (0: it must not exist)."""
        if expected is None:
            return await store(self._connection, Command(self._prefix + key, data, {}))
        try:
            return await self._put_at(key, data, expected)
        except Mismatch as mismatch:
            found = await self._reader.get(self._prefix + key, at_least=mismatch.actual)
            if expected == 0 and found is not None and found.headers.get(OPERATION) in DELETED:
                # A deleted key is a marker with a sequence.
                return await self._put_over_marker(key, data, found.seq)
            if mismatch.unsure and found is not None and found.data == data and found.seq > expected:
                return found.seq
            raise Conflict(str(mismatch)) from mismatch

    async def _put_at(self, key: str, data: bytes, expected: int) -> int:
        headers = {EXPECTED_LAST_SUBJECT_SEQUENCE: str(expected)}
        return await store(self._connection, Command(self._prefix + key, data, headers))

    async def _put_over_marker(self, key: str, data: bytes, marker: int) -> int:
        try:
            return await self._put_at(key, data, marker)
        except Mismatch as mismatch:
            raise Conflict(str(mismatch)) from mismatch

    async def delete(self, key: str, *, expected: int | None = None) -> None:
        """Remove a key, at a revision if `expected` is given."""
        found = await self._reader.find(self._prefix + key)
        if found is None or found.headers.get(OPERATION) in DELETED:
            return
        headers = {OPERATION: "DEL"}
        if expected is not None:
            headers[EXPECTED_LAST_SUBJECT_SEQUENCE] = str(expected)
        try:
            await store(self._connection, Command(self._prefix + key, b"", headers))
        except Mismatch as mismatch:
            found = await self._reader.get(self._prefix + key, at_least=mismatch.actual)
            if not mismatch.unsure or found is None or found.headers.get(OPERATION) not in DELETED:
                raise Conflict(str(mismatch)) from mismatch

    async def watch(self) -> AsyncIterator[StoreEntry | None]:
        """All keys as they are now, then None once, then every change; all of it again after an interruption."""
        known: set[str] = set()
        while True:
            watcher = _Watcher(self._connection, self._reader, self._stream, self._prefix, self._news)
            try:
                async for entry in watcher.run(known):
                    yield entry
            except (Unavailable, api.ApiRefused) as failure:
                logger.warning("watching %s: %s", self._stream, failure, extra={"action": "nats.watch"})
            finally:
                await watcher.close()
            await asyncio.sleep(RESTART_S)


class _Watcher:
    """One listing and what follows it, until it is interrupted."""

    def __init__(self, connection: Connection, reader: Reader, stream: str, prefix: str, news: str) -> None:
        self._connection = connection
        self._reader = reader
        self._stream = stream
        self._prefix = prefix
        self._news = news
        self._buffer: deque[Raw] = deque()
        self._changed = asyncio.Event()
        self._lost = False
        self._subscription: RawSubscription | None = None
        self._forget = connection.on_reconnect(self._reconnected)

    async def run(self, known: set[str]) -> AsyncIterator[StoreEntry | None]:
        """Say everything; `known`: the keys that were said to exist, kept up to date. Ends when it is interrupted."""
        self._subscription = await self._connection.listen(f"{self._news}>", self._received)
        if not await self._connection.flush():
            raise Unavailable("there is no server")
        end = await self._end()
        listed = await self._reader.last([f"{self._prefix}>"], at_least=end)
        early = {stored.subject: stored.seq for stored in listed if stored.seq > end}
        before = set(known)
        known.clear()
        for stored in listed:
            if stored.headers.get(OPERATION) not in DELETED:
                key = stored.subject.removeprefix(self._prefix)
                known.add(key)
                yield StoreEntry(key, stored.seq, stored.data)
        for key in sorted(before - known):
            yield StoreEntry(key, 0, None)
        yield None
        async for subject, entry in self._follow(end):
            if entry.revision <= early.get(subject, 0):
                continue
            (known.discard if entry.data is None else known.add)(entry.key)
            yield entry

    async def _follow(self, end: int) -> AsyncIterator[tuple[str, StoreEntry]]:
        """What is stored after `end`, in order; ends when something of it was lost."""
        while not self._lost:
            while self._buffer:
                raw = self._buffer.popleft()
                headers = decode_headers(raw.headers)
                subject, seq = headers[JS_SUBJECT], int(headers[JS_SEQUENCE])
                if seq <= end:
                    continue
                if seq != end + 1:
                    return
                end = seq
                deleted = headers.get(OPERATION) in DELETED
                yield subject, StoreEntry(subject.removeprefix(self._prefix), seq, None if deleted else raw.data)
            if not await self._wait(LOOK_S) and await self._end() > end and not await self._wait(GRACE_S):
                return

    async def _wait(self, timeout_s: float) -> bool:
        """Wait until there is something to look at; whether there is."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        changed = self._changed.is_set()
        self._changed.clear()
        return changed

    async def close(self) -> None:
        """Stop listening."""
        self._forget()
        if self._subscription is not None:
            await self._subscription.close()

    async def _end(self) -> int:
        """The last sequence of the stream, as its leader knows it."""
        return int((await api.ask(self._connection, f"STREAM.INFO.{self._stream}"))["state"]["last_seq"])

    def _received(self, raw: Raw) -> None:
        if len(self._buffer) < NEWS_MAX:
            self._buffer.append(raw)
        else:
            self._lost = True
        self._changed.set()

    def _reconnected(self) -> None:
        self._lost = True
        self._changed.set()
