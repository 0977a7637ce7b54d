"""The `Log` and `Timers` ports of one process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from services.runtime.errors import Conflict, Unavailable
from services.runtime.memory.stream import Stream
from services.runtime.ports import Change, Entry, Outgoing

if TYPE_CHECKING:
    from services.runtime.memory.bus import Pause
    from services.runtime.memory.server import MemoryServer

CommitForm = Literal["batch", "two-step"]


class MemoryLog:
    """A stream as a `Log`. It is its own only replica: what it does not know by now is not written yet."""

    def __init__(self, stream: Stream, pause: Pause, form: CommitForm) -> None:
        self._stream = stream
        self._pause = pause
        self._form = form

    async def get(self, subject: str, *, at_least: int = 0) -> Entry | None:
        """The newest message of a subject, or None."""
        await self._pause("log.get", subject)
        self._check_known(at_least)
        return self._stream.newest(subject)

    async def read(self, seqs: Sequence[int]) -> list[Entry]:
        """The messages at these sequences, in this order."""
        await self._pause("log.read", self._stream.name)
        found: list[Entry] = []
        for seq in seqs:
            entry = self._stream.at(seq)
            if entry is None:
                raise LookupError(f"{self._stream.name} has no message at {seq}")
            found.append(entry)
        return found

    async def last(self, filters: Sequence[str], *, at_least: int = 0) -> list[Entry]:
        """The newest message of each subject that matches a filter, by sequence."""
        await self._pause("log.last", filters[0] if filters else "")
        self._check_known(at_least)
        return self._stream.last(filters)

    async def record(self, message: Outgoing) -> int | None:
        """Write a message on a subject that must not exist yet."""
        await self._pause("log.record", message.subject)
        seq = self._ensure(message)
        await self._pause("log.record:after", message.subject)
        return seq

    async def write(self, message: Outgoing, *, expected: int) -> int:
        """Write a message on a subject whose newest sequence is `expected`."""
        await self._pause("log.write", message.subject)
        entry = self._stream.append(message, expected=expected)
        await self._pause("log.write:after", message.subject)
        return entry.seq

    async def commit(self, change: Change) -> int:
        """Write a state at its expected revision and ensure what it needs.

        In the two-step form there is a pause before each command, so that a process can die between the two.
        """
        await self._pause("log.commit", change.state.subject)
        revision = self._stream.append(change.state, expected=change.expected).seq
        for message in change.ensure:
            if self._form == "two-step":
                await self._pause("log.commit:ensure", message.subject)
            self._ensure(message)
        await self._pause("log.commit:after", change.state.subject)
        return revision

    async def subjects(self, filter_: str) -> list[str]:
        """All subjects that match a filter."""
        await self._pause("log.subjects", filter_)
        return self._stream.subjects([filter_])

    async def purge(self, filter_: str) -> None:
        """Remove every message whose subject matches a filter."""
        await self._pause("log.purge", filter_)
        self._stream.purge(filter_)

    async def drop(self, entry: Entry) -> None:
        """Remove a message, and none that has taken its place on its subject meanwhile."""
        await self._pause("log.drop", entry.subject)
        self._stream.remove(entry.seq)

    def _check_known(self, seq: int) -> None:
        if seq > self._stream.last_seq:
            raise Unavailable(f"{self._stream.name} is at {self._stream.last_seq}, not yet at {seq}")

    def _ensure(self, message: Outgoing) -> int | None:
        try:
            return self._stream.append(message, expected=0).seq
        except Conflict:
            return None


class MemoryTimers:
    """Wake-ups by the server's clock."""

    def __init__(self, server: MemoryServer, pause: Pause) -> None:
        self._server = server
        self._pause = pause

    async def set(self, subject: str, fires_on: str, at: datetime, data: bytes, headers: Mapping[str, str]) -> None:
        """Set the timer of `subject`, replacing the one before."""
        await self._pause("timers.set", subject)
        for name in (subject, fires_on):
            if not self._server.timers_of(name).captures(name):
                raise ValueError(f"{name!r} is not the subject of a timer")
        self._server.set_timer(Outgoing(subject, data, dict(headers)), fires_on, at)
        await self._pause("timers.set:after", subject)

    async def cancel(self, filter_: str) -> None:
        """Cancel the timers whose subject matches a filter."""
        await self._pause("timers.cancel", filter_)
        self._server.cancel_timers(filter_)
