"""Notifiers in memory, on a clock that the test moves, with receivers that are functions; any of them may die."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest

from schemas import subjects
from schemas.dead_letters import DeadLetter
from schemas.events import ModelAnswered
from schemas.messages import AssistantMessage, Usage
from schemas.notifications import Notification, Notify, decode_notification
from schemas.resources import Resource
from schemas.subjects import TaskSubjects
from schemas.task import FinalAnswer
from schemas.wire import decode, encode
from services.notifier.core.outcomes import NotTaken
from services.notifier.main import build
from services.notifier.sinks.http import Http, Post
from services.runtime.memory.bus import MemoryBus
from services.runtime.memory.clock import ManualClock
from services.runtime.memory.server import MemoryServer
from services.runtime.outbound import Answer
from services.runtime.ports import Outgoing
from services.runtime.replica import Replica
from services.runtime.settings import Settings

AT = datetime(2030, 1, 1, tzinfo=UTC)
FOR_EVER = 10**9
STEP_S = 2.0

Answering = Callable[[Post], Answer | NotTaken]


class Mortal:
    """The pause of a bus that lives for so many calls; then none of them returns any more."""

    def __init__(self, calls: int = FOR_EVER) -> None:
        self.left = calls
        self.calls = 0
        self.is_over = False
        """The test has seen enough, and takes things down."""

    @property
    def is_dead(self) -> bool:
        """Whether its process is gone."""
        return self.calls > self.left

    async def __call__(self, call: str, subject: str) -> None:
        self.calls += 1
        if self.is_dead and not self.is_over:
            await asyncio.Event().wait()
        await asyncio.sleep(0)


class World:
    """Tasks that have ended, receivers, and notifiers."""

    def __init__(self, answering: Answering, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = ManualClock()
        self.server = MemoryServer(clock=self.clock)
        self.posts: list[Post] = []
        self._answering = answering
        self._replicas: list[tuple[Replica, Mortal]] = []
        self._log = MemoryBus(self.server).log(0)

        async def post(_: Http, post: Post) -> Answer | NotTaken:
            self.posts.append(post)
            await asyncio.sleep(0)
            return self._answering(post)

        monkeypatch.setattr(Http, "post", post)

    async def apply(self, resource: Resource) -> None:
        """Put a resource on the bus."""
        key = subjects.spec_key(type(resource).__name__, resource.metadata.namespace, resource.metadata.name)
        await MemoryBus(self.server).resources.put(key, encode(resource))

    async def ended(self, name: str, *, response_url: str = "", subscriptions: tuple[str, ...] = ()) -> TaskSubjects:
        """A task that has ended, and somebody wants to know."""
        task = TaskSubjects(0, "default", name)
        answered = ModelAnswered(turn=1, attempt=1, message=AssistantMessage(content="noon"), usage=Usage(), at=AT)
        seq = await self._log.record(Outgoing(task.model_event(1, 1), encode(answered)))
        assert seq is not None
        state = FinalAnswer(
            namespace="default",
            task=name,
            agent="helper",
            submitted_seq=1,
            created_at=AT,
            updated_at=AT,
            window=(seq,),
            response_url=response_url,
            ended_at=AT,
            turn=1,
            ended_by="",
            subscriptions=subscriptions,
        )
        await self._log.record(Outgoing(task.state, encode(state)))
        command = Notify(namespace="default", task=name, agent="helper", event="task.finished", at=AT, answer_seq=seq)
        await self._log.record(Outgoing(task.notify_command, encode(command)))
        return task

    def notifier(self, pause: Mortal, secrets: dict[str, str]) -> None:
        """Start another notifier."""
        replica = Replica(MemoryBus(self.server, pause=pause), Settings(), {"notifier": build}, secrets)
        self._replicas.append((replica, pause))
        replica._background.spawn(replica.start(), name="start")

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is to be done any more."""
        consumers = (
            self.server.consumer(subjects.NOTIFIER, 0),
            self.server.consumer(subjects.NOTIFIER_TIMERS, None),
        )
        return not any(one.unfinished for one in consumers) and not any(
            list(timers.entries()) for timers in self.server.timers
        )

    async def until_quiet(self, steps: int = 60) -> None:
        """Let time pass until nothing is to be done."""
        for _ in range(steps):
            await self.clock.advance(STEP_S)
            if self.is_quiet:
                return
        raise AssertionError(f"not quiet after {steps * STEP_S:g} s")

    async def notifications(self, task: TaskSubjects) -> list[Notification]:
        """Those of a task, in their order."""
        entries = await self._log.last([task.notifications])
        return sorted((decode_notification(entry.data) for entry in entries), key=lambda one: one.place)

    async def letters(self) -> list[DeadLetter]:
        """All dead letters."""
        entries = await MemoryBus(self.server).dead_letters.last(["hf.dlq.letter.>"])
        return [decode(entry.data, DeadLetter) for entry in entries]

    async def close(self) -> None:
        """End it all."""
        for replica, pause in self._replicas:
            pause.is_over = True
            for consumer in replica._consumers:
                await consumer._running.close()
            await replica._background.close()


@asynccontextmanager
async def closing(world: World) -> AsyncGenerator[None]:
    """End the world, however the test ends."""
    try:
        yield
    finally:
        await world.close()
