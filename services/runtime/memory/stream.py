"""A stream: messages in order, each at its own sequence, looked up by sequence or by subject.

Everything here happens at once; whatever waits is above.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

from schemas.subjects import MSG_ID
from services.runtime.errors import Conflict
from services.runtime.memory.clock import AlarmClock
from services.runtime.ports import Entry, Outgoing, StreamState

Observer = Callable[[Entry], None]


class Stream:
    """Messages of the subjects that it captures; the newest `history` of each subject, or all of them.

    Of a work queue, a message that was acknowledged is gone.
    """

    def __init__(
        self,
        name: str,
        captures: Sequence[str],
        clock: AlarmClock,
        *,
        history: int | None,
        work_queue: bool = False,
    ) -> None:
        self.name = name
        self.work_queue = work_queue
        self._captures = tuple(captures)
        self._clock = clock
        self._history = history
        self._entries: dict[int, Entry] = {}
        self._by_subject: dict[str, deque[int]] = {}
        self._by_message_id: dict[str, int] = {}
        self._observers: list[Observer] = []
        self.last_seq = 0

    def captures(self, subject: str) -> bool:
        """Whether messages of this subject are stored here."""
        return any(matches(filter_, subject) for filter_ in self._captures)

    def observe(self, observer: Observer) -> Callable[[], None]:
        """Call `observer` with every message that is stored from now on, until what is returned is called."""
        self._observers.append(observer)
        return lambda: self._observers.remove(observer)

    def append(self, message: Outgoing, *, expected: int | None = None) -> Entry:
        """Store a message; if `expected` is given, its subject must be at that sequence (0: not exist)."""
        if not self.captures(message.subject):
            raise ValueError(f"stream {self.name} does not capture {message.subject!r}")
        if expected is not None and expected != (newest := self.newest_seq(message.subject)):
            raise Conflict(f"{message.subject} is at {newest}, not at {expected}")
        self.last_seq += 1
        entry = Entry(message.subject, self.last_seq, message.data, dict(message.headers), self._clock.now())
        self._entries[entry.seq] = entry
        seqs = self._by_subject.setdefault(entry.subject, deque())
        seqs.append(entry.seq)
        if self._history is not None and len(seqs) > self._history:
            del self._entries[seqs.popleft()]
        for observer in self._observers:
            observer(entry)
        return entry

    def append_once(self, message: Outgoing) -> int:
        """Store a message, unless one with its `Nats-Msg-Id` was stored before; the sequence of the stored one."""
        message_id = message.headers.get(MSG_ID)
        if message_id is not None and (seq := self._by_message_id.get(message_id)) is not None:
            return seq
        entry = self.append(message)
        if message_id is not None:
            self._by_message_id[message_id] = entry.seq
        return entry.seq

    @property
    def state(self) -> StreamState:
        """How full it is."""
        size = sum(len(entry.subject) + len(entry.data) for entry in self._entries.values())
        return StreamState(
            name=self.name, messages=len(self._entries), bytes_=size, last_seq=self.last_seq, replicas_missing=0
        )

    def newest_seq(self, subject: str) -> int:
        """The newest sequence of a subject, or 0."""
        seqs = self._by_subject.get(subject)
        return seqs[-1] if seqs else 0

    def newest(self, subject: str) -> Entry | None:
        """The newest message of a subject, or None."""
        return self._entries.get(self.newest_seq(subject))

    def at(self, seq: int) -> Entry | None:
        """The message at a sequence, or None."""
        return self._entries.get(seq)

    def entries(self) -> Iterable[Entry]:
        """Every message, by sequence."""
        return tuple(self._entries.values())

    def subjects(self, filters: Sequence[str]) -> list[str]:
        """The subjects that match a filter."""
        return [subject for subject in self._by_subject if any(matches(filter_, subject) for filter_ in filters)]

    def last(self, filters: Sequence[str]) -> list[Entry]:
        """The newest message of each subject that matches a filter, by sequence."""
        seqs = sorted(self.newest_seq(subject) for subject in self.subjects(filters))
        return [self._entries[seq] for seq in seqs]

    def remove(self, seq: int) -> None:
        """Remove a message, if it is there."""
        if (entry := self._entries.pop(seq, None)) is not None:
            seqs = self._by_subject[entry.subject]
            seqs.remove(seq)
            if not seqs:
                del self._by_subject[entry.subject]

    def purge(self, filter_: str) -> None:
        """Remove every message whose subject matches."""
        for subject in self.subjects([filter_]):
            for seq in self._by_subject.pop(subject):
                del self._entries[seq]


@lru_cache(maxsize=65536)
def matches(filter_: str, subject: str) -> bool:
    """Whether a subject matches a filter: `*` is one token, `>` is one or more at the end."""
    wanted, found = filter_.split("."), subject.split(".")
    for place, want in enumerate(wanted):
        if want == ">":
            return len(found) > place
        if place >= len(found) or want not in ("*", found[place]):
            return False
    return len(wanted) == len(found)
