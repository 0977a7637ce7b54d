"""Where questions to people are kept in hand: asked, reminded, passed on, answered, withdrawn.

    record the question once -> decide what to do now -> do it -> record that it was done -> set the next wake-up

What was done is recorded after it was done: a replica that dies in between may have shown a question that another one
shows again. It is the same question, with the same id, and is answered once.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, assert_never

import msgspec

from schemas.commands import AskPerson
from schemas.contact_channels import allowed_of
from schemas.events import ApprovalGranted, ModelAnswered
from schemas.interactions import (
    InteractionAnswered,
    InteractionRequested,
    InteractionStep,
    PeopleDue,
    parse_interaction_id,
)
from schemas.subjects import TaskSubjects, people_timer_name, spec_key
from schemas.task import AwaitingTools, decode_state
from schemas.wire import decode, encode
from services.human_contact.channels.base import ChannelFailed, Question
from services.human_contact.channels.registry import ChannelKey, Channels
from services.human_contact.core.moves import (
    Deliver,
    Fail,
    GiveUp,
    Move,
    Poll,
    Remind,
    Wait,
    next_move,
    span,
    try_again_at,
)
from services.human_contact.core.outcomes import given_up, grant_of, outcome_of, result, undelivered
from services.human_contact.core.questions import Unaskable, question_of
from services.human_contact.core.words import line
from services.human_contact.door import FrontDoor
from services.human_contact.poller import LOOKS_PER_S, Poller
from services.runtime.conversations import conversation, state_of
from services.runtime.errors import Broken, Conflict, RetryLater, Unavailable
from services.runtime.ports import Log, Outgoing
from services.runtime.telemetry.traces import trace_headers

if TYPE_CHECKING:
    from services.runtime.ports import Bus

logger = logging.getLogger(__name__)

MOVES_MAX = 32
"""Things done about one question at once."""
UNSEEN_MAX = 4
UNSEEN_S = 0.1
"""How often a wake-up is handed back whose question is not seen; in all, that is some 3 seconds."""
CHANNEL_AFTER_S = 2.0
"""When a channel is looked for again that is not declared."""
AFTER_DEAD_S = 900.0
"""When a question is looked at again whose wake-up could not be handled."""
REFUSED_LENGTH_MAX = 1_000
CLOSE_TRIES = 6
"""How often channels are told that a question is over, before they are left with it; in all, some 15 seconds."""


class Place(msgspec.Struct, frozen=True):
    """A question's place on the bus."""

    task: TaskSubjects
    request: str
    n: int
    k: int = 0

    @property
    def asked(self) -> str:
        """Where it is recorded."""
        return self.task.interaction_asked(self.request, self.n, self.k)

    @property
    def answered(self) -> str:
        """Where its answer is."""
        return self.task.interaction_answered(self.request, self.n, self.k)

    @property
    def timer(self) -> str:
        """The name of its wake-up."""
        return people_timer_name(self.request, self.n, self.k)


class Desk:
    """Keeps questions in hand."""

    def __init__(self, bus: Bus, channels: Channels, *, looks_per_s: float = LOOKS_PER_S) -> None:
        self._bus = bus
        self._channels = channels
        self._poller = Poller(FrontDoor(bus), channels, bus.clock, looks_per_s=looks_per_s)

    async def ask(self, place: Place, command: AskPerson, seq: int) -> None:
        """Ask people about a call, unless that was done or nobody waits for it."""
        log = self._bus.log(place.task.partition)
        asked = await self._asked(log, place, at_least=seq)
        if asked is None:
            asked = await self._ask(log, place, command, seq)
        if asked is not None:
            await self.go_on(place, asked)

    async def go_on(
        self,
        place: Place,
        asked: InteractionRequested,
        due: datetime | None = None,
        look_at: datetime | None = None,
    ) -> None:
        """Do what is to be done about a question now, and see to it that it is looked at again.

        It is `due` at least, whatever the clock of this machine says: the server never wakes anybody early. `look_at`:
        its place in the line of a channel that has to be asked for its answer.
        """
        log = self._bus.log(place.task.partition)
        polled = due is None
        for _ in range(MOVES_MAX):
            if await log.get(place.answered) is not None:
                return
            steps = await self._steps(log, place)
            now = self._bus.clock.now() if due is None else max(self._bus.clock.now(), due)
            move = self._next_move(asked, steps, now, polled=polled, look_at=look_at)
            match move:
                case Deliver():
                    if (again := await self._deliver(log, place, asked, move)) is not None:
                        await self._wake(place, asked, again, look_at)
                        return
                case Remind():
                    await self._remind(log, place, asked, move)
                case Poll(steps=waiting):
                    questions = [self._question(place, asked, step) for step in waiting]
                    look_at = await self._poller.poll(questions, waiting, look_at)
                    polled = look_at is None
                case GiveUp():
                    answered = given_up(asked, move.outcome, move.waited_s, now, anybody=move.asked)
                    await log.record(Outgoing(place.answered, encode(answered), trace_headers()))
                    return
                case Fail(reason=reason):
                    await self._end(log, place, asked, reason)
                    return
                case Wait(until=until):
                    await self._wake(place, asked, until, look_at)
                    return
                case _:
                    assert_never(move)
        raise Broken(f"question {asked.interaction} of {asked.namespace}/{asked.task} goes round in circles")

    def _next_move(
        self,
        asked: InteractionRequested,
        steps: Sequence[InteractionStep],
        now: datetime,
        *,
        polled: bool,
        look_at: datetime | None,
    ) -> Move:
        def key(name: str) -> ChannelKey:
            return ChannelKey(asked.namespace, name)

        return next_move(
            asked,
            steps,
            lambda name: self._channels.spec(key(name)),
            now,
            is_polled=lambda name: self._channels.is_polled(key(name)),
            polled=polled,
            look_at=look_at,
        )

    async def withdraw(self, place: Place, reason: str, seq: int = 0) -> None:
        """Nobody waits for an answer any more; said at `seq`."""
        log = self._bus.log(place.task.partition)
        asked = await self._asked(log, place, at_least=seq)
        if asked is None:
            return
        answered = InteractionAnswered(
            namespace=asked.namespace,
            task=asked.task,
            interaction=asked.interaction,
            action="cancel",
            at=self._bus.clock.now(),
            via="withdrawn",
            comment=reason,
        )
        await log.record(Outgoing(place.answered, encode(answered), trace_headers()))

    async def answered(
        self, place: Place, answered: InteractionAnswered, seq: int, delivered: int
    ) -> InteractionRequested | None:
        """A question has its answer: the call goes on, or has its result; and the channels show that it is over."""
        log = self._bus.log(place.task.partition)
        asked = await self._asked(log, place, at_least=seq)
        if asked is None or not asked.channel:
            return asked
        outcome = outcome_of(asked, answered)
        match outcome:
            case ApprovalGranted():
                subject = place.task.approval_event(place.request, place.n)
                if await log.get(subject, at_least=seq) is None:
                    # Not again: it may have been revoked since.
                    await self._grant(asked, outcome)
                await log.record(Outgoing(subject, encode(outcome), trace_headers()))
            case None:
                pass
            case _:
                subject = place.task.tool_event(place.request, place.n)
                await log.record(Outgoing(subject, encode(outcome), trace_headers()))
        await self._bus.timers.cancel(place.task.people_timer(place.timer))
        steps = await self._steps(log, place, at_least=seq)
        told = [step for step in steps if step.delivered or not step.refused]
        later = [step.channel for step in told if not await self._close(place, asked, step, answered)]
        if later and delivered < CLOSE_TRIES:
            raise RetryLater(f"{', '.join(later)} was not told that {answered.interaction} is over", after_s=delivered)
        return asked

    async def wake(self, place: Place, due: datetime, delivered: int, look_at: datetime | None = None) -> None:
        """A wake-up: look what is to be done. A question that is not seen yet is waited for a little."""
        asked = await self._asked(self._bus.log(place.task.partition), place)
        if asked is not None:
            await self.go_on(place, asked, due, look_at)
        elif delivered <= UNSEEN_MAX:
            raise RetryLater(f"question {place.asked} is not seen yet", after_s=UNSEEN_S * 2**delivered)

    async def wake_later(self, place: Place) -> None:
        """A wake-up is a dead letter: there is another, so that the question ends."""
        asked = await self._asked(self._bus.log(place.task.partition), place)
        if asked is not None:
            await self._wake(place, asked, self._bus.clock.now() + span(AFTER_DEAD_S))

    # --- asking ---

    async def _asked(self, log: Log, place: Place, *, at_least: int = 0) -> InteractionRequested | None:
        entry = await log.get(place.asked, at_least=at_least)
        return decode(entry.data, InteractionRequested) if entry is not None else None

    async def _ask(self, log: Log, place: Place, command: AskPerson, seq: int) -> InteractionRequested | None:
        """Record what people are asked; None if the call needs nothing any more."""
        entry = await log.get(place.task.state, at_least=seq)
        state = decode_state(entry.data) if entry is not None else None
        if not isinstance(state, AwaitingTools) or state.request != command.request:
            return None
        if await log.get(place.task.tool_event(place.request, place.n)) is not None:
            return None
        channel = self._channels.spec(ChannelKey(command.namespace, command.channel))
        if channel is None:
            raise RetryLater(f"ContactChannel {command.channel!r} not found", after_s=CHANNEL_AFTER_S)
        (recorded,) = await log.read([command.answer_seq])
        answer = decode(recorded.data, ModelAnswered).message
        at = self._bus.clock.now()
        try:
            asked = question_of(command, answer, channel=channel, title=state.preview, deadline=state.deadline, at=at)
        except Unaskable as why:
            await self._fail(log, place, command, f"Nobody was asked: {why}", at)
            return None
        recorded_at = await log.record(Outgoing(place.asked, encode(asked), trace_headers()))
        if recorded_at is None:
            raise RetryLater(f"question {place.asked} was just asked by another replica", after_s=0.2)
        logger.info(
            "people are asked about %s via %s", command.tool, command.channel, extra={"action": "interaction.asked"}
        )
        await self._tell(place, asked)
        return asked

    async def fail(self, place: Place, command: AskPerson, text: str) -> None:
        """Give a call its result that people cannot be asked about."""
        log = self._bus.log(place.task.partition)
        await self._fail(log, place, command, text, self._bus.clock.now())
        await self.withdraw(place, "people could not be asked")

    async def _fail(self, log: Log, place: Place, command: AskPerson, text: str, at: datetime) -> None:
        asked = InteractionRequested(
            namespace=command.namespace,
            task=command.task,
            interaction=f"{command.request}.{command.n}.0",
            message="",
            agent=command.agent,
            tool=command.tool,
            tool_call_id=command.tool_call_id,
            at=at,
            expires=at,
        )
        finished = result(asked, "failed", text, at)
        await log.record(Outgoing(place.task.tool_event(place.request, place.n), encode(finished), trace_headers()))

    async def _tell(self, place: Place, asked: InteractionRequested) -> None:
        try:
            await self._bus.signals.publish(place.task.live, encode(asked))
        except Unavailable as error:
            logger.debug("watchers were not told: %s", error)

    # --- channels ---

    async def _deliver(self, log: Log, place: Place, asked: InteractionRequested, move: Deliver) -> datetime | None:
        """Give a question to a channel; when to try again, if the channel was not reached."""
        key = ChannelKey(asked.namespace, move.channel)
        subject = place.task.interaction_step(place.request, place.n, place.k, move.step)
        spec = self._channels.spec(key)
        allowed = asked.allowed if move.step == 0 or spec is None else allowed_of(spec)
        step = InteractionStep(
            interaction=asked.interaction,
            step=move.step,
            channel=move.channel,
            at=self._bus.clock.now(),
            allowed=allowed,
        )
        seq = await log.record(Outgoing(subject, encode(step), trace_headers()))
        again = seq is None
        if seq is None:
            entry = await log.get(subject)
            step = decode(entry.data, InteractionStep) if entry is not None else step
            if entry is None or step.delivered or step.refused:
                raise RetryLater(f"question {place.asked} was just delivered by another replica", after_s=0.2)
            seq = entry.seq
            if step.allowed != allowed:
                step = msgspec.structs.replace(step, allowed=allowed)
                seq = await self._rewrite(log, place, subject, step, seq)
        question = self._question(place, asked, step, again=again)
        question = await self._in_conversation(log, question, place.task, move.channel)
        try:
            where = await self._channels.get(key).deliver(question)
        except ChannelFailed as failed:
            self._log_failed(asked, move.channel, "was not asked", failed)
            if failed.transient:
                return try_again_at(asked, step, spec, self._bus.clock.now(), failed.after_s)
            done = msgspec.structs.replace(step, refused=_reason(failed))
        else:
            now = self._bus.clock.now()
            until = now + span(spec.timeout_s) if spec is not None and spec.timeout_s is not None else None
            done = msgspec.structs.replace(step, delivered=True, at=now, until=until, place=where)
        await self._rewrite(log, place, subject, done, seq)
        return None

    async def _rewrite(self, log: Log, place: Place, subject: str, step: InteractionStep, seq: int) -> int:
        try:
            return await log.write(Outgoing(subject, encode(step), trace_headers()), expected=seq)
        except Conflict as error:
            raise RetryLater(f"question {place.asked} was just delivered by another replica") from error

    async def _remind(self, log: Log, place: Place, asked: InteractionRequested, move: Remind) -> None:
        """Say it again; each reminder once at most, so one that a channel cannot take just now is left out."""
        step = move.step
        subject = place.task.interaction_step(place.request, place.n, place.k, step.step)
        entry = await log.get(subject)
        if entry is None or decode(entry.data, InteractionStep) != step:
            raise RetryLater(f"question {asked.interaction} was just seen to by another replica", after_s=0.2)
        reminded = msgspec.structs.replace(step, reminded=move.n)
        try:
            seq = await log.write(Outgoing(subject, encode(reminded), trace_headers()), expected=entry.seq)
            try:
                channel = self._channels.get(ChannelKey(asked.namespace, step.channel))
                await channel.remind(self._question(place, asked, step), step.place)
            except ChannelFailed as failed:
                self._log_failed(asked, step.channel, "was not reminded", failed)
                if not failed.transient:
                    done = msgspec.structs.replace(reminded, refused=_reason(failed))
                    await log.write(Outgoing(subject, encode(done), trace_headers()), expected=seq)
        except Conflict as error:
            raise RetryLater(f"question {asked.interaction} was just seen to by another replica") from error

    async def _close(
        self, place: Place, asked: InteractionRequested, step: InteractionStep, answered: InteractionAnswered
    ) -> bool:
        """Whether there is nothing more to try."""
        try:
            channel = self._channels.get(ChannelKey(asked.namespace, step.channel))
            await channel.close(self._question(place, asked, step), step.place, answered)
        except ChannelFailed as failed:
            logger.warning(
                "%s does not show that %s is over: %s",
                step.channel,
                asked.interaction,
                failed,
                extra={"action": "interaction.close"},
            )
            return not failed.transient
        return True

    async def _end(self, log: Log, place: Place, asked: InteractionRequested, reason: str) -> None:
        """No channel takes a question: its call has failed, or whoever carries it out goes on without an answer."""
        if asked.kind in ("elicitation", "uncertain"):
            answered = undelivered(asked, reason, self._bus.clock.now())
            await log.record(Outgoing(place.answered, encode(answered), trace_headers()))
            return
        what = "approval" if asked.kind == "approval" else "human input"
        finished = result(asked, "failed", f"failed to request {what}: {reason}", self._bus.clock.now())
        await log.record(Outgoing(place.task.tool_event(place.request, place.n), encode(finished), trace_headers()))
        await self.withdraw(place, "it could not be delivered")

    def _log_failed(self, asked: InteractionRequested, channel: str, what: str, failed: ChannelFailed) -> None:
        extra = {"action": "interaction.channel", "task": asked.task}
        logger.warning("%s %s about %s: %s", channel, what, asked.interaction, failed, extra=extra)

    async def _grant(self, asked: InteractionRequested, granted: ApprovalGranted) -> None:
        """Keep an approval for good, before the call goes on."""
        grant = grant_of(asked, granted)
        if grant is None:
            return
        key = spec_key("Grant", grant.metadata.namespace, grant.metadata.name)
        try:
            await self._bus.resources.put(key, encode(grant), expected=0)
        except Conflict:
            logger.debug("%s was there", key)

    async def _steps(self, log: Log, place: Place, *, at_least: int = 0) -> list[InteractionStep]:
        filter_ = place.task.interaction_step(place.request, place.n, place.k, -1).removesuffix("-1") + "*"
        steps = [decode(entry.data, InteractionStep) for entry in await log.last([filter_], at_least=at_least)]
        return sorted(steps, key=lambda step: step.step)

    async def _in_conversation(self, log: Log, question: Question, task: TaskSubjects, channel: str) -> Question:
        """A question with where its task's people are followed in a channel: later ones are kept with it."""
        state = await state_of(log, task)
        told = ("ContactChannel", channel)
        thread = await conversation(log, task, lambda one: (one.receiver, one.name) == told, channel)
        return msgspec.structs.replace(question, thread=thread, thread_id=state.thread_id if state is not None else "")

    def _question(
        self, place: Place, asked: InteractionRequested, step: InteractionStep, *, again: bool = False
    ) -> Question:
        """A question as a channel shows it: with who may answer there."""
        if step.step:
            asked = msgspec.structs.replace(asked, allowed=step.allowed)
        return Question(asked=asked, step=step.step, partition=place.task.partition, again=again)

    async def _wake(
        self, place: Place, asked: InteractionRequested, at: datetime, look_at: datetime | None = None
    ) -> None:
        due = PeopleDue(interaction=asked.interaction, due=at, look_at=look_at)
        headers: Mapping[str, str] = trace_headers()
        task = place.task
        await self._bus.timers.set(
            task.people_timer(place.timer), task.people_timer_fired(place.timer), at, encode(due), headers
        )


def _reason(failed: ChannelFailed) -> str:
    return line(str(failed), REFUSED_LENGTH_MAX) or "it gives no reason"


def place_of(task: TaskSubjects, interaction: str) -> Place:
    """The place of a question by its id; raises `ValueError`."""
    which = parse_interaction_id(interaction)
    return Place(task, which.request, which.n, which.k)
