"""Answers to interactions: checked against what was asked, recorded once, and said to whoever waits for them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, assert_never

import msgspec

from schemas.ids import digest
from schemas.interactions import (
    BY_LENGTH_MAX,
    COMMENT_LENGTH_MAX,
    CONTENT_BYTES_MAX,
    AnswerInteraction,
    InteractionAnswered,
    InteractionId,
    InteractionRequested,
    InteractionStep,
    parse_interaction_id,
)
from schemas.requests import Accepted, InvalidRequest, Rejected, Reply
from schemas.task import Cancelled, Failed, FinalAnswer, decode_state
from schemas.wire import decode, encode
from services.runtime.errors import RetryLater, Unavailable
from services.runtime.ports import Outgoing
from services.runtime.telemetry.traces import traced_like

if TYPE_CHECKING:
    from schemas.events import ToolFinished
    from schemas.subjects import TaskSubjects
    from services.runtime.ports import Bus, Log

logger = logging.getLogger(__name__)


class Interactions:
    """Takes answers."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def answer(self, task: TaskSubjects, request: AnswerInteraction) -> Reply:
        """Record an answer; the same again is accepted again. Raises `InvalidRequest`."""
        try:
            which = parse_interaction_id(request.interaction)
        except ValueError as error:
            raise InvalidRequest(str(error)) from error
        log = self._bus.log(task.partition)
        asked = await self._asked(log, task, which)
        if asked is None:
            what = f"task {task.task!r} in namespace {task.namespace!r} has no interaction {request.interaction}"
            return Rejected(code="not_found", error=what)
        answered = InteractionAnswered(
            namespace=task.namespace,
            task=task.task,
            interaction=asked.interaction,
            action=request.action,
            content=request.content,
            at=self._bus.clock.now(),
            by=request.by[:BY_LENGTH_MAX],
            via=request.via,
            scope=request.scope,
            arguments=request.arguments,
            comment=request.comment[:COMMENT_LENGTH_MAX],
        )
        if (before := await self._before(log, task, which)) is not None:
            if before.action == "accept" and await self._is_counted(log, task, which, answered):
                return Accepted(namespace=task.namespace, task=task.task, created=False)
            return _again(before, answered)
        if why := await self._too_late(log, task, asked):
            return Rejected(code="conflict", error=f"interaction {asked.interaction} cannot be answered: {why}")
        asked = msgspec.structs.replace(asked, allowed=await self._allowed(log, task, asked, request.channel))
        if refusal := refused(asked, request):
            return refusal
        if asked.quorum > 1 and answered.action == "accept":
            counted = await self._vote(log, task, which, answered, asked.quorum)
            if isinstance(counted, str):
                return Accepted(namespace=task.namespace, task=task.task, created=False, note=counted)
            answered = counted
        return await self._record(log, task, which, answered)

    async def withdraw(self, task: TaskSubjects, result: ToolFinished, seq: int) -> None:
        """Nobody waits any more for answers to what was asked in the middle of a call, whose result is at `seq`.

        Whoever asks after that sees the result, and takes the question back.
        """
        log = self._bus.log(task.partition)
        entries = await log.last([task.interactions(result.request, result.n)], at_least=seq)
        places = {entry.subject for entry in entries}
        for entry in entries:
            place, _, what = entry.subject.rpartition(".")
            if what != "asked" or place.endswith(".0") or f"{place}.answered" in places:
                continue
            asked = decode(entry.data, InteractionRequested)
            answered = InteractionAnswered(
                namespace=task.namespace,
                task=task.task,
                interaction=asked.interaction,
                action="cancel",
                at=self._bus.clock.now(),
                via="withdrawn",
                comment=result.content[:COMMENT_LENGTH_MAX],
            )
            await self._record(log, task, parse_interaction_id(asked.interaction), answered)

    async def _allowed(
        self, log: Log, task: TaskSubjects, asked: InteractionRequested, channel: str
    ) -> tuple[str, ...]:
        """Who may answer by a channel; on the bus, where anybody says who they are, by any that has the question."""
        if not asked.channel or channel == asked.channel:
            return asked.allowed
        which = parse_interaction_id(asked.interaction)
        entries = await log.last([task.interaction_step(*which, -1).removesuffix("-1") + "*"])
        steps = [decode(entry.data, InteractionStep) for entry in entries]
        if channel:
            return next((step.allowed for step in steps if step.channel == channel), asked.allowed)
        if not asked.allowed or any(step.delivered and not step.allowed for step in steps):
            return ()
        return tuple(dict.fromkeys([*asked.allowed, *(name for step in steps for name in step.allowed)]))

    async def _vote(
        self, log: Log, task: TaskSubjects, which: InteractionId, answered: InteractionAnswered, quorum: int
    ) -> InteractionAnswered | str:
        """Count one of several who have to accept: the answer once they are enough, else how many there are."""
        seq = await log.record(Outgoing(_place_of_vote(task, which, answered), encode(answered)))
        recorded = await log.last([task.interaction_vote(*which, "*")], at_least=seq or 0)
        votes = [decode(entry.data, InteractionAnswered) for entry in recorded]
        if len(votes) < quorum:
            return f"{len(votes)} of {quorum} have accepted"
        last = max(votes, key=lambda vote: vote.at)
        scope = last.scope if len({vote.scope for vote in votes}) == 1 else "once"
        by = ", ".join(sorted(vote.by for vote in votes))[:BY_LENGTH_MAX]
        return msgspec.structs.replace(last, scope=scope, by=by)

    async def _is_counted(
        self, log: Log, task: TaskSubjects, which: InteractionId, answered: InteractionAnswered
    ) -> bool:
        """Whether this was said before, by one of several who were enough."""
        entry = await log.get(_place_of_vote(task, which, answered))
        if entry is None:
            return False
        vote = decode(entry.data, InteractionAnswered)
        return msgspec.structs.replace(answered, at=vote.at) == vote

    async def _asked(self, log: Log, task: TaskSubjects, which: InteractionId) -> InteractionRequested | None:
        place = task.interaction_asked(*which)
        entry = await log.get(place)
        if entry is not None:
            return decode(entry.data, InteractionRequested)
        if await log.subjects(place):
            raise RetryLater(f"interaction {which} of {task.namespace}/{task.task} is not seen yet", after_s=0.2)
        return None

    async def _before(self, log: Log, task: TaskSubjects, which: InteractionId) -> InteractionAnswered | None:
        entry = await log.get(task.interaction_answered(*which))
        return decode(entry.data, InteractionAnswered) if entry is not None else None

    async def _too_late(self, log: Log, task: TaskSubjects, asked: InteractionRequested) -> str:
        if asked.expires <= self._bus.clock.now():
            return f"it expired at {asked.expires.isoformat(timespec='seconds')}"
        entry = await log.get(task.state)
        if entry is not None and isinstance(decode_state(entry.data), FinalAnswer | Failed | Cancelled):
            return f"task {task.task!r} has ended"
        which = parse_interaction_id(asked.interaction)
        if await log.get(task.tool_event(which.request, which.n)) is not None:
            return "the call that it is about has its result"
        return ""

    async def _record(self, log: Log, task: TaskSubjects, which: InteractionId, answered: InteractionAnswered) -> Reply:
        data = encode(answered)
        traced = traced_like(await log.get(task.interaction_asked(*which)))
        if await log.record(Outgoing(task.interaction_answered(*which), data, traced)) is None:
            before = await self._before(log, task, which)
            if before is None:
                raise RetryLater(f"the answer to {which} of {task.namespace}/{task.task} is not seen yet", after_s=0.2)
            return _again(before, answered)
        extra = {"action": "interaction.answered", "task": task.task}
        logger.info("%s answered: %s", answered.interaction, answered.action, extra=extra)
        try:
            await self._bus.signals.publish(task.live, data)
        except Unavailable as error:
            logger.debug("whoever waits will look by themselves: %s", error)
        return Accepted(namespace=task.namespace, task=task.task)


def _place_of_vote(task: TaskSubjects, which: InteractionId, answered: InteractionAnswered) -> str:
    return task.interaction_vote(*which, digest("who", _name(answered.by))[:16])


def refused(asked: InteractionRequested, request: AnswerInteraction) -> Rejected | None:
    """Why a request does not answer what was asked, or None."""
    if asked.allowed and _name(request.by) not in map(_name, asked.allowed):
        who = f"{request.by!r} may not" if request.by else "somebody who says no name may not"
        return Rejected(
            code="forbidden", error=f"{who} answer {asked.interaction}: it is for {', '.join(asked.allowed)}"
        )
    if asked.quorum > 1 and not request.by:
        return Rejected(code="invalid", error=f"{asked.quorum} people have to accept: `by` says who you are")
    if asked.quorum > 1 and request.arguments:
        return Rejected(code="invalid", error=f"{asked.quorum} people have to accept: what was shown, and nothing else")
    if request.digest and request.digest != asked.digest:
        return Rejected(code="conflict", error=f"something else was shown than {asked.interaction} asks: look again")
    wrong = unfit(asked, request)
    return Rejected(code="invalid", error=wrong) if wrong else None


def _name(text: str) -> str:
    return text.strip().casefold()


def unfit(asked: InteractionRequested, request: AnswerInteraction) -> str:
    """What keeps a request from answering what was asked, in a sentence; or nothing."""
    match asked.kind:
        case "approval":
            return _unfit_approval(request)
        case "question":
            return _unfit_answer(asked, request)
        case "elicitation":
            return _unfit_form(asked, request)
        case "uncertain":
            return _unfit_decision(request)
        case _:
            assert_never(asked.kind)


def _unfit_approval(request: AnswerInteraction) -> str:
    if request.action == "cancel":
        return "an approval is accepted or declined"
    if request.content is not None:
        return "content is for questions; an approval has a comment, or other arguments"
    if not request.arguments:
        return ""
    if request.action != "accept":
        return "other arguments go with an approval only"
    if len(request.arguments) > CONTENT_BYTES_MAX:
        return f"arguments has more than {CONTENT_BYTES_MAX} characters"
    try:
        value: Any = msgspec.json.decode(request.arguments)
    except (msgspec.DecodeError, RecursionError) as error:
        return f"arguments is not valid JSON: {error}"
    return "" if isinstance(value, dict) else "arguments must be a JSON object"


def _unfit_decision(request: AnswerInteraction) -> str:
    if request.action == "cancel":
        return "a call whose outcome nobody knows is made again (accept) or left as it is (decline)"
    if request.content is not None or request.arguments or request.scope != "once":
        return "the call is made again as it was, this once: nothing goes with the answer but a comment"
    return ""


def _unfit_answer(asked: InteractionRequested, request: AnswerInteraction) -> str:
    if request.action != "accept":
        return ""
    answer = (request.content or {}).get("answer")
    if not isinstance(answer, str) or not answer.strip() or set(request.content or {}) != {"answer"}:
        return 'content is required: {"answer": "..."}'
    if len(answer) > CONTENT_BYTES_MAX:
        return f"the answer has more than {CONTENT_BYTES_MAX} characters"
    if asked.choices and answer not in asked.choices:
        return f"the answer must be one of: {', '.join(asked.choices)}"
    return ""


def _unfit_form(asked: InteractionRequested, request: AnswerInteraction) -> str:
    if request.action != "accept" or asked.schema is None:
        return "" if request.content is None else f"content goes with an accepted form only, and this is {_kind(asked)}"
    if request.content is None:
        return "content is required: an object that fits the schema of the interaction"
    if len(msgspec.json.encode(request.content)) > CONTENT_BYTES_MAX:
        return f"content has more than {CONTENT_BYTES_MAX} bytes"
    from services.runtime.json_schema import Unusable, problems  # noqa: PLC0415 - some megabytes, and few answers

    try:
        wrong = problems(asked.schema, request.content)
    except Unusable:
        return ""  # whoever asked is the last judge
    return "content does not fit the schema of the interaction:\n" + "\n".join(wrong) if wrong else ""


def _kind(asked: InteractionRequested) -> str:
    return "a form that is not accepted" if asked.schema is not None else "a visit to a web page"


def _again(before: InteractionAnswered, now: InteractionAnswered) -> Reply:
    if msgspec.structs.replace(now, at=before.at) == before:
        return Accepted(namespace=now.namespace, task=now.task, created=False)
    when = before.at.isoformat(timespec="seconds")
    match before.via:
        case "expired":
            how = f"nobody had answered it by {when}"
        case "withdrawn":
            how = f"it was withdrawn at {when}, because the call that asked has ended"
        case _:
            who = f" by {before.by}" if before.by else ""
            how = f"it was answered at {when}{who}: {before.action}"
    return Rejected(code="conflict", error=f"interaction {now.interaction} cannot be answered: {how}")
