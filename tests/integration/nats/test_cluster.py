"""Three servers, three copies: leaders change and machines die, and nothing is lost or stuck."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from schemas.subjects import PLANNER, TaskSubjects, task_stream
from services.runtime.errors import Conflict
from services.runtime.nats import api
from services.runtime.nats.bus import NatsBus
from services.runtime.ports import Change, Outgoing
from services.runtime.tasks import spawn
from tests.support.nats_server import Connect, NatsCluster
from tests.support.waiting import until

STREAM = task_stream(0)
ELECTION_S = 25.0
"""An election takes 4 to 9 seconds; the machine of the tests may be busy."""


@pytest.fixture
def task() -> TaskSubjects:
    """A task of the test's own: the servers are shared."""
    return TaskSubjects(0, "default", f"t{uuid.uuid4().hex[:8]}")


@pytest.fixture
async def bus(cluster: NatsCluster, connected: Connect) -> AsyncIterator[NatsBus]:
    """A bus on three copies; all servers are up again afterwards."""
    bus = await connected(cluster.url, stream_replicas=3)
    yield bus
    for server in cluster.servers:
        if not server.running:
            server.start()

    async def all_current() -> bool:
        cluster_ = (await info(bus))["cluster"]
        replicas: list[dict[str, Any]] = cluster_.get("replicas") or []
        return len(replicas) == 2 and all(replica["current"] for replica in replicas)

    await until(all_current, "that all copies are current", within_s=ELECTION_S)


async def info(bus: NatsBus) -> dict[str, Any]:
    return await api.ask(bus._connection, f"STREAM.INFO.{STREAM}")


async def drain(bus: NatsBus, wanted: set[str]) -> dict[str, int]:
    """Take and acknowledge until every wanted subject was delivered; how often each was."""
    queue = await bus.queue(PLANNER, 0)
    taken: dict[str, int] = {}
    async with asyncio.timeout(ELECTION_S):
        while not wanted <= taken.keys():
            for delivery in await queue.take(64):
                taken[delivery.subject] = taken.get(delivery.subject, 0) + 1
                await delivery.ack()
    await queue.close()
    return taken


async def test_three_copies_are_committed_in_batches_and_promise_a_majority(bus: NatsBus) -> None:
    assert bus.commit == "batch"
    assert bus.durability == "replicated"


async def test_writing_and_taking_go_on_when_a_leader_steps_down(bus: NatsBus, task: TaskSubjects) -> None:
    log = bus.log(0)
    subjects = [task.tool_event("r", n) for n in range(60)]
    taking = spawn(drain(bus, set(subjects)), name="drain")
    revision = 0
    for n, subject in enumerate(subjects):
        if n % 20 == 10:
            await api.ask(bus._connection, f"STREAM.LEADER.STEPDOWN.{STREAM}")
            await api.ask(bus._connection, f"CONSUMER.LEADER.STEPDOWN.{STREAM}.{PLANNER}")
        assert await log.record(Outgoing(subject, b"{}")) is not None
        commands = (Outgoing(task.tool_command("r", n), b"{}"),)
        revision = await log.commit(Change(Outgoing(task.state, str(n).encode()), revision, commands))
    assert (await taking).keys() >= set(subjects)
    assert len(await log.subjects(f"{task.root}.cmd.tool.{task.task}.>")) == len(subjects)


async def test_nothing_is_lost_and_nothing_written_twice_when_the_leader_is_killed(
    bus: NatsBus, cluster: NatsCluster, task: TaskSubjects
) -> None:
    log = bus.log(0)
    written: list[str] = []
    stopping = asyncio.Event()

    async def write() -> None:
        revision = 0
        while not stopping.is_set():
            subject = task.tool_event("r", len(written))
            assert await log.record(Outgoing(subject, b"{}")) is not None, "nobody else writes here"
            commands = (Outgoing(task.tool_command("r", len(written)), b"{}"),)
            revision = await log.commit(Change(Outgoing(task.state, subject.encode()), revision, commands))
            written.append(subject)

    writing = spawn(write(), name="write")
    await until(lambda: len(written) >= 30, "writes before the kill")
    leader = cluster.server((await info(bus))["cluster"]["leader"])
    leader.kill()
    before = len(written)
    await until(lambda: len(written) >= before + 30, "writes after the kill", within_s=ELECTION_S)
    stopping.set()
    await writing
    assert (await drain(bus, set(written))).keys() >= set(written)
    commands = await log.subjects(f"{task.root}.cmd.tool.{task.task}.>")
    assert sorted(commands) == sorted(task.tool_command("r", n) for n in range(len(written)))


async def test_taking_goes_on_when_the_consumers_leader_is_killed(
    bus: NatsBus, cluster: NatsCluster, task: TaskSubjects
) -> None:
    log = bus.log(0)
    first = {task.tool_event("r", n) for n in range(5)}
    for subject in first:
        await log.record(Outgoing(subject, b"{}"))
    await drain(bus, first)
    second = {task.tool_event("r", n) for n in range(5, 10)}
    taking = spawn(drain(bus, second), name="drain")
    consumer = await api.ask(bus._connection, f"CONSUMER.INFO.{STREAM}.{PLANNER}")
    cluster.server(consumer["cluster"]["leader"]).kill()
    for subject in second:
        await log.record(Outgoing(subject, b"{}"))
    assert (await taking).keys() >= second


async def test_a_read_is_as_new_as_the_message_that_caused_it(bus: NatsBus, task: TaskSubjects) -> None:
    """Any copy may answer, and some are behind while others write."""
    log = bus.log(0)
    stopping = asyncio.Event()

    async def noise(k: int) -> None:
        n = 0
        while not stopping.is_set():
            n += 1
            await log.record(Outgoing(task.ledger(f"noise{k}", n), b"x" * 512))

    noises = [spawn(noise(k), name=f"noise:{k}") for k in range(16)]
    for n in range(150):
        seq = await log.record(Outgoing(task.tool_event("r", n), b"{}"))
        assert seq is not None
        assert await log._reader.find(task.tool_event("r", n)) is not None
        entry = await log.get(task.tool_event("r", n), at_least=seq)
        assert entry is not None
        assert entry.seq == seq
        found = await log.last([task.tool_events("r")], at_least=seq)
        assert [entry.subject for entry in found] == [task.tool_event("r", k) for k in range(n + 1)]
        (read,) = await log.read([seq])
        assert read.seq == seq
    stopping.set()
    await asyncio.wait(noises)


async def test_a_subject_without_a_message_is_none_on_any_copy(bus: NatsBus, task: TaskSubjects) -> None:
    log = bus.log(0)
    seq = await log.record(Outgoing(task.submitted, b"{}"))
    assert seq is not None
    assert await log.get(task.state, at_least=seq) is None
    assert await log.last([task.tool_events("r"), task.state], at_least=seq) == []


async def test_of_many_batches_at_one_revision_one_wins(bus: NatsBus, task: TaskSubjects) -> None:
    log = bus.log(0)
    results = await asyncio.gather(
        *(
            log.commit(Change(Outgoing(task.state, str(n).encode()), 0, (Outgoing(task.tool_command("r", n), b"{}"),)))
            for n in range(24)
        ),
        return_exceptions=True,
    )
    (winner,) = [n for n, result in enumerate(results) if isinstance(result, int)]
    assert all(isinstance(result, Conflict) for n, result in enumerate(results) if n != winner)
    assert await log.subjects(f"{task.root}.cmd.tool.{task.task}.>") == [task.tool_command("r", winner)]
