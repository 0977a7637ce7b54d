"""The console: nothing is sent. Questions are on the bus, and `holdfast inbox` shows them."""

from __future__ import annotations

from schemas.interactions import InteractionAnswered
from services.human_contact.channels.base import Question


class ConsoleChannel:
    """The `Channel` of type `console`."""

    async def deliver(self, question: Question) -> str:
        """It is on the bus already; its place is its id."""
        return question.asked.interaction

    async def remind(self, question: Question, place: str) -> None:
        """Nobody to remind."""

    async def close(self, question: Question, place: str, answered: InteractionAnswered) -> None:
        """The bus knows."""

    async def check(self) -> str:
        """Always there."""
        return "console channel validated successfully"

    async def end(self) -> None:
        """Nothing to let go of."""
