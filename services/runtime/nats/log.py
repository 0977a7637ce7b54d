"""One stream as a `Log`: recorded once, fenced by revisions, read from any replica that is new enough.

The two forms of a commit:

    batch       state and commands in one atomic batch: all or nothing, one round trip. Where replicas or memory
                stage the batch; a single file-backed server makes a store per batch, which costs 2.5 to 18 ms.
    two-step    the state, then the commands, each on a subject that must not exist. A crash in between leaves
                commands to be ensured by the event's redelivery or by the reconciler.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from typing import Literal

from schemas.subjects import EXPECTED_LAST_SUBJECT_SEQUENCE
from services.runtime.errors import Conflict, Unavailable
from services.runtime.nats import api, publish
from services.runtime.nats.client import Interrupted
from services.runtime.nats.connection import Connection, NoResponders
from services.runtime.nats.payloads import PayloadLost, Payloads
from services.runtime.nats.publish import Command, Mismatch, Patience, refuse, store
from services.runtime.nats.read import Reader, Stored
from services.runtime.nats.wire import own_headers
from services.runtime.ports import Change, Entry, Outgoing

CommitForm = Literal["batch", "two-step"]

BATCH_ID = "Nats-Batch-Id"
BATCH_SEQUENCE = "Nats-Batch-Sequence"
BATCH_COMMIT = "Nats-Batch-Commit"
BATCH_MESSAGES_MAX = 1000
"""What the server takes in one batch."""
BATCHES_MAX = 8
"""Open batches of this process on one stream; the server stops at 50 of all processes."""


class NatsLog:
    """A stream of the server."""

    def __init__(
        self,
        connection: Connection,
        stream: str,
        payloads: Payloads,
        *,
        replicas: int,
        commit: CommitForm,
        payloads_kept_s: int | None = None,
    ) -> None:
        self._connection = connection
        self._stream = stream
        self._payloads = payloads
        self._reader = Reader(connection, stream, replicas=replicas)
        self._commit = commit
        self._payloads_kept_s = payloads_kept_s
        self._batches = asyncio.Semaphore(BATCHES_MAX)

    async def get(self, subject: str, *, at_least: int = 0) -> Entry | None:
        """The newest message of a subject, or None."""
        while True:
            stored = await self._reader.get(subject, at_least=at_least)
            if stored is None:
                return None
            try:
                return await self._entry(stored)
            except PayloadLost:
                # Replaced or purged while we read it, unless it is still there now.
                again = await self._reader.get(subject, at_least=stored.seq)
                if again is not None and again.seq == stored.seq:
                    raise

    async def read(self, seqs: Sequence[int]) -> list[Entry]:
        """The messages at these sequences, in this order."""
        return [await self._entry(stored) for stored in await self._reader.read(seqs)]

    async def last(self, filters: Sequence[str], *, at_least: int = 0) -> list[Entry]:
        """The newest message of each subject that matches a filter, by sequence."""
        return [await self._entry(stored) for stored in await self._reader.last(filters, at_least=at_least)]

    async def record(self, message: Outgoing) -> int | None:
        """Write a message on a subject that must not exist yet."""
        command = await self._fenced(message, 0)
        try:
            return await store(self._connection, command)
        except Mismatch as mismatch:
            return await self._earlier_try(command, mismatch)

    async def write(self, message: Outgoing, *, expected: int) -> int:
        """Write a message on a subject whose newest sequence is `expected`."""
        return await self._write(await self._fenced(message, expected))

    async def commit(self, change: Change) -> int:
        """Write a state at its expected revision and ensure what it needs."""
        state = await self._fenced(change.state, change.expected)
        ensure = [await self._fenced(message, 0) for message in change.ensure]
        if ensure and self._commit == "batch" and len(ensure) < BATCH_MESSAGES_MAX:
            return await self._commit_batch(state, ensure, change.expected)
        return await self._commit_two_step(state, ensure)

    async def subjects(self, filter_: str) -> list[str]:
        """All subjects that match a filter."""
        return await self._reader.subjects([filter_])

    async def purge(self, filter_: str) -> None:
        """Remove every message whose subject matches a filter, and then their payloads."""
        await api.ask(self._connection, f"STREAM.PURGE.{self._stream}", {"filter": filter_})
        await self._payloads.purge(filter_)

    async def drop(self, entry: Entry) -> None:
        """Remove a message, and none that has taken its place on its subject meanwhile."""
        stored = await self._reader.get(entry.subject, at_least=entry.seq)
        wanted = {"filter": entry.subject, "seq": entry.seq + 1}
        purged = (await api.ask(self._connection, f"STREAM.PURGE.{self._stream}", wanted)).get("purged", 0)
        if purged and stored is not None and stored.seq == entry.seq:
            await self._payloads.drop(entry.subject, stored.headers)

    # --- writing ------------------------------------------------------------------------

    async def _fenced(self, message: Outgoing, expected: int) -> Command:
        headers: Mapping[str, str] = {EXPECTED_LAST_SUBJECT_SEQUENCE: str(expected), **message.headers}
        return await self._payloads.outgoing(message.subject, message.data, headers, kept_s=self._payloads_kept_s)

    async def _write(self, command: Command) -> int:
        try:
            return await store(self._connection, command)
        except Mismatch as mismatch:
            if (seq := await self._earlier_try(command, mismatch)) is not None:
                return seq
            raise Conflict(str(mismatch)) from mismatch

    async def _earlier_try(self, command: Command, mismatch: Mismatch) -> int | None:
        """The sequence of a message that an earlier try stored after all; None if another writer was there."""
        if not mismatch.unsure:
            return None
        found = await self._reader.get(command.subject, at_least=mismatch.actual)
        return found.seq if found is not None and _is(found, command) else None

    async def _commit_two_step(self, state: Command, ensure: Sequence[Command]) -> int:
        revision = await self._write(state)
        await self._ensure(ensure)
        return revision

    async def _ensure(self, commands: Sequence[Command]) -> None:
        if len(commands) == 1:
            await self._ensure_one(commands[0])
        elif commands:
            await asyncio.gather(*map(self._ensure_one, commands))

    async def _ensure_one(self, command: Command) -> None:
        try:
            await store(self._connection, command)
        except Mismatch:
            return  # it is under way already

    async def _commit_batch(self, state: Command, ensure: Sequence[Command], expected: int) -> int:
        patience = Patience(sum(len(member.data) for member in (state, *ensure)))
        unsure = False
        while True:
            silent = False
            try:
                async with self._batches:
                    return await self._batch(state, ensure, unsure=unsure, answer_s=patience.answer_s)
            except Mismatch as mismatch:
                return await self._after_mismatch(state, ensure, expected, mismatch)
            except Interrupted as failure:
                unsure = silent = True
                why = str(failure)
            except NoResponders as failure:
                why = str(failure)
            except _NotNow as answer:
                why = str(answer)
            await patience.wait(f"{state.subject} was not committed: {why}", silent=silent)

    async def _after_mismatch(
        self, state: Command, ensure: Sequence[Command], expected: int, mismatch: Mismatch
    ) -> int:
        """The server does not say which member it refused. The state tells."""
        found = await self._reader.get(state.subject, at_least=mismatch.actual)
        if (found.seq if found else 0) == expected:
            return await self._commit_two_step(state, ensure)  # a command existed
        if found is not None and mismatch.unsure and _is(found, state):
            await self._ensure(ensure)
            return found.seq
        raise Conflict(str(mismatch)) from mismatch

    async def _batch(self, state: Command, ensure: Sequence[Command], *, unsure: bool, answer_s: float) -> int:
        batch = uuid.uuid4().hex
        members = [state, *ensure]
        commands = [
            self._connection.command(
                member.subject, member.data, {**member.headers, BATCH_ID: batch, BATCH_SEQUENCE: str(n)}
            )
            for n, member in enumerate(members[:-1], 1)
        ]
        last = members[-1]
        headers = {**last.headers, BATCH_ID: batch, BATCH_SEQUENCE: str(len(members)), BATCH_COMMIT: "1"}
        raw = await self._connection.request(
            last.subject, last.data, headers, before=tuple(commands), timeout_s=answer_s
        )
        ack = publish.pub_ack(raw)
        if ack.error is not None:
            refuse(state.subject, ack.error, unsure=unsure)
            raise _NotNow(ack.error.description)
        return ack.seq - len(ensure)

    # --- reading ------------------------------------------------------------------------

    async def _entry(self, stored: Stored) -> Entry:
        data = await self._payloads.incoming(stored.subject, stored.data, stored.headers)
        return Entry(stored.subject, stored.seq, data, own_headers(stored.headers), stored.at)


def _is(stored: Stored, command: Command) -> bool:
    """True if this is what was written. Two writers of equal messages wrote the same thing: either may have it."""
    if stored.data != command.data:
        return False
    return all(stored.headers.get(key) == value for key, value in command.headers.items())


class _NotNow(Unavailable):
    """The server could not take the batch now; nothing was written."""


def commit_form(wanted: Literal["auto", "batch", "two-step"], *, replicas: int, storage: str) -> CommitForm:
    """The form of commit for a stream: the faster one, unless one is asked for."""
    if wanted != "auto":
        return wanted
    return "batch" if replicas >= 3 or storage == "memory" else "two-step"
