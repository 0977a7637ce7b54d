"""The gateway on a real server: turns, hand-over, and an outage in the middle of a call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from schemas.live import TextDelta
from schemas.messages import AssistantMessage, ToolCall
from schemas.resources import LLMParameters, LLMSpec, ToolInfo
from schemas.wire import decode
from services.runtime.errors import Unavailable
from services.runtime.nats.bus import connect
from services.runtime.ports import Signal
from services.runtime.settings import Settings
from tests.support.gateway import GatewayRig, apply_agent, apply_llm, apply_server, running_gateway, until
from tests.support.nats_server import NatsServer, nats_server
from tests.support.provider_server import ProviderServer, Silence, Stream
from tests.support.provider_wire import Call, chat_stream

pytestmark = pytest.mark.asyncio(loop_scope="module")

ACK_WAIT_S = 0.6
CLOCK = ToolInfo(name="now")


@pytest.fixture
def nats(tmp_path: Path) -> Generator[NatsServer]:
    with nats_server(tmp_path) as running:
        yield running


@asynccontextmanager
async def replica(nats: NatsServer) -> AsyncGenerator[GatewayRig]:
    settings = Settings(nats_url=nats.url, ack_wait_s=ACK_WAIT_S)
    bus = await connect(settings, service="llm-gateway")
    try:
        async with running_gateway(bus, nats_url=nats.url, ack_wait_s=ACK_WAIT_S) as rig:
            yield rig
    finally:
        await bus.close()


async def equip(gateway: GatewayRig, server: ProviderServer) -> None:
    await apply_server(gateway.store, "clock", CLOCK)
    parameters = LLMParameters(model="gpt-test", base_url=server.openai_url)
    await apply_llm(gateway.store, LLMSpec(provider="openai", parameters=parameters))
    await apply_agent(gateway.store, "clock")
    await gateway.llm_status(status="Ready")


async def until_it_answers(gateway: GatewayRig) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                await gateway.store.get("spec.LLM.team.model")
            except Unavailable:
                continue
            return


async def test_turns_stream_and_are_recorded(nats: NatsServer, server: ProviderServer) -> None:
    heard: list[TextDelta] = []

    async def hear(signal: Signal) -> None:
        heard.append(decode(signal.data, TextDelta))

    async with replica(nats) as gateway:
        await equip(gateway, server)
        server.then(
            Stream(chat_stream("Looking.", [Call("call_a", "clock__now", "{}")])), Stream(chat_stream("It is noon."))
        )
        task = await gateway.task()
        await gateway.bus.signals.subscribe(task.subjects.live, hear)
        await task.ask()
        answer = await task.answered()
        call = ToolCall(id="call_a", name="clock__now", arguments="{}")
        assert answer.message == AssistantMessage(content="Looking.", tool_calls=(call,))
        await task.tool_result("r1", 1, "call_a", "noon")
        await task.ask(2)
        assert (await task.answered(2)).message.content == "It is noon."
        await until(lambda: "".join(delta.text for delta in heard) == "Looking.It is noon.")
        assert {delta.turn for delta in heard} == {1, 2}


async def test_a_replica_that_falls_silent_is_taken_over_from(nats: NatsServer, server: ProviderServer) -> None:
    server.then(Silence())
    async with replica(nats) as first:
        await equip(first, server)
        task = await first.task()
        await task.ask()
        await asyncio.wait_for(server.arrived.wait(), 5)
        first.fall_silent()
        async with replica(nats) as second:
            before = asyncio.get_running_loop().time()
            task.log = second.bus.log(0)
            assert (await task.answered()).message.content == "ok"
            assert asyncio.get_running_loop().time() - before < 2.0
            assert len(server.generations()) == 2


async def test_an_outage_of_the_bus_in_the_middle_of_a_call_costs_nothing_twice(
    nats: NatsServer, server: ProviderServer
) -> None:
    server.then(Stream(chat_stream("paid once"), stall_after=3))
    async with replica(nats) as gateway:
        await equip(gateway, server)
        task = await gateway.task()
        await task.ask()
        await asyncio.wait_for(server.arrived.wait(), 5)
        nats.kill()
        nats.start()
        await until_it_answers(gateway)
        server.released.set()
        assert (await task.answered()).message.content == "paid once"
        assert len(server.generations()) == 1
