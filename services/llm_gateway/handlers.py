"""One command to call a model, from its delivery to its recorded outcome.

    is the outcome recorded?  (only if delivered before)
    is it what the task waits for now?  late: done with it
    read the conversation, call the provider, record the outcome

The outcome is recorded once, on a subject of its own, whoever comes first. A failure that may pass is recorded like
any other: the planner owns retries. A replica that dies in the middle leaves nothing; another makes the call again.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from schemas.commands import CallModel
from schemas.dead_letters import DeadReason
from schemas.events import ModelAnswered, ModelFailed
from schemas.subjects import LLM_GATEWAY, TRACEPARENT
from schemas.task import AwaitingModel, decode_state
from schemas.wire import Malformed, decode, encode
from services.llm_gateway.core.moments import Place, moment, place_of
from services.llm_gateway.core.outcomes import Outcome
from services.llm_gateway.pipeline import Gone, Pipeline
from services.llm_gateway.windows import Windows
from services.runtime.consumer import Inbound
from services.runtime.errors import Broken, RetryLater, Unavailable
from services.runtime.in_hand import InHand
from services.runtime.ports import Log, Outgoing
from services.runtime.telemetry.logs import log_ids
from services.runtime.telemetry.traces import trace_headers, trace_id

if TYPE_CHECKING:
    from services.runtime.ports import Bus
    from services.runtime.telemetry.traces import Traces

logger = logging.getLogger(__name__)

EARLY_S = 0.2
"""How long a command waits that is ahead of the state as it was read."""
GONE_LOOKS = 3
"""Deliveries after which a conversation whose entries are not there is given up: a stale replica is not that slow."""
RECORD_PAUSES_S = (0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Waits between tries to record an outcome: it was paid for, so a short outage of the bus must not lose it."""


class ModelCalls:
    """Handles the commands of all partitions."""

    def __init__(self, bus: Bus, *, pipeline: Pipeline, windows: Windows, traces: Traces) -> None:
        self._bus = bus
        self._pipeline = pipeline
        self._windows = windows
        self._traces = traces
        self._in_hand = InHand()
        """Commands: a second delivery comes when the bus was away, and must not pay twice."""

    async def handle(self, inbound: Inbound) -> None:
        """Make the call, unless it was made or nobody waits for it."""
        place = place_of(inbound.subject)
        command = decode(inbound.data, CallModel)
        if place.task.model_command(command.turn, command.attempt) != inbound.subject:
            raise Malformed(f"the command on {inbound.subject} is for turn {command.turn}, attempt {command.attempt}")
        parent = inbound.headers.get(TRACEPARENT, "")
        with (
            log_ids(namespace=place.task.namespace, task=place.task.task, trace=trace_id(parent)),
            self._traces.process(inbound, place.task, LLM_GATEWAY),
        ):
            async with self._in_hand.alone(inbound.subject):
                await self._handle(place, command, inbound)

    async def dead(self, inbound: Inbound, reason: DeadReason, error: str) -> None:
        """Tell the task that this call will have no other outcome."""
        try:
            place = place_of(inbound.subject)
        except Malformed:
            return
        failed = ModelFailed(
            turn=place.turn,
            attempt=place.attempt,
            failure="dead",
            error=f"the model call is a dead letter ({reason}): {error}",
            at=self._bus.clock.now(),
        )
        headers = {name: value for name, value in inbound.headers.items() if name == TRACEPARENT}
        await self._bus.log(place.task.partition).record(Outgoing(place.event, encode(failed), headers))

    async def _handle(self, place: Place, command: CallModel, inbound: Inbound) -> None:
        log = self._bus.log(place.task.partition)
        if inbound.redelivered and await log.get(place.event) is not None:
            return
        began = asyncio.get_running_loop().time()
        state = await self._awaited(log, place, inbound.seq)
        if state is None:
            _say_late()
            return
        try:
            outcome = await self._pipeline.outcome(place, command, state, began)
        except Gone as gone:
            await self._look_again(log, place, inbound, gone)
            return
        await self._record(log, place, outcome)

    async def _look_again(self, log: Log, place: Place, inbound: Inbound, gone: Gone) -> None:
        """Entries are gone: with their task, if it ended and was removed meanwhile. Otherwise that must not be."""
        if await self._awaited(log, place, inbound.seq) is None:
            _say_late()
        elif inbound.delivered < GONE_LOOKS:
            raise RetryLater(str(gone), after_s=EARLY_S) from gone
        else:
            raise Broken(str(gone)) from gone

    async def _awaited(self, log: Log, place: Place, at_least: int) -> AwaitingModel | None:
        entry = await log.get(place.task.state, at_least=at_least)
        if entry is None:
            return None
        state = decode_state(entry.data)
        match moment(state, place.turn, place.attempt):
            case "now":
                assert isinstance(state, AwaitingModel)
                return state
            case "late":
                return None
            case "early":
                if await log.get(place.event) is not None:
                    return None
                raise RetryLater(f"the state of task {place.task.task} is behind its command", after_s=EARLY_S)

    async def _record(self, log: Log, place: Place, outcome: Outcome) -> None:
        data = encode(outcome)
        message = Outgoing(place.event, data, trace_headers())
        seq = await self._record_surely(log, message)
        if not isinstance(outcome, ModelAnswered):
            return
        if (outcome.message.tool_calls or outcome.invalid) and seq is not None:
            self._windows.add(place.task.state, seq, place.event, data)
        elif outcome.message.content.strip():
            self._windows.forget(place.task.state)

    async def _record_surely(self, log: Log, message: Outgoing) -> int | None:
        for pause_s in RECORD_PAUSES_S:
            try:
                return await log.record(message)
            except Unavailable as error:
                logger.warning("cannot record the outcome yet: %s", error, extra={"action": "model.record"})
                await self._bus.clock.sleep(pause_s)
        return await log.record(message)


def _say_late() -> None:
    logger.info("nobody waits for this model call any more", extra={"action": "model.late"})
