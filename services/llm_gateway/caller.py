"""One attempt at a model: slots, time limit, streaming, stop signals, and what it took.

Never retries. `Caller.ask` is the one way to a provider: answers and summaries go through it alike.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from schemas.resources import LLM
from schemas.subjects import TaskSubjects
from schemas.task import AwaitingModel
from services.llm_gateway.core.answers import recorded, refusal_of
from services.llm_gateway.core.calls import CallFailed, Failure, ModelReply, ModelRequest
from services.llm_gateway.core.cost import priced
from services.llm_gateway.core.endpoints import timeout_s_of
from services.llm_gateway.core.failures import network_failure
from services.llm_gateway.core.moments import Place
from services.llm_gateway.deltas import Texts
from services.llm_gateway.limits import time_limit
from services.llm_gateway.models import Model
from services.llm_gateway.telemetry import Observer
from services.runtime.errors import RetryLater
from services.runtime.ports import Signal
from services.runtime.stops import Stops
from services.runtime.tasks import spawn

if TYPE_CHECKING:
    from services.llm_gateway.flow.control import FlowControl, Passage
    from services.runtime.ports import Clock, Signals

logger = logging.getLogger(__name__)

STOPPED_S = 0.2
"""A stopped command comes again after this, to find that its task has ended."""
STOPS_REMEMBERED_S = 60.0
"""Longer than it takes from a look at a task to its model call."""


class Attempt(NamedTuple):
    """What to call, with what, for whom."""

    place: Place
    state: AwaitingModel
    """The task as it waits for this call: its budget, what it has spent, what was tried."""
    llm: LLM
    model: Model
    request: ModelRequest
    tokens: int
    """What goes to the model, estimated."""
    room: int
    """Tokens kept free for the answer."""
    began: float
    """When the task was last seen to wait for this, on the event loop's clock."""
    is_answer: bool = True
    """Whether the task's watchers see the text; false for a summary."""

    @property
    def task(self) -> TaskSubjects:
        """Whose call it is."""
        return self.place.task


class Asked(NamedTuple):
    """An answer, and how long the provider took."""

    reply: ModelReply
    latency_s: float


Ended = Asked | Failure | RetryLater
"""How a call ended, or why it was not made."""


class Caller:
    """Makes calls. A stop signal of a task cancels its calls."""

    def __init__(self, signals: Signals, clock: Clock, observer: Observer, flow: FlowControl) -> None:
        self.texts = Texts(signals, clock)
        self._clock = clock
        self._observer = observer
        self._flow = flow
        self._under_way: dict[asyncio.Task[Ended], TaskSubjects] = {}
        self._stops = Stops(STOPS_REMEMBERED_S)

    async def ask(self, attempt: Attempt) -> Asked:
        """What the model answers. Every provider call goes through here.

        Raises `CallFailed`, also for a call that is not made because a limit leaves no room; or `RetryLater` if the
        task was stopped meanwhile or the limits cannot be looked at.
        """
        ended = await self._stoppable(attempt)
        match ended:
            case Asked():
                return ended
            case Failure():
                raise CallFailed(ended)
            case RetryLater():
                raise ended

    async def stop(self, signal: Signal) -> None:
        """A task was cancelled or has failed: whoever calls a model for it may stop."""
        _, _, namespace, task = signal.subject.split(".")
        self._stops.remember(namespace, task)
        for call, subjects in list(self._under_way.items()):
            if (subjects.namespace, subjects.task) == (namespace, task):
                call.cancel()

    def _check_stops(self, attempt: Attempt) -> None:
        """Do not begin what was stopped after the task was looked at; raises `RetryLater`, to have another look."""
        stopped = self._stops.at(attempt.task.namespace, attempt.task.task)
        if stopped is not None and stopped >= attempt.began:
            logger.info("did not begin a model call: its task has ended", extra={"action": "model.stopped"})
            raise RetryLater(f"the model call of {attempt.place.name} was stopped", after_s=STOPPED_S)

    async def _stoppable(self, attempt: Attempt) -> Ended:
        self._check_stops(attempt)
        call: asyncio.Task[Ended] = spawn(self._in_turn(attempt), name=f"model:{attempt.place.name}")
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
            raise RetryLater(f"the model call of {attempt.place.name} was stopped", after_s=STOPPED_S)
        return call.result()

    async def _in_turn(self, attempt: Attempt) -> Ended:
        """Ask when a slot is free and the limits leave room."""
        try:
            async with attempt.model.slots, self._flow.admitted(attempt) as passage:
                return await self._observed(passage)
        except CallFailed as refused:
            return refused.failure
        except RetryLater as later:
            return later

    async def _observed(self, passage: Passage) -> Asked:
        """The call itself; no wait for it is the provider's latency."""
        attempt = passage.attempt
        with self._observer.call(attempt.llm, attempt.model.endpoint, attempt.request, attempt.state) as observed:
            observed.parked(passage.parked_s)
            started = self._clock.now()

            def first() -> None:
                observed.began((self._clock.now() - started).total_seconds())

            result = await self._ask(attempt, first)
            passage.ended(result)
            latency_s = (self._clock.now() - started).total_seconds()
            if isinstance(result, Failure):
                observed.failed(result, latency_s)
                raise CallFailed(result)
            reply = _finished(attempt, result)
            observed.answered(reply, latency_s)
            return Asked(reply, latency_s)

    async def _ask(self, attempt: Attempt, first: Callable[[], None]) -> ModelReply | Failure:
        provider = attempt.llm.spec.provider
        limit_s = timeout_s_of(attempt.llm.spec)
        try:
            async with time_limit(self._clock, limit_s):
                reply = await self._streamed(attempt, first)
        except CallFailed as failed:
            return failed.failure
        except TimeoutError:
            words = f"no whole answer within {limit_s:g} s (timeoutSeconds)"
            return network_failure(provider, words, cause="timeout")
        if refusal := refusal_of(reply):
            error = f"{provider}: {refusal.why}"
            return Failure(error=error, transient=False, cause=refusal.cause, usage=reply.usage)
        return reply

    async def _streamed(self, attempt: Attempt, first: Callable[[], None]) -> ModelReply:
        """The provider's answer; an answer to the task is shown while it comes."""
        if not attempt.is_answer:
            return await attempt.model.provider.call(attempt.request, _told(first, _unheard))
        place = attempt.place
        async with self.texts.streaming(place.task, turn=place.turn, attempt=place.attempt) as deltas:
            return await attempt.model.provider.call(attempt.request, _told(first, deltas.add))


def _told(first: Callable[[], None], hear: Callable[[str], None]) -> Callable[[str], None]:
    """`hear`, with `first` called before the first piece."""
    begun = False

    def on_piece(text: str) -> None:
        nonlocal begun
        if not begun:
            begun = True
            first()
        hear(text)

    return on_piece


def _unheard(_text: str) -> None:
    """Nobody watches a summary."""


def _finished(attempt: Attempt, reply: ModelReply) -> ModelReply:
    message = recorded(reply.message, attempt.task.namespace, attempt.task.task, attempt.place.turn)
    return msgspec.structs.replace(reply, message=message, usage=priced(reply.usage, attempt.llm.spec.pricing))
