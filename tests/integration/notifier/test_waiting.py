"""What waits: for a receiver in trouble, for its turn, for a day; and that nobody else waits with it."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from schemas import subjects
from schemas.notifications import (
    Notification,
    NotificationDelivered,
    NotificationDue,
    NotificationFailed,
    NotificationPending,
)
from schemas.resources import ResourceStatus
from schemas.wire import decode, encode
from services.notifier import receivers
from services.notifier.core import endpoints, machine
from services.runtime.memory.bus import MemoryBus
from services.runtime.memory.clock import ManualClock
from services.runtime.memory.server import MemoryServer
from services.runtime.ports import Outgoing
from services.runtime.tasks import spawn
from tests.support.notifying import KEY, Notifying, hook, notifying
from tests.support.raw_http import Asked, RawServer, raw_server, response
from tests.support.waiting import until


def url_of(server: RawServer, path: str = "/hook") -> str:
    return f"http://127.0.0.1:{server.port}{path}"


async def the_one(here: Notifying, task: subjects.TaskSubjects, clock: ManualClock) -> Notification:
    """The one notification of a task, when all that is due has happened.

    Real sockets need real time, and the clock stands still meanwhile.
    """
    assert isinstance(here.bus, MemoryBus)
    consumer = here.bus.server.consumer(subjects.NOTIFIER_TIMERS, None)

    async def nothing_due() -> bool:
        await clock.advance(0)
        return consumer.unfinished == 0

    await until(nothing_due, "everything that is due is done")
    (one,) = await here.notifications(task)
    return one


async def test_a_receiver_that_is_down_for_the_whole_time_is_given_up_then_and_can_be_told_later() -> None:
    clock = ManualClock()
    memory = MemoryServer(clock=clock, ack_wait_s=60)
    async with raw_server() as server:
        gone = server.port
    async with notifying(bus=MemoryBus(memory), notify_give_up_s=120.0) as here:
        task = await ended(here, clock, responseURL=f"http://127.0.0.1:{gone}/hook")
        began = clock.now()
        while isinstance(one := await the_one(here, task, clock), NotificationPending):
            assert one.due > clock.now()
            await clock.advance((one.due - clock.now()).total_seconds())
        assert isinstance(one, NotificationFailed)
        assert clock.now() - began == timedelta(seconds=120)
        assert 4 < one.attempts < 40
        assert "given up after" in one.error
        (letter,) = await here.letters()
        assert letter.reason == "undelivered"
        back = RawServer()
        back.paths["/hook"] = response()
        listening = await asyncio.start_server(back.handle, "127.0.0.1", gone)
        try:
            await here.redrive(letter)
            assert isinstance(await the_one(here, task, clock), NotificationDelivered)
        finally:
            listening.close()


async def ended(here: Notifying, clock: ManualClock, **fields: str) -> subjects.TaskSubjects:
    """A finished task on a clock that stands still."""
    ending = spawn(here.finished("noon", **fields), name="ending")
    while not ending.done():
        await clock.advance(0)
    task: subjects.TaskSubjects = await ending
    return task


async def test_a_receiver_in_trouble_is_left_alone_and_others_hear_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "BACKOFF_BASE_S", 0.05)
    async with raw_server() as bad, raw_server() as good, notifying() as here:
        bad.paths["/hook"] = response(status="503 Down")
        good.paths["/hook"] = response()
        down = [await here.finished(userMessage=f"{n}", responseURL=url_of(bad)) for n in range(30)]

        async def all_wait() -> bool:
            found = [(await here.notifications(task))[0] for task in down]
            return all(isinstance(one, NotificationPending) and one.due > here.bus.clock.now() for one in found)

        await until(all_wait, "all wait")
        assert endpoints.FAILURES_MAX <= len(bad.asked) <= endpoints.FAILURES_MAX + endpoints.AT_ONCE_MAX
        waiting = [(await here.notifications(task))[0] for task in down]
        assert any(isinstance(one, NotificationPending) and "in a row" in one.waits_for for one in waiting)
        began = asyncio.get_running_loop().time()
        for n in range(5):
            task = await here.finished(userMessage=f"good {n}", responseURL=url_of(good))
            await here.until_all(task, NotificationDelivered)
        assert asyncio.get_running_loop().time() - began < 2
        assert isinstance(here.bus, MemoryBus)
        consumer = here.bus.server.consumer(subjects.NOTIFIER_TIMERS, None)
        await until(lambda: consumer.held == (), "what waits is in nobody's hands")


async def test_a_slow_receiver_has_so_many_attempts_at_once_and_others_hear_at_once() -> None:
    async with raw_server() as slow, raw_server() as good, notifying() as here:
        under_way, most, go_on = 0, 0, asyncio.Event()

        async def answer(_: Asked, writer: asyncio.StreamWriter) -> None:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            await go_on.wait()
            under_way -= 1
            writer.write(response())
            await writer.drain()

        slow.paths["/hook"] = answer
        good.paths["/hook"] = response()
        tasks = [await here.finished(userMessage=f"{n}", responseURL=url_of(slow)) for n in range(20)]
        await until(lambda: under_way == endpoints.AT_ONCE_MAX, "as many attempts as there may be")
        other = await here.finished(userMessage="other", responseURL=url_of(good))
        await here.until_all(other, NotificationDelivered, within_s=3)
        assert under_way == most == endpoints.AT_ONCE_MAX
        go_on.set()
        for task in tasks:
            await here.until_all(task, NotificationDelivered)
        assert len(slow.asked) == 20
        assert most == endpoints.AT_ONCE_MAX


async def test_the_result_of_a_task_does_not_wait_for_anybody_to_hear_it() -> None:
    async with raw_server() as server, notifying() as here:
        hanging = asyncio.Event()

        async def hang(_: Asked, writer: asyncio.StreamWriter) -> None:
            await hanging.wait()

        server.paths["/hook"] = hang
        for n in range(10):
            await here.finished(userMessage=f"{n}", responseURL=url_of(server))
        hanging.set()


async def test_a_wake_up_that_comes_twice_is_one_attempt() -> None:
    async with raw_server() as server, notifying() as here:
        go_on = asyncio.Event()

        async def answer(_: Asked, writer: asyncio.StreamWriter) -> None:
            await go_on.wait()
            writer.write(response())
            await writer.drain()

        server.paths["/hook"] = answer
        task = await here.finished(responseURL=url_of(server))
        await until(lambda: len(server.asked) == 1, "an attempt")
        (one,) = await here.notifications(task)
        again = encode(NotificationDue(due=one.created_at, revision=1))
        await here.bus.signals.store(task.notify_timer_fired(one.id), again)
        go_on.set()
        await here.until_all(task, NotificationDelivered)
        assert isinstance(here.bus, MemoryBus)
        consumer = here.bus.server.consumer(subjects.NOTIFIER_TIMERS, None)
        await until(lambda: consumer.unfinished == 0, "the second wake-up is handled")
        assert len(server.asked) == 1


async def test_what_a_removed_subscription_wanted_is_not_sent_and_no_letter(monkeypatch: pytest.MonkeyPatch) -> None:
    async with raw_server() as server, notifying() as here:
        server.paths["/hook"] = response(status="503 Down")
        await here.subscribe("ops", webhook=hook(url_of(server)))
        task = await here.finished()
        await here.until_tried(task, 1)
        await here.bus.resources.delete("spec.Subscription.default.ops")
        pending = await here.until_tried(task, 2)
        assert "there is no Subscription 'ops'" in pending.tried[-1].error
        monkeypatch.setattr(receivers, "UNKNOWN_S", 0.0)
        (ended_,) = await here.until_all(task, NotificationFailed, within_s=20)
        assert ended_.error == "Subscription 'ops' was removed"
        assert await here.letters() == []
        assert len(server.asked) == 1


async def test_when_a_task_is_removed_nobody_is_told_of_it_any_more() -> None:
    async with raw_server() as server, notifying() as here:
        server.paths["/hook"] = response(status="503 Down")
        task = await here.finished(responseURL=url_of(server))
        await here.until_tried(task, 1)
        await here.ask("delete", {"task": task.task})
        assert await here.notifications(task) == []
        assert isinstance(here.bus, MemoryBus)
        memory = here.bus.server
        await until(lambda: not memory_timers(memory), "no timer is left")


def memory_timers(server: MemoryServer) -> list[str]:
    return [entry.subject for timers in server.timers for entry in timers.entries() if ".notify." in entry.subject]


@pytest.mark.parametrize(
    ("url", "key", "said"),
    [
        ("http://10.0.0.1/", KEY, "a private address"),
        ("http://169.254.169.254/", KEY, "a cloud"),
        ("http://127.0.0.1:9/", "whsec_no", "base 64"),
        ("http://127.0.0.1:9/", "", "failed to get secret"),
        ("ftp://127.0.0.1/", KEY, "must begin with http"),
    ],
)
async def test_what_is_wrong_with_a_subscription_is_said_of_it(url: str, key: str, said: str) -> None:
    async with notifying({"HOLDFAST_SECRET_OPS_SIGNING": key} if key else {}) as here:
        await here.subscribe("ops", webhook=hook(url))
        status = await status_of(here, "ops")
        assert not status.ready
        assert said in status.status_detail


async def test_a_subscription_that_is_mended_is_ready_and_no_secret_is_told() -> None:
    async with notifying() as here:
        await here.subscribe("ops", webhook=hook("http://10.0.0.1/"))
        await here.subscribe("ops", webhook=hook("http://127.0.0.1:9/x?token=abc"))

        async def ready() -> bool:
            return (await status_of(here, "ops")).ready

        await until(ready, "it is ready")
        assert (await status_of(here, "ops")).status_detail == "webhook to http://127.0.0.1:9/x"


async def status_of(here: Notifying, name: str) -> ResourceStatus:
    entry = await here.bus.resources.get(f"status.Subscription.default.{name}")
    assert entry is not None
    return decode(entry.data or b"", ResourceStatus)


async def test_a_record_that_cannot_be_read_is_a_letter_and_harms_no_other() -> None:
    async with raw_server() as server, notifying() as here:
        server.paths["/hook"] = response(status="503 Down")
        task = await here.finished(responseURL=url_of(server))
        one = await here.until_tried(task, 1)
        log = here.bus.log(task.partition)
        await log.purge(task.notification(one.id))
        await log.record(Outgoing(task.notification(one.id), b'{"type":"notification.other.v9"}'))
        due = encode(NotificationDue(due=one.created_at, revision=1))
        await here.bus.signals.store(task.notify_timer_fired(one.id), due)

        async def buried() -> bool:
            return [letter.reason for letter in await here.letters()] == ["malformed"]

        await until(buried, "a letter")
        server.paths["/hook"] = response()
        other = await here.finished(userMessage="other", responseURL=url_of(server))
        await here.until_all(other, NotificationDelivered, within_s=20)
