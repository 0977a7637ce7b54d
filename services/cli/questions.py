"""What people are asked for a task and for the tasks below it, as the stream has it; each change is told once.

Whoever comes late is told what is still open, and of what is not only how it ended.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from schemas.ids import request_id
from schemas.interactions import InteractionAnswered, InteractionRequested, InteractionStep
from schemas.task import AwaitingTools, Initializing, State, Terminal
from schemas.wire import Malformed, decode

if TYPE_CHECKING:
    from schemas.subjects import TaskSubjects
    from services.cli.client import Client, StoredTask
    from services.runtime.ports import Entry


class QuestionAsked(msgspec.Struct, frozen=True):
    """People are asked something, and nobody has answered yet."""

    asked: InteractionRequested
    step: InteractionStep | None
    """The channel that has it now, once one has."""
    child: bool
    """A task below the one that is followed asks."""


class QuestionPassed(msgspec.Struct, frozen=True):
    """A channel has an open question now, or has it until another time than was told."""

    asked: InteractionRequested
    step: InteractionStep
    child: bool


class QuestionClosed(msgspec.Struct, frozen=True):
    """A question needs no answer any more."""

    asked: InteractionRequested
    answered: InteractionAnswered | None
    """None: its task ended first."""
    child: bool


QuestionNews = QuestionAsked | QuestionPassed | QuestionClosed


class PlacedNews(NamedTuple):
    """Some news, and where in the stream it is."""

    seq: int
    news: QuestionNews


Listen = Callable[["TaskSubjects"], Awaitable[None]]
"""Hear from now on when something is recorded about what people are asked for this task."""


class _Recorded:
    """What is recorded of one question."""

    def __init__(self) -> None:
        self.asked: InteractionRequested | None = None
        self.asked_seq = 0
        self.step: InteractionStep | None = None
        self.step_seq = 0
        self.answered: InteractionAnswered | None = None
        self.answered_seq = 0

    def add(self, entry: Entry) -> None:
        """Take one of its messages."""
        match entry.subject.split(".")[8:]:
            case ["asked"]:
                self.asked, self.asked_seq = decode(entry.data, InteractionRequested), entry.seq
            case ["answered"]:
                self.answered, self.answered_seq = decode(entry.data, InteractionAnswered), entry.seq
            case ["step", _]:
                step = decode(entry.data, InteractionStep)
                if step.delivered and (self.step is None or step.step > self.step.step):
                    self.step, self.step_seq = step, entry.seq
            case _:
                pass


class _Told(NamedTuple):
    """An open question, as it was told last."""

    asked: InteractionRequested
    step: InteractionStep | None


class Questions:
    """The questions of one task and of those below it."""

    def __init__(self, client: Client, task: TaskSubjects, listen: Listen, *, child: bool = False) -> None:
        self._client = client
        self._task = task
        self._listen = listen
        self._child = child
        self._turn = 0
        self._open: dict[str, _Told] = {}
        self._closed: set[str] = set()
        self._below: dict[str, Questions] = {}
        self.has_ended = False
        self._fresh: list[PlacedNews] = []
        """What is not told yet: it stays here when a look is cut short."""

    async def news(self, stored: StoredTask) -> list[PlacedNews]:
        """What is new, as of a state of the task; raises `Unavailable`."""
        await self._look(stored)
        for name, child in list(self._below.items()):
            if not child.has_ended and (found := await self._client.task(self._task.namespace, name)) is not None:
                self._fresh += await child.news(found)
        fresh, self._fresh = self._fresh, []
        return fresh

    async def _look(self, stored: StoredTask) -> None:
        state, task = stored.state, self._task
        turn = 0 if isinstance(state, Initializing) else state.turn
        requests: set[str] = {request_id(n) for n in range(max(self._turn, 1), max(turn, 1) + 1)}
        requests |= {told.asked.interaction.partition(".")[0] for told in self._open.values()}
        filters = [f"{task.root}.int.{task.task}.{request}.>" for request in sorted(requests)]
        entries = await self._client.log_of(task).last(filters, at_least=stored.revision)
        await self._find_children(state)
        self._turn = turn
        found: dict[str, _Recorded] = {}
        for entry in entries:
            try:
                found.setdefault(".".join(entry.subject.split(".")[5:8]), _Recorded()).add(entry)
            except Malformed:
                continue  # written by a newer version
        self.has_ended = isinstance(state, Terminal)
        for id_, recorded in found.items():
            self._compare(id_, recorded)
        if self.has_ended:
            for told in self._open.values():
                self._tell(stored.revision, QuestionClosed(told.asked, None, self._child))
            self._open.clear()

    def _compare(self, id_: str, recorded: _Recorded) -> None:
        asked, step, told = recorded.asked, recorded.step, self._open.get(id_)
        if asked is None or id_ in self._closed:
            return
        if recorded.answered is not None:
            self._closed.add(id_)
            self._open.pop(id_, None)
            self._tell(recorded.answered_seq, QuestionClosed(asked, recorded.answered, self._child))
        elif told is None:
            if not self.has_ended and asked.expires > self._client.bus.clock.now():
                self._open[id_] = _Told(asked, step)
                self._tell(recorded.asked_seq, QuestionAsked(asked, step, self._child))
        elif step is not None and _is_news(asked, told.step, step):
            self._open[id_] = _Told(asked, step)
            self._tell(recorded.step_seq, QuestionPassed(asked, step, self._child))

    async def _find_children(self, state: State) -> None:
        """Children live as long as the call that they answer is waited for."""
        names = {call.child for call in state.calls if call.child} if isinstance(state, AwaitingTools) else set[str]()
        for name in sorted(names - set(self._below)):
            place = self._client.subjects_of(self._task.namespace, name)
            await self._listen(place)
            self._below[name] = Questions(self._client, place, self._listen, child=True)

    def _tell(self, seq: int, news: QuestionNews) -> None:
        self._fresh.append(PlacedNews(seq, news))


def _is_news(asked: InteractionRequested, told: InteractionStep | None, now: InteractionStep) -> bool:
    """Whether a step says something that was not told: another channel, or another time."""
    channel, until = (told.channel, told.until) if told is not None else (asked.channel, None)
    return (now.channel, now.until) != (channel, until)
