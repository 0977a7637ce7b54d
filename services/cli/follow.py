"""Following a task: what was recorded, what is recorded while we look, and the text of the model as it comes.

Live messages may be lost and may come before we listen, so they only say "look now"; what is told comes from the
stream. Only the streamed text itself is taken from them, and the recorded answer fills in what was missed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, cast

import msgspec

from schemas.live import LiveEvent, TaskChanged, TextDelta, ToolProgress
from schemas.subjects import TaskSubjects
from schemas.task import Initializing, State, Terminal
from schemas.wire import Malformed, decode
from services.cli.history import Recorded, decoded, turns
from services.runtime.errors import Unavailable

if TYPE_CHECKING:
    from services.cli.client import Client, StoredTask
    from services.runtime.ports import Signal

POLL_S = 1.0
"""How long a lost live message can go unnoticed."""
BACKLOG_MAX = 4096
AWAY_MAX_S = 60.0
"""How long the bus may be away before the watcher gives up."""


class TextPiece(msgspec.Struct, frozen=True):
    """The next piece of a model's text, with nothing missing before it."""

    turn: int
    attempt: int
    text: str


class StateSeen(msgspec.Struct, frozen=True):
    """The task is in another state now."""

    state: State
    revision: int


class BusAway(msgspec.Struct, frozen=True):
    """The bus does not answer; we go on when it does."""

    why: str


Happening = Recorded | StateSeen | TextPiece | ToolProgress | BusAway


class Follower:
    """What happens to one task."""

    def __init__(self, client: Client, task: TaskSubjects, *, poll_s: float = POLL_S) -> None:
        self._client = client
        self._task = task
        self._log = client.log_of(task)
        self._poll_s = poll_s
        self._live: asyncio.Queue[LiveEvent | None] = asyncio.Queue(BACKLOG_MAX)
        self._seen: set[int] = set()
        self._revision = 0
        self._turn = 0
        self._streamed: dict[tuple[int, int], int] = {}
        """Characters told of each attempt's text. After a gap no more of it is told: the recorded answer has it all."""
        self._answered: set[tuple[int, int]] = set()

    async def run(self) -> AsyncGenerator[Happening]:
        """Everything from the beginning to the end of the task; waits for one that is not there yet."""
        signals = self._client.bus.signals
        facts = f"{self._task.root}.evt.{self._task.task}.>"
        stop_live = await signals.subscribe(self._task.live, self._on_live)
        stop_facts = await signals.subscribe(facts, self._on_fact)
        try:
            async for happening in self._run():
                yield happening
        finally:
            await stop_live()
            await stop_facts()

    async def _run(self) -> AsyncGenerator[Happening]:
        clock = self._client.bus.clock
        last_answer = clock.now()
        while True:
            try:
                stored, news = await self._look()
            except Unavailable as failure:
                away_s = (clock.now() - last_answer).total_seconds()
                if away_s > AWAY_MAX_S:
                    raise
                yield BusAway(str(failure))
                await clock.sleep(self._poll_s)
                continue
            last_answer = clock.now()
            for happening in news:
                yield happening
            if stored is not None and isinstance(stored.state, Terminal):
                return
            async for happening in self._pieces():
                yield happening

    async def _look(self) -> tuple[StoredTask | None, list[Happening]]:
        stored = await self._client.task(self._task.namespace, self._task.task)
        return stored, [] if stored is None else await self._news(stored)

    async def _pieces(self) -> AsyncGenerator[Happening]:
        """Live pieces, until something says that there is news in the stream, or it is time to look anyway."""
        try:
            async with asyncio.timeout(self._poll_s):
                while True:
                    live = await self._live.get()
                    if isinstance(live, TextDelta):
                        if piece := self._in_order(live):
                            yield piece
                    elif isinstance(live, ToolProgress):
                        yield live
                    else:
                        return
        except TimeoutError:
            return

    async def _news(self, stored: StoredTask) -> list[Happening]:
        """What the stream says that was not told yet; the state last."""
        state = stored.state
        now = 0 if isinstance(state, Initializing) else state.turn
        fresh: list[Happening] = []
        if not self._seen:
            fresh += await self._beginning()
        records = await turns(self._log, self._task, self._turn, max(now, 1), at_least=stored.revision)
        fresh += [record for record in records if record.seq not in self._seen]
        self._turn = now
        for record in fresh:
            assert isinstance(record, Recorded)
            self._seen.add(record.seq)
            self._close(record)
        if stored.revision != self._revision:
            self._revision = stored.revision
            fresh.append(StateSeen(state, stored.revision))
        return fresh

    async def _beginning(self) -> list[Recorded]:
        return decoded(await self._log.last([self._task.submitted]))

    def _close(self, record: Recorded) -> None:
        tokens = record.subject.split(".")
        if tokens[5] == "llm":
            self._answered.add((int(tokens[6]), int(tokens[7])))

    def _in_order(self, delta: TextDelta) -> TextPiece | None:
        key = (delta.turn, delta.attempt)
        told = self._streamed.get(key, 0)
        if key in self._answered or not delta.offset <= told < delta.offset + len(delta.text):
            return None
        text = delta.text[told - delta.offset :]
        self._streamed[key] = told + len(text)
        return TextPiece(delta.turn, delta.attempt, text)

    async def _on_live(self, signal: Signal) -> None:
        try:
            event = decode(signal.data, cast("type[LiveEvent]", LiveEvent))
        except Malformed:
            return  # written by a newer version
        self._put(None if isinstance(event, TaskChanged) else event)

    async def _on_fact(self, _: Signal) -> None:
        self._put(None)

    def _put(self, event: LiveEvent | None) -> None:
        if not self._live.full():
            self._live.put_nowait(event)
