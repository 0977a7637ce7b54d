"""The conversations that this replica has read, so that a turn costs what it added.

A conversation only grows: if what is remembered is the beginning of what is asked for, only the rest is read. It is a
cache and nothing else: a replica that remembers nothing reads everything, and the answer is the same.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import msgspec

from services.llm_gateway.core.window import Window, extend
from services.runtime.ports import Log

BYTES_MAX = 32 * 1024 * 1024
"""Stored bytes of all remembered conversations."""
TASKS_MAX = 1024


class _Remembered(msgspec.Struct, frozen=True):
    seqs: tuple[int, ...]
    window: Window


class Windows:
    """Conversations by the subject of their task's state, the least recently used forgotten first."""

    def __init__(self, *, bytes_max: int = BYTES_MAX, tasks_max: int = TASKS_MAX) -> None:
        self._bytes_max = bytes_max
        self._tasks_max = tasks_max
        self._remembered: OrderedDict[str, _Remembered] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        return len(self._remembered)

    @property
    def size(self) -> int:
        """Stored bytes that are remembered."""
        return self._size

    async def get(self, log: Log, key: str, seqs: Sequence[int]) -> Window:
        """The conversation of these entries; raises `BadWindow`, or `LookupError` if an entry is gone."""
        wanted = tuple(seqs)
        known = self._remembered.get(key)
        if known is None or known.seqs != wanted[: len(known.seqs)]:
            known = _Remembered((), Window())
        rest = wanted[len(known.seqs) :]
        window = known.window
        if rest:
            entries = await log.read(rest)
            window = extend(window, [(entry.subject, entry.data) for entry in entries])
        self._remember(key, _Remembered(wanted, window))
        return window

    def add(self, key: str, seq: int, subject: str, data: bytes) -> None:
        """An entry that this replica wrote itself comes next in a conversation that it remembers.

        Not if the conversation has gone on meanwhile: the answer to a write may come later than the next turns.
        """
        known = self._remembered.get(key)
        if known is not None and seq > max(known.seqs, default=0):
            self._remember(key, _Remembered((*known.seqs, seq), extend(known.window, [(subject, data)])))

    def forget(self, key: str) -> None:
        """The conversation is over, or is not to be trusted."""
        known = self._remembered.pop(key, None)
        if known is not None:
            self._size -= known.window.size

    def _remember(self, key: str, known: _Remembered) -> None:
        self.forget(key)
        if known.window.size > self._bytes_max:
            return
        self._remembered[key] = known
        self._size += known.window.size
        while len(self._remembered) > self._tasks_max or self._size > self._bytes_max:
            oldest = next(iter(self._remembered))
            self.forget(oldest)
