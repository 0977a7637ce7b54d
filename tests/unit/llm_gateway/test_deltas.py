from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from schemas import subjects
from schemas.live import TextAsked, TextDelta, TextSoFar
from schemas.messages import AssistantMessage, ToolCall
from schemas.subjects import TaskSubjects
from schemas.wire import decode, encode
from services.llm_gateway.core.answers import recorded
from services.llm_gateway.deltas import INTERVAL_S, PART_LENGTH_MAX, Deltas, Texts
from services.runtime.errors import Unavailable
from services.runtime.memory.bus import MemoryBus
from services.runtime.memory.clock import ManualClock
from services.runtime.memory.server import MemoryServer
from services.runtime.ports import Signal
from services.runtime.tasks import spawn

TASK = TaskSubjects(0, "team", "job")


class Rig:
    """A gateway's texts on a bus whose clock stands still, and a watcher."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.bus = MemoryBus(MemoryServer(clock=self.clock))
        self.texts = Texts(self.bus.signals, self.clock)
        self.heard: list[TextDelta] = []
        self.cut_off = False

    async def listen(self) -> None:
        async def hear(signal: Signal) -> None:
            self.heard.append(decode(signal.data, TextDelta))

        await self.bus.signals.subscribe(TASK.live, hear)
        await self.bus.signals.subscribe(subjects.TEXT_ALL, self.texts.answer)

    async def settled(self) -> None:
        """Let everything happen that can happen now."""
        for _ in range(50):
            await asyncio.sleep(0)

    async def ask(self, asked: TextAsked, task: TaskSubjects = TASK) -> TextSoFar | None:
        question = spawn(self.bus.signals.request(task.text, encode(asked), timeout_s=1), name="question")
        await self.settled()
        if not question.done():
            await self.clock.advance(1)
        try:
            return decode((await question).data, TextSoFar)
        except Unavailable:
            return None


@pytest.fixture
async def rig() -> Rig:
    rig = Rig()
    await rig.listen()
    return rig


async def test_the_first_piece_is_published_at_once_and_those_that_follow_together(rig: Rig) -> None:
    async with rig.texts.streaming(TASK, turn=2, attempt=3) as deltas:
        deltas.add("It ")
        await rig.settled()
        assert [delta.text for delta in rig.heard] == ["It "]
        for piece in ("is ", "noon", "."):
            deltas.add(piece)
        await rig.clock.advance(INTERVAL_S * 0.9)
        assert len(rig.heard) == 1
        await rig.clock.advance(INTERVAL_S * 0.2)
        assert [(delta.offset, delta.text) for delta in rig.heard] == [(0, "It "), (3, "is noon.")]
        assert {(delta.turn, delta.attempt, delta.begun) for delta in rig.heard} == {(2, 3, deltas.call.begun)}
        await rig.clock.advance(10 * INTERVAL_S)
        deltas.add(" Then")
        await rig.settled()
        assert rig.heard[-1].text == " Then"


async def test_all_that_was_said_is_published_by_the_end(rig: Rig) -> None:
    async with rig.texts.streaming(TASK, turn=1, attempt=1) as deltas:
        deltas.add("It is ")
        await rig.settled()
        deltas.add("noon.")
    await rig.settled()
    assert "".join(delta.text for delta in rig.heard) == "It is noon."


async def test_what_fails_publishes_no_more_and_is_forgotten(rig: Rig) -> None:
    async def call() -> None:
        async with rig.texts.streaming(TASK, turn=1, attempt=1) as deltas:
            deltas.add("It is ")
            await rig.settled()
            deltas.add("noon.")
            raise ValueError("cut off")

    with pytest.raises(ValueError, match="cut off"):
        await call()
    await rig.clock.advance(1)
    assert [delta.text for delta in rig.heard] == ["It is "]
    assert await rig.ask(TextAsked()) is None


async def test_a_long_piece_is_published_and_told_in_parts(rig: Rig) -> None:
    text = "\U0001f600\x01" * PART_LENGTH_MAX
    async with rig.texts.streaming(TASK, turn=1, attempt=1) as deltas:
        deltas.add(text)
        await rig.settled()
        assert [len(delta.text) for delta in rig.heard] == [PART_LENGTH_MAX] * 2
        assert [delta.offset for delta in rig.heard] == [0, PART_LENGTH_MAX]
        assert all(len(encode(delta)) < 1 << 20 for delta in rig.heard)
        told = ""
        while len(told) < len(text):
            said = await rig.ask(TextAsked(turn=1, attempt=1, offset=len(told)))
            assert said is not None
            assert said.length == len(text)
            assert len(encode(said)) < 1 << 20
            told += said.text
        assert told == text


async def test_characters_that_come_in_two_halves_are_whole(rig: Rig) -> None:
    async with rig.texts.streaming(TASK, turn=1, attempt=1) as deltas:
        deltas.add("a\ud83d")
        await rig.settled()
        deltas.add("\ude00b\ud83d")
        await rig.clock.advance(2 * INTERVAL_S)
    await rig.settled()
    assert [(delta.offset, delta.text) for delta in rig.heard] == [(0, "a"), (1, "\U0001f600b"), (3, "\ufffd")]


def test_an_answer_with_halves_of_characters_can_be_recorded() -> None:
    call = ToolCall(id="\ud83d", name="a\ud83d\ude00", arguments='{"a":"\ud83d\ude00\ud83d"}')
    message = AssistantMessage(content="\ud83d\ude00\ude00", tool_calls=(call, call), opaque="\ud83d")
    mended = recorded(message, "team", "job", 1)
    encode(mended)
    assert mended.content == "\U0001f600\ufffd"
    assert mended.tool_calls[0] == ToolCall(id="\ufffd", name="a\U0001f600", arguments='{"a":"\U0001f600\ufffd"}')
    assert mended.tool_calls[1].id != mended.tool_calls[0].id


async def test_whoever_asks_is_told_what_was_published_from_an_offset_on(rig: Rig) -> None:
    async with rig.texts.streaming(TASK, turn=2, attempt=1) as deltas:
        deltas.add("It is ")
        await rig.settled()
        deltas.add("noon.")
        begun = deltas.call.begun
        for asked, offset, text in (
            (TextAsked(), 0, "It is "),
            (TextAsked(turn=2, attempt=1, offset=3), 3, "is "),
            (TextAsked(turn=2, attempt=1, begun=begun, offset=3), 3, "is "),
            (TextAsked(turn=2, attempt=1, begun=begun, offset=99), 6, ""),
            (TextAsked(turn=1, attempt=1, offset=3), 0, "It is "),
            (TextAsked(turn=2, attempt=1, begun=begun - timedelta(seconds=2), offset=3), 0, "It is "),
        ):
            said = await rig.ask(asked)
            assert said == TextSoFar(turn=2, attempt=1, begun=begun, offset=offset, text=text, length=6), asked
    assert await rig.ask(TextAsked()) is None


async def test_whoever_makes_an_earlier_call_or_none_is_silent(rig: Rig) -> None:
    async with rig.texts.streaming(TASK, turn=2, attempt=1) as deltas:
        deltas.add("It is ")
        await rig.settled()
        later = deltas.call.begun + timedelta(seconds=2)
        assert await rig.ask(TextAsked(turn=2, attempt=1, begun=later)) is None
        assert await rig.ask(TextAsked(turn=2, attempt=2)) is None
        assert await rig.ask(TextAsked(turn=3, attempt=1)) is None
        assert await rig.ask(TextAsked(), TaskSubjects(0, "team", "other")) is None
        assert await rig.ask(TextAsked(), TaskSubjects(0, "other", "job")) is None


async def test_of_two_calls_for_a_task_the_later_one_is_told(rig: Rig) -> None:
    async with rig.texts.streaming(TASK, turn=2, attempt=1) as lost:
        lost.add("It was ")
        async with rig.texts.streaming(TASK, turn=2, attempt=2) as deltas:
            deltas.add("It is ")
            await rig.settled()
            said = await rig.ask(TextAsked(turn=2, attempt=1, offset=3))
            assert said is not None
            assert (said.attempt, said.offset, said.text) == (2, 0, "It is ")


async def test_text_is_told_to_inboxes_only(rig: Rig) -> None:
    """A gateway that published wherever it is told could be made to write the outcome of another's call."""
    forged = TASK.model_event(9, 1)
    heard: list[Signal] = []

    async def hear(signal: Signal) -> None:
        heard.append(signal)

    await rig.bus.signals.subscribe(forged, hear)
    async with rig.texts.streaming(TASK, turn=1, attempt=1) as deltas:
        deltas.add("It is ")
        await rig.settled()
        await rig.texts.answer(Signal(TASK.text, encode(TextAsked()), {}, forged))
        await rig.settled()
    assert heard == []


async def test_what_is_no_question_is_not_answered_and_stops_nobody(rig: Rig) -> None:
    async with rig.texts.streaming(TASK, turn=1, attempt=1) as deltas:
        deltas.add("It is ")
        await rig.settled()
        await rig.texts.answer(Signal(TASK.text, b"{", {}, "_INBOX.x"))
        await rig.texts.answer(Signal(TASK.text, encode(TextAsked()), {}))
        assert await rig.ask(TextAsked()) is not None


async def test_a_bus_that_is_away_costs_watchers_a_piece_and_nobody_else_anything() -> None:
    async def pause(call: str, subject: str) -> None:
        if call == "signals.publish":
            raise Unavailable("away")

    bus = MemoryBus(pause=pause)
    deltas = Deltas(bus.signals, bus.clock, TASK, turn=1, attempt=1)
    deltas.add("It is ")
    await deltas.close(complete=True)
    said = deltas.so_far(TextAsked())
    assert said is not None
    assert said.text == "It is "
