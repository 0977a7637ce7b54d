"""Laws of streamed text: however the pieces come, every character of a call is told once, and the answer whole."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from random import Random
from typing import NamedTuple

from hypothesis import example, given, settings
from hypothesis import strategies as st

from schemas.live import TextAsked, TextDelta, TextSoFar
from schemas.streamed_text import AHEAD_MAX, StreamedText, TextCall, TextNews, TextPiece, TextRestarted, call_of
from services.llm_gateway.core.characters import mended, whole_part

AT = datetime(2030, 1, 1, tzinfo=UTC)
ALPHABET = "ab \n\u00e9\u4e16\U0001f600\U0001f468\u200d"
TEXTS = st.text(ALPHABET, max_size=30)


class Call(NamedTuple):
    """A call of a model, its whole text, and where that is cut into deltas."""

    turn: int
    attempt: int
    begun: datetime
    text: str
    deltas: tuple[TextDelta, ...]

    def so_far(self, said: int, asked: TextAsked, part: int) -> TextSoFar | None:
        """What its gateway answers when it has published the first `said` deltas; `part`: characters of a message."""
        about = call_of(asked)
        mine = TextCall(self.turn, self.attempt, self.begun)
        if about > mine:
            return None
        length = sum(len(delta.text) for delta in self.deltas[:said])
        offset = min(asked.offset, length) if about.place == mine.place and asked.begun in (None, self.begun) else 0
        text = self.text[:length][offset : offset + part]
        return TextSoFar(
            turn=self.turn, attempt=self.attempt, begun=self.begun, offset=offset, text=text, length=length
        )


def cut(text: str, places: Sequence[int]) -> list[str]:
    bounds = sorted({0, len(text), *(place for place in places if place < len(text))})
    return [text[a:b] for a, b in itertools.pairwise(bounds)]


@st.composite
def calls(draw: st.DrawFn, turns: int = 2) -> list[list[Call]]:
    """The calls of each turn, in their order: failed attempts, ones that were lost with their gateway, the answer."""
    found: list[list[Call]] = []
    begun = AT
    for turn in range(1, draw(st.integers(1, turns)) + 1):
        attempt, some = 1, list[Call]()
        for n in range(draw(st.integers(1, 3))):
            begun += timedelta(seconds=2)
            attempt += draw(st.integers(0, 1)) if n else 0
            text, deltas, offset = draw(TEXTS), list[TextDelta](), 0
            for piece in cut(text, draw(st.lists(st.integers(1, 30), max_size=12))):
                deltas.append(TextDelta(turn=turn, attempt=attempt, begun=begun, offset=offset, text=piece))
                offset += len(piece)
            some.append(Call(turn, attempt, begun, text, tuple(deltas)))
        found.append(some)
    return found


class Screen:
    """What a person sees of a turn: everything since the text last started again."""

    def __init__(self) -> None:
        self.shown = ""
        self.restarts = 0

    def show(self, news: Sequence[TextNews]) -> None:
        for one in news:
            if isinstance(one, TextRestarted):
                self.shown = ""
                self.restarts += 1
            else:
                assert one.text
                self.shown += one.text


class Fate(NamedTuple):
    """What becomes of one message: how often it comes, and how much later than its time."""

    copies: int
    late: int


FATES = st.builds(Fate, copies=st.integers(0, 3), late=st.integers(0, 6))


@given(turns=calls(), data=st.data())
@settings(max_examples=1500, deadline=None)
def test_whatever_is_lost_doubled_or_late_every_character_is_told_once(
    turns: list[list[Call]], data: st.DataObject
) -> None:
    """Also: a watcher that joins anywhere, a gateway that is killed anywhere, questions that are never answered."""
    text = StreamedText()
    late: list[tuple[int, TextDelta | TextSoFar]] = []
    clock = 0
    joined = data.draw(st.integers(0, 12), label="joins at")

    def deliver(screen: Screen) -> None:
        due = [one for when, one in late if when <= clock]
        late[:] = [entry for entry in late if entry[0] > clock]
        for one in due:
            screen.show(text.take(one))

    for some in turns:
        screen = Screen()
        for call in some:
            dies_after = data.draw(st.integers(0, len(call.deltas)), label="killed after")
            said = len(call.deltas) if call is some[-1] else dies_after
            for n, delta in enumerate(call.deltas[:said], start=1):
                clock += 1
                if clock <= joined:
                    continue
                fate = data.draw(FATES)
                late += [(clock + fate.late * copy, delta) for copy in range(fate.copies)]
                deliver(screen)
                assert text.text == "" or any(one.text.startswith(text.text) for one in some)
                missing = text.missing or TextAsked()
                if data.draw(st.booleans(), label="asks"):
                    answer = call.so_far(n, missing, data.draw(st.integers(1, 8), label="characters of a message"))
                    if answer is not None:
                        late.append((clock + data.draw(st.integers(0, 3)), answer))
            if call is not some[-1] and call.attempt < some[-1].attempt:
                text.failed(call.turn, call.attempt)
        last = some[-1]
        screen.show(text.answered(last.turn, last.attempt, last.text))
        assert screen.shown == last.text
        assert screen.restarts < len(some) + 1
        clock += data.draw(st.integers(0, 8))


@given(text=TEXTS, places=st.lists(st.integers(1, 30), max_size=12), order=st.randoms(), part=st.integers(1, 9))
@settings(max_examples=500, deadline=None)
@example(text="\U0001f600\U0001f468\u200d\U0001f4bb", places=[1, 2], order=Random(1), part=1)
def test_by_asking_for_what_is_missing_everything_comes_before_the_answer_is_recorded(
    text: str, places: list[int], order: Random, part: int
) -> None:
    deltas, offset = list[TextDelta](), 0
    for piece in cut(text, places):
        deltas.append(TextDelta(turn=1, attempt=1, begun=AT, offset=offset, text=piece))
        offset += len(piece)
    call = Call(1, 1, AT, text, tuple(deltas))
    heard = [delta for n, delta in enumerate(deltas) if n == len(deltas) - 1 or n % 3 == 1]
    order.shuffle(heard)
    streamed, screen = StreamedText(), Screen()
    for delta in heard:
        screen.show(streamed.take(delta))
    for _ in range(len(text) + 1):
        if (missing := streamed.missing) is None:
            break
        said = call.so_far(len(deltas), missing, part)
        assert said is not None
        screen.show(streamed.take(said))
    assert streamed.missing is None
    assert screen.shown == text
    assert screen.restarts == 0
    assert streamed.answered(1, 1, text) == []


@given(text=st.text(ALPHABET + "\ud83d\ude00\udc00", max_size=30), places=st.lists(st.integers(1, 30), max_size=12))
@example(text="\ud83d\ude00", places=[1])
@example(text="\ud83d\ud83d\ude00", places=[1, 2])
@example(text="\ude00\ud83d", places=[1])
def test_characters_that_were_cut_in_two_are_streamed_as_they_are_recorded(text: str, places: list[int]) -> None:
    streamed, half = "", ""
    for piece in cut(text, places):
        whole, half = whole_part(half + piece)
        streamed += mended(whole)
    assert streamed + mended(half) == mended(text)
    mended(text).encode()
    assert mended(mended(text)) == mended(text)


def test_pieces_far_ahead_are_bounded_and_can_be_asked_for() -> None:
    streamed = StreamedText()
    for n in range(2 * AHEAD_MAX, 0, -1):
        assert streamed.take(TextDelta(turn=1, attempt=1, offset=n, text="x")) == []
    asked = streamed.missing
    assert asked == TextAsked(turn=1, attempt=1, offset=0)
    (piece,) = streamed.take(TextSoFar(turn=1, attempt=1, offset=0, text="y", length=2 * AHEAD_MAX + 1))
    assert isinstance(piece, TextPiece)
    assert piece.text == "y" + "x" * AHEAD_MAX
    assert streamed.missing == TextAsked(turn=1, attempt=1, offset=AHEAD_MAX + 1)
