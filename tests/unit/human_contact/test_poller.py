"""Looking for answers: one channel's trouble is not the others', and decides nothing."""

from __future__ import annotations

import asyncio
import heapq
from datetime import UTC, datetime, timedelta
from typing import cast

import pytest

from schemas.interactions import AnswerInteraction, InteractionRequested, InteractionStep
from schemas.requests import Accepted, Rejected, Reply
from services.human_contact import poller as poller_module
from services.human_contact.channels.base import ChannelFailed, Question
from services.human_contact.channels.registry import ChannelKey, Channels
from services.human_contact.door import FrontDoor
from services.human_contact.poller import Poller
from services.runtime.errors import Unavailable
from services.runtime.memory.clock import ManualClock
from tests.support.people import Shown
from tests.support.waiting import until

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Kept(Shown):
    """A channel that keeps what the test says."""

    def __init__(self) -> None:
        super().__init__()
        self.polled = 0
        self.says: AnswerInteraction | ChannelFailed | None = None
        self.open = asyncio.Event()
        self.open.set()

    async def poll(self, question: Question, place: str) -> AnswerInteraction | None:
        self.polled += 1
        await self.open.wait()
        if isinstance(self.says, ChannelFailed):
            raise self.says
        return self.says


class Around:
    """A poller, its channels, and the front door."""

    def __init__(self, looks_per_s: float = 1_000.0) -> None:
        self.kept = {"one": Kept(), "two": Kept()}
        self.taken: list[AnswerInteraction] = []
        self.reply: Reply | Unavailable = Accepted(namespace="default", task="t1")
        self.clock = ManualClock()
        self.poller = Poller(cast("FrontDoor", self), cast("Channels", self), self.clock, looks_per_s=looks_per_s)

    def get(self, key: ChannelKey) -> Shown:
        """As `Channels` has it."""
        return self.kept[key.name] if key.name in self.kept else Shown()

    async def answer(self, _namespace: str, request: AnswerInteraction, _channel: str) -> Reply:
        """As the front door has it."""
        self.taken.append(request)
        if isinstance(self.reply, Unavailable):
            raise self.reply
        return self.reply

    async def poll(self, *channels: str, look_at: datetime | None = None) -> datetime | None:
        questions = [Question(asked=ASKED, step=0, partition=0)] * len(channels)
        return await self.poller.poll(questions, [step(c) for c in channels], look_at)


ASKED = InteractionRequested(
    namespace="default",
    task="t1",
    interaction="r1.1.0",
    message="",
    agent="helper",
    tool="box__write",
    at=AT,
    expires=AT + timedelta(days=1),
)
YES = AnswerInteraction(task="t1", interaction="r1.1.0", via="humanlayer")


def step(channel: str) -> InteractionStep:
    return InteractionStep(interaction="r1.1.0", step=0, channel=channel, at=AT, delivered=True)


async def test_the_first_answer_that_is_taken_ends_the_looking() -> None:
    around = Around()
    around.kept["one"].says = around.kept["two"].says = YES
    await around.poll("one", "two")
    assert around.taken == [YES]
    assert around.kept["two"].polled == 0


@pytest.mark.parametrize("reply", [Rejected(code="forbidden", error="not you"), Unavailable("the planner is away")])
async def test_an_answer_that_is_not_taken_lets_the_next_channel_answer(reply: Reply | Unavailable) -> None:
    around = Around()
    around.kept["one"].says = around.kept["two"].says = YES
    around.reply = reply
    await around.poll("one", "two")
    assert around.taken == [YES, YES]


async def test_a_channel_in_trouble_is_left_alone_for_a_while_and_the_others_are_asked() -> None:
    around = Around()
    around.kept["one"].says = ChannelFailed("no answer within 5 s", transient=True)
    await around.poll("one")
    await around.poll("one", "two")
    assert (around.kept["one"].polled, around.kept["two"].polled) == (1, 1)
    await around.clock.advance(poller_module.QUIET_S)
    await around.poll("one")
    assert around.kept["one"].polled == 2


async def test_a_refusal_is_about_one_question_only() -> None:
    around = Around()
    around.kept["one"].says = ChannelFailed("no such call", transient=False)
    await around.poll("one")
    await around.poll("one")
    assert around.kept["one"].polled == 2


async def test_a_channel_that_hangs_has_so_many_looks_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poller_module, "POLLS_MAX", 2)
    around = Around()
    around.kept["one"].open.clear()
    async with asyncio.TaskGroup() as group:
        for _ in range(5):
            group.create_task(around.poll("one"))
        await until(lambda: around.kept["one"].polled == 2, "two looks")
        await around.poll("two")
        assert (around.kept["one"].polled, around.kept["two"].polled) == (2, 1)
        around.kept["one"].open.set()
    await around.poll("one")
    assert around.kept["one"].polled == 3


async def test_a_channel_that_brings_its_answers_is_not_asked() -> None:
    around = Around()
    await around.poll("three")
    assert around.taken == []


async def test_a_channel_is_asked_so_often_a_second_and_whoever_was_due_first_comes_first() -> None:
    around = Around(looks_per_s=2.0)
    begun = around.clock.now()
    places = [await around.poll("one") for _ in range(7)]
    assert places[:3] == [None, None, None]
    assert [(place - begun).total_seconds() for place in places[3:] if place] == [0.5, 1.0, 1.5, 2.0]
    assert around.kept["one"].polled == 3
    assert await around.poll("two") is None
    assert around.kept["two"].polled == 1


async def test_who_has_a_place_is_looked_at_then_and_nobody_comes_before_them() -> None:
    around = Around(looks_per_s=2.0)
    places = [place for _ in range(7) if (place := await around.poll("one")) is not None]
    await around.clock.advance(0.5)
    late = await around.poll("one")
    assert late is not None
    assert late > places[-1]
    assert await around.poll("one", look_at=places[0]) is None
    assert around.kept["one"].polled == 4


async def test_places_of_a_service_that_was_away_are_given_anew() -> None:
    around = Around(looks_per_s=2.0)
    begun = around.clock.now()
    await around.clock.advance(3_600)
    again = [await around.poll("one", look_at=begun + timedelta(seconds=n)) for n in range(100)]
    assert sum(place is None for place in again) == 3
    assert around.kept["one"].polled == 3


async def test_thousands_of_questions_are_looked_at_in_turn_and_no_more_often_than_is_bearable() -> None:
    around = Around(looks_per_s=20.0)
    kept, begun = around.kept["one"], around.clock.now()
    due = [(begun, n, False) for n in range(2_000)]
    seen: list[int] = []
    for second in range(1, 201):
        before = kept.polled
        while due[0][0] < begun + timedelta(seconds=second):
            at, n, is_placed = heapq.heappop(due)
            await around.clock.advance(max((at - around.clock.now()).total_seconds(), 0.0))
            place = await around.poll("one", look_at=at if is_placed else None)
            if place is None:
                seen.append(n)
            heapq.heappush(due, (place or at + timedelta(seconds=30), n, place is not None))
        assert kept.polled - before <= 41
    assert 3_900 <= kept.polled <= 4_021
    assert sorted(seen[:2_000]) == list(range(2_000))
