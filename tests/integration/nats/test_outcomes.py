"""Whether a write happened is always found out: conflicts, duplicates, and answers that never arrived."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from schemas.subjects import EXPECTED_LAST_SUBJECT_SEQUENCE, TaskSubjects, submit
from services.runtime.errors import Conflict, Unavailable
from services.runtime.nats import publish
from services.runtime.nats.bus import NatsBus
from services.runtime.nats.client import Interrupted
from services.runtime.nats.publish import Command, Mismatch
from services.runtime.nats.wire import ApiError
from services.runtime.ports import Change, Outgoing, Signal
from services.runtime.tasks import spawn
from tests.support.nats_server import Connect, NatsServer
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import until

TASK = TaskSubjects(0, "default", "t1")
COMMANDS = tuple(Outgoing(TASK.tool_command("r", n), b"c") for n in (1, 2))
FORMS = ["batch", "two-step"]


async def swallowing(
    proxy: TcpProxy, other: NatsBus, write: Callable[[], Awaitable[int | None]], subject: str
) -> int | None:
    """Do a write whose answer is lost: it is stored, and the connection breaks before the server is heard."""
    proxy.mute()
    task = spawn(_number(write()), name="write")

    async def stored() -> bool:
        return await other.log(0).get(subject) is not None

    await until(stored, f"{subject} is stored")
    proxy.cut()
    proxy.unmute()
    seq: int | None = await task
    return seq


async def _number(write: Awaitable[int | None]) -> int | None:
    return await write


async def test_a_record_whose_answer_was_lost_is_known_to_be_ours(server: NatsServer, connected: Connect) -> None:
    async with TcpProxy(server.port) as proxy:
        bus, other = await connected(proxy.url), await connected(server.url)
        message = Outgoing(TASK.submitted, b"mine", {"traceparent": "00-ab-cd-01"})
        seq = await swallowing(proxy, other, lambda: bus.log(0).record(message), TASK.submitted)
        entry = await other.log(0).get(TASK.submitted)
        assert entry is not None
        assert seq == entry.seq


async def test_a_write_whose_answer_was_lost_is_not_a_conflict(server: NatsServer, connected: Connect) -> None:
    async with TcpProxy(server.port) as proxy:
        bus, other = await connected(proxy.url), await connected(server.url)
        ledger = Outgoing(TASK.ledger("r", 1), b"mine")
        seq = await swallowing(proxy, other, lambda: bus.log(0).write(ledger, expected=0), ledger.subject)
        assert seq is not None
        with pytest.raises(Conflict):
            await other.log(0).write(Outgoing(ledger.subject, b"theirs"), expected=0)


@pytest.mark.parametrize("form", FORMS)
async def test_a_commit_whose_answer_was_lost_is_whole(server: NatsServer, connected: Connect, form: str) -> None:
    async with TcpProxy(server.port) as proxy:
        bus, other = await connected(proxy.url, commit=form), await connected(server.url)
        change = Change(Outgoing(TASK.state, b"s"), 0, COMMANDS)
        revision = await swallowing(proxy, other, lambda: bus.log(0).commit(change), TASK.state)
        state = await other.log(0).get(TASK.state)
        assert state is not None
        assert revision == state.seq
        assert await other.log(0).subjects(f"{TASK.root}.cmd.>") == [command.subject for command in COMMANDS]


@pytest.mark.parametrize("form", FORMS)
async def test_another_ones_state_is_a_conflict_even_when_ours_got_no_answer(
    server: NatsServer, connected: Connect, form: str
) -> None:
    async with TcpProxy(server.port) as proxy:
        bus, other = await connected(proxy.url, commit=form), await connected(server.url)
        heard = asyncio.Event()

        async def hear(_: Signal) -> None:
            heard.set()

        await other.signals.subscribe(TASK.live, hear)
        await other.log(0).commit(Change(Outgoing(TASK.state, b"theirs"), 0))
        proxy.mute()
        task = spawn(bus.log(0).commit(Change(Outgoing(TASK.state, b"ours"), 0, COMMANDS)), name="commit")
        await until(lambda: len(bus._connection._interruptible) > 0, "that it is sent")
        await bus.signals.publish(TASK.live, b"")
        await asyncio.wait_for(heard.wait(), 5)  # the server has read what was sent before it, and refused it
        proxy.cut()
        proxy.unmute()
        with pytest.raises(Conflict):
            await task
        assert await other.log(0).subjects(f"{TASK.root}.cmd.>") == []


@pytest.mark.parametrize("form", FORMS)
async def test_a_commit_finds_commands_that_exist_and_adds_the_others(
    server: NatsServer, connected: Connect, form: str
) -> None:
    bus = await connected(server.url, commit=form)
    log = bus.log(0)
    there = await log.record(Outgoing(COMMANDS[0].subject, b"earlier"))
    revision = await log.commit(Change(Outgoing(TASK.state, b"1"), 0, COMMANDS))
    first, second = [await log.get(command.subject) for command in COMMANDS]
    assert first is not None
    assert second is not None
    assert (first.seq, first.data) == (there, b"earlier")
    assert second.data == b"c"
    with pytest.raises(Conflict):
        await log.commit(Change(Outgoing(TASK.state, b"2"), 0, COMMANDS))
    assert await log.commit(Change(Outgoing(TASK.state, b"2"), revision, COMMANDS)) > revision


async def test_a_batch_is_one_batch_and_two_steps_are_not(server: NatsServer, connected: Connect) -> None:
    """The forms are told apart by what is stored: members of a batch carry its id."""
    for form, batched in (("batch", True), ("two-step", False)):
        bus = await connected(server.url, commit=form)
        task = TaskSubjects(0, "default", f"task-{form}")
        command = Outgoing(task.model_command(1, 1), b"c")
        await bus.log(0).commit(Change(Outgoing(task.state, b"s"), 0, (command,)))
        stored = [await bus.log(0)._reader.get(subject, at_least=0) for subject in (task.state, command.subject)]
        ids = [entry.headers.get("Nats-Batch-Id") for entry in stored if entry is not None]
        assert len(ids) == 2
        assert (ids[0] is not None and ids[0] == ids[1]) is batched
        entry = await bus.log(0).get(task.state)
        assert entry is not None
        assert entry.headers == {}


async def test_the_faster_form_is_chosen_by_what_the_stream_is(server: NatsServer, connected: Connect) -> None:
    assert (await connected(server.url)).commit == "two-step"


async def test_memory_streams_are_committed_in_batches(server: NatsServer, connected: Connect) -> None:
    assert (await connected(server.url, storage="memory")).commit == "batch"


async def test_a_server_that_stays_away_is_unavailable(
    server: NatsServer, connected: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish, "BUDGET_S", 0.5)
    bus = await connected(server.url)
    server.kill()
    await until(lambda: not bus._connection.is_connected, "that the connection is lost")
    with pytest.raises(Unavailable):
        await bus.log(0).record(Outgoing(TASK.submitted, b"{}"))
    with pytest.raises(Unavailable):
        await bus.log(0).get(TASK.submitted)
    with pytest.raises(Unavailable):
        await bus.signals.request("hf.ask.default.submit", b"{}", timeout_s=0.2)


async def test_a_request_under_way_fails_when_the_connection_breaks_and_not_at_its_timeout(
    server: NatsServer, connected: Connect
) -> None:
    async with TcpProxy(server.port) as proxy:
        bus = await connected(proxy.url)
        connection = bus._connection
        proxy.mute()
        loop = asyncio.get_running_loop()
        asked_at = loop.time()
        request = spawn(connection.request("$JS.API.INFO", b"", timeout_s=30), name="request")
        await until(lambda: len(connection._interruptible) == 1, "that it is under way")
        proxy.cut()
        with pytest.raises(Interrupted):
            await request
        assert loop.time() - asked_at < 5


async def test_a_request_without_an_id_is_not_stored_twice_for_want_of_an_answer(
    server: NatsServer, connected: Connect
) -> None:
    async with TcpProxy(server.port) as proxy:
        bus, other = await connected(proxy.url), await connected(server.url)
        proxy.mute()
        task = spawn(bus.signals.store(submit("default"), b"{}"), name="store")
        requests = await other.queue("planner-requests")
        (delivery,) = await requests.take(1)
        await delivery.ack()
        proxy.cut()
        proxy.unmute()
        with pytest.raises(Unavailable):
            await task
        assert await requests.take(1) == ()


@pytest.mark.parametrize("code", sorted(publish.TRANSIENT))
def test_a_transient_answer_is_neither_a_conflict_nor_a_failure(code: int) -> None:
    publish.refuse("s", ApiError(400, code, "not now"), unsure=False)


def test_an_answer_for_want_of_a_leader_is_transient() -> None:
    publish.refuse("s", ApiError(503, 10999, "no leader"), unsure=False)


def test_a_wrong_sequence_is_a_mismatch_and_says_the_sequence() -> None:
    with pytest.raises(Mismatch) as caught:
        publish.refuse("s", ApiError(400, publish.MISMATCH, "wrong last sequence: 17"), unsure=True)
    assert (caught.value.actual, caught.value.unsure) == (17, True)


def test_any_other_refusal_is_said_with_its_number() -> None:
    with pytest.raises(Unavailable, match="10077"):
        publish.refuse("s", ApiError(400, 10077, "maximum bytes exceeded"), unsure=False)


async def test_the_wrong_sequence_of_a_real_server_is_understood(server: NatsServer, connected: Connect) -> None:
    bus = await connected(server.url)
    seq = await bus.log(0).record(Outgoing(TASK.submitted, b"{}"))
    with pytest.raises(Mismatch) as caught:
        await publish.store(bus._connection, Command(TASK.submitted, b"{}", {EXPECTED_LAST_SUBJECT_SEQUENCE: "0"}))
    assert caught.value.actual == seq
    assert not caught.value.unsure
