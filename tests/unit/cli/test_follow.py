from __future__ import annotations

import asyncio
import io
from collections.abc import Mapping

import pytest

from schemas import subjects
from schemas.events import ToolFinished
from schemas.live import TaskChanged, TextDelta
from schemas.streamed_text import TextPiece
from services.cli.client import Client
from services.cli.follow import Follower, Happening, StateSeen
from services.cli.history import Recorded
from services.cli.narrator import LineNarrator, LiveNarrator
from services.llm_gateway.deltas import Deltas, Texts
from services.runtime.errors import Unavailable
from services.runtime.memory.bus import MemoryBus
from services.runtime.ports import Signal, SignalHandler, Unsubscribe
from services.runtime.tasks import spawn
from tests.support.cli import AT, CLOCK, Script, finished_task

PATIENCE_S = 5.0
AGAIN = "! the model call is made again, and its text starts again"


class Watcher:
    """A follower that runs in the background, and what it told so far."""

    def __init__(self, bus: MemoryBus, script: Script, *, poll_s: float = 60.0) -> None:
        self.told: list[Happening] = []
        self._follower = Follower(Client(bus), script.task, poll_s=poll_s)
        self._news = asyncio.Event()
        self.task = spawn(self._run(), name="watcher")

    async def _run(self) -> None:
        async for happening in self._follower.run():
            self.told.append(happening)
            self._news.set()

    async def until(self, count: int) -> list[Happening]:
        async with asyncio.timeout(PATIENCE_S):
            while len(self.told) < count:
                self._news.clear()
                await self._news.wait()
        return self.told

    async def end(self) -> list[Happening]:
        async with asyncio.timeout(PATIENCE_S):
            await self.task
        return self.told


def facts(told: list[Happening]) -> list[str]:
    return [type(one.fact).__name__ if isinstance(one, Recorded) else type(one).__name__ for one in told]


def delta(text: str, offset: int, *, turn: int = 1, attempt: int = 1) -> TextDelta:
    return TextDelta(turn=turn, attempt=attempt, offset=offset, text=text)


async def test_whoever_comes_after_the_end_is_told_everything_in_order() -> None:
    bus = MemoryBus()
    script = await finished_task(bus)
    told = await Watcher(bus, script).end()
    assert facts(told) == [
        "TaskSubmitted",
        "TextPiece",
        "ModelAnswered",
        "ToolFinished",
        "ToolFinished",
        "TextPiece",
        "ModelAnswered",
        "StateSeen",
    ]


async def test_text_is_told_as_it_comes_and_the_answer_once_it_is_recorded() -> None:
    bus = MemoryBus()
    script = Script(bus)
    await script.submit()
    await script.call_model(1)
    watcher = Watcher(bus, script)
    await watcher.until(2)
    await script.live(delta("It is ", 0))
    await script.live(delta("noon.", 6))
    await watcher.until(4)
    await script.answer(1, "It is noon.")
    await script.finish(1)
    told = await watcher.end()
    assert facts(told) == ["TaskSubmitted", "StateSeen", "TextPiece", "TextPiece", "ModelAnswered", "StateSeen"]
    assert [one.text for one in told if isinstance(one, TextPiece)] == ["It is ", "noon."]


async def test_text_with_a_gap_before_it_is_left_to_the_recorded_answer() -> None:
    bus = MemoryBus()
    script = Script(bus)
    await script.submit()
    await script.call_model(1)
    watcher = Watcher(bus, script)
    await watcher.until(2)
    await script.live(delta("noon", 6))
    await script.live(delta("It is ", 0, attempt=2))
    told = await watcher.until(3)
    assert told[2] == TextPiece(1, 2, "It is ")
    watcher.task.cancel()


async def test_a_model_call_that_is_made_again_tells_only_what_was_not_told() -> None:
    bus = MemoryBus()
    script = Script(bus)
    await script.submit()
    await script.call_model(1)
    watcher = Watcher(bus, script)
    await watcher.until(2)
    await script.live(delta("It is ", 0))
    await script.live(delta("It ", 0))
    await script.live(delta("is noon.", 3))
    told = await watcher.until(4)
    assert [one.text for one in told if isinstance(one, TextPiece)] == ["It is ", "noon."]
    watcher.task.cancel()


async def test_lost_live_messages_are_made_up_for_by_looking_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    bus = MemoryBus()

    async def hear_nothing(subject: str, handler: SignalHandler, *, queue: str = "") -> Unsubscribe:
        return lambda: asyncio.sleep(0)

    monkeypatch.setattr(bus.signals, "subscribe", hear_nothing)
    script = Script(bus)
    await script.submit()
    await script.call_model(1)
    watcher = Watcher(bus, script, poll_s=0.01)
    await watcher.until(2)
    await script.answer(1, "Noon.")
    await script.finish(1)
    assert facts(await watcher.end())[-2:] == ["ModelAnswered", "StateSeen"]


async def test_while_the_bus_is_away_the_watcher_waits_and_then_goes_on() -> None:
    away = True

    async def pause(call: str, subject: str) -> None:
        await asyncio.sleep(0)
        if away and call == "log.get":
            raise Unavailable("no answer")

    bus = MemoryBus()
    script = await finished_task(bus)
    watcher = Watcher(MemoryBus(bus.server, pause=pause), script, poll_s=0.01)
    assert facts(await watcher.until(2)) == ["BusAway", "BusAway"]
    away = False
    assert facts(await watcher.end())[-1] == "StateSeen"


async def test_a_single_result_is_told_before_the_others_are_there() -> None:
    bus = MemoryBus()
    script = Script(bus)
    await script.submit()
    await script.call_model(1)
    answer = await script.answer(1, "", CLOCK)
    await script.await_tools(1, answer, CLOCK)
    watcher = Watcher(bus, script, poll_s=0.05)
    told = await watcher.until(3)
    assert isinstance(told[-1], StateSeen)
    await script.result(1, 1, CLOCK)
    told = await watcher.until(4)
    assert isinstance(told[-1], Recorded)
    assert isinstance(told[-1].fact, ToolFinished)
    watcher.task.cancel()


async def test_a_change_that_is_told_live_is_looked_up_at_once() -> None:
    bus = MemoryBus()
    script = Script(bus)
    await script.submit()
    await script.call_model(1)
    watcher = Watcher(bus, script)
    await watcher.until(2)
    await script.answer(1, "Noon.")
    await script.finish(1)
    await script.live(TaskChanged(phase="FinalAnswer", status="Ready", status_detail="", reason="", revision=9, at=AT))
    assert facts(await watcher.end())[-1] == "StateSeen"


async def test_in_a_pipe_everything_is_a_line() -> None:
    bus = MemoryBus()
    script = await finished_task(bus)
    stream = io.StringIO()
    narrator = LineNarrator(stream)
    for happening in await Watcher(bus, script).end():
        narrator.tell(happening)
    assert stream.getvalue().splitlines() == [
        "task t1 for agent helper",
        "Let me look.",
        'call time__now {"zone": "UTC"}',
        'call time__now {"zone": "JST"}',
        "result time__now succeeded in 100ms: 12:00",
        "result time__now failed in 100ms: no such zone",
        "It is noon.",
        "FinalAnswer: LLM final response received",
    ]


@pytest.mark.parametrize(
    ("pieces", "answer", "shown"),
    [
        (["It is ", "noon."], "It is noon.", "It is noon.\n"),
        (["It is "], "It is noon.", "It is noon.\n"),
        ([], "It is noon.", "It is noon.\n"),
        (["It was "], "It is noon.", f"It was \n{AGAIN}\nIt is noon.\n"),
    ],
)
async def test_on_a_terminal_a_streamed_text_is_completed_and_not_repeated(
    pieces: list[str], answer: str, shown: str
) -> None:
    bus = MemoryBus()
    script = Script(bus)
    await script.submit()
    await script.call_model(1)
    watcher = Watcher(bus, script)
    await watcher.until(2)
    offset = 0
    for n, piece in enumerate(pieces, start=1):
        await script.live(delta(piece, offset))
        offset += len(piece)
        await watcher.until(2 + n)
    await script.answer(1, answer)
    await script.finish(1)
    stream = io.StringIO()
    narrator = LiveNarrator(stream)
    for happening in await watcher.end():
        if not isinstance(happening, StateSeen):
            narrator.tell(happening)
    narrator.close()
    assert stream.getvalue() == shown


class Gateway:
    """Makes one model call, as far as its watchers can tell."""

    def __init__(self, script: Script, *, attempt: int = 1, turn: int = 1) -> None:
        signals, clock = script.bus.signals, script.bus.clock
        self._script = script
        self._texts = Texts(signals, clock)
        self._streaming = self._texts.streaming(script.task, turn=turn, attempt=attempt)
        self._deltas: Deltas | None = None
        self.asked = 0

    async def begin(self) -> None:
        async def answer(signal: Signal) -> None:
            self.asked += 1
            await self._texts.answer(signal)

        self._stop = await self._script.bus.signals.subscribe(subjects.TEXT_ALL, answer)
        self._deltas = await self._streaming.__aenter__()

    def say(self, text: str) -> None:
        assert self._deltas is not None
        self._deltas.add(text)

    async def end(self) -> None:
        await self._streaming.__aexit__(None, None, None)
        await self._stop()


async def test_whoever_joins_in_the_middle_of_an_answer_is_told_all_of_it() -> None:
    bus = MemoryBus()
    script = Script(bus)
    await script.submit()
    await script.call_model(1)
    gateway = Gateway(script)
    await gateway.begin()
    gateway.say("It is ")
    await asyncio.sleep(0)
    watcher = Watcher(bus, script)
    told = await watcher.until(3)
    assert [one.text for one in told if isinstance(one, TextPiece)] == ["It is "]
    gateway.say("noon.")
    await watcher.until(4)
    await gateway.end()
    await script.answer(1, "It is noon.")
    await script.finish(1)
    assert [one.text for one in await watcher.end() if isinstance(one, TextPiece)] == ["It is ", "noon."]


async def test_a_piece_that_was_lost_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    bus = MemoryBus()
    script = Script(bus)
    await script.submit()
    await script.call_model(1)
    watcher = Watcher(bus, script)
    await watcher.until(2)
    gateway = Gateway(script)
    publish = bus.signals.publish
    lost = asyncio.Event()

    async def lose(subject: str, data: bytes, headers: Mapping[str, str] | None = None) -> None:
        if b"lost" in data and subject.startswith("hf.live."):
            lost.set()
        else:
            await publish(subject, data, headers or {})

    monkeypatch.setattr(bus.signals, "publish", lose)
    await gateway.begin()
    gateway.say("one ")
    await watcher.until(3)
    gateway.say("lost ")
    await asyncio.wait_for(lost.wait(), PATIENCE_S)
    gateway.say("three")
    told = await watcher.until(4)
    assert "".join(one.text for one in told if isinstance(one, TextPiece)) == "one lost three"
    assert gateway.asked == 1
    await gateway.end()
    watcher.task.cancel()


async def test_a_piece_of_the_next_turn_waits_for_what_was_recorded_before_it() -> None:
    bus = MemoryBus()
    script = Script(bus)
    await script.submit()
    await script.call_model(1)
    watcher = Watcher(bus, script)
    await watcher.until(2)
    await script.live(delta("Let me ", 0))
    await watcher.until(3)
    answer = await script.answer(1, "Let me look.", CLOCK)
    await script.await_tools(1, answer, CLOCK)
    await script.result(1, 1, CLOCK)
    await script.call_model(2)
    await script.live(delta("Noon", 0, turn=2))
    await watcher.until(8)
    await script.answer(2, "Noon.")
    await script.finish(2)
    texts = [(one.turn, one.text) for one in await watcher.end() if isinstance(one, TextPiece)]
    assert texts == [(1, "Let me "), (1, "look."), (2, "Noon"), (2, ".")]
