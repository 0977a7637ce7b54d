"""Reading stored messages: direct gets, which any replica answers, and the leader where that is not enough.

A replica may be behind (17 of 1,500 reads under load). A read that was caused by a message therefore says which one,
and an answer from a replica that does not know that message yet is asked for again.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from datetime import datetime

import msgspec

from services.runtime.errors import Unavailable
from services.runtime.nats import api
from services.runtime.nats.client import Interrupted
from services.runtime.nats.connection import Connection, NoResponders
from services.runtime.nats.publish import Patience
from services.runtime.nats.wire import (
    JS_PENDING,
    JS_SEQUENCE,
    JS_SUBJECT,
    JS_TIME,
    JS_UP_TO,
    Raw,
    decode_headers,
    parse_time,
)

MULTI_SUBJECTS_MAX = 256
"""Subjects asked for at once; the server stops at 1,024 that match."""
READS_MAX = 64
"""Messages asked for at once: the server drops a client that does not keep up with 64 MiB."""
NOT_FOUND = 404
TOO_MANY = 413
MESSAGE_NOT_FOUND = 10037


class Stored(msgspec.Struct, frozen=True):
    """A stored message with all its headers."""

    subject: str
    seq: int
    data: bytes
    headers: dict[str, str]
    at: datetime


class _Last(msgspec.Struct):
    multi_last: list[str]
    batch: int = 1024


class _Seq(msgspec.Struct):
    seq: int


class _LeaderMessage(msgspec.Struct):
    subject: str
    seq: int
    time: datetime
    data: str = ""
    hdrs: str = ""


class _LeaderAnswer(msgspec.Struct):
    message: _LeaderMessage


class Reader:
    """Reads one stream."""

    def __init__(self, connection: Connection, stream: str, *, replicas: int) -> None:
        self._connection = connection
        self._stream = stream
        self._replicated = replicas > 1
        self._direct = f"{connection.api_prefix}.DIRECT.GET.{stream}"
        self._known = 0
        """What every answer is known to include: with one replica, all that it ever said it has."""

    async def get(self, subject: str, *, at_least: int) -> Stored | None:
        """The newest message of a subject. The only replica of a stream is never behind what it has delivered."""
        if self._replicated and at_least:
            found = await self.last([subject], at_least=at_least)
            return found[0] if found else None
        raw = await self._ask(f"{self._direct}.{subject}", b"")
        return _stored(raw) if raw.status != NOT_FOUND else None

    async def find(self, subject: str) -> Stored | None:
        """The newest message of a subject; that there is none is asked of the leader."""
        found = await self.get(subject, at_least=0)
        return await self._leader({"last_by_subj": subject}) if found is None and self._replicated else found

    async def read(self, seqs: Sequence[int]) -> list[Stored]:
        """The messages at these sequences; raises `LookupError` for one that does not exist."""
        if len(seqs) == 1:
            return [await self._at(seqs[0])]
        found: list[Stored] = []
        for start in range(0, len(seqs), READS_MAX):
            found += await asyncio.gather(*(self._at(seq) for seq in seqs[start : start + READS_MAX]))
        return found

    async def _at(self, seq: int) -> Stored:
        raw = await self._ask(self._direct, msgspec.json.encode(_Seq(seq)))
        if raw.status != NOT_FOUND:
            return _stored(raw)
        found = await self._leader({"seq": seq}) if self._replicated else None
        if found is None:
            raise LookupError(f"there is no message {seq} in {self._stream}")
        return found

    async def last(self, filters: Sequence[str], *, at_least: int) -> list[Stored]:
        """The newest message of each subject that matches, by sequence."""
        patience = Patience()
        while True:
            answers = await self._many(filters)
            end = answers[-1]
            if end.status == TOO_MANY:
                return await self._last_of_many(filters, at_least=at_least)
            if end.status == NOT_FOUND:
                # This answer does not say how much the replica knows; the leader does.
                if at_least <= self._known or await self._leader_has_none(filters, at_least=at_least):
                    return []
            else:
                headers = decode_headers(end.headers)
                if int(headers.get(JS_PENDING, 0)) > 0:
                    return await self._last_of_many(filters, at_least=at_least)
                if self._is_new_enough(int(headers.get(JS_UP_TO, 0)), at_least):
                    return sorted((_stored(raw) for raw in answers[:-1]), key=lambda stored: stored.seq)
            await patience.wait(f"no replica of {self._stream} knows message {at_least} yet")

    def _is_new_enough(self, up_to: int, at_least: int) -> bool:
        if not self._replicated:
            self._known = max(self._known, up_to)
        return up_to >= at_least

    async def _leader_has_none(self, filters: Sequence[str], *, at_least: int) -> bool:
        state = (await api.ask(self._connection, f"STREAM.INFO.{self._stream}"))["state"]
        return int(state["last_seq"]) >= at_least and not await self.subjects(filters)

    async def _last_of_many(self, filters: Sequence[str], *, at_least: int) -> list[Stored]:
        found: list[Stored] = []
        names = await self.subjects(filters)
        for start in range(0, len(names), MULTI_SUBJECTS_MAX):
            found += await self.last(names[start : start + MULTI_SUBJECTS_MAX], at_least=at_least)
        return sorted(found, key=lambda stored: stored.seq)

    async def subjects(self, filters: Sequence[str]) -> list[str]:
        """All subjects that match, as the leader knows them."""
        found: dict[str, int] = {}
        for filter_ in filters:
            offset = 0
            while True:
                info = await api.ask(
                    self._connection, f"STREAM.INFO.{self._stream}", {"subjects_filter": filter_, "offset": offset}
                )
                page: dict[str, int] = info["state"].get("subjects") or {}
                found.update(page)
                offset += len(page)
                if not page or offset >= int(info.get("total", 0)):
                    break
        return sorted(found)

    async def _leader(self, question: api.Json) -> Stored | None:
        try:
            answer = await api.ask(self._connection, f"STREAM.MSG.GET.{self._stream}", question)
        except api.ApiRefused as refusal:
            if refusal.err_code == MESSAGE_NOT_FOUND:
                return None
            raise Unavailable(str(refusal)) from refusal
        message = msgspec.convert(answer, _LeaderAnswer).message
        return Stored(
            message.subject,
            message.seq,
            base64.b64decode(message.data),
            decode_headers(base64.b64decode(message.hdrs)) if message.hdrs else {},
            message.time,
        )

    async def _ask(self, subject: str, data: bytes) -> Raw:
        patience = Patience()
        while True:
            try:
                return await self._connection.request(subject, data, timeout_s=patience.answer_s)
            except (Interrupted, NoResponders) as failure:
                await patience.wait(
                    f"{self._stream} cannot be read: {failure}", silent=isinstance(failure, Interrupted)
                )

    async def _many(self, filters: Sequence[str]) -> list[Raw]:
        patience = Patience()
        question = msgspec.json.encode(_Last(list(filters)))
        while True:
            try:
                return await self._connection.request_many(
                    self._direct, question, is_last=_is_status, timeout_s=patience.answer_s
                )
            except (Interrupted, NoResponders) as failure:
                await patience.wait(
                    f"{self._stream} cannot be read: {failure}", silent=isinstance(failure, Interrupted)
                )


def _is_status(raw: Raw) -> bool:
    return raw.status != 0


def _stored(raw: Raw) -> Stored:
    headers = decode_headers(raw.headers)
    try:
        return Stored(headers[JS_SUBJECT], int(headers[JS_SEQUENCE]), raw.data, headers, parse_time(headers[JS_TIME]))
    except KeyError as error:
        raise Unavailable(f"an answer to {raw.subject} that is not a stored message: status {raw.status}") from error
