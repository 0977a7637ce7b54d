"""Following a task: what was recorded, what people are asked, and the text of the model as it comes.

Live messages may be lost and may come before we listen, so they only say "look now"; what is told comes from the
stream. Only the streamed text itself is taken from them: what was said before we came, or was lost, is asked for, and
the recorded answer has the last word.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, cast

import msgspec

from schemas.events import ModelAnswered, ModelFailed, WindowCompacted
from schemas.live import LiveEvent, TaskChanged, TextAsked, TextDelta, TextSoFar, ToolProgress
from schemas.streamed_text import StreamedText, TextNews, TextPiece, TextRestarted
from schemas.subjects import TaskSubjects
from schemas.task import AwaitingModel, Initializing, State, Terminal
from schemas.wire import Malformed, decode, encode
from services.cli.history import Recorded, decoded, turns
from services.cli.questions import QuestionNews, Questions
from services.runtime.errors import Unavailable
from services.runtime.tasks import spawn

if TYPE_CHECKING:
    from services.cli.client import Client, StoredTask
    from services.runtime.ports import Signal, Unsubscribe

POLL_S = 1.0
"""How long a lost live message can go unnoticed."""
BACKLOG_MAX = 4096
ANSWER_S = 1.0
"""How long whoever makes a model call may take to say its text so far; only one replica answers, and it may be gone."""
AWAY_MAX_S = 60.0
"""How long the bus may be away before the watcher gives up."""


class StateSeen(msgspec.Struct, frozen=True):
    """The task is in another state now."""

    state: State
    revision: int


Heard = TextDelta | TextSoFar | ToolProgress | None
"""Something live; None: there is news in the stream."""


class BusAway(msgspec.Struct, frozen=True):
    """The bus does not answer; we go on when it does."""

    why: str


Happening = Recorded | StateSeen | TextPiece | TextRestarted | ToolProgress | BusAway | QuestionNews


class Follower:
    """What happens to one task."""

    def __init__(self, client: Client, task: TaskSubjects, *, poll_s: float = POLL_S) -> None:
        self._client = client
        self._task = task
        self._log = client.log_of(task)
        self._poll_s = poll_s
        self._live: asyncio.Queue[Heard] = asyncio.Queue(BACKLOG_MAX)
        self._early: TextDelta | TextSoFar | None = None
        """A piece of a turn that we have not seen begin: what was recorded before it comes first."""
        self._seen: set[int] = set()
        self._state: State | None = None
        self._revision = 0
        self._turn = 0
        self._text = StreamedText()
        self._asking: asyncio.Task[None] | None = None
        self._questions = Questions(client, task, self._listen)
        self._stops: list[Unsubscribe] = []

    async def run(self) -> AsyncGenerator[Happening]:
        """Everything from the beginning to the end of the task; waits for one that is not there yet."""
        signals = self._client.bus.signals
        facts = f"{self._task.root}.evt.{self._task.task}.>"
        try:
            self._stops.append(await signals.subscribe(self._task.live, self._on_live))
            self._stops.append(await signals.subscribe(facts, self._on_fact))
            await self._listen(self._task)
            async for happening in self._run():
                yield happening
        finally:
            for stop in self._stops:
                await stop()
            if self._asking is not None:
                self._asking.cancel()

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
        early, self._early = self._early, None
        for news in self._text.take(early) if early is not None else ():
            yield news
        self._ask()
        try:
            async with asyncio.timeout(self._poll_s):
                while (live := await self._live.get()) is not None:
                    if isinstance(live, ToolProgress):
                        yield live
                        continue
                    if live.turn > self._turn:
                        self._early = live
                        return
                    for news in self._text.take(live):
                        yield news
                    self._ask()
        except TimeoutError:
            self._ask_if_awaited(self._state)  # the last piece may be lost, and nothing says so

    def _ask_if_awaited(self, state: State | None) -> None:
        if isinstance(state, AwaitingModel):
            self._ask(self._text.following)

    def _ask(self, asked: TextAsked | None = None) -> None:
        """Ask whoever makes the model call for what we do not have of its text, if there is something."""
        if self._asking is not None and not self._asking.done():
            return
        if (asked := asked or self._text.missing) is not None:
            self._asking = spawn(self._ask_for(asked), name=f"text:{self._task.task}")

    async def _ask_for(self, asked: TextAsked) -> None:
        signals = self._client.bus.signals
        try:
            answer = await signals.request(self._task.text, encode(asked), timeout_s=ANSWER_S)
            said = decode(answer.data, TextSoFar)
        except (Unavailable, Malformed):
            return  # the call has ended, or was lost with its replica: what comes next tells
        self._asking = None  # so that whoever takes the answer can ask for the rest at once
        self._put(said)

    async def _news(self, stored: StoredTask) -> list[Happening]:
        """What the stream says that was not told yet; the state last."""
        state = self._state = stored.state
        now = 0 if isinstance(state, Initializing) else state.turn
        fresh: list[Recorded] = []
        if not self._seen:
            fresh += await self._beginning()
        records = await turns(self._log, self._task, self._turn, max(now, 1), at_least=stored.revision)
        fresh += [record for record in records if record.seq not in self._seen]
        asked = await self._questions.news(stored)
        self._turn = now
        placed: list[tuple[int, list[Happening]]] = [(seq, [news]) for seq, news in asked]
        for record in fresh:
            self._seen.add(record.seq)
            placed.append((record.seq, [*self._outcome(record), record]))
        news = [one for _, several in sorted(placed, key=lambda pair: pair[0]) for one in several]
        if stored.revision != self._revision:
            if not self._revision:
                self._ask_if_awaited(state)
            self._revision = stored.revision
            news.append(StateSeen(state, stored.revision))
        return news

    async def _beginning(self) -> list[Recorded]:
        return decoded(await self._log.last([self._task.submitted]))

    def _outcome(self, record: Recorded) -> list[TextNews]:
        """What a recorded outcome of a model call says of its text."""
        match record.fact:
            case ModelAnswered(turn=turn, attempt=attempt, message=message):
                return self._text.answered(turn, attempt, message.content)
            case ModelFailed(turn=turn, attempt=attempt) | WindowCompacted(turn=turn, attempt=attempt):
                self._text.failed(turn, attempt)
                return []
            case _:
                return []

    async def _on_live(self, signal: Signal) -> None:
        try:
            event = decode(signal.data, cast("type[LiveEvent]", LiveEvent))
        except Malformed:
            return  # written by a newer version
        self._put(None if isinstance(event, TaskChanged) else event)

    async def _listen(self, task: TaskSubjects) -> None:
        """Hear when something is recorded about what people are asked for a task."""
        signals = self._client.bus.signals
        self._stops.append(await signals.subscribe(f"{task.root}.int.{task.task}.>", self._on_fact))

    async def _on_fact(self, _: Signal) -> None:
        self._put(None)

    def _put(self, heard: Heard) -> None:
        if not self._live.full():
            self._live.put_nowait(heard)
