"""What the `Log` port promises, but for the commit."""

from __future__ import annotations

import asyncio
from datetime import UTC, timedelta

import pytest

from schemas import subjects
from schemas.subjects import TaskSubjects
from services.runtime.errors import Conflict
from services.runtime.ports import Bus, Outgoing
from tests.support.adapters import Adapter, message, take, tool_event

TASK = TaskSubjects(0, "default", "t1")
RACERS = 20


async def test_a_recorded_message_is_read_back_whole(bus: Bus) -> None:
    sent = Outgoing(TASK.submitted, b'{"a":1}', {"traceparent": "00-ab-cd-01"})
    seq = await bus.log(0).record(sent)
    entry = await bus.log(0).get(TASK.submitted)
    assert entry is not None
    assert (entry.subject, entry.seq, entry.data) == (sent.subject, seq, sent.data)
    assert entry.headers["traceparent"] == "00-ab-cd-01"
    assert entry.at.tzinfo == UTC
    assert abs(entry.at - bus.clock.now()) < timedelta(seconds=10)


async def test_a_subject_without_a_message_is_none(bus: Bus) -> None:
    assert await bus.log(0).get(TASK.submitted) is None


async def test_recording_again_changes_nothing_and_says_so(bus: Bus) -> None:
    log = bus.log(0)
    first = await log.record(message(TASK.submitted, b"first"))
    assert first is not None
    assert await log.record(message(TASK.submitted, b"second")) is None
    entry = await log.get(TASK.submitted)
    assert entry is not None
    assert (entry.seq, entry.data) == (first, b"first")


async def test_of_many_who_record_at_once_one_wins(adapter: Adapter) -> None:
    buses = [await adapter.open() for _ in range(2)]
    results = await asyncio.gather(
        *(buses[n % 2].log(0).record(message(TASK.submitted, str(n).encode())) for n in range(RACERS))
    )
    (winner,) = [n for n, seq in enumerate(results) if seq is not None]
    entry = await buses[0].log(0).get(TASK.submitted)
    assert entry is not None
    assert (entry.seq, entry.data) == (results[winner], str(winner).encode())


async def test_sequences_grow(bus: Bus) -> None:
    seqs = [await bus.log(0).record(message(tool_event(n))) for n in range(1, 6)]
    assert seqs == sorted(seq for seq in seqs if seq is not None)
    assert len(set(seqs)) == 5


async def test_a_write_needs_the_sequence_it_expects(bus: Bus) -> None:
    log = bus.log(0)
    first = await log.write(message(TASK.state, b"1"), expected=0)
    second = await log.write(message(TASK.state, b"2"), expected=first)
    for wrong in (0, first, second + 1):
        with pytest.raises(Conflict):
            await log.write(message(TASK.state, b"3"), expected=wrong)
    entry = await log.get(TASK.state)
    assert entry is not None
    assert (entry.seq, entry.data) == (second, b"2")


async def test_a_write_that_expects_something_where_there_is_nothing_conflicts(bus: Bus) -> None:
    with pytest.raises(Conflict):
        await bus.log(0).write(message(TASK.state), expected=3)
    assert await bus.log(0).get(TASK.state) is None


async def test_of_many_who_write_at_one_revision_one_wins(adapter: Adapter) -> None:
    buses = [await adapter.open() for _ in range(2)]
    revision = await buses[0].log(0).write(message(TASK.state, b"start"), expected=0)
    results = await asyncio.gather(
        *(buses[n % 2].log(0).write(message(TASK.state, str(n).encode()), expected=revision) for n in range(RACERS)),
        return_exceptions=True,
    )
    (winner,) = [n for n, result in enumerate(results) if isinstance(result, int)]
    assert all(isinstance(result, Conflict) for n, result in enumerate(results) if n != winner)
    entry = await buses[1].log(0).get(TASK.state)
    assert entry is not None
    assert entry.data == str(winner).encode()


async def test_read_gives_the_messages_in_the_order_asked_for(bus: Bus) -> None:
    log = bus.log(0)
    seqs = [seq for n in range(1, 41) if (seq := await log.record(message(tool_event(n), str(n).encode())))]
    asked = [*reversed(seqs), seqs[0]]
    entries = await log.read(asked)
    assert [entry.seq for entry in entries] == asked
    assert [entry.data for entry in entries] == [str(seqs.index(seq) + 1).encode() for seq in asked]


async def test_read_of_nothing_is_nothing(bus: Bus) -> None:
    assert await bus.log(0).read([]) == []


async def test_reading_a_missing_message_is_an_error(bus: Bus) -> None:
    log = bus.log(0)
    old = await log.write(message(TASK.state, b"1"), expected=0)
    new = await log.write(message(TASK.state, b"2"), expected=old)
    for missing in (old, new + 1):
        with pytest.raises(LookupError):
            await log.read([new, missing])


async def test_last_is_the_newest_of_each_subject_by_sequence(bus: Bus) -> None:
    log = bus.log(0)
    await log.record(message(tool_event(2), b"two"))
    await log.record(message(tool_event(1), b"one"))
    first = await log.write(message(TASK.state, b"old"), expected=0)
    await log.record(message(tool_event(1, task="other"), b"not asked for"))
    await log.write(message(TASK.state, b"new"), expected=first)
    entries = await log.last([TASK.tool_events("r1"), TASK.state])
    assert [(entry.subject, entry.data) for entry in entries] == [
        (tool_event(2), b"two"),
        (tool_event(1), b"one"),
        (TASK.state, b"new"),
    ]


async def test_last_of_nothing_that_matches_is_empty(bus: Bus) -> None:
    await bus.log(0).record(message(TASK.submitted))
    assert await bus.log(0).last([TASK.tool_events("r1")]) == []


async def test_last_finds_more_subjects_than_one_answer_of_the_server_may_hold(bus: Bus) -> None:
    log = bus.log(0)
    count = 1100
    await asyncio.gather(*(log.record(message(tool_event(n))) for n in range(1, count + 1)))
    entries = await log.last([TASK.tool_events("r1")])
    assert {entry.subject for entry in entries} == {tool_event(n) for n in range(1, count + 1)}
    assert [entry.seq for entry in entries] == sorted(entry.seq for entry in entries)


async def test_an_answer_is_at_least_as_new_as_what_was_asked_for(bus: Bus) -> None:
    log = bus.log(0)
    seq = await log.record(message(tool_event(1)))
    assert seq is not None
    assert await log.get(tool_event(1), at_least=seq) is not None
    assert [entry.seq for entry in await log.last([TASK.tool_events("r1")], at_least=seq)] == [seq]


async def test_subjects_are_those_that_match(bus: Bus) -> None:
    log = bus.log(0)
    await log.write(message(TASK.state), expected=await log.write(message(TASK.state), expected=0))
    for n in (1, 2):
        await log.record(message(tool_event(n)))
    await log.record(message(tool_event(1, task="other")))
    assert sorted(await log.subjects(f"$KV.{subjects.state_bucket(0)}.>")) == [TASK.state]
    assert sorted(await log.subjects(TASK.tool_events("r1"))) == [tool_event(1), tool_event(2)]
    assert sorted(await log.subjects("hf.0.*.evt.*.tool.>")) == sorted(
        [tool_event(1), tool_event(2), tool_event(1, task="other")]
    )
    assert await log.subjects("hf.0.nowhere.>") == []


async def test_a_purge_removes_what_matches_and_nothing_else(bus: Bus) -> None:
    log = bus.log(0)
    seq = await log.record(message(tool_event(1)))
    await log.record(message(tool_event(1, task="other")))
    await log.record(message(TASK.submitted))
    assert seq is not None
    await log.purge(TASK.tool_events("r1"))
    assert await log.get(tool_event(1)) is None
    assert await log.get(tool_event(1, task="other")) is not None
    assert await log.get(TASK.submitted) is not None
    with pytest.raises(LookupError):
        await log.read([seq])
    assert await log.record(message(tool_event(1))) is not None


async def test_a_message_is_dropped_and_none_that_has_taken_its_place(bus: Bus) -> None:
    log = bus.log(0)
    await log.record(message(TASK.followed, b"first"))
    await log.record(message(TASK.submitted))
    first = await log.get(TASK.followed)
    assert first is not None
    await log.drop(first)
    assert await log.get(TASK.followed) is None
    assert await log.record(message(TASK.followed, b"second")) is not None
    await log.drop(first)
    second = await log.get(TASK.followed)
    assert second is not None
    assert second.data == b"second"
    assert await log.get(TASK.submitted) is not None


async def test_partitions_are_streams_of_their_own(bus: Bus) -> None:
    other = TaskSubjects(1, "default", "t1")
    await bus.log(0).record(message(TASK.submitted, b"0"))
    await bus.log(1).record(message(other.submitted, b"1"))
    assert await bus.log(0).subjects(">") == [TASK.submitted]
    assert await bus.log(1).subjects(">") == [other.submitted]


async def test_a_payload_above_the_servers_limit_is_read_back_whole(adapter: Adapter) -> None:
    bus = await adapter.open()
    queue = await bus.queue(subjects.PLANNER, 0)
    log = bus.log(0)
    large = b"0123456789abcdef" * (3 << 16)
    seq = await log.record(Outgoing(tool_event(1), large, {"traceparent": "00-ab-cd-01"}))
    assert seq is not None
    found = [
        await log.get(tool_event(1)),
        *await log.read([seq]),
        *await log.last([TASK.tool_events("r1")]),
        *await adapter.arrives(take(queue)),
    ]
    for entry in found:
        assert entry is not None
        assert entry.data == large
        assert entry.headers["traceparent"] == "00-ab-cd-01"


async def test_the_dead_letters_are_a_log(bus: Bus) -> None:
    letters = bus.dead_letters
    subject = subjects.dead_letter("KV_holdfast_0", 7)
    assert await letters.record(message(subject, b"a")) is not None
    assert await letters.record(message(subject, b"b")) is None
    assert [entry.data for entry in await letters.last([f"{subjects.PREFIX}.dlq.letter.>"])] == [b"a"]
