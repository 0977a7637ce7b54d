"""Shared records: one writer in a process, compare-and-set among processes, many changes in one write."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from schemas.flow import PoolFlow
from services.llm_gateway.flow.records import IDLE_MAX, Records
from services.runtime.errors import RetryLater, Unavailable
from services.runtime.memory.bus import MemoryBus
from services.runtime.memory.server import MemoryServer
from services.runtime.tasks import spawn
from tests.support.gateway import Faults
from tests.support.waiting import until

UNTIL = datetime(2030, 1, 1, tzinfo=UTC)


def count(flow: PoolFlow, _now: datetime) -> tuple[PoolFlow, int]:
    """Adds one."""
    served = flow.served + 1
    return msgspec.structs.replace(flow, served=served), int(served)


def look(flow: PoolFlow, _now: datetime) -> tuple[PoolFlow, int]:
    return flow, int(flow.served)


async def test_what_waits_for_a_write_goes_into_the_next_one_together() -> None:
    bus = MemoryBus()
    pool = Records(bus.flow, bus.clock).pool("a")
    answers = await asyncio.gather(*(pool.change(count) for _ in range(500)))
    assert sorted(answers) == list(range(1, 501))
    assert bus.server.flow.last_seq <= 5


async def test_replicas_lose_none_of_each_others_changes() -> None:
    server = MemoryServer()
    replicas = [MemoryBus(server) for _ in range(4)]
    pools = [Records(bus.flow, bus.clock).pool("a") for bus in replicas]

    async def work(n: int) -> list[int]:
        return [await pools[n].change(count) for _ in range(50)]

    answers = [answer for one in await asyncio.gather(*map(work, range(4))) for answer in one]
    assert sorted(answers) == list(range(1, 201))


async def test_an_answer_that_changes_nothing_is_of_the_newest_record() -> None:
    server = MemoryServer()
    one, other = (Records((bus := MemoryBus(server)).flow, bus.clock).pool("a") for _ in range(2))
    assert await one.change(look) == 0
    await other.change(count)
    assert await one.change(look) == 1
    assert one.peek(look) == 1


async def test_an_outage_is_told_to_all_who_wait_and_passes() -> None:
    faults = Faults()
    bus = MemoryBus(pause=faults)
    pool = Records(bus.flow, bus.clock).pool("a")
    faults.always.add("store.put")
    answers = await asyncio.gather(*(pool.change(count) for _ in range(5)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [Unavailable] * 5
    faults.always.clear()
    assert await pool.change(count) == 1


async def test_a_write_of_which_nobody_heard_the_end_is_seen_when_the_record_is_read_again() -> None:
    faults = Faults()
    bus = MemoryBus(pause=faults)
    pool = Records(bus.flow, bus.clock).pool("a")
    faults.once.add("store.put:after")
    with pytest.raises(Unavailable):
        await pool.change(count)
    assert await pool.change(look) == 1


async def test_a_record_that_cannot_be_read_begins_anew() -> None:
    bus = MemoryBus()
    await bus.flow.put("pool.a", b"no record", expected=0)
    assert await Records(bus.flow, bus.clock).pool("a").change(count) == 1


async def test_whoever_leaves_while_it_waits_does_not_hold_up_the_others() -> None:
    bus = MemoryBus()
    pool = Records(bus.flow, bus.clock).pool("a")
    gone = spawn(pool.change(count), name="gone")
    await asyncio.sleep(0)
    gone.cancel()
    assert await pool.change(count) >= 1
    await until(lambda: pool.is_idle, "nothing is being written")


async def test_a_record_that_is_always_written_by_others_is_given_up_for_now() -> None:
    bus = MemoryBus()
    pool = Records(bus.flow, bus.clock).pool("a")
    real_put = bus.flow.put

    async def beaten(key: str, data: bytes, *, expected: int | None = None) -> int:
        await real_put(key, b'{"type":"flow.pool.v1"}')
        return await real_put(key, data, expected=expected)

    bus.flow.put = beaten  # type: ignore[method-assign]
    with pytest.raises(RetryLater, match="too many replicas"):
        await pool.change(count)


async def test_only_so_many_records_are_remembered() -> None:
    bus = MemoryBus()
    records = Records(bus.flow, bus.clock)
    first = records.pool("first")
    assert records.pool("first") is first
    for n in range(IDLE_MAX):
        records.pool(str(n))
    assert records.pool("first") is not first


async def test_the_clock_that_a_change_sees_is_the_buses() -> None:
    bus = MemoryBus()
    before = bus.clock.now()
    seen = await Records(bus.flow, bus.clock).pool("a").change(lambda flow, now: (flow, now))
    assert before <= seen <= before + timedelta(seconds=5)


async def test_whoever_waits_for_a_write_when_the_process_ends_is_told() -> None:
    bus = MemoryBus()
    records = Records(bus.flow, bus.clock)
    stuck = asyncio.Event()

    async def put(key: str, data: bytes, *, expected: int | None = None) -> int:
        stuck.set()
        never: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        return await never

    bus.flow.put = put  # type: ignore[method-assign]
    waiting = spawn(records.pool("a").change(count), name="waiting")
    await stuck.wait()
    await records.close()
    with pytest.raises(Unavailable):
        await waiting
