"""The limits that stand before a call, its pool's and its namespace's: each a shared record and a core that decides."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple, Protocol

from schemas.flow import NamespaceFlow, PoolFlow
from schemas.resources import LLMLimits, QuotaSpec
from services.llm_gateway.core.calls import Failure
from services.llm_gateway.core.flow import Admitted, TooLarge, admit, hold, learn, settle, undo
from services.llm_gateway.core.lines import Ask, Parked
from services.llm_gateway.core.quota import DaySpent, admit_to_day, minute_limits, settle_in_day

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from services.llm_gateway.flow.records import Record

REASONS = {
    "requests": "requestsPerMinute leaves no room",
    "tokens": "tokensPerMinute leaves no room",
    "concurrency": "as many calls as concurrency allows are under way",
    "provider": "the provider has asked to wait",
    "line": "others have waited for longer",
}


class Used(NamedTuple):
    """What a call has used, as far as anybody knows."""

    tokens: int | None
    """None: nobody knows."""
    cost_usd: Decimal
    output_tokens: int | None
    """Of a whole answer."""
    call_s: float


class Refusal(NamedTuple):
    """Why a call is not made now, and what of it is counted."""

    failure: Failure
    reason: str


class Gate(Protocol):
    """Limits that are shared."""

    def is_open(self, ask: Ask) -> bool:
        """Whether it would let a call through, by what is known here."""
        ...

    async def enter(self, ask: Ask) -> Admitted | Refusal:
        """Reserve room for a call."""
        ...

    async def leave(self, admitted: Admitted, used: Used) -> None:
        """The call has ended."""
        ...

    async def turn_back(self, admitted: Admitted) -> None:
        """The call is not made after all."""
        ...


class PoolGate:
    """The limits of an LLM."""

    def __init__(self, record: Record[PoolFlow], llm: str, limits: LLMLimits) -> None:
        self._record = record
        self._llm = llm
        self._limits = limits

    def is_open(self, ask: Ask) -> bool:
        """Whether it would let a call through, by what is known here."""
        return isinstance(self._record.peek(lambda flow, now: admit(flow, self._limits, ask, now)), Admitted)

    async def enter(self, ask: Ask) -> Admitted | Refusal:
        """Reserve room for a call."""
        answer = await self._record.change(lambda flow, now: admit(flow, self._limits, ask, now))
        match answer:
            case Admitted():
                return answer
            case Parked():
                return _parked(answer, f"LLM {self._llm!r}")
            case TooLarge(tokens=tokens, limit=limit):
                error = f"the call needs about {tokens} tokens; LLM {self._llm!r} allows {limit} a minute"
                failure = Failure(error=f"{error} (limits.tokensPerMinute)", transient=False, cause="rateLimited")
                return Refusal(failure, "tooLarge")

    async def leave(self, admitted: Admitted, used: Used) -> None:
        """The call has ended."""

        def step(flow: PoolFlow, now: datetime) -> tuple[PoolFlow, None]:
            after = settle(flow, self._limits, admitted, used.tokens, now)
            if after is not flow and used.tokens is not None and used.output_tokens is not None:
                after = learn(after, admitted.tokens, used.tokens, used.output_tokens, used.call_s)
            return after, None

        await self._record.change(step)

    async def turn_back(self, admitted: Admitted) -> None:
        """The call is not made after all."""
        await self._record.change(lambda flow, now: (undo(flow, self._limits, admitted, now), None))

    async def hold(self, wait: timedelta) -> None:
        """The provider has refused a call for its own limit of rate."""
        await self._record.change(lambda flow, now: (hold(flow, now + wait), None))


class NamespaceGate:
    """The quota of a namespace."""

    def __init__(self, record: Record[NamespaceFlow], namespace: str, quota: QuotaSpec) -> None:
        self._record = record
        self._namespace = namespace
        self._quota = quota

    def is_open(self, ask: Ask) -> bool:
        """Whether it would let a call through, by what is known here."""
        return isinstance(self._record.peek(lambda flow, now: admit_to_day(flow, self._quota, ask, now)), Admitted)

    async def enter(self, ask: Ask) -> Admitted | Refusal:
        """Reserve room for a call."""
        answer = await self._record.change(lambda flow, now: admit_to_day(flow, self._quota, ask, now))
        match answer:
            case Admitted():
                return answer
            case Parked():
                return _parked(answer, f"namespace {self._namespace!r}")
            case TooLarge(tokens=tokens, limit=limit):
                error = f"the call needs about {tokens} tokens; namespace {self._namespace!r} may use {limit} a minute"
                failure = Failure(error=f"{error} (tokensPerMinute)", transient=False, cause="namespaceQuota")
                return Refusal(failure, "tooLarge")
            case DaySpent():
                return self._spent(answer)

    async def leave(self, admitted: Admitted, used: Used) -> None:
        """The call has ended."""
        known = None if used.tokens is None else (used.tokens, used.cost_usd)

        def step(flow: NamespaceFlow, now: datetime) -> tuple[NamespaceFlow, None]:
            after = settle_in_day(flow, self._quota, admitted, known, now)
            if admitted.name in flow.under_way and used.tokens is not None and used.output_tokens is not None:
                after = learn(after, admitted.tokens, used.tokens, used.output_tokens, used.call_s)
            return after, None

        await self._record.change(step)

    async def turn_back(self, admitted: Admitted) -> None:
        """The call is not made after all."""
        limits = minute_limits(self._quota)
        await self._record.change(lambda flow, now: (undo(flow, limits, admitted, now), None))

    def _spent(self, spent: DaySpent) -> Refusal:
        error = f"the quota of namespace {self._namespace!r} has no room: {spent.error}"
        if spent.for_s is None or (self._quota.when_spent == "fail" and not spent.passing):
            return Refusal(Failure(error=error, transient=False, cause="namespaceQuota"), "day")
        failure = Failure(
            error=f"{error}; it waits for {'calls under way' if spent.passing else 'the next day (UTC)'}",
            transient=True,
            throttled=True,
            cause="namespaceQuota",
            retry_after_s=spent.for_s,
        )
        return Refusal(failure, "day")


def _parked(parked: Parked, whose: str) -> Refusal:
    failure = Failure(
        error=f"{whose}: {REASONS[parked.reason]}; looking again in {parked.for_s:.1f} s",
        transient=True,
        throttled=True,
        cause="rateLimited",
        retry_after_s=parked.for_s,
    )
    return Refusal(failure, parked.reason)
