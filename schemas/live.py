"""What is published for watchers while it happens, and kept nowhere.

A watcher may join late: every delta has its offset in the text and the call it belongs to, whoever makes the call says
the text so far, and the whole text is in the event that follows. `streamed_text` puts the pieces together.

Offsets count characters: Unicode code points, whatever a language's own strings count (in JavaScript: `[...text]`).
"""

from __future__ import annotations

from typing import Literal

from schemas.wire import Instant, Wire


class TextDelta(Wire, frozen=True, kw_only=True, tag="live.delta.v1"):
    """A piece of a model's text."""

    turn: int
    attempt: int
    offset: int
    """Characters of this call's text before this piece."""
    text: str
    begun: Instant | None = None
    """When this call began. The same attempt is made again when its replica is lost; then the text starts again, and
    the later one counts."""


class TextAsked(Wire, frozen=True, kw_only=True, tag="live.text-asked.v1"):
    """A watcher asks whoever makes the task's model call for the text so far, from an offset on."""

    turn: int = 0
    """0: whichever turn is under way."""
    attempt: int = 0
    offset: int = 0
    begun: Instant | None = None
    """The call that the offset is about. Whoever makes a later one says its text from the beginning, and whoever makes
    an earlier one says nothing."""


class TextSoFar(Wire, frozen=True, kw_only=True, tag="live.text.v1"):
    """The answer: the text of a call under way from `offset` on, or as much of it as fits into a message."""

    turn: int
    attempt: int
    offset: int
    text: str
    begun: Instant | None = None
    length: int = 0
    """Characters that were published by now: if this answer ends before, ask again from where it ends."""


class ToolProgress(Wire, frozen=True, kw_only=True, tag="live.progress.v1"):
    """How far a tool call is, in its server's words."""

    request: str
    n: int
    tool: str
    progress: float | None = None
    total: float | None = None
    message: str = ""


class TaskChanged(Wire, frozen=True, kw_only=True, tag="live.task.v1"):
    """A committed transition of a task. Derived from the state that was written, never ahead of it."""

    phase: str
    status: str
    status_detail: str
    reason: str
    """The event's name in the predecessor's words: `LLMFinalAnswer`, `ToolCallsPending`, ..."""
    revision: int
    at: Instant


class HolderAsked(Wire, frozen=True, kw_only=True, tag="live.holder-asked.v1"):
    """A replica asks the one that began a tool call, by its ledger entry, whether it is still at it."""

    ledger: str
    """The subject of the entry."""
    result: str
    """The subject of the call's result."""
    attempt: int = 1


class HolderSaid(Wire, frozen=True, kw_only=True, tag="live.holder.v1"):
    """The answer. `unused`: the entry was written, the call was not made, and whoever answers gives the entry up."""

    holds: Literal["running", "unused", "ended"]


LiveEvent = TextDelta | ToolProgress | TaskChanged
