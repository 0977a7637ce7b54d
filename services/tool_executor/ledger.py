"""The effects ledger on the bus: says that a call is about to be performed, before it is."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import msgspec

from schemas.events import ToolStarted
from schemas.wire import decode, encode
from services.runtime.errors import Conflict
from services.runtime.ports import Clock, Log, Outgoing
from services.runtime.telemetry.traces import trace_headers
from services.tool_executor.core.ledger import Begin, Decision, Unknown, Wait, decide
from services.tool_executor.core.policy import OnUncertain

if TYPE_CHECKING:
    from services.runtime.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)


class Begun(msgspec.Struct, frozen=True):
    """The ledger says that we perform the call."""

    entry: ToolStarted
    revision: int


class Ledger:
    """Writes and judges the entries of calls that must not be performed twice."""

    def __init__(self, clock: Clock, replica: str, lease_s: float, metrics: Metrics) -> None:
        self._clock = clock
        self._replica = replica
        self._lease_s = lease_s
        self._metrics = metrics
        self._unused: dict[str, ToolStarted] = {}
        """Our own entries that no call has followed: by them nothing was started."""

    async def begin(self, log: Log, subject: str, on_uncertain: OnUncertain, *, look_first: bool) -> Begun | Unknown:
        """Write the entry of a call, or find that it must not be performed (again).

        Waits for the lease of whoever wrote one before us. Raises `Unavailable`.
        """
        found, revision = await self._read(log, subject) if look_first else (None, 0)
        seen_at = self._clock.now()
        while True:
            if found is not None and found == self._unused.get(subject):
                return Begun(found, revision)
            decision = decide(
                found,
                revision,
                now=self._clock.now(),
                unchanged_for_s=(self._clock.now() - seen_at).total_seconds(),
                on_uncertain=on_uncertain,
            )
            match decision:
                case Wait():
                    await self._clock.sleep(decision.for_s)
                case Unknown():
                    self._took_over(subject, decision)
                    return decision
                case Begin():
                    begun = await self._write(log, subject, decision)
                    if begun is not None:
                        self._took_over(subject, decision)
                        return begun
            before = revision
            found, revision = await self._read(log, subject)
            if revision != before:
                seen_at = self._clock.now()

    async def again(self, log: Log, subject: str, begun: Begun) -> Begun | None:
        """The entry of the next attempt of a call that is ours; None if it is not ours any more."""
        return await self._write(log, subject, Begin(begun.entry.attempt + 1, begun.revision))

    async def may_have_run(self, log: Log, subject: str) -> bool:
        """Whether somebody began the call, so that nobody may say that it was not made."""
        entry, _ = await self._read(log, subject)
        return entry is not None and entry != self._unused.get(subject)

    def used(self, subject: str) -> None:
        """The call is being made: from now on, the entry counts."""
        self._unused.pop(subject, None)

    def not_used(self, subject: str, begun: Begun) -> None:
        """The call did not reach its tool: the entry does not count."""
        self._unused[subject] = begun.entry

    async def _read(self, log: Log, subject: str) -> tuple[ToolStarted | None, int]:
        entry = await log.get(subject)
        return (None, 0) if entry is None else (decode(entry.data, ToolStarted), entry.seq)

    async def _write(self, log: Log, subject: str, begin: Begin) -> Begun | None:
        entry = ToolStarted(attempt=begin.attempt, replica=self._replica, at=self._clock.now(), lease_s=self._lease_s)
        self._unused[subject] = entry
        try:
            revision = await log.write(Outgoing(subject, encode(entry), trace_headers()), expected=begin.expected)
        except Conflict:
            del self._unused[subject]
            return None
        return Begun(entry, revision)

    def _took_over(self, subject: str, decision: Decision) -> None:
        if isinstance(decision, Begin) and decision.attempt == 1:
            return
        word = "unknown" if isinstance(decision, Unknown) else "retried"
        self._metrics.takeovers.labels(word).inc()
        logger.warning("a started call was taken over: %s", word, extra={"action": "tool.takeover", "subject": subject})
