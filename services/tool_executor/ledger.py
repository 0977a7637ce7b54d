"""The effects ledger on the bus: says that a call is about to be performed, before it is."""

from __future__ import annotations

import logging
from datetime import datetime
from typing import TYPE_CHECKING, assert_never

import msgspec

from schemas.events import ToolStarted
from schemas.ids import digest
from schemas.live import HolderAsked, HolderSaid
from schemas.subjects import holder as holder_subject
from schemas.wire import Malformed, decode, encode
from services.runtime.errors import Conflict, Unavailable, Unheard
from services.runtime.ports import Bus, Log, Outgoing
from services.runtime.telemetry.traces import trace_headers
from services.tool_executor.core.ledger import Ask, Begin, Heard, Says, Unknown, Wait, decide
from services.tool_executor.core.policy import OnUncertain

if TYPE_CHECKING:
    from services.runtime.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

ANSWER_S = 0.5
"""How long a holder may take to answer."""


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a call's entry and its result are."""

    log: Log
    entry: str
    result: str


class Begun(msgspec.Struct, frozen=True):
    """The ledger says that we perform the call."""

    entry: ToolStarted
    revision: int


class Answered(msgspec.Struct, frozen=True):
    """The call has its result by now."""


class Ledger:
    """Writes and judges the entries of calls that must not be performed twice."""

    def __init__(self, bus: Bus, replica: str, lease_s: float, metrics: Metrics) -> None:
        self._clock = bus.clock
        self._signals = bus.signals
        self._replica = replica
        self._lease_s = lease_s
        self._metrics = metrics
        self._unused: dict[str, ToolStarted] = {}
        """Our own entries that no call has followed: by them nothing was started."""
        self.holder = digest(replica, self._clock.now().isoformat())
        """This process, and no other of the same name, before or after it."""

    async def judge(self, place: Place, on_uncertain: OnUncertain, *, look_first: bool) -> Begin | Unknown | Answered:
        """Whether a call may be performed (again).

        Waits for whoever is at it, which may be for as long as the call takes. Raises `Unavailable`.
        """
        if not look_first:
            return Begin(1, 0)
        hearing = _Hearing(self._clock.now())
        while True:
            found, revision = await self._read(place)
            if found is not None and found == self._unused.get(place.entry):
                return Begin(found.attempt, revision)
            hearing.seen(revision, self._clock.now())
            heard: Heard | None = None
            while isinstance(
                decision := decide(
                    found,
                    revision,
                    now=self._clock.now(),
                    unchanged_for_s=hearing.unchanged_for_s(self._clock.now()),
                    on_uncertain=on_uncertain,
                    heard=heard,
                ),
                Ask,
            ):
                assert found is not None
                heard = hearing.heard(found.replica, await self._says(found, place), self._clock.now())
                if await place.log.get(place.result, at_least=revision) is not None:
                    return Answered()
            match decision:
                case Wait():
                    await self._clock.sleep(decision.for_s)
                case Begin() | Unknown():
                    self._took_over(place.entry, found, decision, on_uncertain)
                    return decision
                case _:
                    assert_never(decision)

    async def begin(self, place: Place, begin: Begin) -> Begun | None:
        """Write the entry of a call that is about to be made; None if somebody else was faster."""
        entry = ToolStarted(
            attempt=begin.attempt,
            replica=self._replica,
            at=self._clock.now(),
            lease_s=self._lease_s,
            holder=self.holder,
        )
        self._unused[place.entry] = entry
        try:
            revision = await place.log.write(
                Outgoing(place.entry, encode(entry), trace_headers()), expected=begin.expected
            )
        except Conflict:
            del self._unused[place.entry]
            return None
        return Begun(entry, revision)

    async def again(self, place: Place, begun: Begun) -> Begun | None:
        """The entry of the next attempt of a call that is ours; None if it is not ours any more."""
        return await self.begin(place, Begin(begun.entry.attempt + 1, begun.revision))

    async def may_have_run(self, place: Place) -> bool:
        """Whether somebody began the call, so that nobody may say that it was not made."""
        entry, _ = await self._read(place)
        return entry is not None and entry != self._unused.get(place.entry)

    def used(self, entry: str) -> None:
        """The call is being made: from now on, the entry counts."""
        self._unused.pop(entry, None)

    def not_used(self, entry: str, begun: Begun) -> None:
        """The call did not reach its tool: the entry does not count."""
        self._unused[entry] = begun.entry

    def give_up(self, entry: str, attempt: int) -> bool:
        """Leave an entry of ours that was not used to somebody else; False if there is none.

        From here on it counts for us, too: whoever writes the next one has the call.
        """
        ours = self._unused.get(entry)
        if ours is None or ours.attempt != attempt:
            return False
        del self._unused[entry]
        return True

    async def _says(self, entry: ToolStarted, place: Place) -> Says:
        """What the process that wrote an entry says of its call."""
        if entry.holder == self.holder:
            return "ended"  # this process handles a call once at a time, and now it is here
        question = HolderAsked(ledger=place.entry, result=place.result, attempt=entry.attempt)
        try:
            answer = await self._signals.request(
                holder_subject(entry.holder), encode(question), trace_headers(), timeout_s=ANSWER_S
            )
            says: Says = decode(answer.data, HolderSaid).holds
        except Unheard:
            says = "gone"
        except (Unavailable, Malformed):
            says = "silent"
        return says

    async def _read(self, place: Place) -> tuple[ToolStarted | None, int]:
        entry = await place.log.get(place.entry)
        return (None, 0) if entry is None else (decode(entry.data, ToolStarted), entry.seq)

    def _took_over(
        self, subject: str, found: ToolStarted | None, decision: Begin | Unknown, on_uncertain: OnUncertain
    ) -> None:
        if found is None or (isinstance(decision, Begin) and decision.attempt == found.attempt):
            return
        word = "retried"
        if isinstance(decision, Unknown):
            word = "asked" if on_uncertain == "ask" else "unknown"
        self._metrics.takeovers.labels(word).inc()
        logger.warning("a started call was taken over: %s", word, extra={"action": "tool.takeover", "subject": subject})


class _Hearing:
    """Since when an entry is at its revision, and its holder says what it says."""

    def __init__(self, now: datetime) -> None:
        self._revision = -1
        self._seen_at = now
        self._says: Says | None = None
        self._said_at = now

    def seen(self, revision: int, now: datetime) -> None:
        """The entry is at this revision."""
        if revision != self._revision:
            self._revision, self._seen_at, self._says = revision, now, None

    def unchanged_for_s(self, now: datetime) -> float:
        """For how long it has been."""
        return (now - self._seen_at).total_seconds()

    def heard(self, replica: str, says: Says, now: datetime) -> Heard:
        """The holder says this; for how long it has said nothing else."""
        if says != self._says:
            self._says, self._said_at = says, now
            logger.info(
                "%s, which began the call, is %s", replica, says, extra={"action": "tool.holder", "outcome": says}
            )
        return Heard(says, (now - self._said_at).total_seconds())
