"""Flow control: before a call, room for it is reserved in everything that limits it; after it, what it used is told.

Nothing waits here. A call for which there is no room fails as `throttled`, and its task parks. An LLM without limits in
a namespace without a quota costs no message on the bus. If the bus does not answer, the command is handed back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

import msgspec

from schemas.messages import Usage
from schemas.resources import LLM, QUOTA_NAME, LLMLimits, Quota, QuotaSpec
from services.llm_gateway.core.budget import Spent, answer_room
from services.llm_gateway.core.calls import CallFailed, Failure, ModelReply
from services.llm_gateway.core.cost import priced
from services.llm_gateway.core.endpoints import timeout_s_of
from services.llm_gateway.core.flow import Admitted
from services.llm_gateway.core.lines import Ask
from services.llm_gateway.core.quota import has_limits
from services.llm_gateway.flow.gates import Gate, NamespaceGate, PoolGate, Refusal, Used
from services.llm_gateway.flow.pools import Pools
from services.llm_gateway.flow.records import Records
from services.runtime.errors import RetryLater
from services.runtime.tasks import Tasks

if TYPE_CHECKING:
    from services.llm_gateway.caller import Attempt
    from services.runtime.ports import Bus, Clock
    from services.runtime.resources import Resources
    from services.runtime.secrets import Secrets
    from services.runtime.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

MARGIN_S = 30.0
"""How long after its time limit a call that was not settled is given up."""
HOLD_DEFAULT_S = 2.0
"""How long a pool waits when its provider refuses a call for its rate, and does not say how long."""
RATE_LIMITED = 429
CLOSE_S = 5.0
SETTLE_PAUSES_S = (0.2, 1.0, 5.0)
"""Waits between tries to tell what a call used. After that its reservation counts, which is near enough."""


class Passage:
    """A call that was let through."""

    def __init__(self, attempt: Attempt, gates: Sequence[tuple[Gate, Admitted]], parked_s: float) -> None:
        self.attempt = attempt
        """With what the budgets leave for the answer."""
        self.gates = gates
        self.parked_s = parked_s
        """How long it has waited for limits of ours."""
        self.result: ModelReply | Failure | None = None

    def ended(self, result: ModelReply | Failure) -> None:
        """What came of it; if nothing is said, nobody knows."""
        self.result = result


class FlowControl:
    """All limits and budgets of model calls."""

    def __init__(self, bus: Bus, resources: Resources, secrets: Secrets, metrics: Metrics) -> None:
        self._clock: Clock = bus.clock
        self._resources = resources
        self._metrics = metrics
        self._records = Records(bus.flow, bus.clock)
        self._pools = Pools(secrets)
        self._settling = Tasks()

    @asynccontextmanager
    async def admitted(self, attempt: Attempt) -> AsyncGenerator[Passage]:
        """Room for a call, kept meanwhile; raises `CallFailed` if it is not to be made now, and `RetryLater`."""
        attempt = self._within_budget(attempt)
        gates = await self._gates(attempt)
        since = attempt.state.tries.parked_since
        parked_s = (self._clock.now() - since).total_seconds() if since is not None else 0.0
        passage = Passage(attempt, await self._enter(gates, attempt) if gates else (), parked_s)
        if since is not None:
            self._metrics.model_parked.observe(max(parked_s, 0.0))
        started = self._clock.now()
        try:
            yield passage
        finally:
            if passage.gates:
                call_s = (self._clock.now() - started).total_seconds()
                self._settling.spawn(self._settle(passage, call_s), name=f"settle:{attempt.place.name}")

    async def close(self) -> None:
        """Wait until everything is settled, for a bounded time: what is not told counts as reserved."""
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._settling.join()
        except TimeoutError:
            logger.warning("what %d calls used is not told", len(self._settling), extra={"action": "flow.lost"})
        await self._settling.close()
        await self._records.close()

    def _within_budget(self, attempt: Attempt) -> Attempt:
        state = attempt.state
        room = answer_room(state.budget, state.spend, attempt.tokens, attempt.llm.spec.pricing)
        match room:
            case None:
                return attempt
            case Spent(cause=cause, error=error):
                self._metrics.limit_refusals.labels(cause).inc()
                raise CallFailed(Failure(error=error, transient=False, cause=cause))
            case int():
                wanted = attempt.request.output_tokens_max
                most = room if wanted is None else min(room, wanted)
                request = msgspec.structs.replace(attempt.request, output_tokens_max=most)
                return attempt._replace(request=request, room=min(attempt.room, most))

    async def _gates(self, attempt: Attempt) -> list[Gate]:
        gates: list[Gate] = []
        namespace, llm = attempt.task.namespace, attempt.llm
        quota = self._quota(namespace)
        if quota is not None and has_limits(quota):
            gates.append(NamespaceGate(self._records.namespace(namespace), namespace, quota))
        if llm.spec.limits != LLMLimits():
            account = await self._pools.account(llm, attempt.model)
            gates.append(PoolGate(self._records.pool(account), llm.metadata.name, llm.spec.limits))
        return gates

    def _quota(self, namespace: str) -> QuotaSpec | None:
        quota = self._resources.get(Quota, namespace, QUOTA_NAME)
        return quota.spec if quota is not None else None

    async def _enter(self, gates: list[Gate], attempt: Attempt) -> list[tuple[Gate, Admitted]]:
        """Go through all gates, or through none. One that is known to be closed is asked first."""
        ask = self._ask(attempt)
        entered: list[tuple[Gate, Admitted]] = []
        refusal: Refusal | None = None
        try:
            for gate in sorted(gates, key=lambda gate: gate.is_open(ask)):
                answer = await self._enter_one(gate, ask)
                if isinstance(answer, Refusal):
                    refusal = answer
                    break
                entered.append((gate, answer))
        except (RetryLater, asyncio.CancelledError):
            self._turn_back(entered)
            raise
        if refusal is not None:
            self._turn_back(entered)
            raise CallFailed(self._refused(refusal))
        return entered

    def _turn_back(self, entered: Sequence[tuple[Gate, Admitted]]) -> None:
        for gate, admitted in entered:
            self._settling.spawn(self._surely(gate, admitted, None), name=f"undo:{admitted.name}")

    async def _enter_one(self, gate: Gate, ask: Ask) -> Admitted | Refusal:
        """Ask a gate; what it reserves for a caller who has left meanwhile is given back."""
        entering: asyncio.Task[Admitted | Refusal | RetryLater] = self._settling.spawn(
            _quietly(gate, ask), name=f"enter:{ask.name}"
        )
        try:
            answer = await asyncio.shield(entering)
        except asyncio.CancelledError:
            self._settling.spawn(self._give_back(gate, entering), name=f"undo:{ask.name}")
            raise
        if isinstance(answer, RetryLater):
            raise answer
        return answer

    async def _give_back(self, gate: Gate, entering: asyncio.Task[Admitted | Refusal | RetryLater]) -> None:
        answer = await entering
        if isinstance(answer, Admitted):
            await self._surely(gate, answer, None)

    def _ask(self, attempt: Attempt) -> Ask:
        task, state = attempt.task, attempt.state
        quota = self._quota(task.namespace)
        waiter = f"{task.namespace}/{task.task}.{attempt.place.turn}"
        lasts = timedelta(seconds=timeout_s_of(attempt.llm.spec) + MARGIN_S)
        return Ask(
            namespace=task.namespace,
            name=f"{waiter}.{attempt.place.attempt}",
            waiter=waiter,
            input_tokens=attempt.tokens,
            output_tokens_max=attempt.room,
            expires=self._clock.now() + lasts,
            since=state.tries.parked_since,
            priority=state.priority,
            weight=quota.weight if quota is not None else 1,
            pricing=attempt.llm.spec.pricing,
        )

    def _refused(self, refusal: Refusal) -> Failure:
        if refusal.failure.throttled:
            self._metrics.model_waits.labels(refusal.reason).inc()
            logger.info("%s", refusal.failure.error, extra={"action": "model.parked"})
        else:
            self._metrics.limit_refusals.labels(refusal.reason).inc()
        return refusal.failure

    # --- afterwards ---

    async def _settle(self, passage: Passage, call_s: float) -> None:
        used = used_of(passage.result, passage.attempt.llm, call_s)
        for gate, admitted in passage.gates:
            await self._surely(gate, admitted, used)
        failure = passage.result
        if isinstance(failure, Failure) and failure.status == RATE_LIMITED and failure.transient:
            wait = timedelta(seconds=failure.retry_after_s or HOLD_DEFAULT_S)
            for gate, _ in passage.gates:
                if isinstance(gate, PoolGate):
                    await self._hold(gate, wait)

    async def _surely(self, gate: Gate, admitted: Admitted, used: Used | None) -> None:
        for pause_s in SETTLE_PAUSES_S:
            try:
                await (gate.turn_back(admitted) if used is None else gate.leave(admitted, used))
            except RetryLater:
                await self._clock.sleep(pause_s)
            else:
                return
        logger.warning("what %s used is not told: its reservation counts", admitted.name, extra={"action": "flow.lost"})

    async def _hold(self, gate: PoolGate, wait: timedelta) -> None:
        try:
            await gate.hold(wait)
        except RetryLater as error:
            logger.warning("cannot hold back other calls: %s", error, extra={"action": "flow.lost"})


async def _quietly(gate: Gate, ask: Ask) -> Admitted | Refusal | RetryLater:
    """An outage is an answer: whoever asks decides what follows."""
    try:
        return await gate.enter(ask)
    except RetryLater as error:
        return error


def used_of(result: ModelReply | Failure | None, llm: LLM, call_s: float) -> Used:
    """What a call has used, by what came of it. A provider that refuses a call counts no tokens for it."""
    if result is None:
        return Used(None, Decimal(0), None, call_s)
    usage = priced(result.usage, llm.spec.pricing)
    tokens = usage.input_tokens + usage.output_tokens
    cost = usage.cost_usd or Decimal(0)
    if result.usage != Usage():
        return Used(tokens, cost, usage.output_tokens if isinstance(result, ModelReply) else None, call_s)
    is_refusal = isinstance(result, Failure) and result.status is not None and result.status < 500
    return Used(0 if is_refusal else None, Decimal(0), None, call_s)
