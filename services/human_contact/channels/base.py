"""The port of a channel, and what may go wrong with one."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import msgspec

from schemas.interactions import AnswerInteraction, InteractionAnswered, InteractionRequested


class ChannelFailed(Exception):
    """A channel did not take what it was given. The text says why, without secrets."""

    def __init__(self, text: str, *, transient: bool, after_s: float = 0.0, said: str = "") -> None:
        super().__init__(text)
        self.said = said
        """The channel's own word for it, if it has one."""
        self.transient = transient
        """Whether the same may work later."""
        self.after_s = after_s
        """How long it asked to wait."""


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """A question on its way to people."""

    asked: InteractionRequested
    step: int
    """Which channel of its chain this is, from 0."""
    partition: int
    thread: str = ""
    """The place of an earlier question, or answer, of the same thread of tasks here, to be kept together with."""
    thread_id: str = ""
    """The caller's own name for the thread, which may be one of this channel's."""
    again: bool = False
    """An attempt to deliver it was made before, and it may have arrived."""


class Channel(Protocol):
    """A way to reach people. Every call may be made twice."""

    async def deliver(self, question: Question) -> str:
        """Show a question; where the channel keeps it. Raises `ChannelFailed`."""
        ...

    async def remind(self, question: Question, place: str) -> None:
        """Say it again. Raises `ChannelFailed`."""
        ...

    async def close(self, question: Question, place: str, answered: InteractionAnswered) -> None:
        """Show that it was answered, or that nobody waits any more. Raises `ChannelFailed`."""
        ...

    async def check(self) -> str:
        """See whether the channel can be used, telling nobody anything: a word on it. Raises `ChannelFailed`."""
        ...

    async def end(self) -> None:
        """Let go of connections."""
        ...


@runtime_checkable
class Pollable(Protocol):
    """A channel that keeps answers until they are asked for."""

    async def poll(self, question: Question, place: str) -> AnswerInteraction | None:
        """The answer to a question, if there is one. Raises `ChannelFailed`."""
        ...
