"""One attempt at a model: slots, time limit, streaming, stop signals, and what it took.

Never retries and never raises a provider's failure: what comes out is the event to record.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from schemas.events import ModelAnswered, ModelFailed
from schemas.messages import Usage
from schemas.resources import LLM
from schemas.subjects import TaskSubjects
from services.llm_gateway.core.answers import recorded, refusal_of
from services.llm_gateway.core.calls import CallFailed, Failure, ModelReply, ModelRequest
from services.llm_gateway.core.cost import priced
from services.llm_gateway.core.endpoints import timeout_s_of
from services.llm_gateway.core.failures import network_failure
from services.llm_gateway.deltas import Deltas
from services.llm_gateway.limits import time_limit
from services.llm_gateway.models import Model
from services.llm_gateway.telemetry import Observer
from services.runtime.errors import RetryLater
from services.runtime.ports import Signal
from services.runtime.tasks import spawn

if TYPE_CHECKING:
    from services.runtime.ports import Clock, Signals

logger = logging.getLogger(__name__)

STOPPED_S = 0.2
"""A stopped command comes again after this, to find that its task has ended."""


class Attempt(NamedTuple):
    """What to call, with what, for whom."""

    task: TaskSubjects
    llm: LLM
    model: Model
    request: ModelRequest

    @property
    def name(self) -> str:
        """For logs and task names."""
        return f"{self.task.task}.{self.request.turn}.{self.request.attempt}"


class Ended(NamedTuple):
    """How a call ended, and how long the provider took."""

    result: ModelReply | Failure
    latency_s: float


class Caller:
    """Makes calls. A stop signal of a task cancels its calls."""

    def __init__(self, signals: Signals, clock: Clock, observer: Observer) -> None:
        self._signals = signals
        self._clock = clock
        self._observer = observer
        self._under_way: dict[asyncio.Task[Ended], TaskSubjects] = {}

    async def call(self, attempt: Attempt) -> ModelAnswered | ModelFailed:
        """The outcome of one attempt; raises `RetryLater` if the task was stopped meanwhile."""
        try:
            reply, latency_s = await self._observed(attempt)
        except CallFailed as failed:
            return _failed_event(attempt, failed.failure, self._clock.now())
        return _answered_event(attempt, reply, self._clock.now(), latency_s)

    async def _observed(self, attempt: Attempt) -> tuple[ModelReply, float]:
        with self._observer.call(attempt.llm, attempt.model.endpoint, attempt.request, attempt.task) as observed:
            result, latency_s = await self._stoppable(attempt)
            if isinstance(result, Failure):
                observed.failed(result, latency_s)
                raise CallFailed(result)
            reply = _finished(attempt, result)
            observed.answered(reply, latency_s)
            return reply, latency_s

    async def stop(self, signal: Signal) -> None:
        """A task was cancelled or has failed: whoever calls a model for it may stop."""
        _, _, namespace, task = signal.subject.split(".")
        for call, subjects in list(self._under_way.items()):
            if (subjects.namespace, subjects.task) == (namespace, task):
                call.cancel()

    async def _stoppable(self, attempt: Attempt) -> Ended:
        call: asyncio.Task[Ended] = spawn(self._in_turn(attempt), name=f"model:{attempt.name}")
        self._under_way[call] = attempt.task
        try:
            await asyncio.wait({call})
        finally:
            del self._under_way[call]
            if not call.done():
                call.cancel()
                await asyncio.wait({call})
        if call.cancelled():
            logger.info("stopped a model call: its task has ended", extra={"action": "model.stopped"})
            raise RetryLater(f"the model call of {attempt.name} was stopped", after_s=STOPPED_S)
        return call.result()

    async def _in_turn(self, attempt: Attempt) -> Ended:
        """Ask when a slot is free; the wait for it is not the provider's latency."""
        async with attempt.model.slots:
            started = self._clock.now()
            result = await self._ask(attempt)
            return Ended(result, (self._clock.now() - started).total_seconds())

    async def _ask(self, attempt: Attempt) -> ModelReply | Failure:
        request, provider = attempt.request, attempt.llm.spec.provider
        limit_s = timeout_s_of(attempt.llm.spec)
        deltas = Deltas(self._signals, self._clock, attempt.task.live, turn=request.turn, attempt=request.attempt)
        try:
            async with time_limit(self._clock, limit_s), deltas:
                reply = await attempt.model.provider.call(request, deltas.add)
        except CallFailed as failed:
            return failed.failure
        except TimeoutError:
            return network_failure(provider, f"no whole answer within {limit_s:g} s (timeoutSeconds)")
        if refusal := refusal_of(reply):
            return Failure(error=f"{provider}: {refusal}", transient=False, usage=reply.usage)
        return reply


def _finished(attempt: Attempt, reply: ModelReply) -> ModelReply:
    message = recorded(reply.message, attempt.task.namespace, attempt.task.task, attempt.request.turn)
    return msgspec.structs.replace(reply, message=message, usage=priced(reply.usage, attempt.llm.spec.pricing))


def _answered_event(attempt: Attempt, reply: ModelReply, at: datetime, latency_s: float) -> ModelAnswered:
    return ModelAnswered(
        turn=attempt.request.turn,
        attempt=attempt.request.attempt,
        message=reply.message,
        usage=reply.usage,
        at=at,
        llm=attempt.llm.metadata.name,
        model=reply.model,
        latency_s=round(latency_s, 6),
        finish_reason=reply.finish_reason,
    )


def _failed_event(attempt: Attempt, failure: Failure, at: datetime) -> ModelFailed:
    usage = failure.usage
    return ModelFailed(
        turn=attempt.request.turn,
        attempt=attempt.request.attempt,
        failure="transient" if failure.transient else "refused",
        error=failure.error,
        at=at,
        status=failure.status,
        retry_after_s=failure.retry_after_s,
        usage=usage if usage == Usage() else priced(usage, attempt.llm.spec.pricing),
        llm=attempt.llm.metadata.name,
        cause=failure.cause,
    )
