"""How long the first text of a model takes from the provider to a watcher, beside one bare hop over the server.

The provider is an OpenAI-compatible server in this process, the gateway is a process of its own with the real SDK, and
the watcher is the one of `holdfast watch`. The time runs from the moment at which the provider writes the first piece
of text: the way to the gateway and the SDK's reading are in it, so the gateway's own share is less.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple, overload

import nats
from nats.aio.msg import Msg

from schemas.resources import LLM, Agent, AgentSpec, LLMParameters, LLMSpec, Metadata, Ref
from schemas.streamed_text import TextPiece
from services.cli.client import Client
from services.cli.follow import Follower
from tests.bench.system import System
from tests.support.provider_server import ProviderServer, Stream, provider_server
from tests.support.provider_wire import chat_stream

NAME = "streaming"
TEXT = "It is half past nine in the evening, and all is well."
WARM_CALLS = 5
CALL_S = 20.0


class Streaming(NamedTuple):
    """Milliseconds."""

    first_text_ms: list[float]
    hop_ms: list[float]
    """From a bare publish to a bare subscription, on the same server."""


class TimedEvents(Sequence[bytes]):
    """A streamed answer that remembers when its first text was about to be written."""

    def __init__(self, events: Sequence[bytes]) -> None:
        self._events = events
        self.written_at = 0.0

    def __iter__(self) -> Iterator[bytes]:
        for n, event in enumerate(self._events):
            if n == 1:  # the event before it says only who speaks
                self.written_at = time.perf_counter()
            yield event

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | Sequence[bytes]:
        return self._events[index]

    def __len__(self) -> int:
        return len(self._events)


async def streaming(system: System, *, calls: int) -> Streaming:
    """The first texts of this many tasks, one after another, and as many bare hops."""
    async with provider_server() as server:
        parameters = LLMParameters(model="gpt-test", base_url=server.openai_url)
        llm = LLM(metadata=Metadata(name=NAME), spec=LLMSpec(provider="openai", parameters=parameters))
        agent = Agent(metadata=Metadata(name=NAME), spec=AgentSpec(llm_ref=Ref(name=NAME), system="You are measured."))
        await system.apply(llm, agent)
        await system.until_ready(llm, agent)
        for n in range(WARM_CALLS):
            await _first_text(system, server, f"{NAME}-warm-{n}")
        first = [await _first_text(system, server, f"{NAME}-{n}") for n in range(calls)]
    return Streaming(first, await _hops(system.url, calls))


async def _first_text(system: System, server: ProviderServer, name: str) -> float:
    """Follow one task to its end; milliseconds from its provider's first text to its watcher's."""
    events = TimedEvents(chat_stream(TEXT))
    server.then(Stream(events))
    follower = Follower(Client(system.bus), system.task(name))
    seen_at = 0.0
    await system.submit(NAME, name, turns=1)
    async with asyncio.timeout(CALL_S):
        async for happening in follower.run():
            if isinstance(happening, TextPiece) and not seen_at:
                seen_at = time.perf_counter()
    return (seen_at - events.written_at) * 1e3


async def _hops(url: str, count: int) -> list[float]:
    """Milliseconds from one client's publish to another's callback."""
    heard: asyncio.Queue[float] = asyncio.Queue()

    async def hear(_: Msg) -> None:
        heard.put_nowait(time.perf_counter())

    speaker = await nats.connect(url)  # pyright: ignore[reportUnknownMemberType]  # untyped options
    listener = await nats.connect(url)  # pyright: ignore[reportUnknownMemberType]  # untyped options
    try:
        await listener.subscribe("bench.hop", cb=hear)  # pyright: ignore[reportUnknownMemberType]  # untyped options
        await listener.flush()
        took: list[float] = []
        for _ in range(count):
            said_at = time.perf_counter()
            await speaker.publish("bench.hop", b"x" * 150)
            took.append(((await heard.get()) - said_at) * 1e3)
        return took
    finally:
        await speaker.close()
        await listener.close()
