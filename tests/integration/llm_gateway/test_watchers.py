"""Watchers of a model call on a real server: who joins late, loses the connection, or sees the replica die."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from schemas import subjects
from schemas.messages import AssistantMessage
from schemas.resources import LLMParameters, LLMSpec
from schemas.streamed_text import TextPiece, TextRestarted
from schemas.subjects import TaskSubjects
from schemas.task import FinalAnswer
from services.cli.client import Client
from services.cli.follow import Follower, Happening
from services.llm_gateway.deltas import PART_LENGTH_MAX, Texts
from services.runtime.nats.bus import NatsBus, connect
from services.runtime.settings import Settings
from services.runtime.tasks import spawn
from tests.support.gateway import AT, GatewayRig, TaskRig, apply_agent, apply_llm, running_gateway
from tests.support.nats_server import NatsServer, nats_server
from tests.support.provider_server import ProviderServer, Stream
from tests.support.provider_wire import chat_stream
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

ACK_WAIT_S = 0.6
PATIENCE_S = 10.0


@pytest.fixture
def nats(tmp_path: Path) -> Generator[NatsServer]:
    with nats_server(tmp_path, max_payload=1 << 20) as running:
        yield running


@asynccontextmanager
async def on_bus(url: str) -> AsyncGenerator[NatsBus]:
    bus = await connect(Settings(nats_url=url, ack_wait_s=ACK_WAIT_S), service="test")
    try:
        yield bus
    finally:
        await bus.close()


@asynccontextmanager
async def replica(nats: NatsServer) -> AsyncGenerator[GatewayRig]:
    async with (
        on_bus(nats.url) as bus,
        running_gateway(bus, nats_url=nats.url, ack_wait_s=ACK_WAIT_S) as rig,
    ):
        yield rig


class Watcher:
    """A follower on a connection of its own; what a person would read of the newest answer."""

    def __init__(self, bus: NatsBus, task: TaskSubjects) -> None:
        self.happened: list[Happening] = []
        self.shown = ""
        self.restarts = 0
        self._follower = Follower(Client(bus), task, poll_s=0.2)
        self.run = spawn(self._run(), name="watcher")

    async def _run(self) -> None:
        async for happening in self._follower.run():
            self.happened.append(happening)
            if isinstance(happening, TextPiece):
                self.shown += happening.text
            elif isinstance(happening, TextRestarted):
                self.shown = ""
                self.restarts += 1

    async def shows(self, text: str) -> None:
        """Wait until this and nothing else is shown."""
        await until(lambda: self.shown == text, f"{text[:80]!r} at the watcher", within_s=PATIENCE_S)

    async def begins(self) -> None:
        """Wait until some text is shown."""
        await until(lambda: len(self.shown) >= 3, "some text at the watcher", within_s=PATIENCE_S)


async def end(task: TaskRig) -> None:
    """What the planner writes when the answer is recorded."""
    awaiting = task.awaiting()
    header = {name: getattr(awaiting, name) for name in ("namespace", "task", "agent", "submitted_seq", "created_at")}
    await task.write(
        FinalAnswer(**header, updated_at=AT, window=task.window, ended_at=AT, turn=1, ended_by=task.subjects.cancel)
    )


async def test_a_watcher_that_joins_in_the_middle_of_an_answer_sees_all_of_it_at_once(
    nats: NatsServer, server: ProviderServer
) -> None:
    server.then(Stream(chat_stream("It is half past nine."), stall_after=4))
    async with replica(nats) as gateway, on_bus(nats.url) as bus:
        await apply_llm(
            gateway.store,
            LLMSpec(provider="openai", parameters=LLMParameters(model="gpt-test", base_url=server.openai_url)),
        )
        await apply_agent(gateway.store)
        await gateway.llm_status(status="Ready")
        task = await gateway.task()
        first = Watcher(bus, task.subjects)
        await task.ask()
        await first.begins()
        said = first.shown
        assert "It is half past nine.".startswith(said)
        late = Watcher(bus, task.subjects)
        await late.shows(said)
        server.released.set()
        await task.answered()
        await end(task)
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(first.run, late.run)
        for watcher in (first, late):
            assert watcher.shown == "It is half past nine."
            assert watcher.restarts == 0


async def test_a_watcher_whose_connection_breaks_again_and_again_gets_every_character_once(nats: NatsServer) -> None:
    """Pieces that are lost with the connection, or swallowed on the way, are there before the answer is recorded."""
    async with on_bus(nats.url) as bus, TcpProxy(nats.port) as proxy, on_bus(proxy.url) as far_bus:
        texts = Texts(bus.signals, bus.clock)
        await bus.signals.subscribe(subjects.TEXT_ALL, texts.answer)
        task = TaskRig(bus, "job")
        await task.begin()
        await task.write(task.awaiting())
        watcher = Watcher(far_bus, task.subjects)
        whole = ""
        async with texts.streaming(task.subjects, turn=1, attempt=1) as deltas:

            async def say(text: str) -> None:
                nonlocal whole
                whole += text
                deltas.add(text)
                await until(lambda: deltas.length == len(whole), "a published piece")

            for n in range(6):
                await say(f"{n}: heard \U0001f600, ")
                await watcher.shows(whole)
                if n % 2:
                    proxy.mute()
                    await say("swallowed, ")
                    proxy.unmute()
                else:
                    proxy.cut()
                    await say("said to nobody, ")
                await say("lost or not; ")
                await say("heard\n")
                await watcher.shows(whole)
            await say("long " * PART_LENGTH_MAX)
            await watcher.shows(whole)
            late = Watcher(far_bus, task.subjects)
            await late.shows(whole)
        watcher.run.cancel()
        late.run.cancel()
        assert watcher.restarts == late.restarts == 0


async def test_when_the_replica_is_lost_the_text_starts_again_and_ends_as_it_is_recorded(
    nats: NatsServer, server: ProviderServer
) -> None:
    server.then(
        Stream(chat_stream("The first try says this."), stall_after=4),
        Stream(chat_stream("The second says something else.")),
    )
    async with replica(nats) as first, on_bus(nats.url) as bus:
        await apply_llm(
            first.store,
            LLMSpec(provider="openai", parameters=LLMParameters(model="gpt-test", base_url=server.openai_url)),
        )
        await apply_agent(first.store)
        await first.llm_status(status="Ready")
        task = await first.task()
        watcher = Watcher(bus, task.subjects)
        await task.ask()
        await watcher.begins()
        first.fall_silent()
        async with replica(nats) as second:
            task.log = second.bus.log(0)
            answer = await task.answered()
            assert answer.message == AssistantMessage(content="The second says something else.")
            await end(task)
            async with asyncio.timeout(PATIENCE_S):
                await watcher.run
    assert watcher.shown == "The second says something else."
    assert watcher.restarts == 1
