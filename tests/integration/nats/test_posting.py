"""What nobody waits for goes to the server with the next write, or soon by itself; closing loses none of it."""

from __future__ import annotations

import pytest

from services.runtime.nats.bus import NatsBus
from services.runtime.nats.client import POSTED_BYTES_MAX
from services.runtime.ports import Signal
from tests.support.nats_server import Connect, NatsServer
from tests.support.waiting import until

SUBJECT = "hf.live.default.t1"


@pytest.fixture
async def bus(server: NatsServer, connected: Connect) -> NatsBus:
    return await connected(server.url)


@pytest.fixture
def writes(bus: NatsBus, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What reaches the socket, write by write."""
    transport = bus._connection._client._transport
    assert transport is not None
    write, seen = transport.write, list[bytes]()

    def record(payload: bytes) -> None:
        seen.append(payload)
        write(payload)

    monkeypatch.setattr(transport, "write", record)
    return seen


async def test_signals_go_with_the_next_request_in_one_write_and_before_it(bus: NatsBus, writes: list[bytes]) -> None:
    await bus.signals.publish(SUBJECT, b"one")
    await bus.signals.publish(SUBJECT, b"two")
    assert writes == []
    await bus.log(0).get("hf.0.default.msg.t1.context")
    assert len(writes) == 1
    assert writes[0].index(b"one") < writes[0].index(b"two") < writes[0].index(b"DIRECT.GET")


async def test_signals_alone_go_together_and_soon(bus: NatsBus, writes: list[bytes]) -> None:
    await bus.signals.publish(SUBJECT, b"one")
    await bus.signals.publish(SUBJECT, b"two")

    async def sent() -> bool:
        return bool(writes)

    await until(sent, "a write without a request")
    assert [payload.count(b"PUB ") for payload in writes] == [2]


async def test_much_at_once_does_not_wait(bus: NatsBus, writes: list[bytes]) -> None:
    await bus.signals.publish(SUBJECT, b"x" * POSTED_BYTES_MAX)
    assert len(writes) == 1


async def test_closing_sends_what_was_posted(server: NatsServer, connected: Connect) -> None:
    hearer, speaker = await connected(server.url), await connected(server.url)
    heard: list[bytes] = []

    async def hear(signal: Signal) -> None:
        heard.append(signal.data)

    await hearer.signals.subscribe(SUBJECT, hear)
    await hearer._connection.flush()
    await speaker.signals.publish(SUBJECT, b"last words")
    await speaker.close()

    async def all_heard() -> bool:
        return heard == [b"last words"]

    await until(all_heard, "the last words")
