"""Timers as scheduled messages of the server, in a stream of their own.

A timer set again replaces the one before; one whose time has passed, also while the server was down, fires at once.
A fired timer leaves the stream when it is acknowledged.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from schemas.subjects import TIMERS_STREAM
from services.runtime.nats import api
from services.runtime.nats.connection import Connection
from services.runtime.nats.payloads import Payloads
from services.runtime.nats.publish import store

SCHEDULE = "Nats-Schedule"
TARGET = "Nats-Schedule-Target"


class NatsTimers:
    """Wake-ups by the server."""

    def __init__(self, connection: Connection, payloads: Payloads) -> None:
        self._connection = connection
        self._payloads = payloads

    async def set(self, subject: str, fires_on: str, at: datetime, data: bytes, headers: Mapping[str, str]) -> None:
        """Set the timer of `subject`, replacing the one before; `data` arrives on `fires_on`."""
        schedule = {SCHEDULE: f"@at {_rfc3339(at)}", TARGET: fires_on, **headers}
        # Setting it twice is setting it once, so an unknown outcome is simply tried again.
        await store(self._connection, await self._payloads.outgoing(subject, data, schedule))

    async def cancel(self, filter_: str) -> None:
        """Cancel the timers whose subject matches a filter."""
        await api.ask(self._connection, f"STREAM.PURGE.{TIMERS_STREAM}", {"filter": filter_})
        await self._payloads.purge(filter_)


def _rfc3339(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
