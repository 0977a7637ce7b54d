"""What the client does wrong by itself, and must not do here."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from services.runtime.errors import Unavailable, Unheard
from services.runtime.nats import connection as module
from services.runtime.nats.connection import Connection
from services.runtime.nats.wire import Raw
from services.runtime.settings import Settings
from tests.support.nats_server import Connect, NatsServer
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import until


async def test_a_flush_proves_that_earlier_subscriptions_are_known(
    server: NatsServer, connected: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client sends its ping ahead of the subscriptions that it has not sent yet."""
    connection = (await connected(server.url))._connection
    transport = connection._client._transport
    assert transport is not None
    write, write_lines, sent = transport.write, transport.writelines, bytearray()

    def see(payload: bytes) -> None:
        sent.extend(payload)
        write(payload)

    def see_lines(payloads: list[bytes]) -> None:
        for payload in payloads:
            sent.extend(payload)
        write_lines(payloads)

    monkeypatch.setattr(transport, "write", see)
    monkeypatch.setattr(transport, "writelines", see_lines)
    for n in range(20):
        subject = f"hf.live.ns.t{n}"
        await connection.listen(subject, lambda raw: None)
        assert await connection.flush()
        ping = sent.rindex(b"PING\r\n")
        assert sent.index(subject.encode()) < ping
        sent.clear()


async def test_an_answer_to_a_ping_that_comes_too_late_does_not_end_the_reading(
    server: NatsServer, connected: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FLUSH_S", 0.2)
    bus = await connected(server.url)
    connection = bus._connection
    server.pause()
    try:
        assert not await connection.flush()
    finally:
        server.resume()
    assert await connection.request("$JS.API.INFO", b"")
    reading = cast("asyncio.Task[None] | None", connection._client._reading_task)  # pyright: ignore[reportUnknownMemberType]  # the client leaves it open
    assert reading is not None
    assert not reading.done()
    assert connection._client.stats["reconnects"] == 0


async def test_a_receiver_that_fails_does_not_end_the_reading(server: NatsServer, connected: Connect) -> None:
    connection = (await connected(server.url))._connection
    seen: list[bytes] = []

    def fail(raw: Raw) -> None:
        seen.append(raw.data)
        raise ValueError(raw.data)

    await connection.listen("hf.live.a.b", fail)
    for data in (b"1", b"2"):
        await connection.send("hf.live.a.b", data)
    await until(lambda: seen == [b"1", b"2"], "both messages")
    assert await connection.request("$JS.API.INFO", b"")


async def test_closing_while_reconnecting_ends_it(server: NatsServer) -> None:
    """It misses its cancellation when that comes together with an answer, and would go on connecting for ever."""
    for turns in range(12):  # of the event loop, between the end of the connection and the cancellation
        async with TcpProxy(server.port) as proxy:
            connection = Connection(Settings(nats_url=proxy.url), service="test")
            await connection.open()
            proxy.mute()
            proxy.cut()
            await until(lambda at=proxy: len(at._writers) == 2, "that it connects, and hears nothing")  # type: ignore[misc]  # the lambda's default is the proxy
            proxy.cut()
            for _ in range(turns):
                await asyncio.sleep(0)
            await connection.close()
            reconnecting = connection._client._reconnection_task
            assert reconnecting is not None
            await until(reconnecting.done, "that nobody connects any more")


async def test_who_is_back_says_of_nobody_at_once_that_he_is_gone(
    server: NatsServer, connected: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All lose their connections with the server, and not all are back at the same moment."""
    bus = await connected(server.url)
    with pytest.raises(Unheard):
        await bus.signals.request("hf.holder.nobody", b"")
    server.kill()
    server.start()

    async def answered() -> bool:
        try:
            await bus.signals.request("hf.holder.nobody", b"", timeout_s=5)
        except Unavailable as error:
            return "yet" in str(error) and not isinstance(error, Unheard)
        return False

    await until(answered, "the connection is back")
    monkeypatch.setattr(module, "SETTLE_S", 0.0)
    with pytest.raises(Unheard):
        await bus.signals.request("hf.holder.nobody", b"")
