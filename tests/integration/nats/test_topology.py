"""The streams and consumers are made once, checked ever after, and refused with a text that helps."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from schemas import subjects
from schemas.subjects import LLM_GATEWAY, PLANNER, TaskSubjects, task_stream
from services.runtime.errors import Unavailable
from services.runtime.nats import api, topology
from services.runtime.nats.bus import NatsBus, connect
from services.runtime.nats.connection import Connection
from services.runtime.nats.server import SERVER_NAME_SYNCED
from services.runtime.nats.topology import Incompatible
from services.runtime.ports import Outgoing
from services.runtime.settings import Settings
from tests.support.nats_server import Connect, NatsServer, nats_server

TASK = TaskSubjects(0, "default", "t1")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A server whose streams every test removes."""
    with nats_server(tmp_path_factory.mktemp("nats")) as running:
        yield running


@pytest.fixture
async def raw(shared: NatsServer) -> AsyncIterator[Connection]:
    """A connection to a server without streams."""
    connection = Connection(Settings(nats_url=shared.url), service="test")
    await connection.open()
    names: list[str] = (await api.ask(connection, "STREAM.NAMES"))["streams"] or []
    for name in names:
        await api.ask(connection, f"STREAM.DELETE.{name}")
    yield connection
    await connection.close()


async def config(connection: Connection, stream: str) -> dict[str, Any]:
    found: dict[str, Any] = (await api.ask(connection, f"STREAM.INFO.{stream}"))["config"]
    return found


async def test_everything_is_made_and_connecting_again_changes_nothing(
    raw: Connection, shared: NatsServer, connected: Connect
) -> None:
    await connected(shared.url, partitions=3)
    streams = (await api.ask(raw, "STREAM.LIST"))["streams"]
    names = {stream["config"]["name"] for stream in streams}
    assert names == {plan.name for plan in topology.stream_plans(Settings(partitions=3))}
    assert {task_stream(partition) for partition in range(3)} <= names
    await connected(shared.url, partitions=3)
    again = (await api.ask(raw, "STREAM.LIST"))["streams"]
    assert [stream["config"] for stream in again] == [stream["config"] for stream in streams]
    assert [stream["created"] for stream in again] == [stream["created"] for stream in streams]


async def test_many_processes_may_start_at_once(raw: Connection, shared: NatsServer, connected: Connect) -> None:
    buses: list[NatsBus] = await asyncio.gather(*(connected(shared.url, partitions=2) for _ in range(6)))
    assert await buses[0].log(1).record(Outgoing(TaskSubjects(1, "default", "t").submitted, b"{}")) == 1


async def test_nothing_of_a_task_expires_and_no_header_can_wipe_its_stream(
    raw: Connection, shared: NatsServer, connected: Connect
) -> None:
    bus = await connected(shared.url)
    found = await config(raw, task_stream(0))
    assert (found["max_age"], found["max_bytes"], found["max_msgs"]) == (0, -1, -1)
    assert found["deny_delete"] is True
    seq = await bus.log(0).record(Outgoing(TASK.submitted, b"{}"))
    assert seq is not None
    answer = await raw.request(TASK.tool_event("r", 1), b"{}", {"Nats-Rollup": "all"})
    assert b"rollup" in answer.data
    assert await bus.log(0).read([seq])


@pytest.mark.parametrize(
    "drift",
    [
        (task_stream(0), "max_age", 3_600_000_000_000),
        (task_stream(0), "allow_direct", False),
        (task_stream(0), "allow_rollup_hdrs", True),
        (task_stream(0), "discard", "old"),
        (task_stream(0), "max_msgs_per_subject", 5),
        (task_stream(0), "subjects", ["$KV.holdfast_0.>"]),
        (subjects.REQUESTS_STREAM, "subjects", ["hf.tasks.*.submit"]),
        (subjects.DEAD_LETTERS_STREAM, "max_age", 0),
        (topology.resources_stream(), "allow_direct", False),
        (topology.payloads_stream(), "allow_msg_ttl", False),
    ],
)
async def test_a_stream_that_is_not_as_it_must_be_is_refused_by_name_and_field(
    raw: Connection, shared: NatsServer, connected: Connect, drift: tuple[str, str, object]
) -> None:
    stream, field, value = drift
    (plan,) = [plan for plan in topology.stream_plans(Settings()) if plan.name == stream]
    await api.ask(raw, f"STREAM.CREATE.{stream}", {"name": stream, **plan.config, field: value})
    with pytest.raises(Incompatible, match=rf"stream {stream} has {field} = .* must be .*nats stream edit {stream}"):
        await connected(shared.url)


@pytest.mark.parametrize("settings", [{"storage": "memory"}])
async def test_other_settings_than_the_streams_were_made_with_are_refused(
    raw: Connection, shared: NatsServer, connected: Connect, settings: dict[str, Any]
) -> None:
    await connected(shared.url)
    with pytest.raises(Incompatible, match=r"storage = 'file'.*set HOLDFAST_STORAGE"):
        await connected(shared.url, **settings)


@pytest.mark.parametrize(("made", "asked"), [(2, 3), (3, 2), (1, 2), (2, 1)])
async def test_the_number_of_partitions_is_fixed_when_they_are_made(
    raw: Connection, shared: NatsServer, connected: Connect, made: int, asked: int
) -> None:
    await connected(shared.url, partitions=made)
    with pytest.raises(Incompatible, match=f"made for {made} partitions.*set HOLDFAST_PARTITIONS={made}"):
        await connected(shared.url, partitions=asked)
    names = (await api.ask(raw, "STREAM.NAMES"))["streams"]
    assert len([name for name in names if name.startswith("KV_holdfast_") and name[-1].isdigit()]) == made


@pytest.mark.parametrize(("field", "value"), [("filter_subject", "hf.0.>"), ("ack_policy", "none"), ("max_deliver", 3)])
async def test_another_kind_of_consumer_is_refused_by_name_and_field(
    raw: Connection, shared: NatsServer, connected: Connect, field: str, value: object
) -> None:
    await connected(shared.url)
    (plan,) = [plan for plan in topology.consumer_plans(Settings()) if plan.name == PLANNER]
    await api.ask(raw, f"CONSUMER.DELETE.{plan.stream}.{plan.name}")
    other = plan._replace(config={**plan.config, field: value})
    await api.ask(raw, other.create_subject, {"stream_name": plan.stream, "config": other.config})
    with pytest.raises(Incompatible, match=rf"consumer planner of {plan.stream} has {field} = .*nats consumer rm"):
        await connected(shared.url)


async def test_a_new_acknowledgement_wait_is_taken_over(
    raw: Connection, shared: NatsServer, connected: Connect
) -> None:
    await connected(shared.url, ack_wait_s=2)
    await connected(shared.url, ack_wait_s=3)
    info = await api.ask(raw, f"CONSUMER.INFO.{task_stream(0)}.{LLM_GATEWAY}")
    assert info["config"]["ack_wait"] == 3_000_000_000


# --- servers that are not good enough ----------------------------------------------------


@asynccontextmanager
async def pretending(**says: object) -> AsyncGenerator[str]:
    """A server that says hello, answers pings, and nothing else."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hello = {"server_id": "x", "server_name": "x", "headers": True, "max_payload": 1 << 20, "jetstream": True}
        writer.write(b"INFO " + json.dumps({**hello, **says}).encode() + b"\r\n")
        while line := await reader.readline():
            if line.startswith(b"PING"):
                writer.write(b"PONG\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


@pytest.mark.parametrize("version", ["2.9.10", "2.14.5", "2.13.99-RC.1"])
async def test_a_server_that_is_too_old_is_refused(version: str) -> None:
    async with pretending(version=version) as url:
        with pytest.raises(Incompatible, match=r"holdfast needs 2\.14\.6 or newer.*upgrade the server"):
            await connect(Settings(nats_url=url), service="test")


async def test_a_server_without_a_version_is_refused() -> None:
    async with pretending() as url:
        with pytest.raises(Incompatible, match="does not tell its version"):
            await connect(Settings(nats_url=url), service="test")


async def test_a_server_without_jetstream_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "BUDGET_S", 0.2)
    monkeypatch.setattr(api, "API_S", 0.2)
    async with pretending(version="2.15.1") as url:
        with pytest.raises(Unavailable, match=r"JetStream API does not do STREAM\.INFO"):
            await connect(Settings(nats_url=url), service="test")


# --- durability --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "replicas", "storage", "promise"),
    [
        (SERVER_NAME_SYNCED, 1, "file", "synced"),
        (SERVER_NAME_SYNCED, 1, "memory", "volatile"),
        ("n1-sync-always", 1, "file", "synced"),
        ("n1", 1, "file", "unknown"),
        ("n1", 3, "file", "replicated"),
        ("n1", 5, "file", "replicated"),
        ("n1", 3, "memory", "volatile"),
    ],
)
async def test_what_an_acknowledgement_promises(name: str, replicas: int, storage: str, promise: str) -> None:
    settings = Settings(stream_replicas=replicas, storage=storage)  # type: ignore[arg-type]  # parametrized literals
    async with pretending(version="2.15.1", server_name=name) as url:
        connection = Connection(Settings(nats_url=url), service="test")
        await connection.open()
        assert topology.check_durability(connection, settings) == promise
        strict = Settings(stream_replicas=replicas, storage=storage, strict_durability=True)  # type: ignore[arg-type]
        if promise in ("unknown", "volatile"):
            with pytest.raises(Incompatible, match="HOLDFAST_STRICT_DURABILITY"):
                topology.check_durability(connection, strict)
        else:
            assert topology.check_durability(connection, strict) == promise
        await connection.close()


async def test_an_unknown_promise_is_said_at_the_start(
    raw: Connection, shared: NatsServer, connected: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="services.runtime.nats.topology"):
        bus = await connected(shared.url)
    assert bus.durability == "unknown"
    assert "a power cut may lose acknowledged work" in caplog.text
    assert "sync_interval: always" in caplog.text
