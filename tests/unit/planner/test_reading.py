"""Reads of one namespace: what is in it is told whole, and nothing else, whoever asks however."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import cast

import pytest

from schemas import subjects
from schemas.reading import ANSWER_BYTES_MAX, ReadEntries, ReadSettings, ReadStored, ReadSubjects
from schemas.requests import Rejected
from schemas.subjects import TaskSubjects
from schemas.wire import decode, encode
from services.cli.exits import Stop
from services.cli.tenant import Reader, TenantLog, TenantStore
from services.planner.reading import READS_MAX, Reading
from services.runtime.memory.bus import MemoryBus
from services.runtime.ports import Change, Outgoing, Signal
from services.runtime.resources import Resources
from services.runtime.tasks import Tasks
from tests.support.waiting import until

OWN = TaskSubjects(0, "team-a", "t1")
OTHER = TaskSubjects(0, "team-b", "t1")
Answer = ReadSettings | ReadEntries | ReadSubjects | Rejected


class Bench:
    """A planner's reading on a bus with messages of two tenants."""

    def __init__(self, bus: MemoryBus, reading: Reading) -> None:
        self.bus = bus
        self.reading = reading
        self.reader = Reader(bus.signals, "team-a")
        self.log = TenantLog(self.reader, 0)

    async def ask(self, what: str, asked: ReadStored | bytes, namespace: str = "team-a") -> Answer:
        data = asked if isinstance(asked, bytes) else encode(asked)
        answer = await self.bus.signals.request(subjects.read(namespace, what), data)
        return decode(answer.data, cast("type[Answer]", Answer))

    async def record(self, subject: str, data: bytes = b"x") -> int:
        seq = await self.bus.log(0).record(Outgoing(subject, data))
        assert seq is not None
        return seq


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bus = MemoryBus()
    tasks = Tasks()
    resources = Resources(bus.resources, bus.clock, service="planner")
    tasks.spawn(resources.run(), name="resources")
    reading = Reading(bus, resources)
    await bus.signals.subscribe(subjects.READ_ALL, reading.on_read)
    yield Bench(bus, reading)
    await reading.close()
    await tasks.close()


async def test_what_is_stored_of_a_namespace_is_told_as_it_is(bench: Bench) -> None:
    revision = await bench.bus.log(0).commit(Change(Outgoing(OWN.state, b"state", {"traceparent": "00-ab"}), 0))
    seq = await bench.record(OWN.submitted, b"submitted")
    direct = bench.bus.log(0)
    assert await bench.log.get(OWN.state) == await direct.get(OWN.state)
    assert await bench.log.get(OWN.cancel) is None
    assert await bench.log.read([seq, revision]) == await direct.read([seq, revision])
    filters = ["$KV.holdfast_0.team-a.*", "hf.0.team-a.evt.>"]
    assert await bench.log.last(filters) == await direct.last(filters)
    assert await bench.log.subjects("hf.0.team-a.evt.>") == [OWN.submitted]
    assert await bench.ask("settings", ReadStored()) == ReadSettings(partitions=1)


async def test_what_does_not_fit_into_one_answer_comes_in_several(bench: Bench) -> None:
    large = bytes(range(256)) * (ANSWER_BYTES_MAX // 100)
    seqs = [await bench.record(OWN.tool_event("r1", n), large[n:]) for n in (1, 2)]
    seqs += [await bench.record(OWN.tool_event("r1", n), b"small") for n in (3, 4)]
    assert len(large) > 2 * ANSWER_BYTES_MAX
    assert await bench.log.read(seqs) == await bench.bus.log(0).read(seqs)
    assert await bench.log.last([OWN.tool_events("r1")]) == await bench.bus.log(0).last([OWN.tool_events("r1")])


@pytest.mark.parametrize(
    "filter_",
    [
        OTHER.state,
        OTHER.submitted,
        ">",
        "hf.>",
        "hf.0.>",
        "hf.*.team-a.>",
        "hf.0.*.evt.>",
        "hf.0.team-a",
        "hf.0.team-ab.>",
        "hf.1.team-a.>",
        "$KV.holdfast_0.*.t1",
        "$KV.holdfast_0.team-ab.>",
        "$KV.>",
        "hf.dlq.letter.>",
        "",
    ],
)
async def test_a_filter_that_reaches_beyond_the_namespace_is_refused(bench: Bench, filter_: str) -> None:
    await bench.record(OTHER.submitted, b"secret")
    for what in ("entries", "subjects"):
        answer = await bench.ask(what, ReadStored(filters=(filter_,)))
        assert isinstance(answer, Rejected), answer
        assert "secret" not in answer.error
    with pytest.raises(Stop):
        await bench.log.last([filter_])


async def test_a_message_of_another_namespace_is_not_told_by_its_sequence(bench: Bench) -> None:
    own, other = await bench.record(OWN.submitted), await bench.record(OTHER.submitted, b"secret")
    for seqs in ((other,), (own, other), (other + 100,)):
        answer = await bench.ask("entries", ReadStored(seqs=seqs))
        assert isinstance(answer, Rejected)
        assert answer.code == "not_found"
        with pytest.raises(LookupError):
            await bench.log.read(seqs)


async def test_the_resources_of_a_namespace_and_no_others_are_told(bench: Bench) -> None:
    for key in ("spec.LLM.team-a.main", "status.LLM.team-a.main", "spec.LLM.team-b.main"):
        await bench.bus.resources.put(key, b'{"kind":"LLM","metadata":{"name":"main"},"spec":{"provider":"openai"}}')

    async def told() -> bool:
        answer = await bench.ask("resources", ReadStored())
        assert isinstance(answer, ReadEntries)
        return [entry.subject for entry in answer.entries] == ["spec.LLM.team-a.main"]

    await until(told, "that it is told")
    store = TenantStore(bench.reader, "resources")
    found = await store.get("spec.LLM.team-a.main")
    assert found is not None
    assert found.revision == 1
    assert await store.get("spec.LLM.team-a.none") is None
    for key in ("spec.LLM.team-b.main", "spec.LLM.*.main", "flow", ""):
        with pytest.raises(Stop):
            await store.get(key)
    with pytest.raises(Stop, match="operator"):
        await store.put("spec.LLM.team-a.main", b"{}")


async def test_what_a_namespace_has_used_is_told_whoever_asks_for_which_key(bench: Bench) -> None:
    await bench.bus.flow.put(subjects.flow_namespace("team-a"), b"ours")
    await bench.bus.flow.put(subjects.flow_namespace("team-b"), b"theirs")
    store = TenantStore(bench.reader, "flow")
    found = await store.get(subjects.flow_namespace("team-a"))
    assert found is not None
    assert found.data == b"ours"
    assert await store.get(subjects.flow_namespace("team-b")) is None


@pytest.mark.parametrize(
    ("what", "data"),
    [
        ("entries", b"{"),
        ("entries", b"\xff"),
        ("entries", b'{"partition": 7, "filters": ["hf.7.team-a.>"]}'),
        ("entries", b'{"partition": -1, "seqs": [1]}'),
        ("entries", b'{"filters": []}'),
        ("entries", b'{"unknown": 1}'),
        ("entries", encode(ReadStored(seqs=tuple(range(2000))))),
        ("entries", encode(ReadStored(filters=("hf.0.team-a.>",) * 100))),
        ("nothing", b"{}"),
    ],
)
async def test_a_read_that_cannot_be_is_refused_with_a_sentence(bench: Bench, what: str, data: bytes) -> None:
    answer = await bench.ask(what, data)
    assert isinstance(answer, Rejected)
    assert answer.error


async def test_a_read_is_answered_on_inboxes_only(bench: Bench) -> None:
    await bench.reading.on_read(Signal(subjects.read("team-a", "settings"), b"{}", {}, OWN.state))
    await bench.ask("settings", ReadStored())
    assert await bench.bus.log(0).get(OWN.state) is None


async def test_a_planner_reads_only_so_much_at_once(bench: Bench) -> None:
    heard: list[bytes] = []

    async def hear(signal: Signal) -> None:
        heard.append(signal.data)

    await bench.bus.signals.subscribe("_INBOX.many", hear)
    for _ in range(READS_MAX + 3):
        await bench.reading.on_read(Signal(subjects.read("team-a", "settings"), b"{}", {}, "_INBOX.many"))
    await until(lambda: len(heard) == READS_MAX + 3, "that all are answered")
    assert sum(b"too many" in data for data in heard) == 3
