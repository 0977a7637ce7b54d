"""Timers as scheduled messages of the server, in streams of their own.

A timer set again replaces the one before; one whose time has passed, also while the server was down, fires at once.
A fired timer leaves the stream when it is acknowledged. A timer is a wake-up: what it carries is small.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from schemas.subjects import timer_stream
from services.runtime.nats import api
from services.runtime.nats.connection import Connection
from services.runtime.nats.publish import Command, store

SCHEDULE = "Nats-Schedule"
TARGET = "Nats-Schedule-Target"


class NatsTimers:
    """Wake-ups by the server."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def set(self, subject: str, fires_on: str, at: datetime, data: bytes, headers: Mapping[str, str]) -> None:
        """Set the timer of `subject`, replacing the one before; `data` arrives on `fires_on`.

        Raises `Refused` for data that is larger than the server takes in one message.
        """
        schedule = {SCHEDULE: f"@at {_rfc3339(at)}", TARGET: fires_on, **headers}
        # Setting it twice is setting it once, so an unknown outcome is simply tried again.
        await store(self._connection, Command(subject, data, schedule))

    async def cancel(self, filter_: str) -> None:
        """Cancel the timers whose subject matches a filter."""
        await api.ask(self._connection, f"STREAM.PURGE.{timer_stream(filter_)}", {"filter": filter_})


def _rfc3339(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
