"""A notifier dies before and after each of its calls of the bus, and another one goes on. In memory, every row."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from schemas import subjects
from schemas.dead_letters import DeadLetter
from schemas.events import ModelAnswered
from schemas.messages import AssistantMessage, Usage
from schemas.notifications import (
    Notification,
    NotificationDelivered,
    NotificationFailed,
    Notify,
    decode_notification,
)
from schemas.subjects import TaskSubjects
from schemas.task import FinalAnswer
from schemas.wire import decode, encode
from services.notifier.main import build
from services.notifier.sinks.http import Http, Post
from services.runtime.memory.bus import MemoryBus
from services.runtime.memory.clock import ManualClock
from services.runtime.memory.server import MemoryServer
from services.runtime.outbound import Answer
from services.runtime.ports import Outgoing
from services.runtime.replica import Replica
from services.runtime.settings import Settings

TASK = TaskSubjects(0, "default", "t1")
AT = datetime(2030, 1, 1, tzinfo=UTC)
STEP_S = 2.0
STEPS_MAX = 60
SCENARIOS: dict[str, tuple[int, ...]] = {"taken": (200,), "tried again": (503, 200), "refused": (404,)}


class Mortal:
    """The pause of a bus that lives for so many calls; then none of them returns any more."""

    def __init__(self, calls: int) -> None:
        self.left = calls
        self.calls = 0
        self.is_over = False
        """The test has seen enough, and takes things down."""

    async def __call__(self, call: str, subject: str) -> None:
        self.calls += 1
        if self.calls > self.left and not self.is_over:
            await asyncio.Event().wait()
        await asyncio.sleep(0)


class World:
    """One task that has ended, a receiver, and notifiers."""

    def __init__(self, scenario: str) -> None:
        self.clock = ManualClock()
        self.server = MemoryServer(clock=self.clock)
        self.posts: list[tuple[str, bytes]] = []
        self._statuses = SCENARIOS[scenario]
        self._replicas: list[tuple[Replica, Mortal]] = []

    async def ended_task(self) -> None:
        log = MemoryBus(self.server).log(0)
        answered = ModelAnswered(turn=1, attempt=1, message=AssistantMessage(content="noon"), usage=Usage(), at=AT)
        seq = await log.record(Outgoing(TASK.model_event(1, 1), encode(answered)))
        assert seq is not None
        state = FinalAnswer(
            namespace="default",
            task="t1",
            agent="helper",
            submitted_seq=1,
            created_at=AT,
            updated_at=AT,
            window=(seq,),
            response_url="https://answers.example/",
            ended_at=AT,
            turn=1,
            ended_by="",
        )
        await log.record(Outgoing(TASK.state, encode(state)))
        command = Notify(namespace="default", task="t1", agent="helper", event="task.finished", at=AT, answer_seq=seq)
        await log.record(Outgoing(TASK.notify_command, encode(command)))

    async def post(self, post: Post) -> Answer:
        self.posts.append((post.headers["webhook-id"], post.body))
        await asyncio.sleep(0)
        return Answer(self._statuses[min(len(self.posts), len(self._statuses)) - 1], b"", None)

    async def notifier(self, pause: Mortal) -> None:
        replica = Replica(MemoryBus(self.server, pause=pause), Settings(), {"notifier": build}, {})
        self._replicas.append((replica, pause))
        replica._background.spawn(replica.start(), name="start")

    async def until_over(self) -> Notification | None:
        """Let time pass until everything is settled; the notification then."""
        for _ in range(STEPS_MAX):
            await self.clock.advance(STEP_S)
            consumers = [
                self.server.consumer(subjects.NOTIFIER, 0),
                self.server.consumer(subjects.NOTIFIER_TIMERS, None),
            ]
            if not any(consumer.unfinished for consumer in consumers) and not list(self.server.timers.entries()):
                break
        entry = await MemoryBus(self.server).log(0).last([TASK.notifications])
        return decode_notification(entry[0].data) if entry else None

    async def letters(self) -> list[DeadLetter]:
        entries = await MemoryBus(self.server).dead_letters.last(["hf.dlq.letter.>"])
        return [decode(entry.data, DeadLetter) for entry in entries]

    async def close(self) -> None:
        for replica, pause in self._replicas:
            pause.is_over = True
            for consumer in replica._consumers:
                await consumer._running.close()
            await replica._background.close()


async def run(scenario: str, dies_after: int, monkeypatch: pytest.MonkeyPatch) -> tuple[World, Mortal, Notification]:
    world = World(scenario)

    async def post(_: Http, post: Post) -> Answer:
        return await world.post(post)

    monkeypatch.setattr(Http, "post", post)
    await world.ended_task()
    mortal = Mortal(dies_after)
    await world.notifier(mortal)
    await world.clock.advance(1)
    await world.notifier(Mortal(10**9))
    found = await world.until_over()
    assert found is not None
    await world.close()
    return world, mortal, found


@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_whenever_a_notifier_dies_the_receiver_hears_of_the_task_under_one_id(
    scenario: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, unharmed, _ = await run(scenario, 10**9, monkeypatch)
    usual = len(SCENARIOS[scenario])
    repeated = 0
    for dies_after in range(min(unharmed.calls, 60)):
        world, _, found = await run(scenario, dies_after, monkeypatch)
        what = f"dead after {dies_after} calls"
        assert isinstance(found, NotificationFailed if scenario == "refused" else NotificationDelivered), what
        assert {id_ for id_, _ in world.posts} == {found.id}, what
        assert len({body for _, body in world.posts}) == 1, what
        assert usual <= len(world.posts) <= usual + 1, what
        assert len(await world.letters()) == (scenario == "refused"), what
        repeated += len(world.posts) > usual
    assert repeated, "no death fell between a post and its record: nothing was shown"
