"""Dead letters: written before a message is given up, with every failed attempt that is known."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from schemas import subjects
from schemas.dead_letters import DeadLetter, DeadReason, FailedAttempt
from schemas.wire import Malformed, decode, encode
from services.runtime.ports import Outgoing

if TYPE_CHECKING:
    from services.runtime.consumer import Inbound
    from services.runtime.ports import Clock, Log, Queue


class DeadLetters:
    """Writes letters and failed attempts to their stream."""

    def __init__(self, log: Log, clock: Clock) -> None:
        self._log = log
        self._clock = clock

    async def note(self, stream: str, seq: int, subject: str, attempt: FailedAttempt) -> None:
        """Record what went wrong at one delivery of the message on a subject."""
        place = subjects.failed_attempt(stream, seq, attempt.delivery)
        await self._log.record(Outgoing(place, encode(attempt), _owner(subject)))

    async def bury(self, queue: Queue, inbound: Inbound, reason: DeadReason, error: str) -> None:
        """Record the letter of a message; once, however often it is called."""
        attempts = await self._attempts(queue.stream, inbound.seq)
        try:
            payload, is_base64 = inbound.data.decode(), False
        except UnicodeDecodeError:
            payload, is_base64 = base64.b64encode(inbound.data).decode(), True
        letter = DeadLetter(
            stream=queue.stream,
            seq=inbound.seq,
            consumer=queue.name,
            subject=inbound.subject,
            reason=reason,
            error=error,
            at=self._clock.now(),
            deliveries=inbound.delivered,
            headers=dict(inbound.headers),
            payload=payload,
            payload_is_base64=is_base64,
            attempts=attempts,
        )
        await self._log.record(
            Outgoing(subjects.dead_letter(queue.stream, inbound.seq), encode(letter), _owner(inbound.subject))
        )

    async def _attempts(self, stream: str, seq: int) -> tuple[FailedAttempt, ...]:
        found: list[FailedAttempt] = []
        for entry in await self._log.last([f"{subjects.PREFIX}.dlq.attempt.{stream}.{seq}.*"]):
            try:
                found.append(decode(entry.data, FailedAttempt))
            except Malformed:
                continue
        return tuple(sorted(found, key=lambda attempt: attempt.delivery))


def _owner(subject: str) -> dict[str, str]:
    """The header that says whose a letter is, where it is anybody's."""
    namespace = subjects.namespace_of(subject)
    return {subjects.NAMESPACE: namespace} if namespace else {}
