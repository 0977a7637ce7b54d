"""The notifier on a real server: durable timers, letters that are sent again, several replicas, several partitions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from schemas.notifications import NotificationDelivered, NotificationFailed
from schemas.subjects import NOTIFY_TIMERS_STREAM
from services.cli.client import Client
from services.cli.letters import letters, redrive
from services.notifier.core import machine
from services.runtime.nats import api
from services.runtime.nats.bus import NatsBus, connect
from services.runtime.settings import Settings
from tests.support.nats_server import NatsServer, nats_server
from tests.support.notifying import Notifying, notifying
from tests.support.raw_http import RawServer, raw_server, response
from tests.support.waiting import until


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    with nats_server(tmp_path) as running:
        yield running


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "BACKOFF_BASE_S", 0.5)
    monkeypatch.setattr(machine, "BACKOFF_MAX_S", 0.5)


def url_of(receiver: RawServer) -> str:
    return f"http://127.0.0.1:{receiver.port}/hook"


@asynccontextmanager
async def on_nats(
    server: NatsServer, *, replicas: int = 1, partitions: int = 1
) -> AsyncGenerator[tuple[Notifying, NatsBus]]:
    settings = Settings(nats_url=server.url, partitions=partitions)
    async with AsyncExitStack() as stack:
        running: list[tuple[Notifying, NatsBus]] = []
        for _ in range(replicas):
            bus = await stack.enter_async_context(await connect(settings, service="test"))
            running.append((await stack.enter_async_context(notifying(bus=bus, partitions=partitions)), bus))
        yield running[-1]


async def left(bus: NatsBus) -> int:
    info = await api.ask(bus._connection, f"STREAM.INFO.{NOTIFY_TIMERS_STREAM}")
    return int(info["state"]["messages"])


async def test_what_is_tried_again_is_woken_by_the_server_and_leaves_no_timer(server: NatsServer) -> None:
    async with raw_server() as receiver, on_nats(server) as (here, bus):
        receiver.paths["/hook"] = response(status="503 Down")
        task = await here.finished(responseURL=url_of(receiver))
        await here.until_tried(task, 3)
        receiver.paths["/hook"] = response()
        (done,) = await here.until_all(task, NotificationDelivered)
        assert done.attempts >= 4

        async def empty() -> bool:
            return await left(bus) == 0

        await until(empty, "no timer and no wake-up is left")


async def test_a_letter_that_the_command_line_sends_again_is_delivered(server: NatsServer) -> None:
    async with raw_server() as receiver, on_nats(server) as (here, bus):
        receiver.paths["/hook"] = response(status="404 Not Found")
        task = await here.finished(responseURL=url_of(receiver))
        await here.until_all(task, NotificationFailed)
        client = Client(bus)

        async def one() -> bool:
            return len(await letters(client)) == 1

        await until(one, "a letter")
        receiver.paths["/hook"] = response()
        await redrive(client, (await letters(client))[0])
        (done,) = await here.until_all(task, NotificationDelivered)
        assert done.redriven == 1
        assert await letters(client) == []
        assert {asked.headers["webhook-id"] for asked in receiver.asked} == {done.id}


async def test_many_tasks_of_several_partitions_are_each_told_once_by_several_replicas(server: NatsServer) -> None:
    async with raw_server() as receiver, on_nats(server, replicas=2, partitions=2) as (here, _):
        receiver.paths["/hook"] = response()
        tasks = await asyncio.gather(
            *(here.finished(userMessage=f"{n}", responseURL=url_of(receiver)) for n in range(20))
        )
        assert {task.partition for task in tasks} == {0, 1}
        ids = [(await here.until_all(task, NotificationDelivered))[0].id for task in tasks]
        assert sorted(asked.headers["webhook-id"] for asked in receiver.asked) == sorted(ids)
