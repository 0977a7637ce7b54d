"""Answers that channels keep until they are asked for: looked for at wake-ups, and handed in at the front door."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import msgspec

from schemas.interactions import InteractionStep
from schemas.requests import Rejected
from services.human_contact.channels.base import ChannelFailed, Pollable, Question
from services.human_contact.channels.registry import ChannelKey
from services.runtime.errors import Unavailable

if TYPE_CHECKING:
    from schemas.interactions import AnswerInteraction
    from services.human_contact.channels.registry import Channels
    from services.human_contact.door import FrontDoor
    from services.runtime.ports import Clock

logger = logging.getLogger(__name__)

LOOKS_PER_S = 20.0
"""Looks at one channel, by default: the API behind it is somebody else's, and may be asked for thousands of answers."""
BURST_S = 1.0
"""As many looks as come together in this time are taken at once."""
LATE_S = 30.0
"""How late a look may come for its place in the line to count: those of a service that was away come all at once."""
LINES_MAX = 1000
"""Channels that are remembered; those that nobody waits for are forgotten first."""
POLLS_MAX = 32
"""Looks at one channel at once; what is more waits for its next wake-up, so that other channels' are not held up."""
QUIET_S = 10.0
"""How long a channel in trouble is not asked."""


NEVER = datetime.min.replace(tzinfo=UTC)


class _Line(msgspec.Struct):
    """What is known here of one channel."""

    looking: int = 0
    quiet_until: datetime = NEVER
    free_at: datetime = NEVER
    """The first place in the line that is free."""


class Poller:
    """Asks channels for answers. Whatever goes wrong decides nothing: they are asked again."""

    def __init__(self, door: FrontDoor, channels: Channels, clock: Clock, *, looks_per_s: float = LOOKS_PER_S) -> None:
        self._door = door
        self._channels = channels
        self._clock = clock
        self._every = timedelta(seconds=1 / max(looks_per_s, 0.01))
        self._lines: dict[ChannelKey, _Line] = {}

    async def poll(
        self, questions: Sequence[Question], steps: Sequence[InteractionStep], look_at: datetime | None = None
    ) -> datetime | None:
        """Ask the channels of a question's steps, and hand in what the first has.

        A channel that was asked often enough just now is asked later: at the time that is returned, which comes back as
        `look_at` then. Places in the line are given one after the other, so whoever was due first is looked at first.
        """
        placed = look_at is not None and self._clock.now() - look_at <= timedelta(seconds=LATE_S)
        later: datetime | None = None
        for question, step in zip(questions, steps, strict=True):
            key = ChannelKey(question.asked.namespace, step.channel)
            line = self._line(key)
            if line.looking >= POLLS_MAX or self._clock.now() < line.quiet_until:
                continue
            if not placed and (place := self._place(line)) is not None:
                later = min(later or place, place)
                continue
            line.looking += 1
            try:
                answer = await self._look(line, key, question, step)
            finally:
                line.looking -= 1
            if answer is not None and await self._hand_in(question, answer, step.channel):
                return None
        return later

    def _place(self, line: _Line) -> datetime | None:
        """Take the next place in a channel's line: when it is, or None for now."""
        now = self._clock.now()
        place = max(line.free_at, now - timedelta(seconds=BURST_S))
        line.free_at = place + self._every
        return place if place > now else None

    def _line(self, key: ChannelKey) -> _Line:
        if key not in self._lines and len(self._lines) >= LINES_MAX:
            now = self._clock.now()
            for one in [one for one, line in self._lines.items() if not line.looking and line.free_at < now]:
                del self._lines[one]
        return self._lines.setdefault(key, _Line())

    async def _look(
        self, line: _Line, key: ChannelKey, question: Question, step: InteractionStep
    ) -> AnswerInteraction | None:
        try:
            channel = self._channels.get(key)
            return await channel.poll(question, step.place) if isinstance(channel, Pollable) else None
        except ChannelFailed as failed:
            if failed.transient:
                line.quiet_until = self._clock.now() + timedelta(seconds=max(QUIET_S, failed.after_s))
            self._log("%s was not asked about %s: %s", step.channel, question, failed)
            return None

    async def _hand_in(self, question: Question, answer: AnswerInteraction, channel: str) -> bool:
        """Whether the answer was taken."""
        try:
            reply = await self._door.answer(question.asked.namespace, answer, channel)
        except Unavailable as error:
            self._log("the answer of %s to %s was not handed in: %s", answer.by or "somebody", question, error)
            return False
        if isinstance(reply, Rejected):
            self._log("the answer of %s to %s was not taken: %s", answer.by or "somebody", question, reply.error)
            return False
        return True

    def _log(self, text: str, who: str, question: Question, why: object) -> None:
        asked = question.asked
        extra = {"action": "interaction.poll", "task": asked.task}
        logger.warning(text, who, asked.interaction, why, extra=extra)
