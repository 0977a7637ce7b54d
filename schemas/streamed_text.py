"""The text of a model call, put together from pieces that may be lost, doubled, late, or from a call that was lost.

For any watcher, in any language; the rules are these:

    A piece belongs to a call: turn, attempt, and when the call began. Of two calls the later one counts; what comes
    from an earlier one after that is ignored.
    A later call of the same turn says everything again: what was told of the turn so far is void.
    Offsets count characters (Unicode code points). Of a piece that overlaps what was told, the rest counts; a piece
    ahead of it waits until what is missing between was asked for (`TaskSubjects.text`) and has come.
    The recorded outcome has the last word: an answer is told from where its text was told to, or again if it differs.

Pure: whoever uses it listens, asks and shows.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from schemas.live import TextAsked, TextDelta, TextSoFar

AHEAD_MAX = 1024
"""Pieces that wait for what is missing before them; those farthest ahead are dropped, and can be asked for."""

_BEFORE_ALL = datetime.min.replace(tzinfo=UTC)


class TextPiece(msgspec.Struct, frozen=True):
    """The next piece of a model's text: nothing is missing before it, and nothing was told before."""

    turn: int
    attempt: int
    text: str


class TextRestarted(msgspec.Struct, frozen=True):
    """What was told of this turn's text is void: another call says it from the beginning."""

    turn: int
    attempt: int


TextNews = TextPiece | TextRestarted


class TextCall(NamedTuple):
    """A model call whose text is streamed; a later one is greater."""

    turn: int
    attempt: int
    begun: datetime = _BEFORE_ALL

    @property
    def place(self) -> tuple[int, int]:
        """Where its outcome is recorded."""
        return (self.turn, self.attempt)


def call_of(said: TextDelta | TextSoFar | TextAsked) -> TextCall:
    """The call that a piece or a question is about."""
    return TextCall(said.turn, said.attempt, said.begun or _BEFORE_ALL)


class StreamedText:
    """What is known of the text of a task's newest model call."""

    def __init__(self) -> None:
        self._call: TextCall | None = None
        self._told: list[str] = []
        self._length = 0
        """Characters told."""
        self._end = 0
        """Characters that there are, as far as is known."""
        self._ahead: dict[int, str] = {}
        """Pieces that wait, by their offsets."""
        self._settled = (0, 0)
        """Outcomes up to this turn and attempt are recorded."""

    @property
    def text(self) -> str:
        """What was told of the newest call."""
        return "".join(self._told)

    @property
    def following(self) -> TextAsked:
        """The question for what follows on what was told: for whoever has just come, or heard nothing for a while."""
        if self._call is None:
            return TextAsked()
        turn, attempt, begun = self._call
        known = None if begun is _BEFORE_ALL else begun
        return TextAsked(turn=turn, attempt=attempt, begun=known, offset=self._length)

    @property
    def missing(self) -> TextAsked | None:
        """What to ask for now, if something that was said has not come."""
        return self.following if self._end > self._length else None

    def take(self, said: TextDelta | TextSoFar) -> list[TextNews]:
        """A piece has come; what it tells."""
        call = call_of(said)
        if call.place <= self._settled or (self._call is not None and call < self._call):
            return []
        news: list[TextNews] = []
        if call != self._call:
            news += self._void(call.turn, call.attempt)
            self._call = call
        end = said.offset + len(said.text)
        self._end = max(self._end, end, said.length if isinstance(said, TextSoFar) else 0)
        if end > self._length and end > said.offset + len(self._ahead.get(said.offset, "")):
            self._ahead[said.offset] = said.text
        if text := self._next():
            news.append(TextPiece(call.turn, call.attempt, text))
        return news

    def answered(self, turn: int, attempt: int, text: str) -> list[TextNews]:
        """The answer is recorded; what of it was not told yet. Say this before pieces of the next turn."""
        if (turn, attempt) <= self._settled or (self._call is not None and (turn, attempt) < self._call.place):
            return []
        news: list[TextNews] = []
        if self._call is None or self._call.place != (turn, attempt) or not text.startswith(self.text):
            news += self._void(turn, attempt)
        if rest := text[self._length :]:
            news.append(TextPiece(turn, attempt, rest))
        self._settled = (turn, attempt)
        self._call = None
        self._forget()
        return news

    def failed(self, turn: int, attempt: int) -> None:
        """The attempt has no answer; what was told of it is void when another one speaks."""
        self._settled = max(self._settled, (turn, attempt))
        if self._call is not None and self._call.place <= self._settled:
            self._ahead.clear()
            self._end = self._length

    def _void(self, turn: int, attempt: int) -> list[TextNews]:
        told = self._length > 0 and self._call is not None and self._call.turn == turn
        self._forget()
        return [TextRestarted(turn, attempt)] if told else []

    def _forget(self) -> None:
        self._told.clear()
        self._ahead.clear()
        self._length = self._end = 0

    def _next(self) -> str:
        """What follows at once on what was told, out of the pieces that wait."""
        found: list[str] = []
        for offset in sorted(self._ahead):
            if offset > self._length:
                break
            if text := self._ahead.pop(offset)[self._length - offset :]:
                found.append(text)
                self._length += len(text)
        for offset in sorted(self._ahead)[AHEAD_MAX:]:
            del self._ahead[offset]
        self._told += found
        return "".join(found)
