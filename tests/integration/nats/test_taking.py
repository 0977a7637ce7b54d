"""A queue goes on, and loses nothing, whatever happens to the server, the connection or the consumer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from schemas.subjects import PLANNER, TaskSubjects, task_stream
from services.runtime.nats import api
from services.runtime.nats.bus import NatsBus
from services.runtime.nats.pull import SILENCE_S
from services.runtime.nats.queue import NatsQueue
from services.runtime.ports import Delivery, Outgoing
from services.runtime.tasks import spawn
from tests.support.nats_server import Connect, NatsServer, nats_server
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import until

TASK = TaskSubjects(0, "default", "t1")
RESUME_S = 5.0
"""How soon after the trouble is over a delivery must arrive."""


class Taker:
    """Takes, acknowledges and remembers, as a service would."""

    def __init__(self, queue: NatsQueue, *, slots: int = 16) -> None:
        self._queue = queue
        self._slots = slots
        self.taken: dict[int, int] = {}
        self.most = 0
        self._task = spawn(self._run(), name="taker")

    async def _run(self) -> None:
        while True:
            deliveries: Sequence[Delivery] = await self._queue.take(self._slots)
            self.most = max(self.most, len(deliveries))
            for delivery in deliveries:
                self.taken[delivery.seq] = self.taken.get(delivery.seq, 0) + 1
                await delivery.ack()

    async def has(self, seqs: Sequence[int], *, within_s: float = RESUME_S) -> None:
        wanted = set(seqs)
        await until(lambda: wanted <= self.taken.keys(), f"{len(wanted)} deliveries", within_s=within_s)

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.wait((self._task,))
        await self._queue.close()


async def record(bus: NatsBus, first: int, count: int) -> list[int]:
    seqs = [await bus.log(0).record(Outgoing(TASK.tool_event("r", n), b"{}")) for n in range(first, first + count)]
    return [seq for seq in seqs if seq is not None]


async def test_taking_goes_on_after_the_server_was_killed_and_restarted(server: NatsServer, connected: Connect) -> None:
    bus = await connected(server.url)
    taker = Taker(await bus.queue(PLANNER, 0))
    await taker.has(await record(bus, 1, 5))
    server.kill()
    server.start()
    await taker.has(await record(bus, 6, 5))
    await taker.stop()


async def test_nothing_recorded_is_lost_while_the_server_is_killed_again_and_again(
    server: NatsServer, connected: Connect
) -> None:
    bus = await connected(server.url)
    taker = Taker(await bus.queue(PLANNER, 0))
    recorded: list[int] = []
    stopping = asyncio.Event()

    async def write() -> None:
        n = 0
        while not stopping.is_set():
            n += 1
            seq = await bus.log(0).record(Outgoing(TASK.tool_event("r", n), b"{}"))
            assert seq is not None, "nobody else writes here"
            recorded.append(seq)

    writer = spawn(write(), name="writer")
    for _ in range(3):
        before = len(recorded)
        await until(lambda at=before: len(recorded) >= at + 100, "records between two kills", within_s=10)  # type: ignore[misc]  # the lambda's default is a number
        server.kill()
        server.start()
    stopping.set()
    await writer
    assert len(recorded) == len(set(recorded)) >= 300
    await taker.has(recorded, within_s=10)
    assert await bus.log(0).subjects(TASK.tool_events("r")) == sorted(
        TASK.tool_event("r", n) for n in range(1, len(recorded) + 1)
    )
    await taker.stop()


async def test_taking_goes_on_when_the_connection_is_cut(server: NatsServer, connected: Connect) -> None:
    async with TcpProxy(server.port) as proxy:
        bus, other = await connected(proxy.url), await connected(server.url)
        taker = Taker(await bus.queue(PLANNER, 0))
        await taker.has(await record(other, 1, 5))
        for first in (11, 21, 31):
            proxy.cut()
            await taker.has(await record(other, first, 5))
        await taker.stop()


async def test_a_connection_that_goes_deaf_is_left(server: NatsServer, connected: Connect) -> None:
    """The socket stays open and nothing comes any more: only pings show it."""
    async with TcpProxy(server.port) as proxy:
        bus, other = await connected(proxy.url), await connected(server.url)
        taker = Taker(await bus.queue(PLANNER, 0))
        await taker.has(await record(other, 1, 5))
        proxy.mute()
        seqs = await record(other, 11, 5)
        await until(lambda: not bus._connection.is_connected, "that the deaf connection is left", within_s=RESUME_S)
        proxy.unmute()
        await taker.has(seqs)
        await taker.stop()


async def test_a_server_that_hangs_is_left_even_with_much_unread(server: NatsServer, connected: Connect) -> None:
    bus = await connected(server.url)
    taker = Taker(await bus.queue(PLANNER, 0))
    await taker.has(await record(bus, 1, 5))
    server.pause()
    try:
        large = b"x" * (1 << 20)
        writes = [
            spawn(bus.log(0).record(Outgoing(TASK.tool_event("big", n), large)), name=f"write:{n}") for n in range(16)
        ]
        # The client says so only when it has let go of the old connection and looks for another.
        left = bus._connection._connected
        await until(lambda: not left.is_set(), "that the hanging server is left", within_s=RESUME_S)
    finally:
        server.resume()
    await asyncio.wait(writes)
    await taker.has([seq for write in writes if (seq := write.result()) is not None])
    assert len(await bus.log(0).subjects(TASK.tool_events("big"))) == len(writes)
    await taker.stop()


async def test_a_pull_that_the_server_forgot_is_noticed_by_its_silence(server: NatsServer, connected: Connect) -> None:
    bus = await connected(server.url)
    queue = await bus.queue(PLANNER, 0)
    taker = Taker(queue)
    await taker.has(await record(bus, 1, 5))
    # The inbox goes away behind the queue's back: the server drops the pull, and says nothing.
    inbox = queue._pull._inbox
    assert inbox is not None
    await inbox.close()
    await taker.has(await record(bus, 11, 5), within_s=SILENCE_S + 2 + RESUME_S)
    await taker.stop()


async def test_a_consumer_that_was_deleted_is_made_again(server: NatsServer, connected: Connect) -> None:
    bus = await connected(server.url)
    taker = Taker(await bus.queue(PLANNER, 0))
    await taker.has(await record(bus, 1, 5))
    await api.ask(bus._connection, f"CONSUMER.DELETE.{task_stream(0)}.{PLANNER}")
    await taker.has(await record(bus, 11, 5))
    await taker.stop()


async def test_a_consumer_that_was_deleted_before_the_first_take_is_made_again(
    server: NatsServer, connected: Connect
) -> None:
    bus = await connected(server.url)
    await api.ask(bus._connection, f"CONSUMER.DELETE.{task_stream(0)}.{PLANNER}")
    taker = Taker(await bus.queue(PLANNER, 0))
    await taker.has(await record(bus, 1, 5))
    await taker.stop()


async def test_a_queue_never_holds_more_than_there_is_room_for(server: NatsServer, connected: Connect) -> None:
    """Seen from the server: what it has handed out and nobody has acknowledged."""
    bus = await connected(server.url, ack_wait_s=30)
    await asyncio.gather(*(bus.log(0).record(Outgoing(TASK.tool_event("r", n), b"{}")) for n in range(50)))
    queue = await bus.queue(PLANNER, 0)
    held: list[Delivery] = []
    for _ in range(5):
        while len(held) < 7:
            held += await queue.take(7 - len(held))
        await bus._connection.flush()
        info = await api.ask(bus._connection, f"CONSUMER.INFO.{task_stream(0)}.{PLANNER}")
        assert info["num_ack_pending"] == 7
        for delivery in held[:3]:
            await delivery.ack()
        held = held[3:]
    assert [delivery.delivered for delivery in held] == [1] * 4
    await queue.close()


async def test_a_smaller_room_takes_back_what_was_asked_for(server: NatsServer, connected: Connect) -> None:
    bus = await connected(server.url, ack_wait_s=1)
    queue = await bus.queue(PLANNER, 0)
    assert await queue.take(20) == ()
    waiting = spawn(queue.take(2), name="take")
    await until(lambda: queue._pull.asked == 2, "that the request is made smaller")
    await record(bus, 1, 10)
    assert len(await waiting) <= 2
    await bus._connection.flush()
    info = await api.ask(bus._connection, f"CONSUMER.INFO.{task_stream(0)}.{PLANNER}")
    assert info["num_ack_pending"] <= 2
    await queue.close()


async def test_a_closed_queue_hands_back_what_it_buffered(server: NatsServer, connected: Connect) -> None:
    bus = await connected(server.url, ack_wait_s=30)
    await record(bus, 1, 3)
    queue = await bus.queue(PLANNER, 0)
    (first,) = await queue.take(1)
    await queue._pull.ask(2)
    await until(lambda: len(queue._buffer) == 2, "that two are buffered")
    await queue.close()
    assert await queue.take(5) == ()
    after = Taker(await bus.queue(PLANNER, 0))
    await after.has([2, 3], within_s=2)
    assert first.seq not in after.taken
    await after.stop()


@pytest.mark.parametrize("answer", ["ack", "nak", "term", "working"])
async def test_an_answer_never_raises(server: NatsServer, connected: Connect, answer: str) -> None:
    bus = await connected(server.url)
    await record(bus, 1, 1)
    (delivery,) = await (await bus.queue(PLANNER, 0)).take(1)
    server.kill()
    await until(lambda: not bus._connection.is_connected, "that the connection is lost")
    match answer:
        case "ack":
            await delivery.ack()
        case "nak":
            await delivery.nak(1)
        case "term":
            await delivery.term("bad\r\nreason")
        case _:
            await delivery.working()
    await bus.close()
    await delivery.ack()


async def test_the_newer_form_of_acknowledgement_subjects_is_understood(tmp_path: Path, connected: Connect) -> None:
    """It is off by default, and stops the client's own ordered consumers and watches where it is on."""
    with nats_server(tmp_path, ack_form_v2=True) as server:
        bus = await connected(server.url)
        seq = await bus.log(0).record(Outgoing(TASK.submitted, b"{}"))
        queue = await bus.queue(PLANNER, 0)
        (delivery,) = await queue.take(1)
        entry = await bus.log(0).get(TASK.submitted)
        assert entry is not None
        assert len(delivery._reply.split(".")) > 9  # type: ignore[attr-defined]  # the adapter's own class
        assert (delivery.seq, delivery.delivered, delivery.at) == (seq, 1, entry.at)
        await delivery.nak(0)
        (again,) = await queue.take(1)
        assert (again.seq, again.delivered) == (seq, 2)
        revision = await bus.resources.put("a", b"1")
        async for found in bus.resources.watch():
            assert found is not None
            assert found.revision == revision
            break
