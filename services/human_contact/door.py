"""The front door of answers, as those use it who take them in: the planner decides; what is asked is on the bus."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from schemas.ids import check_token, partition_of
from schemas.interactions import (
    AnswerInteraction,
    InteractionAnswered,
    InteractionRequested,
    InteractionStep,
    parse_interaction_id,
)
from schemas.requests import Accepted, Reply
from schemas.subjects import TaskSubjects, ask
from schemas.wire import decode, decoder_of
from services.runtime.telemetry.traces import trace_headers

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.runtime.ports import Bus

ANSWER_S = 5.0

_decode_reply: Callable[[bytes], Reply] = decoder_of(Reply)


class Found(NamedTuple):
    """A question as it is on the bus."""

    asked: InteractionRequested
    answered: InteractionAnswered | None
    channels: tuple[str, ...]
    """The channels that it was given to."""


class OpenQuestion(NamedTuple):
    """A question that nobody has answered."""

    asked: InteractionRequested
    place: str
    """Where the channel keeps it."""


class FrontDoor:
    """Looks questions up, and hands answers in."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def answer(self, namespace: str, request: AnswerInteraction, *, timeout_s: float = ANSWER_S) -> Reply:
        """Hand an answer in; what the planner says to it. Raises `Unavailable`."""
        data = msgspec.json.encode(request)
        answer = await self._bus.signals.request(ask(namespace, "answer"), data, trace_headers(), timeout_s=timeout_s)
        return _decode_reply(answer.data)

    async def find(self, namespace: str, task: str, interaction: str) -> Found | None:
        """A question by its id, or None."""
        try:
            place = self._task(namespace, task)
            which = parse_interaction_id(interaction)
        except ValueError:
            return None
        log = self._bus.log(place.partition)
        entry = await log.get(place.interaction_asked(*which))
        if entry is None:
            return None
        answered = await log.get(place.interaction_answered(*which))
        steps = await log.last([place.interaction_step(*which, -1).removesuffix("-1") + "*"])
        return Found(
            decode(entry.data, InteractionRequested),
            decode(answered.data, InteractionAnswered) if answered is not None else None,
            tuple(decode(step.data, InteractionStep).channel for step in steps),
        )

    async def open_questions(self, namespace: str, task: str, channel: str) -> list[OpenQuestion]:
        """What a task asks of people by a channel, and has no answer to."""
        try:
            place = self._task(namespace, task)
        except ValueError:
            return []
        entries = await self._bus.log(place.partition).last([f"{place.root}.int.{place.task}.>"])
        by_subject = {entry.subject: entry.data for entry in entries}
        found: list[OpenQuestion] = []
        for subject, data in by_subject.items():
            root, _, what = subject.rpartition(".")
            if what != "asked" or f"{root}.answered" in by_subject:
                continue
            records = (record for name, record in by_subject.items() if name.startswith(f"{root}.step."))
            steps = [step for step in (decode(one, InteractionStep) for one in records) if step.channel == channel]
            if steps:
                found.append(OpenQuestion(decode(data, InteractionRequested), steps[0].place))
        return found

    def _task(self, namespace: str, task: str) -> TaskSubjects:
        check_token("namespace", namespace)
        check_token("task", task)
        return TaskSubjects(partition_of(namespace, task, self._bus.partitions), namespace, task)


def sentence(reply: Reply) -> str:
    """What the planner said, for the person who has answered."""
    if isinstance(reply, Accepted):
        if reply.note:
            return f"Thank you. {reply.note[0].upper()}{reply.note[1:]}."
        return "Thank you, your answer was taken." if reply.created else "Your answer was taken before."
    return f"{reply.error[0].upper()}{reply.error[1:]}."
