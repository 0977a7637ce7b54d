"""Telling what happens to a task, and asking the person at the terminal what people are asked: one thing at a time.

While somebody is asked, everything else waits, but for the end of the very question: whoever answers it elsewhere ends
the prompt. A question that is left to others stays open and is not asked again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from services.cli.exits import Stop
from services.cli.follow import Happening
from services.cli.prompts import answered_by
from services.cli.question_words import commands_of, name_of
from services.cli.questions import QuestionAsked, QuestionClosed
from services.cli.text import safe
from services.runtime.tasks import spawn

if TYPE_CHECKING:
    from schemas.interactions import InteractionRequested
    from services.cli.client import Client
    from services.cli.narrator import Narrator
    from services.cli.prompts import Person

SENT_S = 10.0
"""How long an answer of ours that was sent may take to be taken, when the question turns out to be answered."""


class Asking:
    """Asks the person at this terminal, and hands their answers in."""

    def __init__(self, client: Client, person: Person, by: str) -> None:
        self._client = client
        self._person = person
        self._by = by
        self.is_over = False
        """The question needs no answer any more."""
        self.is_sending = False

    def may_answer(self, asked: InteractionRequested) -> bool:
        """Whether this person is one of those who are asked."""
        return not asked.allowed or self._by in asked.allowed

    def say(self, text: str) -> None:
        """Tell the person something."""
        self._person.say(text)

    async def ask(self, asked: InteractionRequested) -> None:
        """Ask until there is an answer that is accepted, or the person leaves the question to others."""
        self.is_over = False
        while not self.is_over:
            self._person.forget()
            request = await answered_by(self._person, asked, self._by)
            if request is None:
                self.say(f"{name_of(asked)} stays open; `{commands_of(asked)[0]}` answers it later")
                return
            self.is_sending = True
            try:
                accepted = await self._client.answer(asked.namespace, request)
            except Stop as refusal:
                self.say(safe(f"That was not accepted: {refusal}"))
                continue
            finally:
                self.is_sending = False
            if accepted.note:
                self.say(safe(accepted.note))
            return


class Watching:
    """Takes what happens, in order."""

    def __init__(self, teller: Narrator, asking: Asking | None = None) -> None:
        self._teller = teller
        self._asking = asking
        self._held: deque[Happening] = deque()
        self._prompt: asyncio.Task[None] | None = None
        self._asked: InteractionRequested | None = None

    @property
    def asked(self) -> InteractionRequested | None:
        """What the person is being asked at this moment."""
        return self._asked

    async def take(self, happening: Happening) -> None:
        """Tell it, now or once the person has answered."""
        if self._prompt is None:
            self._tell(happening)
        elif isinstance(happening, QuestionClosed) and _same(happening.asked, self._asked):
            self._held.appendleft(happening)
            await self._end_prompt()
            self._release()
        else:
            self._held.append(happening)

    async def close(self) -> None:
        """Ask no more, and tell what waited."""
        if self._prompt is not None:
            self._prompt.cancel()
            await asyncio.wait({self._prompt})
        self._asking = None
        self._release()
        self._teller.close()

    def _tell(self, happening: Happening) -> None:
        self._teller.tell(happening)
        asking = self._asking
        if asking is None or not isinstance(happening, QuestionAsked) or not asking.may_answer(happening.asked):
            return
        if any(isinstance(one, QuestionClosed) and _same(one.asked, happening.asked) for one in self._held):
            return  # answered while something else was asked
        self._asked = happening.asked
        self._teller.close()
        self._prompt = spawn(self._ask(asking, happening.asked), name=f"prompt:{happening.asked.interaction}")

    async def _ask(self, asking: Asking, asked: InteractionRequested) -> None:
        try:
            await asking.ask(asked)
        finally:
            self._prompt = self._asked = None
        self._release()

    def _release(self) -> None:
        while self._held and self._prompt is None:
            self._tell(self._held.popleft())

    async def _end_prompt(self) -> None:
        """The question is over. An answer that is on its way is let arrive: it may be what ended it."""
        prompt, asking = self._prompt, self._asking
        assert prompt is not None
        assert asking is not None
        asking.is_over = True
        if asking.is_sending:
            await asyncio.wait({prompt}, timeout=SENT_S)
        if not prompt.done():
            prompt.cancel()
            await asyncio.wait({prompt})
            asking.say("(no answer is needed any more)")


def _same(one: InteractionRequested, other: InteractionRequested | None) -> bool:
    return other is not None and (one.task, one.interaction) == (other.task, other.interaction)
