"""Everything that was ever stored, and what happened outside of the bus: what the checkers look at."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from schemas.messages import Message
from schemas.subjects import TaskSubjects, task_of, task_stream
from services.runtime.memory.stream import Observer, Stream, matches
from services.runtime.ports import Entry


class Effect(msgspec.Struct, frozen=True):
    """A tool did its work once. Written down by the tool itself."""

    key: str
    tool: str
    at: datetime
    by: str
    arguments: Mapping[str, Any]


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """A receiver was told something. Written down by the receiver itself."""

    id: str
    url: str
    body: bytes
    at: datetime
    taken: bool
    by: str


class ModelRequested(msgspec.Struct, frozen=True):
    """A model was called with this. Written down by the model itself."""

    messages: tuple[Message, ...]
    turn: int
    attempt: int
    at: datetime
    by: str


class History:
    """The record of one simulation."""

    def __init__(self, streams: Sequence[Stream]) -> None:
        self.stored: list[tuple[str, Entry]] = []
        self.by_task: dict[TaskSubjects, list[Entry]] = defaultdict(list)
        self._by_stream: dict[str, list[Entry]] = {stream.name: [] for stream in streams}
        self.effects: list[Effect] = []
        self.model_calls: list[ModelRequested] = []
        self.told: list[Told] = []
        for stream in streams:
            stream.observe(self._observer(stream.name))

    def as_of(self, stream: str, seq: int, filters: Sequence[str]) -> list[Entry]:
        """The newest message of each subject that matches, as a replica knows it that is at `seq`."""
        newest: dict[str, Entry] = {}
        for entry in self._by_stream[stream]:
            if entry.seq > seq:
                break
            if any(matches(filter_, entry.subject) for filter_ in filters):
                newest[entry.subject] = entry
        return sorted(newest.values(), key=lambda entry: entry.seq)

    def seq_before(self, stream: str, at: datetime) -> int:
        """The newest sequence that was stored by then."""
        for entry in reversed(self._by_stream[stream]):
            if entry.at <= at:
                return entry.seq
        return 0

    def by_partition(self, partition: int) -> Sequence[Entry]:
        """All that was stored of the tasks of a partition, in order."""
        return self._by_stream[task_stream(partition)]

    def of(self, task: TaskSubjects, filter_: str) -> list[Entry]:
        """All that was stored of a task on subjects that match, in order."""
        return [entry for entry in self.by_task[task] if matches(filter_, entry.subject)]

    def effects_of(self, key: str) -> list[Effect]:
        """What tools did for one call."""
        return [effect for effect in self.effects if effect.key == key]

    def _observer(self, stream: str) -> Observer:
        def observe(entry: Entry) -> None:
            self.stored.append((stream, entry))
            self._by_stream[stream].append(entry)
            if stream.startswith("KV_holdfast_") and stream not in ("KV_holdfast_resources", "KV_holdfast_flow"):
                self.by_task[task_of(entry.subject)].append(entry)

        return observe
