"""What people are asked, as whoever follows a task is told it."""

from __future__ import annotations

import asyncio
import io
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from schemas.interactions import InteractionAnswered, InteractionRequested, InteractionStep
from schemas.messages import ToolCall
from schemas.task import AwaitingTools, CallRef
from services.cli.client import Client
from services.cli.follow import Follower, Happening, StateSeen
from services.cli.jsonlines import JSONNarrator
from services.cli.narrator import LineNarrator, LiveNarrator, Narrator, WaitNarrator
from services.cli.questions import QuestionAsked, QuestionClosed, QuestionNews, QuestionPassed
from services.runtime.errors import Unavailable
from services.runtime.memory.bus import MemoryBus
from services.runtime.tasks import spawn
from tests.support.cli import BUDGET, CLOCK, OTHER_CLOCK, Script

PATIENCE_S = 5.0
DELEGATED = ToolCall(id="d1", name="delegate_to_agent__leaf", arguments='{"message": "go"}')


class People:
    """Records what people would be asked and would answer for one task."""

    def __init__(self, script: Script) -> None:
        self._script = script

    async def asked(self, n: int = 1, *, turn: int = 1, expires_s: float = 900, **fields: Any) -> InteractionRequested:
        now = datetime.now(UTC)
        defaults: Any = {
            "kind": "approval",
            "namespace": "default",
            "task": self._script.task.task,
            "interaction": f"r{turn}.{n}.0",
            "message": "I look.",
            "agent": "helper",
            "tool": "time__now",
            "arguments": '{"zone": "UTC\x1b[2J"}',
            "digest": "d",
            "channel": "oncall",
            "at": now,
            "expires": now + timedelta(seconds=expires_s),
        }
        one = InteractionRequested(**(defaults | fields))
        await self._script.record(self._script.task.interaction_asked(f"r{turn}", n, 0), one)
        return one

    async def answered(self, n: int = 1, *, turn: int = 1, **fields: Any) -> None:
        defaults: Any = {
            "namespace": "default",
            "task": self._script.task.task,
            "interaction": f"r{turn}.{n}.0",
            "action": "accept",
            "at": datetime.now(UTC),
            "by": "ann",
        }
        said = InteractionAnswered(**(defaults | fields))
        await self._script.record(self._script.task.interaction_answered(f"r{turn}", n, 0), said)

    async def passed(self, step: int, channel: str, *, until: datetime | None = None) -> None:
        taken = InteractionStep(
            interaction="r1.1.0", step=step, channel=channel, at=datetime.now(UTC), until=until, delivered=True
        )
        await self._script.record(self._script.task.interaction_step("r1", 1, 0, step), taken)


class Watcher:
    """A follower in the background, and what it told of questions."""

    def __init__(self, bus: MemoryBus, script: Script, *, poll_s: float = 0.02) -> None:
        self.told: list[Happening] = []
        self._follower = Follower(Client(bus), script.task, poll_s=poll_s)
        self._news = asyncio.Event()
        self.task = spawn(self._run(), name="watcher")

    async def _run(self) -> None:
        async for happening in self._follower.run():
            self.told.append(happening)
            self._news.set()

    @property
    def news(self) -> list[QuestionNews]:
        return [one for one in self.told if isinstance(one, QuestionAsked | QuestionPassed | QuestionClosed)]

    async def until(self, count: int) -> list[QuestionNews]:
        async with asyncio.timeout(PATIENCE_S):
            while len(self.news) < count:
                self._news.clear()
                await self._news.wait()
        return self.news

    async def until_seen(self, revision: int = 0) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not any(isinstance(one, StateSeen) and one.revision >= revision for one in self.told):
                self._news.clear()
                await self._news.wait()

    async def end(self) -> list[QuestionNews]:
        async with asyncio.timeout(PATIENCE_S):
            await self.task
        return self.news


async def waiting_task(bus: MemoryBus, *calls: ToolCall, name: str = "t1") -> Script:
    """A task whose first answer makes calls."""
    script = Script(bus, name)
    await script.submit()
    await script.call_model(1)
    answer = await script.answer(1, "", *calls)
    await script.await_tools(1, answer, *calls)
    return script


def kinds(news: list[QuestionNews]) -> list[tuple[str, str]]:
    return [(type(one).__name__, one.asked.interaction) for one in news]


async def test_a_question_is_told_at_once_and_so_is_its_answer_without_waiting_for_the_next_look() -> None:
    bus = MemoryBus()
    script = await waiting_task(bus, CLOCK)
    people = People(script)
    watcher = Watcher(bus, script, poll_s=60)
    await watcher.until_seen()
    await people.asked()
    await watcher.until(1)
    await people.answered()
    assert kinds(await watcher.until(2)) == [("QuestionAsked", "r1.1.0"), ("QuestionClosed", "r1.1.0")]
    watcher.task.cancel()


async def test_whoever_joins_late_is_told_what_is_open_and_how_the_rest_ended() -> None:
    bus = MemoryBus()
    script = await waiting_task(bus, CLOCK, OTHER_CLOCK)
    people = People(script)
    await people.asked(1)
    await people.asked(2)
    await people.answered(1)
    await people.asked(3, expires_s=-1)
    watcher = Watcher(bus, script)
    assert kinds(await watcher.until(2)) == [("QuestionAsked", "r1.2.0"), ("QuestionClosed", "r1.1.0")]
    watcher.task.cancel()


async def test_a_question_that_is_passed_on_is_told_with_the_channel_that_has_it() -> None:
    bus = MemoryBus()
    script = await waiting_task(bus, CLOCK)
    people = People(script)
    await people.asked()
    await people.passed(0, "oncall")
    watcher = Watcher(bus, script)
    (first,) = await watcher.until(1)
    assert isinstance(first, QuestionAsked)
    assert first.step is not None
    await people.passed(1, "boss", until=datetime.now(UTC) + timedelta(minutes=5))
    assert kinds(await watcher.until(2))[1:] == [("QuestionPassed", "r1.1.0")]
    stream = io.StringIO()
    LineNarrator(stream).tell(watcher.news[1])
    assert "r1.1.0 (time__now) is with boss now, which has until" in stream.getvalue()
    watcher.task.cancel()


async def test_a_question_that_is_withdrawn_after_its_turn_is_over_is_told_to_be() -> None:
    bus = MemoryBus()
    script = await waiting_task(bus, CLOCK)
    people = People(script)
    await people.asked()
    watcher = Watcher(bus, script)
    await watcher.until(1)
    await script.result(1, 1, CLOCK)
    await script.write(script.awaiting_model(3))
    await watcher.until_seen(script.revision)
    await people.answered(action="cancel", via="withdrawn", by="")
    assert kinds(await watcher.until(2))[1:] == [("QuestionClosed", "r1.1.0")]
    watcher.task.cancel()


async def test_an_open_question_is_over_when_its_task_ends() -> None:
    bus = MemoryBus()
    script = await waiting_task(bus, CLOCK)
    await People(script).asked()
    watcher = Watcher(bus, script)
    await watcher.until(1)
    await script.finish(1)
    closed = (await watcher.end())[-1]
    assert isinstance(closed, QuestionClosed)
    assert closed.answered is None
    assert isinstance(watcher.told[-1], StateSeen)


async def test_what_a_child_of_a_child_asks_is_told_to_whoever_follows_the_parent() -> None:
    bus = MemoryBus()
    leaf = await waiting_task(bus, CLOCK, name="leaf")
    middle = await parent(bus, "middle", "leaf")
    root = await parent(bus, "root", "middle")
    watcher = Watcher(bus, root, poll_s=60)
    await watcher.until_seen()
    people = People(leaf)
    await people.asked()
    (news,) = await watcher.until(1)
    assert (news.child, news.asked.task) == (True, "leaf")
    stream = io.StringIO()
    LineNarrator(stream).tell(news)
    assert stream.getvalue().startswith("child leaf: people are asked:\n  leaf r1.1.0 (approval) through oncall")
    assert "holdfast approve leaf r1.1.0" in stream.getvalue()
    await people.answered()
    assert kinds(await watcher.until(2))[1:] == [("QuestionClosed", "r1.1.0")]
    assert middle.task.task == "middle"
    watcher.task.cancel()


async def parent(bus: MemoryBus, name: str, child: str) -> Script:
    """A task that waits for another."""
    script = Script(bus, name)
    await script.submit()
    await script.call_model(1)
    answer = await script.answer(1, "", DELEGATED)
    ref = CallRef(n=1, id=DELEGATED.id, tool=DELEGATED.name, agent="leaf", child=child)
    await script.write(
        AwaitingTools(**script.header(), budget=BUDGET, turn=1, request="r1", answer_seq=answer, calls=(ref,))
    )
    return script


async def test_no_question_is_lost_when_a_look_is_cut_short() -> None:
    fail = False

    async def pause(call: str, subject: str) -> None:
        nonlocal fail
        await asyncio.sleep(0)
        if fail and call == "log.get" and "child" in subject:
            fail = False
            raise Unavailable("no answer")

    bus = MemoryBus()
    await waiting_task(bus, CLOCK, name="child")
    root = await parent(bus, "root", "child")
    watcher = Watcher(MemoryBus(bus.server, pause=pause), root)
    await watcher.until_seen()
    fail = True
    await People(root).asked()
    assert kinds(await watcher.until(1)) == [("QuestionAsked", "r1.1.0")]
    assert not fail
    watcher.task.cancel()


@pytest.mark.parametrize("kind", ["lines", "live", "json", "waits"])
async def test_nothing_that_drives_a_terminal_is_written_whoever_tells(kind: str) -> None:
    bus = MemoryBus()
    script = await waiting_task(bus, CLOCK)
    people = People(script)
    await people.asked(message="\x1b]0;title\x07\x9b2J why\n:warning: [bold]x[/bold]")
    watcher = Watcher(bus, script)
    await watcher.until(1)
    await people.answered(comment="\x1b[2J", by="\x9bann")
    stream = io.StringIO()
    tellers: dict[str, Narrator] = {
        "lines": LineNarrator(stream),
        "live": LiveNarrator(stream),
        "json": JSONNarrator(stream),
        "waits": WaitNarrator(stream, "t1"),
    }
    teller = tellers[kind]
    for happening in await watcher.until(2):
        teller.tell(happening)
    teller.close()
    assert not set("\x1b\x9b\x07") & set(stream.getvalue())
    assert "holdfast approve t1 r1.1.0" in stream.getvalue()
    assert ":warning: [bold]x[/bold]" in stream.getvalue()
    watcher.task.cancel()


async def test_as_json_a_question_is_an_object_with_the_commands_that_answer_it() -> None:
    bus = MemoryBus()
    script = await waiting_task(bus, CLOCK)
    people = People(script)
    watcher = Watcher(bus, script)
    await watcher.until_seen()
    await people.asked()
    await watcher.until(1)
    await people.answered()
    await watcher.until(2)
    await script.finish(1)
    await watcher.end()
    stream = io.StringIO()
    teller = JSONNarrator(stream)
    for happening in watcher.told:
        teller.tell(happening)
    told = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [one["event"] for one in told][-4:] == ["state", "asked", "closed", "state"]
    asked, closed, state = told[-3:]
    assert asked["commands"] == ["holdfast approve t1 r1.1.0", 'holdfast reject t1 r1.1.0 -m "why"']
    assert (asked["child"], asked["question"]["interaction"], asked["question"]["kind"]) == (
        False,
        "r1.1.0",
        "approval",
    )
    assert (closed["answer"]["by"], closed["answer"]["action"]) == ("ann", "accept")
    assert state["phase"] == "FinalAnswer"
    assert told[0]["fact"]["type"] == "task.submitted.v1"
