"""What the `survey` of a bus promises."""

from __future__ import annotations

from schemas import subjects
from services.runtime.ports import Bus, ConsumerState, StreamState
from tests.support.adapters import Adapter, message, take, tool_command


async def consumer(bus: Bus, name: str, partition: int) -> ConsumerState:
    stream = subjects.task_stream(partition)
    (found,) = [one for one in (await bus.survey()).consumers if (one.name, one.stream) == (name, stream)]
    return found


async def stream(bus: Bus, name: str) -> StreamState:
    (found,) = [one for one in (await bus.survey()).streams if one.name == name]
    return found


async def test_every_stream_is_told_of_with_what_is_in_it(bus: Bus) -> None:
    before = await stream(bus, subjects.task_stream(0))
    await bus.log(0).record(message(tool_command(1), b"x" * 1000))
    after = await stream(bus, subjects.task_stream(0))
    assert (before.messages, after.messages) == (0, 1)
    assert after.last_seq == before.last_seq + 1
    assert after.bytes_ >= before.bytes_ + 1000
    assert after.replicas_missing == 0
    names = {one.name for one in (await bus.survey()).streams}
    assert names >= {
        subjects.task_stream(0),
        subjects.task_stream(1),
        subjects.REQUESTS_STREAM,
        subjects.TIMERS_STREAM,
        subjects.DEAD_LETTERS_STREAM,
    }


async def test_what_waits_and_since_when_and_what_is_in_hand(adapter: Adapter) -> None:
    bus = await adapter.open()
    queue = await bus.queue(subjects.TOOL_EXECUTOR, 0)
    idle = await consumer(bus, subjects.TOOL_EXECUTOR, 0)
    assert (idle.pending, idle.oldest_pending, idle.in_hand) == (0, None, 0)
    for n in (1, 2, 3):
        await bus.log(0).record(message(tool_command(n)))
    (delivery,) = await adapter.arrives(take(queue))
    second = await bus.log(0).get(tool_command(2))
    assert second is not None
    seen = await consumer(bus, subjects.TOOL_EXECUTOR, 0)
    assert (seen.pending, seen.oldest_pending, seen.in_hand, seen.redelivering) == (2, second.at, 1, 0)
    await delivery.ack()


async def test_a_message_that_comes_again_is_counted(adapter: Adapter) -> None:
    bus = await adapter.open()
    queue = await bus.queue(subjects.TOOL_EXECUTOR, 0)
    await bus.log(0).record(message(tool_command(1)))
    (delivery,) = await adapter.arrives(take(queue))
    await delivery.nak(0)
    await adapter.arrives(take(queue))
    seen = await consumer(bus, subjects.TOOL_EXECUTOR, 0)
    assert (seen.pending, seen.in_hand, seen.redelivering) == (0, 1, 1)
