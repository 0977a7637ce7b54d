"""Dead letters: what could not be processed, with its reason, ready to be sent again."""

from __future__ import annotations

from typing import Literal

from schemas.wire import Instant, Wire

DeadReason = Literal["invalid_request", "malformed", "broken", "deliveries_exhausted", "terminated", "undelivered"]
"""`undelivered`: a notification whose receiver did not take it."""


class FailedAttempt(Wire, frozen=True, kw_only=True, tag="dlq.attempt.v1"):
    """One failed delivery of a message."""

    delivery: int
    at: Instant
    replica: str
    error: str
    traceback: str = ""


class DeadLetter(Wire, frozen=True, kw_only=True, tag="dlq.letter.v1"):
    """A message that could not be processed."""

    stream: str
    seq: int
    consumer: str
    subject: str
    reason: DeadReason
    error: str
    at: Instant
    deliveries: int
    headers: dict[str, str]
    payload: str
    """The message's bytes as text; base 64 if they are not UTF-8."""
    payload_is_base64: bool = False
    attempts: tuple[FailedAttempt, ...] = ()
    """What is known of each delivery; a replica that was killed could not say anything."""
