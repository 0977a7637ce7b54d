"""Encryption at rest, by what the server's files tell: nothing of a namespace that has a key, on any path."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest

from schemas import subjects
from schemas.dead_letters import DeadLetter, FailedAttempt
from schemas.subjects import LLM_GATEWAY, PLANNER_REQUESTS, SEALED, TaskSubjects
from schemas.wire import Malformed, decode
from services.runtime.consumer import Inbound
from services.runtime.dead_letters import DeadLetters
from services.runtime.errors import Unavailable
from services.runtime.nats import queue as queues
from services.runtime.nats.bus import NatsBus
from services.runtime.nats.publish import Command, store
from services.runtime.ports import Change, Outgoing
from tests.support.nats_server import Connect, NatsServer

TASK = TaskSubjects(0, "team-a", "t1")
OPEN = TaskSubjects(0, "team-b", "t1")
PLANTED = b"the-planted-secret-sentence"
LARGE = PLANTED * (400 << 10)


def write_keys(directory: Path, namespace: str = "team-a", count: int = 1) -> list[str]:
    directory.mkdir(exist_ok=True)
    keys = [base64.b64encode(os.urandom(32)).decode() for _ in range(count)]
    (directory / namespace).write_text("\n".join(keys))
    return keys


def told_by_files(server: NatsServer, what: bytes = PLANTED) -> list[str]:
    """The files of the server's store that tell something."""
    return [path.name for path in server.directory.rglob("*") if path.is_file() and what in path.read_bytes()]


async def everything(bus: NatsBus, task: TaskSubjects) -> None:
    """Store the planted words in every way there is."""
    log = bus.log(0)
    await log.commit(Change(Outgoing(task.state, PLANTED), 0, (Outgoing(task.model_command(1, 1), PLANTED),)))
    seq = await log.record(Outgoing(task.submitted, PLANTED))
    assert seq is not None
    await log.record(Outgoing(task.tool_output("r1", 1), LARGE))
    ledger = await log.record(Outgoing(task.ledger("r1", 1), PLANTED))
    assert ledger is not None
    await log.write(Outgoing(task.ledger("r1", 1), PLANTED), expected=ledger)
    await bus.signals.store(subjects.submit(task.namespace), PLANTED)
    letters = DeadLetters(bus.dead_letters, bus.clock)
    (delivery,) = await (await bus.queue(LLM_GATEWAY, 0)).take(1)
    assert delivery.data == PLANTED
    inbound = Inbound(delivery.subject, delivery.data, delivery.headers, delivery.seq, 1, delivery.at)
    await letters.note(
        "S",
        delivery.seq,
        delivery.subject,
        FailedAttempt(delivery=1, at=delivery.at, replica="", error=PLANTED.decode()),
    )
    await letters.bury(await bus.queue(LLM_GATEWAY, 0), inbound, "broken", PLANTED.decode())


@pytest.mark.parametrize("form", ["batch", "two-step"])
async def test_the_files_tell_nothing_and_every_reader_gets_it_whole(
    server: NatsServer, connected: Connect, tmp_path: Path, form: str
) -> None:
    write_keys(tmp_path / "keys")
    settings = {"payload_keys_dir": str(tmp_path / "keys"), "commit": form}
    bus = await connected(server.url, **settings)
    await everything(bus, TASK)
    other = await connected(server.url, **settings)
    log = other.log(0)
    for subject, wanted in (
        (TASK.state, PLANTED),
        (TASK.submitted, PLANTED),
        (TASK.ledger("r1", 1), PLANTED),
        (TASK.tool_output("r1", 1), LARGE),
    ):
        entry = await log.get(subject)
        assert entry is not None
        assert (entry.data, SEALED in entry.headers) == (wanted, False)
        assert [one.data for one in await log.read([entry.seq])] == [wanted]
        assert [one.data for one in await log.last([subject])] == [wanted]
    (request,) = await (await other.queue(PLANNER_REQUESTS)).take(1)
    assert request.data == PLANTED
    (letter,) = await other.dead_letters.last(["hf.dlq.letter.>"])
    assert decode(letter.data, DeadLetter).payload == PLANTED.decode()
    server.kill()
    told = told_by_files(server)
    server.start()
    assert told == []


async def test_without_a_key_the_files_do_tell(server: NatsServer, connected: Connect, tmp_path: Path) -> None:
    """What the test above would see, if nothing were sealed."""
    write_keys(tmp_path / "keys")
    bus = await connected(server.url, payload_keys_dir=str(tmp_path / "keys"))
    await everything(bus, OPEN)
    server.kill()
    told = told_by_files(server)
    server.start()
    assert told


async def test_a_key_is_replaced_and_what_the_old_one_sealed_stays_readable(
    server: NatsServer, connected: Connect, tmp_path: Path
) -> None:
    (first,) = write_keys(tmp_path / "keys")
    settings = {"payload_keys_dir": str(tmp_path / "keys")}
    await (await connected(server.url, **settings)).log(0).record(Outgoing(TASK.submitted, PLANTED))
    second = base64.b64encode(os.urandom(32)).decode()
    (tmp_path / "keys" / "team-a").write_text(f"{second}\n{first}\n")
    bus = await connected(server.url, **settings)
    await bus.log(0).record(Outgoing(TASK.cancel, PLANTED))
    assert [entry.data for entry in await bus.log(0).last([TASK.submitted, TASK.cancel])] == [PLANTED, PLANTED]
    (tmp_path / "keys" / "team-a").write_text(f"{second}\n")
    late = (await connected(server.url, **settings)).log(0)
    entry = await late.get(TASK.cancel)
    assert entry is not None
    assert entry.data == PLANTED
    with pytest.raises(Unavailable, match=r"is sealed with key .* of namespace 'team-a'"):
        await late.get(TASK.submitted)


async def test_a_process_without_keys_says_so_and_loses_nothing(
    server: NatsServer, connected: Connect, tmp_path: Path
) -> None:
    write_keys(tmp_path / "keys")
    bus = await connected(server.url, payload_keys_dir=str(tmp_path / "keys"))
    await bus.log(0).commit(Change(Outgoing(TASK.state, PLANTED), 0, (Outgoing(TASK.model_command(1, 1), PLANTED),)))
    without = await connected(server.url)
    with pytest.raises(Unavailable, match="HOLDFAST_PAYLOAD_KEYS_DIR"):
        await without.log(0).get(TASK.state)
    keyless = await without.queue(LLM_GATEWAY, 0)
    assert not await keyless.take(1)
    await keyless.close()
    queue = await bus.queue(LLM_GATEWAY, 0)
    while not (taken := await queue.take(1)):
        pass
    assert taken[0].data == PLANTED


async def test_a_message_waits_in_hand_for_its_key_and_uses_no_delivery_up(
    server: NatsServer, connected: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queues, "KEY_LOOK_S", 0.1)
    (key,) = write_keys(tmp_path / "keys")
    (tmp_path / "empty").mkdir()
    bus = await connected(server.url, payload_keys_dir=str(tmp_path / "keys"), ack_wait_s=0.5)
    await bus.log(0).commit(Change(Outgoing(TASK.state, PLANTED), 0, (Outgoing(TASK.model_command(1, 1), PLANTED),)))
    late = await connected(server.url, payload_keys_dir=str(tmp_path / "empty"), ack_wait_s=0.5)
    queue = await late.queue(LLM_GATEWAY, 0)
    for _ in range(2):  # longer than the acknowledgement wait
        assert not await queue.take(1)
    (tmp_path / "empty" / "team-a").write_text(key)
    while not (taken := await queue.take(1)):
        pass
    assert (taken[0].data, taken[0].delivered) == (PLANTED, 1)


async def test_what_was_moved_to_another_subject_is_not_believed(
    server: NatsServer, connected: Connect, tmp_path: Path
) -> None:
    write_keys(tmp_path / "keys")
    bus = await connected(server.url, payload_keys_dir=str(tmp_path / "keys"))
    await bus.log(0).record(Outgoing(TASK.tool_event("r1", 1), PLANTED))
    found = await bus.log(0)._reader.get(TASK.tool_event("r1", 1), at_least=0)
    assert found is not None
    forged = TASK.tool_event("r2", 1)
    await store(bus._connection, Command(forged, found.data, {SEALED: found.headers[SEALED]}))
    with pytest.raises(Malformed, match="not what was sealed for it"):
        await bus.log(0).get(forged)
