"""Flow control in simulated time: two replicas over a memory bus, namespaces with their calls, and a provider.

What is simulated: timers that are late, calls that take as long as they take, tokens that are not what was estimated,
requests that take a moment to arrive. What is real: the shared records, the gates before a call, and what they decide.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import NamedTuple, Protocol

from schemas.resources import LLMLimits
from services.llm_gateway.core.flow import Admitted
from services.llm_gateway.core.lines import Ask
from services.llm_gateway.flow.gates import PoolGate, Used
from services.llm_gateway.flow.records import Records
from services.runtime.memory.bus import MemoryBus
from services.runtime.memory.clock import Alarm, ManualClock
from services.runtime.memory.server import MemoryServer

MINUTE_S = 60.0
REPLICAS = 2
ROOM = 4096
"""Tokens that an answer may have, as far as the gateway knows at first."""
LATE_S = (0.02, 0.3)
"""How late a parked call looks again: the server's timers, and the way through the planner."""
TRAVEL_S = (0.0, 0.1)
TIMEOUT_S = 150.0
PARK_MIN_S = 0.05


class Source(NamedTuple):
    """A namespace's calls: when they come, in seconds, and what they are like."""

    namespace: str
    arrivals: Sequence[float]
    weight: int = 1
    input_tokens: int = 1500
    output_tokens: int = 500
    """On average."""
    call_s: float = 2.0
    """On average."""
    estimate: float = 1.1
    """What is estimated of an input, by what it has."""


class Provider(Protocol):
    """Counts tokens as some provider does."""

    def take(self, at: float, tokens: int) -> bool:
        """Answer a request, or refuse it."""
        ...


class RollingMinute:
    """At most so many tokens in any sixty seconds."""

    def __init__(self, tokens: int) -> None:
        self._limit = tokens
        self._taken: deque[tuple[float, int]] = deque()
        self._sum = 0

    def take(self, at: float, tokens: int) -> bool:
        while self._taken and self._taken[0][0] <= at - MINUTE_S:
            self._sum -= self._taken.popleft()[1]
        if self._sum + tokens > self._limit:
            return False
        self._taken.append((at, tokens))
        self._sum += tokens
        return True


class FixedMinute:
    """At most so many tokens in each minute of the clock."""

    def __init__(self, tokens: int) -> None:
        self._limit = tokens
        self._minute = -1
        self._sum = 0

    def take(self, at: float, tokens: int) -> bool:
        if int(at // MINUTE_S) != self._minute:
            self._minute, self._sum = int(at // MINUTE_S), 0
        if self._sum + tokens > self._limit:
            return False
        self._sum += tokens
        return True


class Bucket:
    """A bucket that holds a minute's tokens and is refilled all the time."""

    def __init__(self, tokens: int) -> None:
        self._limit = tokens
        self._held = float(tokens)
        self._at = 0.0

    def take(self, at: float, tokens: int) -> bool:
        self._held = min(self._limit, self._held + (at - self._at) * self._limit / MINUTE_S)
        self._at = at
        if tokens > self._held:
            return False
        self._held -= tokens
        return True


PROVIDERS: tuple[Callable[[int], Provider], ...] = (RollingMinute, FixedMinute, Bucket)


class Call:
    """A call from its arrival to its end."""

    def __init__(self, source: Source, name: str, at: float) -> None:
        self.source = source
        self.name = name
        self.arrived = at
        self.since: datetime | None = None
        self.parks = 0
        self.started: float | None = None
        self.ended: float | None = None
        self.used = 0
        self.replica = 0


class Outcome(NamedTuple):
    """What happened until the end of the simulation."""

    calls: list[Call]
    refused: int
    """By the provider."""
    sent: list[tuple[float, int]]
    """When, and how many tokens."""
    writes: int
    """Of the shared record."""

    def waits(self, namespace: str) -> list[float]:
        """How long each call of a namespace waited before it was made."""
        return [
            call.started - call.arrived
            for call in self.calls
            if call.source.namespace == namespace and call.started is not None
        ]

    def times(self, namespace: str) -> list[float]:
        """How long each took from its arrival to its end."""
        return [
            call.ended - call.arrived
            for call in self.calls
            if call.source.namespace == namespace and call.ended is not None
        ]

    def rate(self, begin: float, end: float) -> float:
        """Tokens a minute that were sent in that time."""
        return sum(tokens for at, tokens in self.sent if begin <= at < end) * MINUTE_S / (end - begin)


class _Time(ManualClock):
    """Stands where the simulation is."""

    def __init__(self) -> None:
        super().__init__()
        self.at = 0.0

    def now(self) -> datetime:
        return datetime(2030, 1, 1, tzinfo=UTC) + timedelta(seconds=self.at)

    async def sleep(self, delay_s: float) -> None:
        """Nobody waits for another here: a lost race is tried again at once."""

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Alarm:
        raise NotImplementedError


class Simulation:
    """One run."""

    def __init__(self, limits: LLMLimits, provider: Provider | None, seed: int) -> None:
        self._random = random.Random(seed)
        self._provider = provider
        self._clock = _Time()
        self._server = MemoryServer(clock=self._clock)
        buses = [MemoryBus(self._server) for _ in range(REPLICAS)]
        self._gates = [PoolGate(Records(bus.flow, self._clock).pool("a"), "model", limits) for bus in buses]
        self._events: list[tuple[float, int, Call, Admitted | None]] = []
        self._order = itertools.count()
        self._refused = 0
        self._sent: list[tuple[float, int]] = []

    async def run(self, sources: Sequence[Source], until: float) -> Outcome:
        """Simulate until then."""
        calls = [
            Call(source, f"{source.namespace}/t{n}.1", at) for source in sources for n, at in enumerate(source.arrivals)
        ]
        for call in calls:
            self._at(call.arrived, call, None)
        while self._events and self._events[0][0] <= until:
            self._clock.at, _, call, admitted = heapq.heappop(self._events)
            if admitted is None:
                await self._ask(call)
            else:
                await self._end(call, admitted)
        return Outcome(calls, self._refused, self._sent, self._server.flow.last_seq)

    async def _ask(self, call: Call) -> None:
        source, now = call.source, self._clock.now()
        ask = Ask(
            namespace=source.namespace,
            name=call.name,
            input_tokens=round(source.input_tokens * source.estimate),
            output_tokens_max=ROOM,
            expires=now + timedelta(seconds=TIMEOUT_S),
            since=call.since,
            weight=source.weight,
        )
        call.replica = self._random.randrange(REPLICAS)
        answer = await self._gates[call.replica].enter(ask)
        at = self._clock.at
        if isinstance(answer, Admitted):
            call.started = at
            call.used = source.input_tokens + round(self._random.uniform(0.2, 1.8) * source.output_tokens)
            self._send(at + self._random.uniform(*TRAVEL_S), call.used)
            self._at(at + source.call_s * self._random.uniform(0.5, 1.5), call, answer)
            return
        assert answer.failure.throttled, answer
        call.parks += 1
        call.since = call.since or now
        self._at(at + max(answer.failure.retry_after_s or 0.0, PARK_MIN_S) + self._random.uniform(*LATE_S), call, None)

    def _send(self, arrives: float, tokens: int) -> None:
        self._sent.append((arrives, tokens))
        if self._provider is not None and not self._provider.take(arrives, tokens):
            self._refused += 1

    async def _end(self, call: Call, admitted: Admitted) -> None:
        call.ended = self._clock.at
        assert call.started is not None
        output = call.used - call.source.input_tokens
        used = Used(call.used, Decimal(0), output, call.ended - call.started)
        await self._gates[call.replica].leave(admitted, used)

    def _at(self, at: float, call: Call, admitted: Admitted | None) -> None:
        heapq.heappush(self._events, (at, next(self._order), call, admitted))


def poisson(rate: float, begin: float, end: float, seed: int) -> list[float]:
    """Arrivals at random, so many a second."""
    rng = random.Random(seed)
    found: list[float] = []
    at = begin
    while (at := at + rng.expovariate(rate)) < end:
        found.append(at)
    return found


def bursts(size: int, every_s: float, begin: float, end: float) -> list[float]:
    """So many at once, again and again."""
    count = int((end - begin) / every_s)
    return [begin + n * every_s + k * 0.01 for n in range(count) for k in range(size)]
