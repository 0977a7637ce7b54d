"""Asks people what a tool's server wants to know while its call runs: on the bus, each question recorded once.

    record the question  ->  wake those who bring it to people, if there is a channel to bring it by
                         ->  wait for the answer on the log (a signal only says: look now)  ->  hand it to the server

A question that nobody answers in time is answered with `cancel`, and so are the open ones when the call has ended. A
call that is made again, because its replica was lost, asks the same again: then the question that is open counts, and
an answer that was given is not asked for twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from schemas.interactions import (
    InteractionAction,
    InteractionAnswered,
    InteractionRequested,
    interaction_id,
    parse_interaction_id,
    same_question,
)
from schemas.task import AwaitingTools, decode_state
from schemas.wire import decode, encode
from services.runtime.errors import Unavailable
from services.runtime.json_schema import Unusable, problems
from services.runtime.ports import Outgoing
from services.runtime.telemetry.traces import trace_headers
from services.tool_executor.people import Through, wake

if TYPE_CHECKING:
    from schemas.commands import RunTool
    from schemas.interactions import AnsweredVia
    from schemas.subjects import TaskSubjects
    from services.runtime.ports import Bus, Log, Signal, Unsubscribe

logger = logging.getLogger(__name__)

POLL_S = 1.0
"""How long a lost signal can go unnoticed."""
QUESTIONS_MAX = 16
"""Of one call."""


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What a server wants to know."""

    server: str
    message: str
    schema: dict[str, Any] | None = None
    url: str = ""
    timeout_s: float


class Answer(msgspec.Struct, frozen=True):
    """What it is told."""

    action: InteractionAction
    content: dict[str, Any] | None = None


NO_ANSWER = Answer("cancel")


asking: ContextVar[Asker | None] = ContextVar("holdfast_asking", default=None)
"""Asks for the call that is being made, if somebody may be asked."""


class Asker:
    """Asks for one call."""

    def __init__(self, bus: Bus, subjects: TaskSubjects, run: RunTool) -> None:
        self.through: Through | None = Through()
        """Whom it asks; None: they are not there."""
        self.may_be_doubted = False
        """Whether people may be asked about the call itself, by another replica too that takes this one for lost."""
        self._bus = bus
        self._log = bus.log(subjects.partition)
        self._signals = bus.signals
        self._clock = bus.clock
        self._subjects = subjects
        self._run = run
        self._asked = 0
        self._open: set[int] = set()
        """Questions that have no answer yet."""
        self._ended = False
        self._look = asyncio.Event()
        self._deaf: Unsubscribe | None = None

    @property
    def task(self) -> str:
        """The task that it asks for."""
        return self._subjects.state

    @asynccontextmanager
    async def asking(self) -> AsyncGenerator[None]:
        """The call is made inside."""
        token = asking.set(self)
        try:
            yield
        finally:
            asking.reset(token)
            if self._deaf is not None:
                with contextlib.suppress(Unavailable):
                    await self._deaf()

    def start(self) -> None:
        """The call is made, perhaps again: what it asks may have been asked before."""
        self._asked = 0
        self._ended = False

    async def ask(self, question: Question) -> Answer:
        """Have a person answer; `NO_ANSWER` if nobody does. Raises `Unavailable` if the bus takes no question."""
        if self.through is None:
            logger.warning("a call asks people by a channel that is not there", extra={"action": "interaction.refused"})
            return NO_ANSWER
        asked = await self._record(question, self.through)
        if asked is None:
            logger.warning("a call asked more than %d questions", QUESTIONS_MAX, extra={"action": "interaction.many"})
            return NO_ANSWER
        k = parse_interaction_id(asked.interaction).k
        self._open.add(k)
        if self._deaf is None:
            self._deaf = await self._signals.subscribe(self._subjects.live, self._on_live)
        answered = await self._wait(asked, k)
        self._open.discard(k)
        return _answer(asked, answered)

    async def end(self, *, look: bool) -> None:
        """The call has ended: its server needs no answer any more. With `look`, nor to another replica's question."""
        self._ended = True
        self._look.set()
        try:
            unanswered = await self._unanswered() if look else self._open
            for k in sorted(unanswered):
                await self._close(k, "withdrawn")
        except Unavailable as error:
            logger.warning("questions were not withdrawn: %s", error, extra={"action": "interaction.late"})

    async def _record(self, question: Question, through: Through) -> InteractionRequested | None:
        """Ask; or find that it was asked before. None if too much was asked."""
        run, now, title = self._run, self._clock.now(), await self._title() if through.channel else ""
        while self._asked < QUESTIONS_MAX:
            self._asked += 1
            k = self._asked
            asked = InteractionRequested(
                namespace=run.namespace,
                task=run.task,
                interaction=interaction_id(run.request, run.n, k),
                message=question.message,
                schema=question.schema,
                url=question.url,
                agent=run.agent,
                tool=run.tool,
                server=question.server,
                at=now,
                expires=now + timedelta(seconds=question.timeout_s),
                channel=through.channel,
                allowed=through.allowed,
                title=title,
            )
            data = encode(asked)
            place = self._subjects.interaction_asked(run.request, run.n, k)
            if await self._log.record(Outgoing(place, data, trace_headers())) is not None:
                logger.info("somebody is asked: %s", asked.interaction, extra={"action": "interaction.asked"})
                await self._signals.publish(self._subjects.live, data)
                return asked
            entry = await self._log.get(place)
            before = decode(entry.data, InteractionRequested) if entry is not None else None
            if before is not None and same_question(before, asked) and await self._still_counts(before, k):
                return before
        return None

    async def _still_counts(self, asked: InteractionRequested, k: int) -> bool:
        answered = await self._answered(k)
        return asked.expires > self._clock.now() if answered is None else answered.via not in ("expired", "withdrawn")

    async def _title(self) -> str:
        entry = await self._log.get(self._subjects.state)
        state = decode_state(entry.data) if entry is not None else None
        return state.preview if isinstance(state, AwaitingTools) else ""

    async def _wait(self, asked: InteractionRequested, k: int) -> InteractionAnswered:
        woken = False
        while True:
            self._look.clear()
            with contextlib.suppress(Unavailable):
                if (answered := await self._answered(k)) is not None:
                    return answered
                if not woken:
                    await wake(self._bus, self._subjects, asked)
                    woken = True
            left_s = (asked.expires - self._clock.now()).total_seconds()
            if self._ended or left_s <= 0:
                return await self._close(k, "withdrawn" if self._ended else "expired")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(POLL_S, left_s)):
                    await self._look.wait()

    async def _close(self, k: int, via: AnsweredVia) -> InteractionAnswered:
        """Answer in nobody's name, unless somebody was quicker."""
        run = self._run
        answered = InteractionAnswered(
            namespace=run.namespace,
            task=run.task,
            interaction=interaction_id(run.request, run.n, k),
            action="cancel",
            at=self._clock.now(),
            via=via,
        )
        data = encode(answered)
        place = self._subjects.interaction_answered(run.request, run.n, k)
        if await self._log.record(Outgoing(place, data, trace_headers())) is None:
            return await self._answered(k) or answered
        logger.info("%s %s", answered.interaction, via, extra={"action": "interaction.closed"})
        await self._signals.publish(self._subjects.live, data)
        return answered

    async def _answered(self, k: int) -> InteractionAnswered | None:
        entry = await self._log.get(self._subjects.interaction_answered(self._run.request, self._run.n, k))
        return decode(entry.data, InteractionAnswered) if entry is not None else None

    async def _unanswered(self) -> set[int]:
        found = await open_questions(self._log, self._subjects, self._run.request, self._run.n)
        return {parse_interaction_id(asked.interaction).k for asked in found if asked.kind == "elicitation"}

    async def _on_live(self, _: Signal) -> None:
        self._look.set()


async def open_questions(log: Log, subjects: TaskSubjects, request: str, n: int) -> list[InteractionRequested]:
    """What is asked in the middle of a call and not answered. Raises `Unavailable`."""
    entries = await log.last([subjects.interactions(request, n)])
    places = {entry.subject: entry.data for entry in entries}
    return [
        decode(places[asked], InteractionRequested)
        for k in range(1, QUESTIONS_MAX + 1)
        if (asked := subjects.interaction_asked(request, n, k)) in places
        and subjects.interaction_answered(request, n, k) not in places
    ]


def _answer(asked: InteractionRequested, answered: InteractionAnswered) -> Answer:
    """What the server is told; nothing that it did not ask for, whoever wrote the answer."""
    if answered.action != "accept" or asked.schema is None:
        return Answer(answered.action)
    content = answered.content or {}
    with contextlib.suppress(Unusable):
        if wrong := problems(asked.schema, content):
            logger.warning("an answer does not fit: %s", wrong[0], extra={"action": "interaction.unfit"})
            return NO_ANSWER
    return Answer("accept", content)
