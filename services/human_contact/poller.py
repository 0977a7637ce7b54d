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

POLLS_MAX = 32
"""Looks at one channel at once; what is more waits for its next wake-up, so that other channels' are not held up."""
QUIET_S = 10.0
"""How long a channel in trouble is not asked."""


class _Line(msgspec.Struct):
    """What is known here of one channel."""

    looking: int = 0
    quiet_until: datetime = datetime.min.replace(tzinfo=UTC)


class Poller:
    """Asks channels for answers. Whatever goes wrong decides nothing: they are asked again."""

    def __init__(self, door: FrontDoor, channels: Channels, clock: Clock) -> None:
        self._door = door
        self._channels = channels
        self._clock = clock
        self._lines: dict[ChannelKey, _Line] = {}

    async def poll(self, questions: Sequence[Question], steps: Sequence[InteractionStep]) -> None:
        """Ask the channels of a question's steps, and hand in what the first has."""
        for question, step in zip(questions, steps, strict=True):
            key = ChannelKey(question.asked.namespace, step.channel)
            line = self._lines.setdefault(key, _Line())
            if line.looking >= POLLS_MAX or self._clock.now() < line.quiet_until:
                continue
            line.looking += 1
            try:
                answer = await self._look(line, key, question, step)
            finally:
                line.looking -= 1
            if answer is not None and await self._hand_in(question, answer):
                return

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

    async def _hand_in(self, question: Question, answer: AnswerInteraction) -> bool:
        """Whether the answer was taken."""
        try:
            reply = await self._door.answer(question.asked.namespace, answer)
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
