"""What the `Timers` port promises: at least once, never early, replaced and cancelled by subject."""

from __future__ import annotations

from datetime import timedelta

from schemas import subjects
from schemas.subjects import TaskSubjects
from services.runtime.ports import Bus, Delivery, Queue
from tests.support.adapters import Adapter, keep, take

TASK = TaskSubjects(0, "default", "t1")
LATE = timedelta(seconds=2)


async def set_timer(bus: Bus, timer: str, delay_s: float, *, data: bytes = b"{}", task: TaskSubjects = TASK) -> None:
    at = bus.clock.now() + timedelta(seconds=delay_s)
    await bus.timers.set(task.timer(timer), task.timer_fired(timer), at, data, {"traceparent": "00-ab-cd-01"})


async def until_mark(queue: Queue) -> list[Delivery]:
    """All that fires up to the timer `mark`, acknowledged."""

    async def ack(delivery: Delivery) -> None:
        await delivery.ack()

    taken = await keep(queue, ack, lambda delivery: delivery.subject == TASK.timer_fired("mark"))
    await taken[-1].ack()
    return taken[:-1]


async def test_a_timer_fires_at_its_time_with_what_it_was_given(adapter: Adapter) -> None:
    bus = await adapter.open()
    queue = await bus.queue(subjects.PLANNER_TIMERS)
    due = bus.clock.now() + timedelta(seconds=0.7)
    await set_timer(bus, "retry", 0.7, data=b'{"a":1}')
    (fired,) = await adapter.arrives(take(queue))
    now = bus.clock.now()
    assert (fired.subject, fired.data) == (TASK.timer_fired("retry"), b'{"a":1}')
    assert fired.headers["traceparent"] == "00-ab-cd-01"
    assert due <= now <= due + LATE


async def test_a_timer_for_the_past_fires_now(adapter: Adapter) -> None:
    bus = await adapter.open()
    queue = await bus.queue(subjects.PLANNER_TIMERS)
    await set_timer(bus, "retry", -60)
    (fired,) = await adapter.arrives(take(queue), within_s=3)
    assert fired.subject == TASK.timer_fired("retry")


async def test_setting_a_timer_again_replaces_it(adapter: Adapter) -> None:
    bus = await adapter.open()
    queue = await bus.queue(subjects.PLANNER_TIMERS)
    await set_timer(bus, "retry", 0.6, data=b"old")
    later = bus.clock.now() + timedelta(seconds=1.2)
    await set_timer(bus, "retry", 1.2, data=b"new")
    await set_timer(bus, "mark", 2.2)
    (fired,) = await adapter.arrives(until_mark(queue))
    assert fired.data == b"new"
    assert fired.at >= later - timedelta(milliseconds=5)


async def test_a_timer_may_be_set_to_an_earlier_time(adapter: Adapter) -> None:
    bus = await adapter.open()
    queue = await bus.queue(subjects.PLANNER_TIMERS)
    await set_timer(bus, "retry", 60, data=b"old")
    await set_timer(bus, "retry", 0.3, data=b"new")
    (fired,) = await adapter.arrives(take(queue), within_s=5)
    assert fired.data == b"new"


async def test_a_cancelled_timer_does_not_fire(adapter: Adapter) -> None:
    bus = await adapter.open()
    queue = await bus.queue(subjects.PLANNER_TIMERS)
    await set_timer(bus, "retry", 0.8)
    await bus.timers.cancel(TASK.timer("retry"))
    await set_timer(bus, "mark", 1.6)
    assert await adapter.arrives(until_mark(queue)) == []


async def test_cancelling_leaves_what_does_not_match(adapter: Adapter) -> None:
    bus = await adapter.open()
    queue = await bus.queue(subjects.PLANNER_TIMERS)
    other = TaskSubjects(0, "default", "t2")
    await set_timer(bus, "retry", 0.8, task=other)
    for timer in ("deadline", "retry", "recheck"):
        await set_timer(bus, timer, 0.8)
    await bus.timers.cancel(TASK.timers)
    await set_timer(bus, "mark", 1.6)
    assert [fired.subject for fired in await adapter.arrives(until_mark(queue))] == [other.timer_fired("retry")]


async def test_cancelling_what_is_not_set_is_no_error(bus: Bus) -> None:
    await bus.timers.cancel(TASK.timers)


async def test_a_timer_that_fired_may_be_set_again(adapter: Adapter) -> None:
    bus = await adapter.open()
    queue = await bus.queue(subjects.PLANNER_TIMERS)
    for data in (b"one", b"two"):
        await set_timer(bus, "retry", 0.2, data=data)
        (fired,) = await adapter.arrives(take(queue))
        await fired.ack()
        assert fired.data == data


async def test_every_timer_of_many_fires(adapter: Adapter) -> None:
    bus = await adapter.open()
    queue = await bus.queue(subjects.PLANNER_TIMERS)
    tasks = [TaskSubjects(0, "default", f"t{n}") for n in range(50)]
    for task in tasks:
        await set_timer(bus, "retry", 0.5, task=task)
    fired: set[str] = set()
    while len(fired) < len(tasks):
        (delivery,) = await adapter.arrives(take(queue))
        fired.add(delivery.subject)
        await delivery.ack()
    assert fired == {task.timer_fired("retry") for task in tasks}


async def test_a_timer_fires_though_whoever_set_it_is_gone(adapter: Adapter) -> None:
    bus = await adapter.open()
    await set_timer(bus, "retry", 0.4)
    other = await adapter.open()
    (fired,) = await adapter.arrives(take(await other.queue(subjects.PLANNER_TIMERS)))
    assert fired.subject == TASK.timer_fired("retry")
