"""Which call is let through and which waits: the limits, the pace, the lines, and what is learned."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

from schemas.flow import PoolFlow
from schemas.resources import LLMLimits
from schemas.wire import decode, encode
from services.llm_gateway.core.flow import Admitted, TooLarge, admit, hold, learn, settle, undo
from services.llm_gateway.core.lines import Ask, Parked

START = datetime(2030, 1, 1, tzinfo=UTC)
PER_MINUTE = LLMLimits(tokens_per_minute=60_000)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def ask(name: str = "t1", *, tokens: int = 1000, namespace: str = "team", now: float = 0, **others: Any) -> Ask:
    return Ask(
        namespace=namespace,
        name=f"{namespace}/{name}.1",
        input_tokens=tokens,
        output_tokens_max=others.pop("room", 0),
        expires=at(now + 150),
        **others,
    )


class Pool:
    """A record and the calls that are made with it."""

    def __init__(self, limits: LLMLimits = PER_MINUTE) -> None:
        self.limits = limits
        self.flow = PoolFlow()

    def ask(self, name: str = "t1", *, now: float = 0, **about: Any) -> Admitted | Parked | TooLarge:
        self.flow, answer = admit(self.flow, self.limits, ask(name, now=now, **about), at(now))
        return answer

    def admitted(self, name: str = "t1", **about: Any) -> Admitted:
        answer = self.ask(name, **about)
        assert isinstance(answer, Admitted), answer
        return answer

    def parked(self, name: str = "t1", **about: Any) -> Parked:
        answer = self.ask(name, **about)
        assert isinstance(answer, Parked), answer
        return answer

    def settle(self, admitted: Admitted, used: int | None, *, now: float) -> None:
        self.flow = settle(self.flow, self.limits, admitted, used, at(now))

    @property
    def tokens(self) -> int:
        return sum(tokens for _, tokens in self.flow.seconds.values())

    @property
    def requests(self) -> int:
        return sum(requests for requests, _ in self.flow.seconds.values())


# --- limits -----------------------------------------------------------------------------


def test_some_seconds_of_the_limit_are_let_through_at_once_and_the_next_call_waits_for_the_steady_pace() -> None:
    pool = Pool()
    answers = [pool.ask(f"t{n}") for n in range(7)]
    assert [isinstance(answer, Admitted) for answer in answers] == [True] * 5 + [False] * 2
    first = answers[5]
    assert isinstance(first, Parked)
    assert (first.reason, round(first.for_s)) == ("tokens", 5)


def test_nothing_is_let_through_beyond_the_minute_even_after_a_pause() -> None:
    pool = Pool(LLMLimits(requests_per_minute=2))
    pool.admitted("t1", now=0)
    pool.admitted("t2", now=20)
    assert pool.parked("t3", now=59).for_s >= 1
    pool.admitted("t3", now=76, since=at(59))


def test_a_second_counts_until_its_last_call_is_a_minute_old() -> None:
    pool = Pool(LLMLimits(requests_per_minute=1))
    pool.admitted("t1", now=0.9)
    assert isinstance(pool.ask("t2", now=60.8, since=at(-1)), Parked)
    pool.admitted("t2", now=64.1, since=at(-1))


def test_calls_at_once_are_limited_whoever_makes_them() -> None:
    pool = Pool(LLMLimits(concurrency=2))
    one, _ = pool.admitted("t1"), pool.admitted("t2", namespace="other")
    assert pool.parked("t3").reason == "concurrency"
    pool.settle(one, 10, now=1)
    pool.admitted("t3", now=2, since=at(0))


def test_a_call_that_can_never_fit_is_refused() -> None:
    assert Pool().ask(tokens=60_001) == TooLarge(60_001, 60_000)
    assert isinstance(Pool().ask(tokens=60_000, room=4096), Admitted)  # the answer's room gives way


def test_each_llm_applies_its_own_numbers_to_what_all_have_used() -> None:
    pool = Pool(LLMLimits(requests_per_minute=100))
    for n in range(3):
        pool.admitted(f"t{n}")
    pool.limits = LLMLimits(requests_per_minute=3)
    assert pool.parked("t4", now=5).reason == "requests"


def test_a_provider_that_asks_to_wait_holds_all_calls_back() -> None:
    pool = Pool()
    pool.flow = hold(pool.flow, at(20))
    pool.flow = hold(pool.flow, at(10))
    assert pool.parked(now=5) == Parked(15.0, "provider")
    pool.admitted(now=21, since=at(5))


# --- what calls have used ----------------------------------------------------------------


def test_what_a_call_did_not_use_is_free_again() -> None:
    pool = Pool()
    admitted = pool.admitted(tokens=5000)
    pool.settle(admitted, 1200, now=3)
    assert (pool.tokens, pool.flow.under_way) == (1200, {})


def test_what_a_call_used_beyond_its_reservation_counts_from_when_it_was_told() -> None:
    pool = Pool()
    pool.settle(pool.admitted(), 4000, now=30)
    assert pool.flow.seconds[str(int(at(30).timestamp()))] == (0, 3000)


def test_a_call_that_is_settled_twice_counts_once() -> None:
    pool = Pool()
    admitted = pool.admitted()
    pool.settle(admitted, 500, now=1)
    before = pool.flow
    pool.settle(admitted, 500, now=2)
    assert pool.flow == before


def test_a_call_of_which_nothing_is_known_counts_as_reserved() -> None:
    pool = Pool()
    pool.settle(pool.admitted(), None, now=1)
    assert (pool.tokens, pool.flow.under_way) == (1000, {})


def test_a_call_that_was_not_made_leaves_nothing_behind() -> None:
    pool = Pool(LLMLimits(requests_per_minute=60, tokens_per_minute=60_000))
    admitted = pool.admitted()
    pool.flow = undo(pool.flow, pool.limits, admitted, at(1))
    assert (pool.tokens, pool.requests, pool.flow.under_way) == (0, 0, {})


def test_a_redelivered_call_takes_the_place_of_the_one_that_its_dead_replica_made() -> None:
    pool = Pool(LLMLimits(concurrency=1, requests_per_minute=60))
    dead = pool.admitted()
    again = pool.admitted(now=2)
    assert list(pool.flow.under_way) == ["team/t1.1"]
    assert pool.requests == 2  # the provider has seen both
    pool.settle(dead, 0, now=3)  # the dead one was only slow: nothing of the other is touched
    assert list(pool.flow.under_way) == ["team/t1.1"]
    pool.settle(again, 10, now=4)
    assert pool.flow.under_way == {}


def test_a_reservation_whose_holder_has_died_holds_no_place_for_ever() -> None:
    pool = Pool(LLMLimits(concurrency=1))
    pool.admitted()
    assert isinstance(pool.ask("t2", now=149), Parked)
    pool.admitted("t2", now=151, since=at(149))


def test_how_long_answers_are_is_learned() -> None:
    pool = Pool(LLMLimits(tokens_per_minute=1_000_000))
    assert pool.admitted("t0", room=4096).tokens == 5096
    for _ in range(50):
        pool.flow = learn(pool.flow, reserved=5096, used=1200, output=200, call_s=2.0)
    assert 1200 <= pool.admitted("t1", room=4096, now=60).tokens < 1500
    assert pool.admitted("t2", room=100, now=60).tokens == 1100


# --- lines ------------------------------------------------------------------------------


def full_pool() -> Pool:
    """One in which a namespace called `noisy` has 100 waiting calls."""
    pool = Pool()
    for n in range(105):
        pool.ask(f"t{n}", namespace="noisy")
    return pool


def test_waiting_calls_look_again_one_after_another() -> None:
    pool = Pool()
    waits = [answer.for_s for n in range(60) if isinstance(answer := pool.ask(f"t{n}"), Parked)]
    assert waits == sorted(waits)
    gaps = [later - sooner for sooner, later in itertools.pairwise(waits)]
    assert all(0.1 < gap < 1.1 for gap in gaps)


def test_nobody_sleeps_for_long_without_a_look() -> None:
    pool = Pool(LLMLimits(requests_per_minute=1))
    waits = [answer.for_s for n in range(500) if isinstance(answer := pool.ask(f"t{n}"), Parked)]
    assert max(waits) <= 600


def test_a_new_call_does_not_overtake_its_line() -> None:
    pool = full_pool()
    assert pool.parked("late", namespace="noisy", now=1).reason == "line"


def test_a_new_call_does_not_wait_for_a_line_that_sleeps_while_nobody_uses_the_limit() -> None:
    pool = full_pool()
    pool.limits = LLMLimits(tokens_per_minute=6_000_000)
    pool.admitted("late", namespace="noisy", now=10)


def test_a_namespace_that_was_modest_does_not_wait_behind_one_that_is_not() -> None:
    pool = full_pool()
    pool.admitted("mine", namespace="quiet", now=1)


def test_room_is_kept_for_whoever_has_waited_longest() -> None:
    pool = Pool(LLMLimits(requests_per_minute=60))
    while isinstance(first := pool.ask("first"), Admitted):
        pool.settle(first, 1, now=0)
    assert isinstance(first, Parked)
    woken = first.for_s + 0.2
    assert isinstance(pool.ask("younger", now=woken - 0.1, since=at(1)), Parked)
    pool.admitted("first", now=woken, since=at(0))


def test_a_claim_is_its_tasks_over_all_attempts() -> None:
    pool = Pool(LLMLimits(requests_per_minute=60))
    for n in range(5):
        pool.admitted(f"t{n}")
    first = pool.parked("first.1", waiter="first")
    (line,) = pool.flow.shares["team"].lines.values()
    assert line.claim is not None
    assert line.claim.name == "first"
    pool.admitted("first.2", waiter="first", now=first.for_s + 0.2, since=at(0.01))
    (line,) = pool.flow.shares["team"].lines.values()
    assert line.claim is None


def test_higher_priorities_go_first_until_a_call_has_waited_for_long() -> None:
    pool = Pool(LLMLimits(requests_per_minute=60))
    while isinstance(high := pool.ask("high", priority="high"), Admitted):
        pool.settle(high, 1, now=0)
    assert isinstance(high, Parked)
    soon = high.for_s + 0.2
    assert isinstance(pool.ask("low", now=soon, since=at(-10), priority="low"), Parked)
    pool.admitted("old", now=soon, since=at(-300), priority="low")


def test_the_claim_of_a_task_that_has_ended_is_given_up() -> None:
    pool = Pool(LLMLimits(requests_per_minute=6))
    for n in range(3):
        pool.admitted(f"t{n}")
    gone = pool.parked("gone")
    assert isinstance(pool.ask("next", now=gone.for_s + 1, since=at(5)), Parked)
    pool.admitted("next", now=gone.for_s + 3, since=at(5))


def test_a_record_survives_the_wire() -> None:
    pool = full_pool()
    assert decode(encode(pool.flow), PoolFlow) == pool.flow


def test_a_record_stays_small_however_many_wait() -> None:
    pool = Pool()
    for n in range(5000):
        pool.ask(f"t{n}", namespace="noisy")
    assert len(encode(pool.flow)) < 4000
