"""Payloads above the server's limit pass every port unseen, and are gone when their task is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from schemas import subjects
from schemas.subjects import PAYLOAD_REF, PLANNER, PLANNER_REQUESTS, TOOL_EXECUTOR, TaskSubjects
from services.runtime.errors import Refused
from services.runtime.nats import api, payloads
from services.runtime.nats.bus import NatsBus
from services.runtime.nats.connection import TooLarge
from services.runtime.nats.payloads import PayloadLost
from services.runtime.nats.topology import payloads_stream
from services.runtime.ports import Change, Outgoing
from tests.support.nats_server import Connect, NatsServer, nats_server

TASK = TaskSubjects(0, "default", "t1")
LIMIT = 256 << 10
LARGE = os.urandom(3 * LIMIT)
HEADERS = {"traceparent": "00-ab-cd-01"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    """Small limits, so that the tests are quick."""
    with nats_server(tmp_path, max_payload=LIMIT) as running:
        yield running


async def pieces(bus: NatsBus, filter_: str = ">") -> int:
    info = await api.ask(bus._connection, f"STREAM.INFO.{payloads_stream()}", {"subjects_filter": filter_})
    return len(info["state"].get("subjects") or {})


async def test_a_large_event_is_recorded_read_and_delivered_whole(server: NatsServer, connected: Connect) -> None:
    bus = await connected(server.url)
    log = bus.log(0)
    message = Outgoing(TASK.tool_event("r", 1), LARGE, HEADERS)
    seq = await log.record(message)
    assert seq is not None
    assert await log.record(message) is None
    (read,) = await log.read([seq])
    (last,) = await log.last([TASK.tool_events("r")], at_least=seq)
    for entry in (read, last, await log.get(message.subject)):
        assert entry is not None
        assert (entry.seq, entry.headers) == (seq, HEADERS)
        assert entry.data == LARGE
    (delivery,) = await (await bus.queue(PLANNER, 0)).take(1)
    assert delivery.data == LARGE
    assert delivery.headers == HEADERS


@pytest.mark.parametrize("form", ["batch", "two-step"])
async def test_a_large_state_and_large_commands_are_committed(
    server: NatsServer, connected: Connect, form: str
) -> None:
    bus = await connected(server.url, commit=form)
    commands = tuple(Outgoing(TASK.tool_command("r", n), LARGE[n:], HEADERS) for n in (1, 2))
    revision = await bus.log(0).commit(Change(Outgoing(TASK.state, LARGE), 0, commands))
    state = await bus.log(0).get(TASK.state)
    assert state is not None
    assert (state.seq, state.data) == (revision, LARGE)
    queue = await bus.queue(TOOL_EXECUTOR, 0)
    taken = {delivery.subject: delivery.data for _ in commands for delivery in await queue.take(1)}
    assert taken == {command.subject: command.data for command in commands}


async def test_a_large_request_and_a_large_dead_letter_arrive(server: NatsServer, connected: Connect) -> None:
    bus = await connected(server.url)
    await bus.signals.store(subjects.submit("default"), LARGE)
    (request,) = await (await bus.queue(PLANNER_REQUESTS)).take(1)
    assert request.data == LARGE
    letter = subjects.dead_letter("S", 1)
    await bus.dead_letters.record(Outgoing(letter, LARGE))
    entry = await bus.dead_letters.get(letter)
    assert entry is not None
    assert entry.data == LARGE


async def test_what_nobody_purges_expires(server: NatsServer, connected: Connect) -> None:
    bus = await connected(server.url)
    await bus.dead_letters.record(Outgoing(subjects.dead_letter("S", 1), LARGE))
    await bus.signals.store(subjects.submit("default"), LARGE)
    await bus.log(0).record(Outgoing(TASK.submitted, LARGE))
    reader = bus._payloads._reader
    for filter_, expires in (("*.*.hf.dlq.>", True), ("*.*.hf.tasks.>", True), ("*.*.hf.0.>", False)):
        found = await reader.last([f"$O.{subjects.PAYLOADS_BUCKET}.C.{filter_}"], at_least=0)
        assert found
        assert all(("Nats-TTL" in piece.headers) is expires for piece in found)


async def test_a_payload_with_headers_just_above_the_limit_does_not_close_the_connection(
    server: NatsServer, connected: Connect
) -> None:
    """The server would close the connection for good: the client counts the data alone."""
    bus = await connected(server.url)
    log = bus.log(0)
    for n, size in enumerate(range(LIMIT - 200, LIMIT + 2, 20)):
        message = Outgoing(TASK.tool_event("r", n), bytes(size), {"long": "x" * 100})
        assert await log.record(message) is not None
        entry = await log.get(message.subject)
        assert entry is not None
        assert len(entry.data) == size
    with pytest.raises(TooLarge):
        await bus.signals.publish(TASK.live, bytes(LIMIT - 20), {"long": "x" * 100})
    with pytest.raises(TooLarge):
        await bus.signals.publish(TASK.live, bytes(LIMIT + 1))
    await bus.signals.publish(TASK.live, bytes(LIMIT))
    assert await bus._connection.flush()


async def test_a_subject_that_the_server_would_close_the_connection_for_is_refused(
    server: NatsServer, connected: Connect
) -> None:
    bus = await connected(server.url)
    for bad in ("hf.0." + "x" * 5000, "hf.0.a b", "hf.0.a\r\nPUB x 0", ""):
        with pytest.raises(Refused):
            await bus.log(0).record(Outgoing(bad, b"{}"))
        with pytest.raises(Refused):
            await bus.signals.publish(bad, b"{}")
    assert await bus._connection.flush()


async def test_a_header_cannot_smuggle_in_another(server: NatsServer, connected: Connect) -> None:
    bus = await connected(server.url)
    await bus.log(0).record(Outgoing(TASK.submitted, b"{}", {"a": "b\r\nNats-Rollup: all", "c": "d"}))
    entry = await bus.log(0).get(TASK.submitted)
    assert entry is not None
    assert entry.headers == {"a": "b  Nats-Rollup: all", "c": "d"}


async def test_purging_a_task_purges_its_payloads_and_no_others(server: NatsServer, connected: Connect) -> None:
    bus = await connected(server.url)
    log = bus.log(0)
    other = TaskSubjects(0, "default", "t2")
    for task in (TASK, other):
        await log.commit(Change(Outgoing(task.state, LARGE), 0, (Outgoing(task.tool_command("r", 1), LARGE),)))
        await log.record(Outgoing(task.submitted, LARGE))
    before = await pieces(bus)
    for filter_ in TASK.everything:
        await log.purge(filter_)
    assert await pieces(bus) == before / 2
    assert await pieces(bus, f"$O.{subjects.PAYLOADS_BUCKET}.C.*.*.{TASK.submitted}") == 0
    for subject in (other.state, other.tool_command("r", 1), other.submitted):
        entry = await log.get(subject)
        assert entry is not None
        assert entry.data == LARGE


async def test_the_same_payload_twice_is_stored_once(server: NatsServer, connected: Connect) -> None:
    bus = await connected(server.url)
    await bus.log(0).record(Outgoing(TASK.submitted, LARGE))
    before = await pieces(bus)
    assert await bus.log(0).record(Outgoing(TASK.submitted, LARGE)) is None
    assert await pieces(bus) == before


async def test_a_payload_that_is_gone_is_said_and_not_made_up(server: NatsServer, connected: Connect) -> None:
    bus = await connected(server.url)
    seq = await bus.log(0).record(Outgoing(TASK.tool_event("r", 1), LARGE))
    assert seq is not None
    await bus._payloads.purge(TASK.tool_event("r", 1))
    with pytest.raises(PayloadLost):
        await bus.log(0).get(TASK.tool_event("r", 1))
    with pytest.raises(LookupError):
        await bus.log(0).read([seq])
    (delivery,) = await (await bus.queue(PLANNER, 0)).take(1)
    assert delivery.data == b""
    assert PAYLOAD_REF in delivery.headers


async def test_a_reference_that_a_stranger_made_up_is_lost_and_nothing_worse(
    server: NatsServer, connected: Connect
) -> None:
    bus = await connected(server.url)
    await bus.log(0).record(Outgoing(TASK.submitted, LARGE))
    stored = await bus.log(0)._reader.get(TASK.submitted, at_least=0)
    assert stored is not None
    own = subjects.submit("default")
    bad = ["../../etc/passwd", f"{'0' * 64}.99999999.{own}", f"x.-1.{own}", stored.headers[PAYLOAD_REF]]
    for reference in bad:
        await bus._connection.request(own, b"", {PAYLOAD_REF: reference})
    queue = await bus.queue(PLANNER_REQUESTS)
    for reference in bad:
        (delivery,) = await queue.take(1)
        assert (delivery.data, delivery.headers) == (b"", {PAYLOAD_REF: reference})


async def test_a_payload_above_the_largest_is_refused(
    server: NatsServer, connected: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(payloads, "PAYLOAD_BYTES_MAX", len(LARGE) - 1)
    bus = await connected(server.url)
    with pytest.raises(Refused):
        await bus.log(0).record(Outgoing(TASK.submitted, LARGE))
    assert await pieces(bus) == 0
