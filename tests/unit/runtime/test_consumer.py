"""The consumer loop, on a memory bus and a clock that the test moves."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from schemas.dead_letters import DeadReason
from schemas.wire import Malformed
from services.runtime.consumer import BUS_PATIENCE_S, FAILURE_DELAY_S, OLD, Inbound
from services.runtime.errors import Broken, Refused, RetryLater, Unavailable
from tests.support.memory import Bench

ACK_WAIT_S = 1.5


class Worker:
    """A handler that remembers what it was given and does what it is told, message by message."""

    def __init__(self, *script: BaseException | None) -> None:
        self.seen: list[Inbound] = []
        self.busy = 0
        self.busiest = 0
        self.let_go = asyncio.Event()
        self.let_go.set()
        self._script = list(script)

    async def __call__(self, inbound: Inbound) -> None:
        self.seen.append(inbound)
        self.busy += 1
        self.busiest = max(self.busiest, self.busy)
        try:
            await self.let_go.wait()
            if self._script and (outcome := self._script.pop(0)) is not None:
                raise outcome
        finally:
            self.busy -= 1


async def test_a_handled_message_is_acknowledged() -> None:
    bench, worker = Bench(), Worker()
    async with bench.running(worker):
        (seq,) = await bench.store(b"data")
        await bench.clock.advance(10 * ACK_WAIT_S)
    (inbound,) = worker.seen
    assert (inbound.seq, inbound.data, inbound.headers, inbound.delivered) == (seq, b"data", {"a": "b"}, 1)
    assert bench.planner.unfinished == 0
    assert bench.handled("done") == 1


async def test_an_old_message_may_have_been_handled_before_whatever_its_count_says() -> None:
    """Its consumer may have been made anew: after a restoration, all have been."""
    bench, worker = Bench(), Worker()
    await bench.store(b"old")
    await bench.clock.advance(OLD.total_seconds() + 1)
    async with bench.running(worker):
        await bench.store(b"new")
        await bench.clock.advance(1)
    seen = [(inbound.data, inbound.delivered, inbound.redelivered) for inbound in worker.seen]
    assert seen == [(b"old", 1, True), (b"new", 1, False)]


async def test_no_more_is_in_hand_than_there_are_slots() -> None:
    bench, worker = Bench(slots=3), Worker()
    worker.let_go.clear()
    async with bench.running(worker) as consumer:
        await bench.store(*[b"x"] * 10)
        await bench.clock.advance(5 * ACK_WAIT_S)
        assert (consumer.in_hand, len(worker.seen)) == (3, 3)
        worker.let_go.set()
        await bench.clock.advance(1)
    assert (len(worker.seen), worker.busiest) == (10, 3)
    assert {inbound.delivered for inbound in worker.seen} == {1}


async def test_a_slow_handler_keeps_its_message() -> None:
    bench, worker, other = Bench(), Worker(), Worker()
    worker.let_go.clear()
    async with bench.running(worker):
        await bench.store(b"x")
        await bench.clock.advance(0.1)
        async with bench.running(other):
            await bench.clock.advance(20 * ACK_WAIT_S)
            worker.let_go.set()
            await bench.clock.advance(20 * ACK_WAIT_S)
    assert (len(worker.seen), len(other.seen)) == (1, 0)
    assert bench.planner.unfinished == 0


async def test_a_bus_that_is_away_for_a_moment_does_not_end_the_heartbeats() -> None:
    bench, worker = Bench(), Worker()
    worker.let_go.clear()
    failures = [Unavailable("gone")]

    async def pause(call: str, subject: str) -> None:
        if call == "delivery.working" and failures:
            raise failures.pop()

    async with bench.running(worker, pause=pause):
        await bench.store(b"x")
        await bench.clock.advance(20 * ACK_WAIT_S)
        assert not failures
        worker.let_go.set()
        await bench.clock.advance(1)
    assert len(worker.seen) <= 2, "taken over more often than the bus was away"


async def test_retry_later_hands_the_message_back_for_that_long() -> None:
    bench, worker = Bench(), Worker(RetryLater("busy", after_s=7))
    async with bench.running(worker):
        await bench.store(b"x")
        await bench.clock.advance(6.9)
        assert [inbound.delivered for inbound in worker.seen] == [1]
        await bench.clock.advance(0.2)
        assert [inbound.delivered for inbound in worker.seen] == [1, 2]
    assert (bench.handled("retried"), bench.handled("done")) == (1, 1)
    assert await bench.letters() == []


async def test_a_bus_that_is_away_uses_no_delivery_up() -> None:
    bench = Bench(deliveries_max=3)
    worker = Worker(*[Unavailable("no answer")] * 10)
    async with bench.running(worker):
        await bench.store(b"x")
        await bench.clock.advance(BUS_PATIENCE_S)
    assert [(inbound.delivered, inbound.redelivered) for inbound in worker.seen] == [(1, False)] + [(1, True)] * 10
    assert await bench.letters() == []
    assert bench.planner.unfinished == 0


async def test_a_message_stays_in_hand_while_the_bus_is_away() -> None:
    bench, worker, other = Bench(), Worker(*[Unavailable("no answer")] * 5), Worker()
    async with bench.running(worker):
        await bench.store(b"x")
        await bench.clock.advance(0.1)
        async with bench.running(other):
            await bench.clock.advance(BUS_PATIENCE_S)
    assert (len(worker.seen), len(other.seen)) == (6, 0)


async def test_a_bus_that_is_away_is_asked_less_and_less_often() -> None:
    bench, worker = Bench(), Worker(*[Unavailable("no answer")] * 7)
    times: list[float] = []
    start = bench.clock.now()

    async def handle(inbound: Inbound) -> None:
        times.append((bench.clock.now() - start).total_seconds())
        await worker(inbound)

    async with bench.running(handle):
        await bench.store(b"x")
        await bench.clock.advance(BUS_PATIENCE_S)
    waits = [after - before for before, after in itertools.pairwise(times)]
    assert waits == pytest.approx([0.1, 0.2, 0.4, 0.5, 0.5, 0.5, 0.5])


async def test_a_message_that_is_never_let_through_is_given_up_in_the_end() -> None:
    """It may be the message itself that the bus does not answer for, so this is bounded as everything is."""
    bench = Bench(deliveries_max=3)
    seen: list[int] = []

    async def handle(inbound: Inbound) -> None:
        seen.append(inbound.delivered)
        raise Unavailable("no answer")

    async with bench.running(handle):
        await bench.store(b"x")
        await bench.clock.advance(5 * BUS_PATIENCE_S)
    assert set(seen) == {1, 2, 3}
    (letter,) = await bench.letters()
    assert (letter.reason, letter.deliveries) == ("deliveries_exhausted", 4)
    assert bench.planner.unfinished == 0


async def test_a_handler_that_is_not_ready_for_too_long_uses_its_deliveries_up() -> None:
    bench, worker = Bench(deliveries_max=3), Worker(*[RetryLater("busy", after_s=1)] * 10)
    async with bench.running(worker):
        await bench.store(b"x")
        await bench.clock.advance(60)
    assert [inbound.delivered for inbound in worker.seen] == [1, 2, 3]
    assert [letter.reason for letter in await bench.letters()] == ["deliveries_exhausted"]


async def test_a_handler_that_asks_for_little_time_gets_more_each_time() -> None:
    """Else the deliveries of a message that waits for another one would be used up in a second."""
    bench, worker = Bench(deliveries_max=12), Worker(*[RetryLater("not seen yet", after_s=0.1)] * 11)
    start = bench.clock.now()
    async with bench.running(worker):
        await bench.store(b"x")
        await bench.clock.advance(10)
        assert len(worker.seen) < 12
        await bench.clock.advance(30)
    assert [inbound.delivered for inbound in worker.seen] == list(range(1, 13))
    assert await bench.letters() == []
    assert (bench.clock.now() - start).total_seconds() > 30


async def test_a_replica_that_is_told_to_stop_does_not_wait_for_the_bus() -> None:
    bench, worker = Bench(), Worker(*[Unavailable("no answer")] * 99)
    async with bench.running(worker) as consumer:
        await bench.store(b"x")
        await bench.clock.advance(1)
        stopping = asyncio.ensure_future(consumer.stop(60))  # noqa: TID251 - awaited right here
        await bench.clock.advance(3)
        assert stopping.done()
    assert bench.planner.unfinished == 1


@pytest.mark.parametrize(
    ("error", "reason"),
    [(Refused("no such agent"), "invalid_request"), (Malformed("not JSON at $.a"), "malformed")],
)
async def test_what_nobody_can_do_is_a_dead_letter_at_once(error: Exception, reason: DeadReason) -> None:
    bench, worker = Bench(), Worker(error)
    async with bench.running(worker):
        (seq,) = await bench.store(b"data")
        await bench.clock.advance(10 * ACK_WAIT_S)
    (letter,) = await bench.letters()
    assert (letter.stream, letter.seq, letter.consumer) == ("KV_holdfast_0", seq, "planner")
    assert (letter.subject, letter.headers, letter.payload) == (worker.seen[0].subject, {"a": "b"}, "data")
    assert (letter.reason, letter.error, letter.deliveries, letter.attempts) == (reason, str(error), 1, ())
    assert bench.dead == [(letter.subject, reason, str(error))]
    assert len(worker.seen) == 1
    assert bench.planner.unfinished == 0


async def test_a_broken_invariant_is_a_dead_letter_at_once_with_its_traceback() -> None:
    bench, worker = Bench(), Worker(Broken("two states at once"))
    async with bench.running(worker):
        await bench.store(b"data")
        await bench.clock.advance(10 * ACK_WAIT_S)
    (letter,) = await bench.letters()
    assert (letter.reason, letter.error) == ("broken", "Broken: two states at once")
    (attempt,) = letter.attempts
    assert (attempt.delivery, attempt.replica, attempt.error) == (1, "replica-1", "Broken: two states at once")
    assert "test_consumer.py" in attempt.traceback
    assert len(worker.seen) == 1


async def test_a_bug_is_tried_again_and_then_a_dead_letter_with_every_attempt() -> None:
    bench = Bench(deliveries_max=3)
    worker = Worker(KeyError("one"), ZeroDivisionError("two"), ValueError("three"))
    async with bench.running(worker):
        await bench.store(b"data")
        await bench.clock.advance(60)
    assert [inbound.delivered for inbound in worker.seen] == [1, 2, 3]
    (letter,) = await bench.letters()
    assert (letter.reason, letter.deliveries) == ("broken", 3)
    assert [(a.delivery, a.error) for a in letter.attempts] == [
        (1, "KeyError: 'one'"),
        (2, "ZeroDivisionError: two"),
        (3, "ValueError: three"),
    ]
    assert [letter.attempts[n].at < letter.attempts[n + 1].at for n in (0, 1)] == [True, True]
    assert (bench.handled("failed"), bench.handled("dead")) == (3, 1)
    assert bench.planner.unfinished == 0


async def test_the_delay_after_a_failure_grows() -> None:
    bench, worker = Bench(deliveries_max=10), Worker(*[ValueError("x")] * 4)
    times: list[float] = []
    start = bench.clock.now()

    async def handle(inbound: Inbound) -> None:
        times.append((bench.clock.now() - start).total_seconds())
        await worker(inbound)

    async with bench.running(handle):
        await bench.store(b"x")
        await bench.clock.advance(60)
    waits = [after - before for before, after in itertools.pairwise(times)]
    assert waits == pytest.approx([FAILURE_DELAY_S * 2**n for n in (1, 2, 3, 4)])


async def test_a_poison_message_does_not_hold_up_the_others() -> None:
    bench = Bench(slots=1, deliveries_max=5)
    done: list[bytes] = []

    async def handle(inbound: Inbound) -> None:
        if inbound.data == b"poison":
            raise ValueError("poison")
        done.append(inbound.data)

    async with bench.running(handle):
        await bench.store(b"poison", b"1", b"2", b"3")
        await bench.clock.advance(0.1)
        assert done == [b"1", b"2", b"3"]
        await bench.clock.advance(60)
    assert [letter.payload for letter in await bench.letters()] == ["poison"]


async def test_a_message_that_kills_every_replica_becomes_a_dead_letter() -> None:
    bench, worker = Bench(deliveries_max=3), Worker()
    queue = await bench.bus.queue("planner", 0)
    await bench.store(b"deadly")
    for delivery in (1, 2, 3):
        (taken,) = await queue.take(1)
        assert taken.delivered == delivery
        await bench.clock.advance(ACK_WAIT_S + 0.1)
    async with bench.running(worker):
        await bench.clock.advance(1)
    assert worker.seen == []
    (letter,) = await bench.letters()
    assert (letter.reason, letter.deliveries, letter.payload) == ("deliveries_exhausted", 4, "deadly")
    assert [reason for _, reason, _ in bench.dead] == ["deliveries_exhausted"]
    assert bench.planner.unfinished == 0


async def test_a_message_is_given_up_only_when_whoever_waits_was_told() -> None:
    bench, worker = Bench(), Worker(Refused("no"), Refused("no"), Refused("no"))
    told: list[int] = []

    async def on_dead(inbound: Inbound, reason: DeadReason, error: str) -> None:
        told.append(inbound.delivered)
        if len(told) < 3:
            raise RetryLater("not now", after_s=2)

    async with bench.running(worker, on_dead=on_dead):
        await bench.store(b"x")
        await bench.clock.advance(30)
    assert told == [1, 2, 3]
    assert len(await bench.letters()) == 1
    assert bench.planner.unfinished == 0


async def test_a_dead_letter_store_that_is_away_loses_nothing() -> None:
    bench, worker = Bench(deliveries_max=1), Worker(*[ValueError("x")] * 3)
    failures = [Unavailable("gone", after_s=1)] * 2

    async def pause(call: str, subject: str) -> None:
        if call == "log.record" and subject.startswith("hf.dlq.letter.") and failures:
            raise failures.pop()

    async with bench.running(worker, pause=pause):
        await bench.store(b"x")
        await bench.clock.advance(30)
    (letter,) = await bench.letters()
    assert letter.payload == "x"
    assert bench.planner.unfinished == 0


async def test_an_attempt_that_cannot_be_noted_is_still_tried_again() -> None:
    bench, worker = Bench(), Worker(ValueError("x"))

    async def pause(call: str, subject: str) -> None:
        if call == "log.record" and subject.startswith("hf.dlq.attempt."):
            raise Unavailable("gone")

    async with bench.running(worker, pause=pause):
        await bench.store(b"x")
        await bench.clock.advance(30)
    assert [inbound.delivered for inbound in worker.seen] == [1, 2]
    assert await bench.notes() == []


async def test_a_payload_that_is_no_text_is_kept_in_base_64() -> None:
    bench, worker = Bench(), Worker(Malformed("no JSON"))
    async with bench.running(worker):
        await bench.store(b"\xff\x00")
        await bench.clock.advance(1)
    (letter,) = await bench.letters()
    assert (letter.payload, letter.payload_is_base64) == ("/wA=", True)


async def test_an_acknowledgement_that_does_not_get_through_only_means_once_more() -> None:
    bench, worker = Bench(), Worker()
    failures = [Unavailable("gone")]

    async def pause(call: str, subject: str) -> None:
        if call == "delivery.ack" and failures:
            raise failures.pop()

    async with bench.running(worker, pause=pause):
        await bench.store(b"x")
        await bench.clock.advance(30)
    assert [inbound.delivered for inbound in worker.seen] == [1, 2]
    assert bench.planner.unfinished == 0


async def test_stopping_waits_for_what_is_in_hand() -> None:
    bench, worker = Bench(slots=2), Worker()
    worker.let_go.clear()
    async with bench.running(worker) as consumer:
        await bench.store(b"1", b"2", b"3")
        await bench.clock.advance(0.1)
        assert consumer.in_hand == 2
        stopping = asyncio.ensure_future(consumer.stop(60))  # noqa: TID251 - awaited right here
        await bench.clock.advance(20 * ACK_WAIT_S)
        assert not stopping.done()
        worker.let_go.set()
        await bench.clock.advance(0.1)
        await stopping
    assert [inbound.data for inbound in worker.seen] == [b"1", b"2"]
    assert bench.handled("done") == 2
    assert bench.planner.unfinished == 1


async def test_what_does_not_finish_in_time_is_handed_back_at_once() -> None:
    bench, worker, other = Bench(), Worker(), Worker()
    worker.let_go.clear()
    async with bench.running(worker) as consumer:
        await bench.store(b"x")
        await bench.clock.advance(0.1)
        await consumer.stop(0)
        async with bench.running(other):
            await bench.clock.advance(0)
            assert [inbound.delivered for inbound in other.seen] == [2]
    assert bench.planner.unfinished == 0


async def test_a_stopped_consumer_takes_nothing_more() -> None:
    bench, worker = Bench(), Worker()
    async with bench.running(worker) as consumer:
        await bench.clock.advance(0.1)
        await consumer.stop(0)
        await bench.store(b"x")
        await bench.clock.advance(10)
    assert worker.seen == []
    assert bench.planner.unfinished == 1
