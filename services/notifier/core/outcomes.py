"""What may come of one attempt, and what an HTTP answer means."""

from __future__ import annotations

import msgspec

EXCERPT_LENGTH = 200
RETRIED = (408, 425, 429)
"""Statuses below 500 that mean: later."""


class Taken(msgspec.Struct, frozen=True):
    """The receiver has it."""

    status: int | None = None
    thread: str = ""


class NotTaken(msgspec.Struct, frozen=True, kw_only=True):
    """It has it not, or nobody can say."""

    error: str
    again: bool
    """Whether another attempt may help."""
    status: int | None = None
    retry_after_s: float | None = None
    is_down: bool = False
    """The receiver is in trouble, whatever it is told."""


class Unwanted(msgspec.Struct, frozen=True):
    """Nobody wants it any more."""

    why: str


Outcome = Taken | NotTaken | Unwanted


def of_status(what: str, status: int, *, said: str = "", retry_after_s: float | None = None) -> Taken | NotTaken:
    """What an HTTP answer means. `what`: whose it is, for people."""
    if 200 <= status < 300:
        return Taken(status=status)
    words = " ".join(said.split())[:EXCERPT_LENGTH]
    return NotTaken(
        error=f"HTTP error from {what} (status {status})" + (f": {words}" if words else ""),
        again=status in RETRIED or status >= 500,
        status=status,
        retry_after_s=retry_after_s,
        is_down=status >= 500 or status == 408,
    )


def no_answer(why: str) -> NotTaken:
    """No whole answer came: it may have been taken, or not."""
    return NotTaken(error=f"failed to send HTTP request: {why}", again=True, is_down=True)
