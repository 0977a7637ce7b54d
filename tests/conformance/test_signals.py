"""What the `Signals` port promises: heard by whoever listens, answered or `Unavailable`, stored once by id."""

from __future__ import annotations

import asyncio

import pytest

from schemas import subjects
from services.runtime.errors import Unavailable, Unheard
from services.runtime.ports import Signal
from tests.support.adapters import Adapter, take

SUBJECT = "hf.live.default.t1"


class Ear:
    """Remembers what it heard."""

    def __init__(self) -> None:
        self.heard: list[Signal] = []
        self._news = asyncio.Event()

    async def __call__(self, signal: Signal) -> None:
        self.heard.append(signal)
        self._news.set()

    async def hears(self, count: int) -> None:
        while len(self.heard) < count:
            self._news.clear()
            await self._news.wait()


async def test_who_listens_hears_it(adapter: Adapter) -> None:
    bus, other = [await adapter.open() for _ in range(2)]
    ear, deaf = Ear(), Ear()
    await bus.signals.subscribe("hf.live.*.t1", ear)
    await bus.signals.subscribe("hf.live.*.t2", deaf)
    await other.signals.publish(SUBJECT, b"1", {"traceparent": "00-ab-cd-01"})
    await other.signals.publish(SUBJECT, b"2")
    await adapter.arrives(ear.hears(2))
    assert [(s.subject, s.data) for s in ear.heard] == [(SUBJECT, b"1"), (SUBJECT, b"2")]
    assert ear.heard[0].headers["traceparent"] == "00-ab-cd-01"
    assert deaf.heard == []


async def test_every_listener_hears_it_but_one_of_a_group(adapter: Adapter) -> None:
    buses = [await adapter.open() for _ in range(3)]
    alone, group = [Ear() for _ in buses], Ear()
    for bus, ear in zip(buses, alone, strict=True):
        await bus.signals.subscribe("hf.live.>", ear)
        await bus.signals.subscribe("hf.live.>", group, queue="workers")
    count = 12
    for n in range(count):
        await buses[0].signals.publish(SUBJECT, str(n).encode())
    for ear in (*alone, group):
        await adapter.arrives(ear.hears(count))
    for ear in alone:
        assert [int(signal.data) for signal in ear.heard] == list(range(count))
    assert sorted(int(signal.data) for signal in group.heard) == list(range(count))


async def test_who_unsubscribed_hears_nothing_more(adapter: Adapter) -> None:
    bus = await adapter.open()
    gone, ear = Ear(), Ear()
    unsubscribe = await bus.signals.subscribe(SUBJECT, gone)
    await bus.signals.subscribe(SUBJECT, ear)
    await unsubscribe()
    await bus.signals.publish(SUBJECT, b"1")
    await adapter.arrives(ear.hears(1))
    assert gone.heard == []


async def test_a_listener_that_fails_once_hears_the_next(adapter: Adapter) -> None:
    bus = await adapter.open()
    ear = Ear()

    async def stumble(signal: Signal) -> None:
        await ear(signal)
        if signal.data == b"1":
            raise RuntimeError("stumbled")

    await bus.signals.subscribe(SUBJECT, stumble)
    await bus.signals.publish(SUBJECT, b"1")
    await bus.signals.publish(SUBJECT, b"2")
    await adapter.arrives(ear.hears(2))
    assert [s.data for s in ear.heard] == [b"1", b"2"]


async def test_a_question_is_answered(adapter: Adapter) -> None:
    bus, other = [await adapter.open() for _ in range(2)]

    async def answer(question: Signal) -> None:
        await other.signals.publish(question.reply, b"to " + question.data, {"traceparent": "00-ab-cd-01"})

    await other.signals.subscribe(subjects.ASK_ALL, answer, queue=subjects.ASK_QUEUE)
    reply = await adapter.arrives(bus.signals.request(subjects.ask("default", "submit"), b"you", {"a": "b"}))
    assert reply.data == b"to you"
    assert reply.headers["traceparent"] == "00-ab-cd-01"


async def test_a_question_that_nobody_hears_is_known_to_be_unheard(adapter: Adapter) -> None:
    bus = await adapter.open()
    with pytest.raises(Unheard):
        await adapter.arrives(bus.signals.request(subjects.ask("default", "submit"), b"", timeout_s=10), within_s=5)


async def test_a_question_that_nobody_answers_is_unavailable(adapter: Adapter) -> None:
    bus = await adapter.open()
    ear = Ear()
    await bus.signals.subscribe(subjects.ASK_ALL, ear)
    with pytest.raises(Unavailable) as error:
        await adapter.arrives(bus.signals.request(subjects.ask("default", "submit"), b"", timeout_s=0.3))
    assert not isinstance(error.value, Unheard)
    assert len(ear.heard) == 1


async def test_a_question_to_somebody_who_is_gone_is_unheard(adapter: Adapter) -> None:
    bus, other = [await adapter.open() for _ in range(2)]
    unsubscribe = await other.signals.subscribe(subjects.holder("somebody"), Ear())
    await unsubscribe()
    with pytest.raises(Unheard):
        await adapter.arrives(bus.signals.request(subjects.holder("somebody"), b"", timeout_s=10), within_s=5)


async def test_an_answer_may_come_from_elsewhere_to_a_stored_reply_subject(adapter: Adapter) -> None:
    """How a request is answered: stored with the asker's inbox in a header, and answered from the queue."""
    bus, other = [await adapter.open() for _ in range(2)]
    queue = await other.queue(subjects.PLANNER_REQUESTS)

    async def store(question: Signal) -> None:
        await other.signals.store(subjects.submit("default"), question.data, {subjects.REPLY_TO: question.reply})

    await other.signals.subscribe(subjects.ASK_ALL, store, queue=subjects.ASK_QUEUE)

    async def handle() -> None:
        (delivery,) = await take(queue)
        await other.signals.publish(delivery.headers[subjects.REPLY_TO], b"done: " + delivery.data)

    handling = asyncio.ensure_future(handle())  # noqa: TID251 - awaited right here
    reply = await adapter.arrives(bus.signals.request(subjects.ask("default", "submit"), b"it"))
    await adapter.arrives(handling)
    assert reply.data == b"done: it"


async def test_a_stored_message_is_there_once_for_its_id(adapter: Adapter) -> None:
    bus = await adapter.open()
    subject = subjects.submit("default")
    first = await bus.signals.store(subject, b"1", {subjects.MSG_ID: "a"})
    assert await bus.signals.store(subject, b"2", {subjects.MSG_ID: "a"}) == first
    second = await bus.signals.store(subject, b"3", {subjects.MSG_ID: "b"})
    third = await bus.signals.store(subject, b"3")
    assert first < second < third
    queue = await bus.queue(subjects.PLANNER_REQUESTS)
    taken = await adapter.arrives(take(queue, 3))
    assert [(d.seq, d.data) for d in taken] == [(first, b"1"), (second, b"3"), (third, b"3")]
    assert taken[0].headers[subjects.MSG_ID] == "a"


async def test_what_is_stored_is_heard_too(adapter: Adapter) -> None:
    """As people who run `nats sub` expect."""
    bus, other = [await adapter.open() for _ in range(2)]
    ear = Ear()
    await bus.signals.subscribe("hf.tasks.>", ear)
    await other.signals.store(subjects.submit("default"), b"it")
    await adapter.arrives(ear.hears(1))
    assert ear.heard[0].data == b"it"
