"""A watch of the resources goes on through restarts, and says what was missed."""

from __future__ import annotations

import asyncio

import pytest

from services.runtime.nats import api, store
from services.runtime.nats.bus import NatsBus
from services.runtime.nats.topology import resources_stream
from services.runtime.nats.wire import Raw
from services.runtime.tasks import spawn
from tests.support.nats_server import Connect, NatsServer
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import until

RESUME_S = 6.0


class Watcher:
    """The bucket as a watcher sees it."""

    def __init__(self, bus: NatsBus) -> None:
        self._store = bus.resources
        self.keys: dict[str, bytes] = {}
        self.listings = 0
        self._task = spawn(self._run(), name="watcher")

    async def _run(self) -> None:
        async for entry in self._store.watch():
            if entry is None:
                self.listings += 1
            elif entry.data is None:
                del self.keys[entry.key]
            else:
                self.keys[entry.key] = entry.data

    async def sees(self, keys: dict[str, bytes], *, listings: int = 1) -> None:
        await until(
            lambda: self.keys == keys and self.listings >= listings, f"{keys}, not {self.keys}", within_s=RESUME_S
        )

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.wait((self._task,))


async def test_a_watch_goes_on_after_the_server_was_killed(server: NatsServer, connected: Connect) -> None:
    bus = await connected(server.url)
    await bus.resources.put("a", b"1")
    watcher = Watcher(bus)
    await watcher.sees({"a": b"1"})
    server.kill()
    server.start()
    await bus.resources.put("b", b"2")
    await watcher.sees({"a": b"1", "b": b"2"}, listings=2)
    await bus.resources.put("a", b"3")
    await watcher.sees({"a": b"3", "b": b"2"})
    await watcher.stop()


async def test_what_was_deleted_while_nobody_heard_is_said(server: NatsServer, connected: Connect) -> None:
    async with TcpProxy(server.port) as proxy:
        bus, other = await connected(proxy.url), await connected(server.url)
        for key in ("a", "b", "c"):
            await other.resources.put(key, b"1")
        watcher = Watcher(bus)
        await watcher.sees({"a": b"1", "b": b"1", "c": b"1"})
        proxy.mute()
        await other.resources.delete("a")
        await api.ask(
            other._connection, f"STREAM.PURGE.{resources_stream()}", {"filter": "$KV.holdfast_resources.b"}
        )  # without a marker: nothing tells of it but its absence
        await other.resources.put("d", b"2")
        proxy.cut()
        proxy.unmute()
        await watcher.sees({"c": b"1", "d": b"2"}, listings=2)
        await watcher.stop()


async def test_what_was_lost_on_its_way_is_noticed(
    server: NatsServer, connected: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "LOOK_S", 0.3)
    monkeypatch.setattr(store, "GRACE_S", 0.1)
    bus = await connected(server.url)
    received = store._Watcher._received
    deaf = True
    lost: list[Raw] = []

    def lose(self: store._Watcher, raw: Raw) -> None:
        """All of them, or the first."""
        if deaf or not lost:
            lost.append(raw)
        else:
            received(self, raw)

    monkeypatch.setattr(store._Watcher, "_received", lose)
    watcher = Watcher(bus)
    await watcher.sees({})
    await bus.resources.put("a", b"1")  # by the end of the stream
    await watcher.sees({"a": b"1"}, listings=2)
    await watcher.stop()
    monkeypatch.setattr(store, "LOOK_S", 60.0)
    deaf = False
    lost.clear()
    watcher = Watcher(bus)
    await watcher.sees({"a": b"1"})
    await bus.resources.put("b", b"1")
    await bus.resources.put("c", b"1")  # by the number of the next one
    await watcher.sees({"a": b"1", "b": b"1", "c": b"1"}, listings=2)
    await watcher.stop()


async def test_a_watch_needs_no_consumer(server: NatsServer, connected: Connect) -> None:
    """Whoever may make one can have the server deliver to any subject of the account."""
    bus = await connected(server.url)
    watcher = Watcher(bus)
    await watcher.sees({})
    info = await api.ask(bus._connection, f"STREAM.INFO.{resources_stream()}")
    assert info["state"]["consumer_count"] == 0
    await watcher.stop()


async def test_a_bucket_with_more_keys_than_a_pull_holds_is_listed_whole(
    server: NatsServer, connected: Connect
) -> None:
    bus = await connected(server.url, storage="memory")
    keys = {f"k{n}": str(n).encode() for n in range(2500)}
    for start in range(0, 2500, 250):
        await asyncio.gather(*(bus.resources.put(f"k{n}", keys[f"k{n}"]) for n in range(start, start + 250)))
    watcher = Watcher(bus)
    await watcher.sees(keys)
    await watcher.stop()
