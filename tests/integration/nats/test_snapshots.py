"""Backups on real servers: what a snapshot holds, what it must not be taken for, and what restoring refuses."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from schemas import subjects
from schemas.subjects import LLM_GATEWAY, PLANNER_TIMERS, TaskSubjects
from services.cli.backups import MANIFEST, bring_back, make
from services.cli.connect import ServerOptions
from services.cli.exits import ExitCode, Stop
from services.runtime.nats import api, snapshots, topology
from services.runtime.nats.bus import NatsBus, connect
from services.runtime.nats.connection import Connection
from services.runtime.nats.queue import NatsQueue
from services.runtime.nats.snapshots import StreamState, Unsettled
from services.runtime.ports import Change, Delivery, Outgoing
from services.runtime.settings import Settings
from services.runtime.tasks import spawn
from tests.support.nats_server import Connect, NatsCluster, NatsServer, nats_server
from tests.support.waiting import until

TASK = TaskSubjects(0, "default", "t1")
STREAM = subjects.task_stream(0)
STATES = 64
STATE_BYTES = 16 << 10


@asynccontextmanager
async def plain(url: str) -> AsyncGenerator[Connection]:
    """A connection and nothing more."""
    connection = Connection(Settings(nats_url=url), service="test")
    await connection.open()
    try:
        yield connection
    finally:
        await connection.close()


@pytest.fixture
def second(tmp_path: Path) -> Iterator[NatsServer]:
    """An empty server."""
    with nats_server(tmp_path / "second") as running:
        yield running


def state_of(n: int) -> str:
    return TaskSubjects(0, "default", f"t{n}").state


async def replace_states(bus: NatsBus, revisions: dict[int, int], stop: asyncio.Event) -> None:
    """Go on replacing states, as planners do."""
    log = bus.log(0)

    async def one(n: int) -> None:
        while not stop.is_set():
            data = os.urandom(STATE_BYTES)
            revisions[n] = await log.commit(Change(Outgoing(state_of(n), data), revisions.get(n, 0)))

    await asyncio.gather(*map(one, range(STATES)))


async def first(queue: NatsQueue) -> Delivery:
    """The first message that a consumer gives out."""
    async with asyncio.timeout(20):
        while True:
            for delivery in await queue.take(1):
                return delivery


def collected(into: list[bytes]) -> Callable[[], Callable[[bytes], object]]:
    """What `snapshots.save` is given to write to: only what the last try wrote is kept."""

    def begin() -> Callable[[bytes], object]:
        into.clear()
        return into.append

    return begin


async def test_a_snapshot_that_states_were_replaced_under_does_not_count(
    server: NatsServer, second: NatsServer, connected: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server leaves out what is replaced meanwhile, and what replaces it: neither is in the snapshot."""
    monkeypatch.setattr(snapshots, "TRIES_MAX", 3)
    monkeypatch.setattr(snapshots, "TRY_AGAIN_S", 0.01)
    bus = await connected(server.url)
    revisions: dict[int, int] = {}
    stop = asyncio.Event()
    pieces: list[bytes] = []
    async with plain(server.url) as connection:
        writing = spawn(replace_states(bus, revisions, stop), name="test:writer")
        await until(lambda: sum(revisions.values()) > 20 * STATES and len(revisions) == STATES, "states", within_s=60)
        with pytest.raises(Unsettled, match="something was removed"):
            await snapshots.save(connection, STREAM, collected(pieces))
        with pytest.raises(Stop, match="try again when less is removed") as given_up:
            await make(ServerOptions(nats_url=server.url), {}, tmp_path / "backup", lambda _: None)
        assert given_up.value.code == ExitCode.TIMED_OUT
        stop.set()
        await writing
        saved = await snapshots.save(connection, STREAM, collected(pieces))
    async with plain(second.url) as connection:
        found = await snapshots.bring_back(connection, saved, pieces)
    assert saved.exact
    assert found == saved.state
    restored = await connected(second.url)
    entries = await restored.log(0).last([state_of(n) for n in range(STATES)])
    assert {entry.subject: entry.seq for entry in entries} == {state_of(n): seq for n, seq in revisions.items()}


async def test_what_is_only_added_meanwhile_does_no_harm(
    server: NatsServer, second: NatsServer, connected: Connect
) -> None:
    bus = await connected(server.url)
    log = bus.log(0)
    revision = 0
    for _ in range(STATES):
        revision = await log.commit(Change(Outgoing(TASK.state, os.urandom(STATE_BYTES)), revision))
    for n in range(2 * STATES):
        await log.record(Outgoing(TASK.tool_event("r1", n), os.urandom(STATE_BYTES)))
    stop, added, pieces = asyncio.Event(), 0, list[bytes]()

    async def add() -> None:
        nonlocal added
        while not stop.is_set():
            added += 1
            await log.record(Outgoing(TASK.tool_event("r2", added), os.urandom(STATE_BYTES)))

    adding = spawn(add(), name="test:writer")
    async with plain(server.url) as connection:
        await until(lambda: added > 20, "additions")
        saved = await snapshots.save(connection, STREAM, collected(pieces))
    stop.set()
    await adding
    async with plain(second.url) as connection:
        assert await snapshots.bring_back(connection, saved, pieces) == saved.state
    entry = await (await connected(second.url)).log(0).get(TASK.state)
    assert entry is not None
    assert entry.seq == revision


def test_what_was_removed_is_told_by_the_sequences() -> None:
    before = StreamState(messages=10, last_seq=20)
    assert before.lost_until(StreamState(messages=14, last_seq=24)) == 0
    assert before.lost_until(StreamState(messages=13, last_seq=24)) == 1
    assert before.lost_until(StreamState(messages=9, last_seq=20)) == 1


async def test_paused_consumers_give_nothing_out_and_go_on_afterwards(server: NatsServer, connected: Connect) -> None:
    bus = await connected(server.url)
    queue = await bus.queue(LLM_GATEWAY, 0)
    plans = topology.consumer_plans(Settings())
    async with plain(server.url) as connection:
        async with snapshots.standing_still(connection, plans, lambda: datetime.now(UTC)):
            await bus.log(0).record(Outgoing(TASK.model_command(1, 1), b"call"))
            taking = spawn(first(queue), name="test:take")
            await asyncio.wait((taking,), timeout=1)
            assert not taking.done()
        delivery = await taking
        assert delivery.data == b"call"


async def test_consumers_go_on_by_themselves_when_a_backup_is_killed(
    server: NatsServer, connected: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "PAUSE_S", 2.0)
    bus = await connected(server.url)
    await bus.log(0).record(Outgoing(TASK.model_command(1, 1), b"call"))
    async with plain(server.url) as connection:
        await snapshots._pause(connection, topology.consumer_plans(Settings()), lambda: datetime.now(UTC))
    delivery = await first(await bus.queue(LLM_GATEWAY, 0))
    assert delivery.data == b"call"


async def test_a_whole_bus_comes_back_with_its_sequences_its_payloads_and_its_timers(
    server: NatsServer, second: NatsServer, connected: Connect, tmp_path: Path
) -> None:
    bus = await connected(server.url, partitions=2)
    large = os.urandom(9 << 20)
    for partition in (0, 1):
        task = TaskSubjects(partition, "default", "t1")
        for _ in range(partition + 1):
            await bus.log(partition).record(Outgoing(task.submitted, b"said"))
        await bus.log(partition).record(Outgoing(task.tool_output("r1", 1), large))
    await bus.resources.put(subjects.spec_key("Agent", "default", "helper"), b"an agent")
    due = datetime.now(UTC) + timedelta(seconds=3)
    await bus.timers.set(TASK.timer("deadline"), TASK.timer_fired("deadline"), due, b"wake", {})
    said: list[str] = []
    manifest = await make(ServerOptions(nats_url=server.url), {}, tmp_path / "backup", said.append)
    assert [saved.name for saved in manifest.streams] == snapshots.streams(2)
    assert all(saved.exact for saved in manifest.streams)
    assert len(said) == len(manifest.streams)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "backup").iterdir()} == {0o600}
    await bring_back(
        ServerOptions(nats_url=second.url), {}, tmp_path / "backup", said.append, replace=False, replicas=0
    )
    restored = await connected(second.url, partitions=2)
    for partition in (0, 1):
        task = TaskSubjects(partition, "default", "t1")
        was = await bus.log(partition).get(task.tool_output("r1", 1))
        now = await restored.log(partition).get(task.tool_output("r1", 1))
        assert was is not None
        assert now is not None
        assert (now.seq, now.at, now.data) == (was.seq, was.at, large)
    timer = await first(await restored.queue(PLANNER_TIMERS))
    assert timer.data == b"wake"
    assert timer.at >= due


@pytest.fixture
async def saved(server: NatsServer, tmp_path: Path) -> Path:
    """A backup with something in it."""
    async with await connect(Settings(nats_url=server.url), service="test") as bus:
        await bus.log(0).record(Outgoing(TASK.submitted, b"said"))
    await make(ServerOptions(nats_url=server.url), {}, tmp_path / "backup", lambda _: None)
    return tmp_path / "backup"


async def restore(url: str, folder: Path, *, replace: bool = False, replicas: int = 0) -> None:
    options = ServerOptions(nats_url=url)
    await bring_back(options, {}, folder, lambda _: None, replace=replace, replicas=replicas)


async def test_what_is_there_is_replaced_only_on_demand(server: NatsServer, saved: Path, connected: Connect) -> None:
    bus = await connected(server.url)
    await bus.log(0).record(Outgoing(TASK.cancel, b"said later"))
    with pytest.raises(Stop, match="--replace") as refused:
        await restore(server.url, saved)
    assert refused.value.code == ExitCode.REFUSED
    assert await bus.log(0).get(TASK.cancel) is not None
    await restore(server.url, saved, replace=True)
    assert await bus.log(0).get(TASK.cancel) is None
    assert await bus.log(0).get(TASK.submitted) is not None


async def test_empty_streams_of_services_that_were_started_too_early_are_no_obstacle(
    second: NatsServer, saved: Path, connected: Connect
) -> None:
    bus = await connected(second.url)
    await restore(second.url, saved)
    assert await bus.log(0).get(TASK.submitted) is not None


async def test_nothing_is_restored_under_services_at_work(second: NatsServer, saved: Path, connected: Connect) -> None:
    queue = await (await connected(second.url)).queue(LLM_GATEWAY, 0)
    taking = spawn(first(queue), name="test:take")
    async with plain(second.url) as connection:

        async def at_work() -> bool:
            return bool(await snapshots.at_work(connection, STREAM))

        await until(at_work, "a consumer that is waited at")
    with pytest.raises(Stop, match="stop all of them first"):
        await restore(second.url, saved, replace=True)
    taking.cancel()
    await asyncio.wait((taking,))


@pytest.mark.parametrize("harm", ["changed", "missing", "no manifest", "another form"])
async def test_a_damaged_backup_is_refused_before_anything_is_touched(
    second: NatsServer, saved: Path, harm: str
) -> None:
    file, manifest = saved / f"{STREAM}.tar.s2", saved / MANIFEST
    match harm:
        case "changed":
            file.write_bytes(bytes((*(data := file.read_bytes())[:-1], data[-1] ^ 1)))
        case "missing":
            file.unlink()
        case "no manifest":
            manifest.unlink()
        case _:
            manifest.write_text(manifest.read_text().replace("holdfast-backup.v1", "holdfast-backup.v9"))
    with pytest.raises(Stop):
        await restore(second.url, saved)
    async with plain(second.url) as connection:
        assert await snapshots.there(connection) == {}


async def test_a_backup_that_fails_leaves_nothing_that_looks_like_one(server: NatsServer, tmp_path: Path) -> None:
    folder = tmp_path / "backup"
    with pytest.raises(Stop, match="nothing to save"):
        await make(ServerOptions(nats_url=server.url), {}, folder, lambda _: None)
    assert list(folder.iterdir()) == []
    (folder / "notes").write_text("mine")
    with pytest.raises(Stop, match="not empty"):
        await make(ServerOptions(nats_url=server.url), {}, folder, lambda _: None)
    assert (folder / "notes").read_text() == "mine"


async def test_one_copy_becomes_three(cluster: NatsCluster, saved: Path) -> None:
    await restore(cluster.url, saved, replicas=3)
    async with plain(cluster.url) as connection:
        info = await api.ask(connection, f"STREAM.INFO.{STREAM}")
    assert (info["config"]["num_replicas"], info["state"]["messages"]) == (3, 1)
    again = saved.with_name("again")
    manifest = await make(ServerOptions(nats_url=cluster.url), {}, again, lambda _: None)
    assert {one.name: one.state.messages for one in manifest.streams if one.state.messages} == {STREAM: 1}
