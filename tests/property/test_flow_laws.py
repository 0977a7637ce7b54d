"""Laws of flow control, for every interleaving of replicas that read stale records and lose races.

Calls come, look again when they were told to, end or are lost with their replica. The provider is a list of what was
let through: no minute of it has more than the limit.
"""

from __future__ import annotations

import heapq
import itertools
from datetime import UTC, datetime, timedelta

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.flow import PoolFlow
from schemas.requests import Priority
from schemas.resources import LLMLimits
from services.llm_gateway.core.flow import Admitted, TooLarge, admit, settle
from services.llm_gateway.core.lines import Ask, Parked

START = datetime(2030, 1, 1, tzinfo=UTC)
CALL_TIMEOUT_S = 40.0
HORIZON_S = 4 * 3600.0
PRIORITIES: tuple[Priority, ...] = ("low", "normal", "high")


class Plan(msgspec.Struct, frozen=True):
    """One call: when it comes and what becomes of it."""

    namespace: str
    comes_s: float
    input_tokens: int
    output_tokens: int
    lasts_s: float
    lost: bool
    priority: Priority


plans = st.builds(
    Plan,
    namespace=st.sampled_from("abc"),
    comes_s=st.floats(0, 30),
    input_tokens=st.integers(1, 900),
    output_tokens=st.integers(0, 100),
    lasts_s=st.floats(0.05, 20),
    lost=st.booleans(),
    priority=st.sampled_from(PRIORITIES),
)
limits = st.builds(
    LLMLimits,
    requests_per_minute=st.none() | st.integers(2, 60),
    tokens_per_minute=st.none() | st.integers(1100, 20_000),
    concurrency=st.none() | st.integers(1, 5),
)


class Store:
    """A record under compare-and-set, and replicas that remember it as they saw it last."""

    def __init__(self, replicas: int) -> None:
        self.flow = PoolFlow()
        self.revision: int = 0
        self.seen: list[tuple[PoolFlow, int]] = [(self.flow, 0)] * replicas

    def admit(self, replica: int, limits_: LLMLimits, ask: Ask, now: datetime) -> Admitted | Parked | TooLarge:
        while True:
            flow, revision = self.seen[replica]
            flow, answer = admit(flow, limits_, ask, now)
            if self._put(replica, flow, revision):
                return answer

    def settle(self, replica: int, limits_: LLMLimits, admitted: Admitted, used: int, now: datetime) -> None:
        while True:
            flow, revision = self.seen[replica]
            if self._put(replica, settle(flow, limits_, admitted, used, now), revision):
                return

    def _put(self, replica: int, flow: PoolFlow, revision: int) -> bool:
        if revision != self.revision:
            self.seen[replica] = (self.flow, self.revision)
            return False
        self.revision += 1
        self.flow = flow
        self.seen[replica] = (flow, self.revision)
        return True


class Run:
    """What happened to some calls."""

    def __init__(self, calls: list[Plan], limits_: LLMLimits, draws: st.DataObject) -> None:
        self.limits = limits_
        self.calls = calls
        self.store = Store(3)
        self.let_through: list[tuple[float, int]] = []
        """When, and what the provider counts."""
        self.under_way_most = 0
        self.waited: dict[int, float] = {}
        self._draws = draws
        self._events: list[tuple[float, int, int, Admitted | None]] = []
        self._order = itertools.count()
        self._since: dict[int, datetime] = {}

    def play(self) -> None:
        for n, call in enumerate(self.calls):
            self._at(call.comes_s, n, None)
        while self._events:
            at, _, n, admitted = heapq.heappop(self._events)
            assert at < HORIZON_S, f"call {n} has not been let through; {len(self.waited)} of {len(self.calls)} were"
            if admitted is None:
                self._ask(at, n)
            else:
                used = self.calls[n].input_tokens + self.calls[n].output_tokens
                self.store.settle(self._replica(), self.limits, admitted, used, _time(at))

    def _ask(self, at: float, n: int) -> None:
        call = self.calls[n]
        ask = Ask(
            namespace=call.namespace,
            name=f"{call.namespace}/t{n}.1",
            input_tokens=call.input_tokens,
            output_tokens_max=100,
            expires=_time(at + CALL_TIMEOUT_S),
            since=self._since.get(n),
            priority=call.priority,
        )
        answer = self.store.admit(self._replica(), self.limits, ask, _time(at))
        assert not isinstance(answer, TooLarge)
        if isinstance(answer, Parked):
            assert answer.for_s > 0
            self._since.setdefault(n, _time(at))
            self._at(at + max(answer.for_s, 0.05) + self._draws.draw(st.floats(0, 0.5)), n, None)
            return
        self.waited[n] = at - call.comes_s
        self.let_through.append((at, answer.tokens))
        self.under_way_most = max(self.under_way_most, len(self.store.flow.under_way))
        if not call.lost:
            self._at(at + call.lasts_s, n, answer)

    def _at(self, at: float, n: int, admitted: Admitted | None) -> None:
        heapq.heappush(self._events, (at, next(self._order), n, admitted))

    def _replica(self) -> int:
        return self._draws.draw(st.integers(0, 2))


def _time(at: float) -> datetime:
    return START + timedelta(seconds=at)


@settings(max_examples=40, deadline=None)
@given(calls=st.lists(plans, min_size=1, max_size=40), limits_=limits, draws=st.data())
def test_no_minute_has_more_than_the_limit_and_every_call_is_let_through(
    calls: list[Plan], limits_: LLMLimits, draws: st.DataObject
) -> None:
    run = Run(calls, limits_, draws)
    run.play()
    assert len(run.waited) == len(calls)
    for begin, _ in run.let_through:
        minute = [tokens for at, tokens in run.let_through if begin <= at < begin + 60]
        assert len(minute) <= (limits_.requests_per_minute or len(calls))
        # A call that has ended counts as what it used, which is never more than was reserved here.
        used = sum(_used(run, at) for at, _ in run.let_through if begin <= at < begin + 60)
        assert used <= (limits_.tokens_per_minute or used)
    assert run.under_way_most <= (limits_.concurrency or len(calls))


@settings(max_examples=20, deadline=None)
@given(calls=st.lists(plans, min_size=1, max_size=20), limits_=limits, draws=st.data())
def test_no_reservation_outlives_its_call(calls: list[Plan], limits_: LLMLimits, draws: st.DataObject) -> None:
    run = Run(calls, limits_, draws)
    run.play()
    later = _time(HORIZON_S + 2 * CALL_TIMEOUT_S)
    last = Ask(
        namespace="z", name="z/last.1", input_tokens=1, output_tokens_max=0, expires=later + timedelta(seconds=40)
    )
    flow, answer = admit(run.store.flow, limits_, last, later)
    assert isinstance(answer, Admitted)
    assert list(flow.under_way) == ["z/last.1"]
    assert sum(tokens for _, tokens in flow.seconds.values()) == 1


def _used(run: Run, at: float) -> int:
    """What the provider counts of the call that was let through then."""
    place = next(place for place, (when, _) in enumerate(run.let_through) if when == at)
    n = list(run.waited)[place]
    return run.calls[n].input_tokens + run.calls[n].output_tokens


@settings(max_examples=20, deadline=None)
@given(weights=st.lists(st.integers(1, 5), min_size=2, max_size=4), seed=st.integers(0, 2**16))
def test_namespaces_that_take_all_they_can_get_share_by_weight(weights: list[int], seed: int) -> None:
    limits_ = LLMLimits(tokens_per_minute=240_000)
    flow = PoolFlow()
    events = [(n * 1e-3, n, f"n{n % len(weights)}/t{n}.1") for n in range(2000)]
    since: dict[str, datetime] = {}
    served: dict[str, int] = {f"n{k}": 0 for k in range(len(weights))}
    order = itertools.count(10_000)
    heapq.heapify(events)
    while (event := heapq.heappop(events))[0] < 300:
        at, _, name = event
        namespace = name.split("/")[0]
        ask = Ask(
            namespace=namespace,
            name=name,
            input_tokens=2000,
            output_tokens_max=0,
            expires=_time(at + CALL_TIMEOUT_S),
            since=since.get(name),
            weight=weights[int(namespace[1:])],
        )
        flow, answer = admit(flow, limits_, ask, _time(at))
        if isinstance(answer, Parked):
            since.setdefault(name, _time(at))
            late = 0.02 + (seed * 31 + next(order)) % 97 / 400
            heapq.heappush(events, (at + answer.for_s + late, next(order), name))
        else:
            served[namespace] += at > 60
    parts = [served[f"n{k}"] / weight for k, weight in enumerate(weights)]
    assert min(parts) > 0.8 * max(parts), (weights, served)
    assert sum(served.values()) * 2000 / 4 > 0.9 * 240_000
