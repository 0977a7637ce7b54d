"""One attempt: find the receiver, go through its limits, send, and say what came of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from services.notifier.core.endpoints import Endpoints
from services.notifier.core.machine import Made, Parked
from services.notifier.core.outcomes import NotTaken, Outcome, Taken, Unwanted
from services.notifier.sinks.base import Letter, Sink

if TYPE_CHECKING:
    from datetime import datetime

    from schemas.notifications import NotificationPending
    from schemas.task import Cancelled, Failed, FinalAnswer
    from services.notifier.core.words import Told
    from services.notifier.receivers import Receivers
    from services.runtime.service import Runtime

PORTS = {"https": 443, "http": 80}


class Attempts:
    """Makes attempts, within each receiver's limits."""

    def __init__(self, runtime: Runtime, receivers: Receivers) -> None:
        self._clock = runtime.bus.clock
        self._traces = runtime.traces
        self._metrics = runtime.metrics
        self._receivers = receivers
        self._endpoints = Endpoints()

    async def make(
        self,
        pending: NotificationPending,
        state: FinalAnswer | Failed | Cancelled,
        told: Told,
        thread: str,
        now: datetime,
        *,
        at_once: bool,
    ) -> Made | Parked:
        """What came of it, or until when it has to wait. `at_once`: a person wants it now."""
        sink = self._receivers.sink(pending, state, now)
        if isinstance(sink, NotTaken | Unwanted):
            return Made(sink, now, 0.0)
        key = f"{pending.namespace} {sink.endpoint}"
        wait = self._endpoints.enter(key, now, at_once=at_once or now >= pending.give_up_at)
        if wait is not None:
            return Parked(wait.until, wait.why)
        again = pending.attempts > 0 or pending.redriven > 0
        named = state.thread_id if pending.receiver == "ContactChannel" else ""
        letter = Letter(id=pending.id, told=told, at=now, again=again, thread=thread, thread_id=named)
        began = asyncio.get_running_loop().time()
        outcome: Outcome = NotTaken(error="interrupted", again=True)
        try:
            outcome = await self._send(sink, letter, pending)
        finally:
            took_s = asyncio.get_running_loop().time() - began
            self._leave(key, outcome, took_s)
        self._metrics.notification_attempts.labels(sink.kind, _word(outcome)).inc()
        self._metrics.notification_seconds.labels(sink.kind).observe(took_s)
        return Made(outcome, max(now, self._clock.now()), took_s)

    async def _send(self, sink: Sink, letter: Letter, pending: NotificationPending) -> Outcome:
        attributes: dict[str, str | int] = {
            "holdfast.notification": pending.id,
            "holdfast.namespace": pending.namespace,
            "holdfast.task": pending.task,
            "holdfast.attempt": pending.attempts + 1,
            "holdfast.sink": sink.kind,
            **_server(sink.endpoint),
        }
        with self._traces.span(f"notify {sink.kind}", kind="client", attributes=attributes) as extra:
            outcome = await sink.send(letter)
            extra["holdfast.outcome"] = _word(outcome)
            if isinstance(outcome, NotTaken):
                extra["error.type"] = str(outcome.status or "unreachable")
            if not isinstance(outcome, Unwanted) and outcome.status is not None:
                extra["http.response.status_code"] = outcome.status
            return outcome

    def _leave(self, key: str, outcome: Outcome, took_s: float) -> None:
        is_down = isinstance(outcome, NotTaken) and outcome.is_down
        pause_s = outcome.retry_after_s if isinstance(outcome, NotTaken) else None
        self._endpoints.leave(key, self._clock.now(), is_down=is_down, took_s=took_s, pause_s=pause_s)
        self._metrics.notifier_circuits.set(self._endpoints.open)


def _server(endpoint: str) -> dict[str, str | int]:
    """The host and port in a sink's endpoint, if it has them."""
    at = urlsplit(endpoint.partition(" ")[0])
    known = {"server.address": at.hostname, "server.port": at.port or PORTS.get(at.scheme)}
    return {name: value for name, value in known.items() if value is not None}


def _word(outcome: Outcome) -> str:
    match outcome:
        case Taken():
            return "taken"
        case NotTaken(again=True):
            return "retried"
        case NotTaken():
            return "failed"
        case Unwanted():
            return "unwanted"
