"""Timers outlive the server."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from schemas.subjects import PLANNER_TIMERS, TIMERS_STREAM, TaskSubjects
from services.runtime.nats import api
from services.runtime.ports import Delivery, Queue
from tests.support.nats_server import Connect, NatsServer
from tests.support.waiting import until

TASK = TaskSubjects(0, "default", "t1")


async def next_of(queue: Queue) -> Delivery:
    async with asyncio.timeout(10):
        while not (taken := await queue.take(1)):
            pass
    return taken[0]


async def test_a_timer_that_was_due_while_the_server_was_down_fires_when_it_is_up(
    server: NatsServer, connected: Connect
) -> None:
    bus = await connected(server.url)
    queue = await bus.queue(PLANNER_TIMERS)
    due = datetime.now(UTC) + timedelta(seconds=0.5)
    await bus.timers.set(TASK.timer("due"), TASK.timer_fired("due"), due, b"due", {})
    later = due + timedelta(seconds=1.5)
    await bus.timers.set(TASK.timer("later"), TASK.timer_fired("later"), later, b"later", {})
    server.kill()
    await until(lambda: datetime.now(UTC) > due, "that it is due")
    server.start()
    first, second = await next_of(queue), await next_of(queue)
    assert (first.data, second.data) == (b"due", b"later")
    assert second.at >= later


async def test_a_fired_timer_leaves_nothing_behind_once_it_is_acknowledged(
    server: NatsServer, connected: Connect
) -> None:
    bus = await connected(server.url)
    queue = await bus.queue(PLANNER_TIMERS)
    for _ in range(3):
        await bus.timers.set(TASK.timer("x"), TASK.timer_fired("x"), datetime.now(UTC), b"x", {})
        await (await next_of(queue)).ack()

    async def empty() -> bool:
        info = await api.ask(bus._connection, f"STREAM.INFO.{TIMERS_STREAM}")
        return int(info["state"]["messages"]) == 0

    await until(empty, "that the stream is empty")
