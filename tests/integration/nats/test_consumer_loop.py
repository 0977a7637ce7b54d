"""The consumer loop on a real server: long work, poison, and holders that are killed."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from schemas import subjects
from schemas.dead_letters import DeadLetter, DeadReason
from schemas.subjects import TOOL_EXECUTOR, TaskSubjects, task_stream
from schemas.wire import decode
from services.runtime.consumer import Consumer, Handler, Inbound
from services.runtime.dead_letters import DeadLetters
from services.runtime.errors import RetryLater
from services.runtime.nats import api
from services.runtime.nats.bus import NatsBus
from services.runtime.ports import Delivery, Outgoing, Queue
from services.runtime.tasks import spawn
from services.runtime.telemetry.metrics import Metrics
from tests.support.nats_server import Connect, NatsServer
from tests.support.waiting import until

TASK = TaskSubjects(0, "default", "t1")
STREAM = task_stream(0)
ACK_WAIT_S = 1.0
ROOT = Path(__file__).parents[3]


class Loop:
    """A running consumer of tool commands."""

    def __init__(self, bus: NatsBus, consumer: Consumer) -> None:
        self.bus = bus
        self.consumer = consumer
        self._task = spawn(consumer.run(), name="consumer")

    async def stop(self) -> None:
        await self.consumer.stop(0.1)
        await self._task


async def run(bus: NatsBus, handler: Handler, *, slots: int = 8, deliveries_max: int = 100) -> Loop:
    async def on_dead(inbound: Inbound, reason: DeadReason, error: str) -> None:
        return

    consumer = Consumer(
        await bus.queue(TOOL_EXECUTOR, 0),
        handler,
        on_dead=on_dead,
        dead_letters=DeadLetters(bus.dead_letters, bus.clock),
        clock=bus.clock,
        slots=slots,
        deliveries_max=deliveries_max,
        replica="test",
        metrics=Metrics().consumer(TOOL_EXECUTOR),
    )
    return Loop(bus, consumer)


@pytest.fixture
async def bus(server: NatsServer, connected: Connect) -> NatsBus:
    return await connected(server.url, ack_wait_s=ACK_WAIT_S)


async def command(bus: NatsBus, n: int) -> int:
    seq = await bus.log(0).record(Outgoing(TASK.tool_command("r", n), str(n).encode()))
    assert seq is not None
    return seq


async def next_of(queue: Queue) -> Delivery:
    async with asyncio.timeout(10):
        while not (taken := await queue.take(1)):
            pass
    return taken[0]


async def settled(bus: NatsBus) -> bool:
    info = await api.ask(bus._connection, f"CONSUMER.INFO.{STREAM}.{TOOL_EXECUTOR}")
    return int(info["num_ack_pending"]) == 0 and int(info["num_pending"]) == 0


async def test_long_work_is_not_delivered_again_while_it_is_kept_alive(bus: NatsBus) -> None:
    handled: list[int] = []

    async def handler(inbound: Inbound) -> None:
        handled.append(inbound.delivered)
        await bus.clock.sleep(3 * ACK_WAIT_S)

    loops = [await run(bus, handler) for _ in range(2)]
    await command(bus, 1)
    await until(lambda: bool(handled), "the delivery")
    await until(lambda: all(loop.consumer.in_hand == 0 for loop in loops), "the end of the work", within_s=10)
    await until(lambda: settled(bus), "the acknowledgement")
    assert handled == [1]
    for loop in loops:
        await loop.stop()


async def test_a_poison_message_becomes_a_letter_and_blocks_nobody(bus: NatsBus) -> None:
    attempts: list[int] = []
    done: list[bytes] = []

    async def handler(inbound: Inbound) -> None:
        if inbound.data == b"1":
            attempts.append(inbound.delivered)
            raise ValueError("cannot be digested")
        done.append(inbound.data)

    loop = await run(bus, handler, slots=2, deliveries_max=3)
    poison = await command(bus, 1)
    for n in range(2, 30):
        await command(bus, n)
    await until(lambda: len(done) == 28, "all the others")
    assert len(attempts) < 3, "the others did not wait for it"
    letter = subjects.dead_letter(STREAM, poison)

    async def buried() -> bool:
        return await bus.dead_letters.get(letter) is not None

    await until(buried, "the dead letter", within_s=10)
    entry = await bus.dead_letters.get(letter)
    assert entry is not None
    read = decode(entry.data, DeadLetter)
    assert (read.subject, read.payload, read.reason) == (TASK.tool_command("r", 1), "1", "broken")
    assert [attempt.delivery for attempt in read.attempts] == [1, 2, 3]
    assert all("cannot be digested" in attempt.error for attempt in read.attempts)
    assert all("test_consumer_loop.py" in attempt.traceback for attempt in read.attempts)
    await until(lambda: settled(bus), "that it is not delivered again")
    assert attempts == [1, 2, 3]
    await loop.stop()


async def test_a_message_that_kills_its_holders_becomes_a_letter(server: NatsServer, connected: Connect) -> None:
    """Nobody can note an attempt then: only the deliveries are counted."""
    bus = await connected(server.url, ack_wait_s=0.3)
    seq = await command(bus, 1)
    deaf = await bus.queue(TOOL_EXECUTOR, 0)
    assert [(await next_of(deaf)).delivered for _ in range(2)] == [1, 2]
    await deaf.close()

    async def handler(inbound: Inbound) -> None:
        raise AssertionError("it was delivered too often already")

    loop = await run(bus, handler, deliveries_max=2)

    async def buried() -> bool:
        return await bus.dead_letters.get(subjects.dead_letter(STREAM, seq)) is not None

    await until(buried, "the dead letter")
    entry = await bus.dead_letters.get(subjects.dead_letter(STREAM, seq))
    assert entry is not None
    letter = decode(entry.data, DeadLetter)
    assert (letter.reason, letter.attempts) == ("deliveries_exhausted", ())
    await until(lambda: settled(bus), "that it is not delivered again")
    await loop.stop()


async def test_what_a_killed_process_held_is_taken_over_within_the_wait(bus: NatsBus, server: NatsServer) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.support.nats_holder", server.url, str(ACK_WAIT_S)),
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        seq = await command(bus, 1)
        assert process.stdout is not None
        async with asyncio.timeout(20):
            assert await process.stdout.readline() == f"held {seq}\n".encode()
        taken: list[Inbound] = []

        async def handler(inbound: Inbound) -> None:
            taken.append(inbound)

        loop = await run(bus, handler)
        at = asyncio.get_running_loop()
        kept_until = at.time() + 2 * ACK_WAIT_S
        await until(lambda: at.time() > kept_until, "twice the wait")
        assert not taken, "it is alive, and says so"
        process.send_signal(signal.SIGKILL)
        killed_at = at.time()
        await until(lambda: bool(taken), "the takeover")
        assert at.time() - killed_at < ACK_WAIT_S + 0.5
        assert (taken[0].seq, taken[0].delivered) == (seq, 2)
        await loop.stop()
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_what_is_retried_later_comes_back_after_its_delay_and_others_go_first(bus: NatsBus) -> None:
    handled: list[tuple[bytes, int]] = []

    async def handler(inbound: Inbound) -> None:
        handled.append((inbound.data, inbound.delivered))
        if inbound.data == b"1" and inbound.delivered == 1:
            raise RetryLater("not now", after_s=0.4)

    loop = await run(bus, handler, slots=1)
    await command(bus, 1)
    await command(bus, 2)
    await until(lambda: len(handled) == 3, "both, and the first again")
    assert handled == [(b"1", 1), (b"2", 1), (b"1", 2)]
    await loop.stop()


async def test_a_consumer_that_stops_hands_back_what_it_cannot_finish(bus: NatsBus) -> None:
    started = asyncio.Event()

    async def never(inbound: Inbound) -> None:
        started.set()
        await asyncio.Event().wait()

    loop = await run(bus, never)
    await command(bus, 1)
    await asyncio.wait_for(started.wait(), 5)
    await loop.stop()
    handed: list[int] = []

    async def handler(inbound: Inbound) -> None:
        handed.append(inbound.delivered)

    after = await run(bus, handler)
    await until(lambda: handed == [2], "that it comes back at once", within_s=ACK_WAIT_S / 2)
    await after.stop()


async def test_a_late_acknowledgement_counts_and_a_message_is_not_stuck(bus: NatsBus) -> None:
    """An acknowledgement is not a fence: that is why every write is one."""
    queue = await bus.queue(TOOL_EXECUTOR, 0)
    await command(bus, 1)
    (late,) = await queue.take(1)
    assert (await next_of(queue)).delivered == 2
    await late.ack()
    await until(lambda: settled(bus), "that it is done")
    await queue.close()
