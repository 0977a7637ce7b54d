"""What the memory bus has beyond its ports: the clock under control, the pauses, processes that die."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from schemas.subjects import TaskSubjects
from services.runtime.errors import Unavailable
from services.runtime.memory.bus import MemoryBus
from services.runtime.memory.clock import LoopClock, ManualClock
from services.runtime.memory.server import MemoryServer
from services.runtime.memory.stream import matches
from services.runtime.ports import Change, Outgoing

TASK = TaskSubjects(0, "default", "t1")
COMMAND = TASK.model_command(1, 1)


@pytest.mark.parametrize(
    ("filter_", "subject", "expected"),
    [
        ("a.b", "a.b", True),
        ("a.b", "a.b.c", False),
        ("a.b.c", "a.b", False),
        ("a.*", "a.b", True),
        ("a.*", "a", False),
        ("a.*", "a.b.c", False),
        ("*.b", "a.b", True),
        ("a.>", "a.b", True),
        ("a.>", "a.b.c.d", True),
        ("a.>", "a", False),
        (">", "a", True),
        ("a.*.c.>", "a.b.c.d", True),
        ("a.*.c.>", "a.b.x.d", False),
    ],
)
def test_a_filter_matches_token_by_token(filter_: str, subject: str, expected: bool) -> None:
    assert matches(filter_, subject) is expected


async def test_a_manual_clock_stands_still_until_it_is_advanced() -> None:
    clock = ManualClock()
    start = clock.now()
    woken: list[float] = []

    async def sleeper(delay_s: float) -> None:
        await clock.sleep(delay_s)
        woken.append((clock.now() - start).total_seconds())

    sleepers = [asyncio.ensure_future(sleeper(delay_s)) for delay_s in (3, 1, 2)]  # noqa: TID251 - awaited below
    await clock.advance(0.9)
    assert woken == []
    await clock.advance(1.2)
    assert woken == [1, 2]
    assert clock.now() - start == timedelta(seconds=2.1)
    await clock.advance(10)
    assert woken == [1, 2, 3]
    await asyncio.gather(*sleepers)


async def test_what_an_alarm_sets_off_happens_before_the_next_alarm() -> None:
    clock = ManualClock()
    start = clock.now()
    ticks: list[float] = []

    async def tick() -> None:
        while True:
            await clock.sleep(0.5)
            ticks.append((clock.now() - start).total_seconds())

    ticking = asyncio.ensure_future(tick())  # noqa: TID251 - cancelled below
    await clock.advance(2.2)
    ticking.cancel()
    assert ticks == [0.5, 1.0, 1.5, 2.0]


async def test_a_sleeper_that_was_cancelled_is_forgotten() -> None:
    clock = ManualClock()
    sleeping = asyncio.ensure_future(clock.sleep(1))  # noqa: TID251 - cancelled below
    await clock.advance(0)
    sleeping.cancel()
    await clock.advance(2)
    assert sleeping.cancelled()


async def test_without_a_clock_the_bus_lives_in_the_event_loops_time() -> None:
    clock = LoopClock()
    before = clock.now()
    await clock.sleep(0.01)
    assert timedelta(seconds=0.005) <= clock.now() - before < timedelta(seconds=5)


async def test_a_process_can_die_between_the_two_steps_of_a_commit() -> None:
    server = MemoryServer()

    async def die(call: str, subject: str) -> None:
        if call == "log.commit:ensure":
            raise asyncio.CancelledError

    dying = MemoryBus(server, commit="two-step", pause=die)
    with pytest.raises(asyncio.CancelledError):
        await dying.log(0).commit(Change(Outgoing(TASK.state, b"1"), 0, (Outgoing(COMMAND, b""),)))
    other = MemoryBus(server).log(0)
    assert await other.get(TASK.state) is not None
    assert await other.get(COMMAND) is None


async def test_a_batch_has_no_between() -> None:
    seen: list[str] = []

    async def pause(call: str, subject: str) -> None:
        seen.append(call)

    bus = MemoryBus(commit="batch", pause=pause)
    await bus.log(0).commit(Change(Outgoing(TASK.state, b"1"), 0, (Outgoing(COMMAND, b""),)))
    assert seen == ["log.commit", "log.commit:after"]


async def test_a_call_may_fail_before_it_takes_effect_or_after() -> None:
    server = MemoryServer()
    fail_at = "log.record"

    async def pause(call: str, subject: str) -> None:
        if call == fail_at:
            raise Unavailable("gone")

    bus = MemoryBus(server, pause=pause)
    with pytest.raises(Unavailable):
        await bus.log(0).record(Outgoing(TASK.submitted, b""))
    assert server.tasks[0].newest(TASK.submitted) is None
    fail_at = "log.record:after"
    with pytest.raises(Unavailable):
        await bus.log(0).record(Outgoing(TASK.submitted, b""))
    assert server.tasks[0].newest(TASK.submitted) is not None


async def test_a_subject_of_another_stream_is_refused() -> None:
    with pytest.raises(ValueError, match="does not capture"):
        await MemoryBus().log(0).record(Outgoing("hf.1.default.evt.t1.submitted", b""))


async def test_a_consumer_that_does_not_exist_is_refused() -> None:
    bus = MemoryBus()
    with pytest.raises(ValueError, match="is not a consumer"):
        await bus.queue("nobody")
    with pytest.raises(ValueError, match="per partition"):
        await bus.queue("planner")


async def test_after_closing_a_bus_takes_and_hears_nothing() -> None:
    server = MemoryServer()
    bus = MemoryBus(server)
    heard: list[bytes] = []

    async def hear(signal: object) -> None:
        heard.append(b"x")

    await bus.signals.subscribe(">", hear)
    queue = await bus.queue("planner", 0)
    await bus.close()
    other = MemoryBus(server)
    await other.log(0).record(Outgoing(TASK.submitted, b""))
    await other.signals.publish("hf.live.x.y", b"")
    assert list(await queue.take(1)) == []
    assert len(await (await other.queue("planner", 0)).take(1)) == 1
    assert heard == []


async def test_a_request_that_was_handled_is_not_kept() -> None:
    bus = MemoryBus()
    queue = await bus.queue("planner-requests")
    for data in (b"1", b"2"):
        await bus.signals.store("hf.tasks.default.submit", data)
    first, second = await queue.take(2)
    await first.ack()
    assert [entry.data for entry in bus.server.requests.entries()] == [b"2"]
    await second.term("it is none")
    assert bus.server.requests.subjects([">"]) == []
