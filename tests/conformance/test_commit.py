"""What `Log.commit` promises: a state at its revision, and what must be under way for it, in either form."""

from __future__ import annotations

import asyncio

import pytest

from schemas.subjects import TaskSubjects
from services.runtime.errors import Conflict
from services.runtime.ports import Bus, Change, Outgoing
from tests.support.adapters import Adapter, message, tool_command

TASK = TaskSubjects(0, "default", "t1")
RACERS = 8

pytestmark = pytest.mark.parametrize(
    "adapter", ["memory-batch", "memory-two-step", "nats-batch", "nats-two-step"], indirect=True
)


async def test_a_commit_writes_the_state_and_what_it_needs(bus: Bus) -> None:
    log = bus.log(0)
    commands = tuple(Outgoing(tool_command(n), str(n).encode(), {"traceparent": f"x{n}"}) for n in (1, 2, 3))
    revision = await log.commit(Change(Outgoing(TASK.state, b"state", {"traceparent": "x"}), 0, commands))
    state = await log.get(TASK.state)
    assert state is not None
    assert (state.seq, state.data, state.headers["traceparent"]) == (revision, b"state", "x")
    written = await log.last([f"{TASK.root}.cmd.>"])
    assert [(entry.subject, entry.data, entry.headers["traceparent"]) for entry in written] == [
        (command.subject, command.data, command.headers["traceparent"]) for command in commands
    ]


async def test_a_commit_may_need_nothing_else(bus: Bus) -> None:
    log = bus.log(0)
    first = await log.commit(Change(message(TASK.state, b"1"), 0))
    second = await log.commit(Change(message(TASK.state, b"2"), first))
    state = await log.get(TASK.state)
    assert state is not None
    assert (state.seq, state.data) == (second, b"2")


async def test_a_commit_at_the_wrong_revision_writes_nothing(bus: Bus) -> None:
    log = bus.log(0)
    old = await log.commit(Change(message(TASK.state, b"1"), 0))
    new = await log.commit(Change(message(TASK.state, b"2"), old))
    for wrong in (0, old):
        with pytest.raises(Conflict):
            await log.commit(Change(message(TASK.state, b"3"), wrong, (message(tool_command(1)),)))
    state = await log.get(TASK.state)
    assert state is not None
    assert (state.seq, state.data) == (new, b"2")
    assert await log.subjects(f"{TASK.root}.cmd.>") == []


async def test_a_command_that_is_there_already_stays_as_it_is(bus: Bus) -> None:
    log = bus.log(0)
    there = await log.record(message(tool_command(2), b"first"))
    revision = await log.commit(
        Change(message(TASK.state), 0, tuple(message(tool_command(n), b"new") for n in (1, 2, 3)))
    )
    state = await log.get(TASK.state)
    assert state is not None
    assert state.seq == revision
    by_subject = {entry.subject: (entry.seq, entry.data) for entry in await log.last([f"{TASK.root}.cmd.>"])}
    assert by_subject[tool_command(2)] == (there, b"first")
    assert by_subject[tool_command(1)][1] == b"new"
    assert by_subject[tool_command(3)][1] == b"new"


async def test_a_commit_whose_commands_are_all_there_still_writes_the_state(bus: Bus) -> None:
    log = bus.log(0)
    for n in (1, 2):
        await log.record(message(tool_command(n), b"first"))
    revision = await log.commit(Change(message(TASK.state), 0, tuple(message(tool_command(n)) for n in (1, 2))))
    state = await log.get(TASK.state)
    assert state is not None
    assert state.seq == revision
    assert [entry.data for entry in await log.last([f"{TASK.root}.cmd.>"])] == [b"first", b"first"]


async def test_a_wrong_revision_is_told_from_a_command_that_is_there(bus: Bus) -> None:
    log = bus.log(0)
    await log.commit(Change(message(TASK.state, b"1"), 0))
    await log.record(message(tool_command(1), b"first"))
    with pytest.raises(Conflict):
        await log.commit(Change(message(TASK.state, b"2"), 0, (message(tool_command(1)), message(tool_command(2)))))
    assert await log.subjects(f"{TASK.root}.cmd.>") == [tool_command(1)]


async def test_of_many_who_commit_at_one_revision_one_wins_with_all_it_needs(adapter: Adapter) -> None:
    buses = [await adapter.open() for _ in range(2)]
    revision = await buses[0].log(0).commit(Change(message(TASK.state, b"start"), 0))
    results = await asyncio.gather(
        *(
            buses[n % 2]
            .log(0)
            .commit(
                Change(
                    message(TASK.state, str(n).encode()),
                    revision,
                    (message(tool_command(2 * n + 1)), message(tool_command(2 * n + 2))),
                )
            )
            for n in range(RACERS)
        ),
        return_exceptions=True,
    )
    (winner,) = [n for n, result in enumerate(results) if isinstance(result, int)]
    assert all(isinstance(result, Conflict) for n, result in enumerate(results) if n != winner)
    log = buses[0].log(0)
    state = await log.get(TASK.state)
    assert state is not None
    assert (state.seq, state.data) == (results[winner], str(winner).encode())
    assert sorted(await log.subjects(f"{TASK.root}.cmd.>")) == sorted(
        [tool_command(2 * winner + 1), tool_command(2 * winner + 2)]
    )


async def test_commits_of_different_tasks_do_not_disturb_each_other(bus: Bus) -> None:
    log = bus.log(0)
    tasks = [TaskSubjects(0, "default", f"t{n}") for n in range(30)]
    revisions = await asyncio.gather(
        *(log.commit(Change(message(task.state), 0, (message(task.model_command(1, 1)),))) for task in tasks)
    )
    assert len(set(revisions)) == len(tasks)
    for task, revision in zip(tasks, revisions, strict=True):
        state = await log.get(task.state)
        assert state is not None
        assert state.seq == revision
        assert await log.get(task.model_command(1, 1)) is not None


async def test_a_commit_carries_many_commands(bus: Bus) -> None:
    log = bus.log(0)
    count = 120
    await log.commit(Change(message(TASK.state), 0, tuple(message(tool_command(n)) for n in range(1, count + 1))))
    assert len(await log.subjects(f"{TASK.root}.cmd.>")) == count


async def test_a_command_above_the_servers_limit_is_written_whole(bus: Bus) -> None:
    log = bus.log(0)
    large = b"0123456789abcdef" * (3 << 16)
    await log.commit(Change(message(TASK.state, b"1"), 0, (message(tool_command(1), large), message(tool_command(2)))))
    command = await log.get(tool_command(1))
    assert command is not None
    assert command.data == large
    assert await log.get(tool_command(2)) is not None
