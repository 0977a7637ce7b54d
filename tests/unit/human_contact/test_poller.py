"""Looking for answers: one channel's trouble is not the others', and decides nothing."""

from __future__ import annotations

import asyncio
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

    def __init__(self) -> None:
        self.kept = {"one": Kept(), "two": Kept()}
        self.taken: list[AnswerInteraction] = []
        self.reply: Reply | Unavailable = Accepted(namespace="default", task="t1")
        self.clock = ManualClock()
        self.poller = Poller(cast("FrontDoor", self), cast("Channels", self), self.clock)

    def get(self, key: ChannelKey) -> Shown:
        """As `Channels` has it."""
        return self.kept[key.name] if key.name in self.kept else Shown()

    async def answer(self, _namespace: str, request: AnswerInteraction) -> Reply:
        """As the front door has it."""
        self.taken.append(request)
        if isinstance(self.reply, Unavailable):
            raise self.reply
        return self.reply

    async def poll(self, *channels: str) -> None:
        await self.poller.poll(
            [Question(asked=ASKED, step=0, partition=0)] * len(channels), [step(c) for c in channels]
        )


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
