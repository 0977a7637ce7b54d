"""A key-value bucket as a `Store`. Any tool that reads NATS buckets reads it."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import deque
from collections.abc import AsyncIterator

from schemas.subjects import EXPECTED_LAST_SUBJECT_SEQUENCE
from services.runtime.errors import Conflict, Unavailable
from services.runtime.nats import api
from services.runtime.nats.connection import Connection
from services.runtime.nats.publish import Command, Mismatch, store
from services.runtime.nats.pull import SILENCE_S, Pull
from services.runtime.nats.read import Reader
from services.runtime.nats.wire import Raw, decode_headers
from services.runtime.ports import StoreEntry

logger = logging.getLogger(__name__)

OPERATION = "KV-Operation"
DELETED = frozenset({"DEL", "PURGE"})
WATCH_ROOM = 1024
WATCH_INACTIVE_S = 60
"""A watcher's consumer that nobody asks is removed by the server after this time."""
RESTART_S = 0.25
TRIES = 5
NANOSECONDS = 1_000_000_000


class NatsStore:
    """A bucket."""

    def __init__(self, connection: Connection, bucket: str, *, replicas: int) -> None:
        self._connection = connection
        self._stream = f"KV_{bucket}"
        self._prefix = f"$KV.{bucket}."
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
            watcher = _Watcher(self._connection, self._stream, self._prefix)
            try:
                async for entry in watcher.run(known):
                    yield entry
            except Unavailable as failure:
                logger.warning("watching %s: %s", self._stream, failure, extra={"action": "nats.watch"})
            finally:
                await watcher.close()
            await asyncio.sleep(RESTART_S)


class _Watcher:
    """One listing and what follows it, until it is interrupted."""

    def __init__(self, connection: Connection, stream: str, prefix: str) -> None:
        self._connection = connection
        self._stream = stream
        self._prefix = prefix
        self._name = f"watch-{uuid.uuid4().hex[:12]}"
        self._pull = Pull(connection, stream, self._name, self._received)
        self._buffer: deque[StoreEntry] = deque()

    async def run(self, known: set[str]) -> AsyncIterator[StoreEntry | None]:
        """Say everything; `known`: the keys that were said to exist, kept up to date. Ends when it is interrupted."""
        left = await self._start()
        before, now = set(known), set[str]()
        while left > 0:
            entry = await self._next()
            if entry is None:
                return
            left -= 1
            if entry.data is not None:
                now.add(entry.key)
                known.add(entry.key)
                yield entry
        for key in sorted(before - now):
            known.discard(key)
            yield StoreEntry(key, 0, None)
        yield None
        while (entry := await self._next()) is not None:
            if entry.data is None:
                known.discard(entry.key)
            else:
                known.add(entry.key)
            yield entry

    async def close(self) -> None:
        """Stop, and remove the consumer."""
        await self._pull.close()
        if self._connection.is_connected:
            try:
                await self._connection.send(f"$JS.API.CONSUMER.DELETE.{self._stream}.{self._name}", b"")
            except Unavailable:
                return  # the server removes it when it is inactive

    async def _start(self) -> int:
        config = {
            "name": self._name,
            "deliver_policy": "last_per_subject",
            "ack_policy": "none",
            "filter_subject": f"{self._prefix}>",
            "inactive_threshold": WATCH_INACTIVE_S * NANOSECONDS,
            "num_replicas": 1,
            "mem_storage": True,
        }
        try:
            made = await api.ask(
                self._connection,
                f"CONSUMER.CREATE.{self._stream}.{self._name}.{self._prefix}>",
                {"stream_name": self._stream, "config": config},
            )
        except api.ApiRefused as refusal:
            raise Unavailable(str(refusal)) from refusal
        await self._pull.renew()
        return int(made["num_pending"])

    async def _next(self) -> StoreEntry | None:
        while not self._buffer:
            if self._pull.lost:
                return None
            await self._pull.ask(WATCH_ROOM)
            await self._pull.wait(SILENCE_S)
        return self._buffer.popleft()

    def _received(self, raw: Raw) -> None:
        deleted = decode_headers(raw.headers).get(OPERATION) in DELETED if raw.headers else False
        seq = int(raw.reply.split(".")[5 if raw.reply.count(".") == 8 else 7])
        self._buffer.append(StoreEntry(raw.subject.removeprefix(self._prefix), seq, None if deleted else raw.data))
