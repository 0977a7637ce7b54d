"""What a way to tell somebody is asked for."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, Protocol

import msgspec

from services.notifier.core.outcomes import Outcome
from services.notifier.core.words import Told

SinkKind = Literal["responseURL", "contactChannel", "webhook", "slack", "email"]


class Letter(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be told, and as what."""

    id: str
    told: Told
    at: datetime
    """Now."""
    again: bool
    """An attempt was made before, and it may have arrived."""
    thread: str = ""
    """The conversation that earlier messages about the same thread of tasks are in, in the receiver's words."""
    thread_id: str = ""
    """The caller's own name for the thread, which may be one of the receiver's."""


class Sink(Protocol):
    """One receiver. Building it has resolved its secrets."""

    @property
    def kind(self) -> SinkKind:
        """For metrics."""
        ...

    @property
    def endpoint(self) -> str:
        """Which receiver it is, for limits and circuits; no secret is in it."""
        ...

    async def send(self, letter: Letter) -> Outcome:
        """Tell it. Raises nothing that it could foresee: what goes wrong is an outcome."""
        ...
