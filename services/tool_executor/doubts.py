"""Has people say what becomes of a call that was begun and whose outcome nobody knows.

    record the question  ->  wake those who bring it to people  ->  leave the call: its command is done with
    ...
    the answer is recorded  ->  the command is carried out again  ->  the ledger is as it was, and the question is
                                found: the call is made as the next attempt, or has its result

So nothing is held while people think, and whoever comes to the call, by its command or by the answer, decides by what
is recorded. A question belongs to one entry of the ledger: a call that is lost again is asked about again.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple, assert_never

from schemas.interactions import InteractionAnswered, InteractionRequested, parse_interaction_id
from schemas.task import AwaitingTools, decode_state
from schemas.wire import decode, encode
from services.runtime.errors import RetryLater, Unavailable
from services.runtime.ports import Outgoing
from services.runtime.telemetry.traces import trace_headers
from services.tool_executor.asking import QUESTIONS_MAX, Asker, open_questions
from services.tool_executor.calls import NotNow, Outcome
from services.tool_executor.core.doubts import MAYBE, Doubt, Leave, MakeAgain, is_about, question_about, verdict_of
from services.tool_executor.core.ledger import Begin
from services.tool_executor.people import wake

if TYPE_CHECKING:
    from schemas.commands import RunTool
    from schemas.messages import ToolCall
    from schemas.subjects import TaskSubjects
    from services.runtime.ports import Bus
    from services.tool_executor.ledger import Begun

logger = logging.getLogger(__name__)

SEEN_AFTER_S = 0.2


class Made(NamedTuple):
    """A call as it is made."""

    call: ToolCall
    """With the arguments that were approved, if people approved it."""
    server: str
    seen: int
    """Nothing older decides than what is at this place of the stream."""


class Found(NamedTuple):
    """A question about a call, and its answer if it has one."""

    asked: InteractionRequested
    answered: InteractionAnswered | None


class Doubts:
    """Asks about one call."""

    def __init__(self, bus: Bus, subjects: TaskSubjects, run: RunTool, asker: Asker, made: Made) -> None:
        self._bus = bus
        self._log = bus.log(subjects.partition)
        self._subjects = subjects
        self._run = run
        self._asker = asker
        self._made = made

    async def settle(self, begun: Begun, why: str) -> Begin | Outcome | None:
        """What becomes of the call that was begun; None if people have to say, or nobody waits for it any more.

        Raises `NotNow` if nobody can be asked now.
        """
        run, entry = self._run, begun.entry
        doubt = Doubt(
            namespace=run.namespace,
            task=run.task,
            agent=run.agent,
            request=run.request,
            n=run.n,
            call=self._made.call,
            server=self._made.server,
            entry=entry,
            why=why,
        )
        found = await self._find(doubt)
        if isinstance(found, int):
            return await self._ask(doubt, found)
        if found.answered is None:
            await wake(self._bus, self._subjects, found.asked)
            return None
        verdict = verdict_of(doubt, found.asked, found.answered)
        match verdict:
            case MakeAgain():
                logger.info("%s makes it again", found.answered.by or "somebody", extra={"action": "tool.again"})
                return Begin(entry.attempt + 1, begun.revision)
            case Leave(text):
                return Outcome("unknown", text, entry.attempt)
            case _:
                assert_never(verdict)

    async def _find(self, doubt: Doubt) -> Found | int:
        """The question about that time that the call was begun, or the number of the next question."""
        of, run = self._subjects, self._run
        entries = await self._log.last([of.interactions(run.request, run.n)], at_least=self._made.seen)
        places = {entry.subject: entry.data for entry in entries}
        free = 1
        for k in range(1, QUESTIONS_MAX + 1):
            data = places.get(of.interaction_asked(run.request, run.n, k))
            if data is None:
                continue
            free = k + 1
            asked = decode(data, InteractionRequested)
            if is_about(asked, doubt.entry):
                said = places.get(of.interaction_answered(run.request, run.n, k))
                return Found(asked, decode(said, InteractionAnswered) if said is not None else None)
        return free

    async def _ask(self, doubt: Doubt, k: int) -> Outcome | None:
        """Have people asked, unless nobody waits for the call any more; an outcome if they were asked too much."""
        run, through = self._run, self._asker.through
        if k > QUESTIONS_MAX:
            return Outcome("unknown", f"{doubt.why} {MAYBE}", doubt.entry.attempt)
        if through is None:
            raise NotNow("the contact channel by which people are asked about this call is not there")
        entry = await self._log.get(self._subjects.state, at_least=self._made.seen)
        state = decode_state(entry.data) if entry is not None else None
        if not isinstance(state, AwaitingTools) or state.request != run.request:
            return None
        await self._asker.end(look=True)
        asked = question_about(
            doubt,
            k=k,
            channel=through.channel,
            allowed=through.allowed,
            quorum=through.quorum,
            title=state.preview,
            deadline=state.deadline,
            at=self._bus.clock.now(),
        )
        place = self._subjects.interaction_asked(run.request, run.n, k)
        seq = await self._log.record(Outgoing(place, encode(asked), trace_headers()))
        if seq is None:
            raise RetryLater(f"question {place} was just asked by another replica", after_s=SEEN_AFTER_S)
        by = through.channel or "the inbox"
        logger.warning("people are asked about %s by %s", run.tool, by, extra={"action": "interaction.asked"})
        await tell(self._bus, self._subjects, encode(asked))
        if await self._log.get(self._subjects.tool_event(run.request, run.n), at_least=seq) is not None:
            await withdraw(self._bus, self._subjects, run.request, run.n)
        else:
            await wake(self._bus, self._subjects, asked)
        return None


async def withdraw(bus: Bus, subjects: TaskSubjects, request: str, n: int) -> None:
    """A call has its result: nobody needs to be asked about it any more. Raises `Unavailable`."""
    log = bus.log(subjects.partition)
    for asked in await open_questions(log, subjects, request, n):
        answered = InteractionAnswered(
            namespace=asked.namespace,
            task=asked.task,
            interaction=asked.interaction,
            action="cancel",
            at=bus.clock.now(),
            via="withdrawn",
        )
        place = subjects.interaction_answered(*parse_interaction_id(asked.interaction))
        if await log.record(Outgoing(place, encode(answered), trace_headers())) is not None:
            await tell(bus, subjects, encode(answered))


async def tell(bus: Bus, subjects: TaskSubjects, data: bytes) -> None:
    """Tell those who watch the task, if they can be told."""
    try:
        await bus.signals.publish(subjects.live, data)
    except Unavailable as error:
        logger.debug("watchers were not told: %s", error)
