"""What the `Queue` and `Delivery` ports promise."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from schemas import subjects
from schemas.subjects import TaskSubjects
from services.runtime.ports import Bus, Delivery, Outgoing, Queue
from tests.support.adapters import Adapter, keep, message, take, tool_command, tool_event

TASK = TaskSubjects(0, "default", "t1")
TOLERANCE = timedelta(milliseconds=5)
"""How much two clocks (the server's and ours) may differ in what counts as early."""


async def ack(delivery: Delivery) -> None:
    await delivery.ack()


async def silence(delivery: Delivery) -> None:
    """As a replica that was killed."""


async def test_a_message_is_delivered_whole(adapter: Adapter) -> None:
    bus = await adapter.open()
    seq = await bus.log(0).record(Outgoing(tool_event(1), b'{"a":1}', {"traceparent": "00-ab-cd-01"}))
    queue = await bus.queue(subjects.PLANNER, 0)
    (delivery,) = await adapter.arrives(take(queue))
    assert (delivery.subject, delivery.data, delivery.seq) == (tool_event(1), b'{"a":1}', seq)
    assert delivery.headers["traceparent"] == "00-ab-cd-01"
    assert delivery.delivered == 1
    entry = await bus.log(0).get(tool_event(1))
    assert entry is not None
    assert delivery.at == entry.at


async def test_a_queue_knows_its_name_and_stream_and_takeover_time(bus: Bus) -> None:
    queue = await bus.queue(subjects.LLM_GATEWAY, 1)
    assert (queue.name, queue.stream) == (subjects.LLM_GATEWAY, subjects.task_stream(1))
    assert queue.ack_wait_s > 0
    assert (await bus.queue(subjects.PLANNER_REQUESTS)).stream == subjects.REQUESTS_STREAM
    assert (await bus.queue(subjects.PLANNER_TIMERS)).stream == subjects.TIMERS_STREAM


async def test_a_message_wakes_whoever_waits(adapter: Adapter) -> None:
    bus = await adapter.open()
    queue = await bus.queue(subjects.PLANNER, 0)

    async def record_later() -> list[Delivery]:
        waiting = asyncio.ensure_future(take(queue))  # noqa: TID251 - awaited right here
        await bus.clock.sleep(0.2)
        assert not waiting.done()
        await bus.log(0).record(message(tool_event(1)))
        return await waiting

    (delivery,) = await adapter.arrives(record_later())
    assert delivery.subject == tool_event(1)


async def test_messages_come_in_their_order(adapter: Adapter) -> None:
    bus = await adapter.open()
    for n in range(1, 21):
        await bus.log(0).record(message(tool_event(n)))
    queue = await bus.queue(subjects.PLANNER, 0)
    assert [d.subject for d in await adapter.arrives(take(queue, 20))] == [tool_event(n) for n in range(1, 21)]


async def test_each_consumer_gets_what_is_for_it(adapter: Adapter) -> None:
    bus = await adapter.open()
    mine = {
        subjects.PLANNER: {TASK.submitted, TASK.model_event(1, 1), tool_event(1), TASK.cancel},
        subjects.LLM_GATEWAY: {TASK.model_command(1, 1), TASK.model_command(1, 2)},
        subjects.TOOL_EXECUTOR: {tool_command(1), tool_command(2)},
    }
    for subject in (TASK.context, TASK.ledger("r1", 1), TASK.state, *(s for found in mine.values() for s in found)):
        await bus.log(0).write(message(subject), expected=0)
    await bus.log(1).record(message(TaskSubjects(1, "default", "t1").submitted))
    mark = TaskSubjects(0, "default", "mark")
    marks = {mark.submitted, mark.model_command(1, 1), mark.tool_command("r1", 1)}
    for subject in marks:
        await bus.log(0).record(message(subject))
    for name, expected in mine.items():
        queue = await bus.queue(name, 0)
        taken = await adapter.arrives(keep(queue, ack, lambda delivery: delivery.subject in marks))
        assert {delivery.subject for delivery in taken[:-1]} == expected


async def test_requests_of_all_kinds_are_delivered(adapter: Adapter) -> None:
    bus = await adapter.open()
    queue = await bus.queue(subjects.PLANNER_REQUESTS)
    sent = [subjects.submit("default"), subjects.cancel("default"), subjects.submit("other")]
    for subject in sent:
        await bus.signals.store(subject, b"{}")
    assert [d.subject for d in await adapter.arrives(take(queue, 3))] == sent


async def test_no_more_is_taken_than_there_is_room_for(adapter: Adapter) -> None:
    one, other = [await adapter.open() for _ in range(2)]
    for n in range(1, 11):
        await one.log(0).record(message(tool_event(n)))
    first = await one.queue(subjects.PLANNER, 0)
    second = await other.queue(subjects.PLANNER, 0)
    mine = await adapter.arrives(first.take(3))
    assert 1 <= len(mine) <= 3
    started = other.clock.now()
    theirs = await adapter.arrives(take(second, 10 - 3))
    assert other.clock.now() - started < timedelta(seconds=first.ack_wait_s), "the rest was held back"
    assert {d.delivered for d in (*mine, *theirs)} == {1}
    assert len({d.seq for d in (*mine, *theirs)}) == len(mine) + len(theirs)


async def test_an_idle_queue_lets_its_caller_look_around(adapter: Adapter) -> None:
    bus = await adapter.open()
    queue = await bus.queue(subjects.PLANNER, 0)
    assert list(await adapter.arrives(queue.take(4), within_s=30)) == []


async def test_a_message_that_was_acknowledged_does_not_come_again(adapter: Adapter) -> None:
    bus = await adapter.open()
    queue = await bus.queue(subjects.PLANNER, 0)
    await bus.log(0).record(message(tool_event(1)))
    await bus.log(0).record(message(tool_event(2)))
    done, silent = await adapter.arrives(take(queue, 2))
    await done.ack()
    taken = await adapter.arrives(keep(queue, silence, lambda d: d.seq == silent.seq and d.delivered == 3))
    assert {d.seq for d in taken} == {silent.seq}


async def test_a_silent_replicas_message_goes_to_another(adapter: Adapter) -> None:
    one, other = [await adapter.open() for _ in range(2)]
    first = await one.queue(subjects.PLANNER, 0)
    await one.log(0).record(message(tool_event(1)))
    (mine,) = await adapter.arrives(take(first))
    taken_at = one.clock.now()
    second = await other.queue(subjects.PLANNER, 0)
    (theirs,) = await adapter.arrives(take(second))
    waited = other.clock.now() - taken_at
    assert (theirs.seq, theirs.data, theirs.delivered) == (mine.seq, mine.data, 2)
    wait = timedelta(seconds=first.ack_wait_s)
    assert wait - TOLERANCE * 10 <= waited <= wait + timedelta(seconds=2)


async def test_whoever_says_working_keeps_the_message(adapter: Adapter) -> None:
    bus = await adapter.open()
    queue = await bus.queue(subjects.PLANNER, 0)
    await bus.log(0).record(message(tool_event(1)))
    await bus.log(0).record(message(tool_event(2)))
    busy, silent = await adapter.arrives(take(queue, 2))

    async def work() -> None:
        while True:
            await bus.clock.sleep(queue.ack_wait_s / 4)
            await busy.working()

    working = asyncio.ensure_future(work())  # noqa: TID251 - cancelled right here
    try:
        taken = await adapter.arrives(keep(queue, silence, lambda d: d.seq == silent.seq and d.delivered == 4))
    finally:
        working.cancel()
    assert {d.seq for d in taken} == {silent.seq}


async def test_a_message_that_was_handed_back_comes_again_after_its_delay(adapter: Adapter) -> None:
    bus = await adapter.open()
    queue = await bus.queue(subjects.PLANNER, 0)
    await bus.log(0).record(message(tool_event(1)))
    (delivery,) = await adapter.arrives(take(queue))
    for delay_s, count in ((0.4, 2), (2.5 * queue.ack_wait_s, 3)):
        handed_back = bus.clock.now()
        await delivery.nak(delay_s)
        (delivery,) = await adapter.arrives(take(queue))
        waited = bus.clock.now() - handed_back
        assert delivery.delivered == count
        delay = timedelta(seconds=delay_s)
        assert delay - TOLERANCE <= waited <= delay + timedelta(seconds=1.5)


async def test_a_message_may_be_handed_back_without_a_delay(adapter: Adapter) -> None:
    bus = await adapter.open()
    queue = await bus.queue(subjects.PLANNER, 0)
    await bus.log(0).record(message(tool_event(1)))
    (delivery,) = await adapter.arrives(take(queue))
    handed_back = bus.clock.now()
    await delivery.nak(0)
    (delivery,) = await adapter.arrives(take(queue))
    assert delivery.delivered == 2
    assert bus.clock.now() - handed_back < timedelta(seconds=queue.ack_wait_s / 2)


async def test_a_message_that_waits_does_not_hold_up_the_others(adapter: Adapter) -> None:
    bus = await adapter.open()
    queue = await bus.queue(subjects.PLANNER, 0)
    await bus.log(0).record(message(tool_event(1)))
    (delivery,) = await adapter.arrives(take(queue))
    await delivery.nak(60)
    for n in range(2, 12):
        await bus.log(0).record(message(tool_event(n)))
    taken = await adapter.arrives(take(queue, 10), within_s=5)
    assert {d.subject for d in taken} == {tool_event(n) for n in range(2, 12)}


async def test_a_terminated_message_never_comes_again(adapter: Adapter) -> None:
    bus = await adapter.open()
    queue = await bus.queue(subjects.PLANNER, 0)
    await bus.log(0).record(message(tool_event(1)))
    await bus.log(0).record(message(tool_event(2)))
    poison, silent = await adapter.arrives(take(queue, 2))
    await poison.term("poison")
    taken = await adapter.arrives(keep(queue, silence, lambda d: d.seq == silent.seq and d.delivered == 3))
    assert {d.seq for d in taken} == {silent.seq}


async def test_a_late_acknowledgement_still_counts(adapter: Adapter) -> None:
    one, other = [await adapter.open() for _ in range(2)]
    first = await one.queue(subjects.PLANNER, 0)
    await one.log(0).record(message(tool_event(1)))
    (late,) = await adapter.arrives(take(first))
    (_again,) = await adapter.arrives(take(first))
    await late.ack()
    await one.log(0).record(message(tool_event(2)))
    second = await other.queue(subjects.PLANNER, 0)
    taken = await adapter.arrives(keep(second, silence, lambda d: d.subject == tool_event(2) and d.delivered == 3))
    assert {d.subject for d in taken} == {tool_event(2)}


async def test_two_replicas_share_the_work(adapter: Adapter) -> None:
    buses = [await adapter.open() for _ in range(2)]
    queues = [await bus.queue(subjects.PLANNER, 0) for bus in buses]
    count = 60
    taken: list[Delivery] = []
    full = asyncio.Event()

    async def work(queue: Queue) -> None:
        while True:
            for delivery in await queue.take(4):
                taken.append(delivery)
                await delivery.ack()
                if len(taken) >= count:
                    full.set()

    workers = [asyncio.ensure_future(work(queue)) for queue in queues]  # noqa: TID251 - cancelled right here
    try:
        for n in range(1, count + 1):
            await buses[0].log(0).record(message(tool_event(n)))
        await adapter.arrives(full.wait())
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.wait(workers)
    assert sorted(d.seq for d in taken) == sorted({d.seq for d in taken})
    assert len(taken) == count


async def test_closing_ends_the_wait(adapter: Adapter) -> None:
    bus = await adapter.open()
    queue = await bus.queue(subjects.PLANNER, 0)

    async def close_while_waiting() -> list[Delivery]:
        waiting = asyncio.ensure_future(queue.take(4))  # noqa: TID251 - awaited right here
        await bus.clock.sleep(0.2)
        await queue.close()
        return list(await waiting)

    assert await adapter.arrives(close_while_waiting(), within_s=3) == []
    await bus.log(0).record(message(tool_event(1)))
    assert list(await adapter.arrives(queue.take(4), within_s=3)) == []


async def test_after_closing_the_messages_go_to_others_at_once(adapter: Adapter) -> None:
    one, other = [await adapter.open() for _ in range(2)]
    first = await one.queue(subjects.PLANNER, 0)
    second = await other.queue(subjects.PLANNER, 0)

    async def close_while_waiting() -> None:
        waiting = asyncio.ensure_future(first.take(4))  # noqa: TID251 - awaited right here
        await one.clock.sleep(0.2)
        await first.close()
        await waiting

    await adapter.arrives(close_while_waiting())
    for n in range(1, 6):
        await other.log(0).record(message(tool_event(n)))
    taken = await adapter.arrives(take(second, 5))
    assert {d.subject for d in taken} == {tool_event(n) for n in range(1, 6)}
    assert {d.delivered for d in taken} == {1}


async def test_a_removed_message_is_not_delivered(adapter: Adapter) -> None:
    bus = await adapter.open()
    await bus.log(0).record(message(tool_event(1)))
    await bus.log(0).record(message(tool_event(1, task="other")))
    await bus.log(0).purge(TASK.tool_events("r1"))
    queue = await bus.queue(subjects.PLANNER, 0)
    (delivery,) = await adapter.arrives(take(queue))
    assert delivery.subject == tool_event(1, task="other")


async def test_a_request_can_be_read_until_it_is_handled(adapter: Adapter) -> None:
    bus = await adapter.open()
    seq = await bus.signals.store(subjects.submit("default"), b"{}")
    queue = await bus.queue(subjects.PLANNER_REQUESTS)
    (delivery,) = await adapter.arrives(take(queue))
    assert [entry.seq for entry in await bus.requests.read([seq])] == [delivery.seq]
    await delivery.ack()

    async def is_gone() -> None:
        while await bus.requests.subjects(subjects.submit("default")):
            await bus.clock.sleep(0.01)

    await adapter.arrives(is_gone())
    with pytest.raises(LookupError):
        await bus.requests.read([seq])
