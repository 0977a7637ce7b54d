"""Payloads above the server's limit: kept in pieces in a store, and named in the message that stands for them.

A piece of the payload of a message on subject S has the subject `$O.holdfast_payloads.C.<digest>.<n>.<S>`, so that
purging S purges it too. The digest makes storing it twice harmless, and tells whether what is read is what was meant.
The pieces are stored before the message. A crash in between leaves pieces that nobody names until the task is purged.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

from schemas.subjects import (
    EXPECTED_LAST_SUBJECT_SEQUENCE,
    NAMESPACE,
    PAYLOAD_REF,
    PAYLOADS_BUCKET,
    SEALED,
    namespace_of,
)
from services.runtime.errors import KeyMissing, Refused
from services.runtime.nats import api
from services.runtime.nats.connection import Connection
from services.runtime.nats.publish import Command, Mismatch, store
from services.runtime.nats.read import Reader
from services.runtime.nats.topology import payloads_stream
from services.runtime.nats.wire import encode_headers

if TYPE_CHECKING:
    from services.runtime.sealing import Sealer

PAYLOAD_BYTES_MAX = 256 << 20
"""The largest payload of one message."""
TTL = "Nats-TTL"
HEADROOM_BYTES = 4096
"""Kept free in every message for the headers that the adapter and the server add."""
PIECE_BYTES_MAX = 1 << 20
WINDOW = 4
"""Pieces under way at once."""


class PayloadLost(LookupError):
    """A message names a payload that is not there (any more)."""


class Payloads:
    """Stores and fetches large payloads."""

    def __init__(self, connection: Connection, *, replicas: int, sealer: Sealer | None = None) -> None:
        self._connection = connection
        self._sealer = sealer
        self._reader = Reader(connection, payloads_stream(), replicas=replicas)

    async def outgoing(
        self, subject: str, data: bytes, headers: Mapping[str, str], *, kept_s: int | None = None
    ) -> Command:
        """The message to be published for a payload: itself, or a reference once the payload is stored.

        `kept_s`: for messages that nobody purges, how long the payload is kept.
        """
        data, headers = self._sealed(subject, data, headers)
        limit = self._connection.max_payload - HEADROOM_BYTES
        if len(data) <= limit // 2 or len(data) + len(encode_headers(headers)) <= limit:
            return Command(subject, data, headers)
        if len(data) > PAYLOAD_BYTES_MAX:
            raise Refused(
                f"{subject}: a payload of {len(data)} bytes is above the limit of {PAYLOAD_BYTES_MAX}", code="too_large"
            )
        reference = await self._store(subject, data, kept_s)
        return Command(subject, b"", {**headers, PAYLOAD_REF: reference})

    async def incoming(self, subject: str, data: bytes, headers: Mapping[str, str]) -> bytes:
        """The payload that a message stands for; raises `PayloadLost` when it is not there.

        One that is sealed is opened; raises `KeyMissing`, or `Malformed` when it was changed.
        """
        if (reference := headers.get(PAYLOAD_REF)) is not None:
            data = await self.fetch(subject, reference)
        return self.opened(subject, data, headers)

    def opened(self, subject: str, data: bytes, headers: Mapping[str, str]) -> bytes:
        """The data of a message, opened if it is sealed; raises `KeyMissing` or `Malformed`."""
        sealed = headers.get(SEALED)
        if sealed is None:
            return data
        namespace = _owner(subject, headers)
        if self._sealer is None:
            raise KeyMissing(f"{subject} is sealed, and HOLDFAST_PAYLOAD_KEYS_DIR does not say where the keys are")
        return self._sealer.open(namespace, subject, data, sealed)

    def _sealed(self, subject: str, data: bytes, headers: Mapping[str, str]) -> tuple[bytes, Mapping[str, str]]:
        namespace = _owner(subject, headers)
        if self._sealer is None or not namespace or (made := self._sealer.seal(namespace, subject, data)) is None:
            return data, headers
        sealed, header = made
        return sealed, {**headers, SEALED: header}

    async def fetch(
        self, subject: str, reference: str, *, working: Callable[[], Awaitable[None]] | None = None
    ) -> bytes:
        """The payload of a message, by its name. `working` is called while it is fetched; raises `PayloadLost`."""
        digest, total, owner = _parse(subject, reference)
        pieces: list[bytes] = []
        for first in range(0, total, WINDOW):
            numbers = range(first, min(first + WINDOW, total))
            found = await asyncio.gather(*(self._reader.find(_piece(digest, n, owner)) for n in numbers))
            for n, piece in zip(numbers, found, strict=True):
                if piece is None:
                    raise PayloadLost(f"piece {n} of the payload {digest} of {subject} is gone")
                pieces.append(piece.data)
            if working is not None:
                await working()
        data = b"".join(pieces)
        if hashlib.sha256(data).hexdigest() != digest:
            raise PayloadLost(f"the payload of {subject} is not the one that was stored")
        return data

    async def purge(self, filter_: str) -> None:
        """Remove the payloads of all messages whose subject matches a filter."""
        await api.ask(self._connection, f"STREAM.PURGE.{payloads_stream()}", {"filter": _piece("*", "*", filter_)})

    async def drop(self, subject: str, headers: Mapping[str, str]) -> None:
        """Remove the payload that one message stood for, if it had one."""
        if reference := headers.get(PAYLOAD_REF):
            digest, _, owner = _parse(subject, reference)
            await api.ask(self._connection, f"STREAM.PURGE.{payloads_stream()}", {"filter": _piece(digest, "*", owner)})

    async def _store(self, subject: str, data: bytes, kept_s: int | None) -> str:
        digest = hashlib.sha256(data).hexdigest()
        size = min(PIECE_BYTES_MAX, self._connection.max_payload - HEADROOM_BYTES)
        headers = {EXPECTED_LAST_SUBJECT_SEQUENCE: "0", **({TTL: f"{kept_s}s"} if kept_s is not None else {})}
        pieces = [data[start : start + size] for start in range(0, len(data), size)]
        for first in range(0, len(pieces), WINDOW):
            await asyncio.gather(
                *(
                    self._store_piece(Command(_piece(digest, n, subject), piece, headers))
                    for n, piece in enumerate(pieces[first : first + WINDOW], first)
                )
            )
        return f"{digest}.{len(pieces)}.{subject}"

    async def _store_piece(self, piece: Command) -> None:
        try:
            await store(self._connection, piece)
        except Mismatch:
            return  # the same digest: the same piece


def _owner(subject: str, headers: Mapping[str, str]) -> str:
    """The namespace that a message belongs to, or empty."""
    return namespace_of(subject) or headers.get(NAMESPACE, "")


def _parse(subject: str, reference: str) -> tuple[str, int, str]:
    """Digest, number of pieces and subject of a payload; a message may only name a payload of its own."""
    digest, _, rest = reference.partition(".")
    count, _, owner = rest.partition(".")
    if not count.isdecimal() or owner != subject:
        raise PayloadLost(f"{subject} names a payload that is not its own: {reference[:200]!r}")
    return digest, int(count), owner


def _piece(digest: str, n: int | str, subject: str) -> str:
    return f"$O.{PAYLOADS_BUCKET}.C.{digest}.{n}.{subject}"
