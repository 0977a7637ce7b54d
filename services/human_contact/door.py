"""The front door of answers, as those use it who take them in: the planner decides; what is asked is on the bus."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from schemas.events import TaskFollowed, TaskSubmitted, ThreadBegun, decode_followed
from schemas.ids import check_token, partition_of, thread_key
from schemas.interactions import (
    AnswerInteraction,
    InteractionAnswered,
    InteractionRequested,
    InteractionStep,
    parse_interaction_id,
)
from schemas.requests import Accepted, Reply, SendMessage
from schemas.subjects import MSG_ID, TaskSubjects, ask, thread_anchor
from schemas.wire import decode, decoder_of
from services.runtime.conversations import state_of
from services.runtime.telemetry.traces import trace_headers

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.runtime.ports import Bus

ANSWER_S = 5.0
THREAD_MAX = 200
"""Tasks of a thread that are walked through."""

_decode_reply: Callable[[bytes], Reply] = decoder_of(Reply)


class Found(NamedTuple):
    """A question as it is on the bus."""

    asked: InteractionRequested
    answered: InteractionAnswered | None
    channels: tuple[str, ...]
    """The channels that it was given to."""


class ShownQuestion(NamedTuple):
    """A question that a channel has shown."""

    asked: InteractionRequested
    place: str
    """Where the channel keeps it."""
    answered: InteractionAnswered | None = None


class FrontDoor:
    """Looks questions up, and hands answers in."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def answer(
        self, namespace: str, request: AnswerInteraction, channel: str, *, timeout_s: float = ANSWER_S
    ) -> Reply:
        """Hand an answer in that came by a channel; what the planner says to it. Raises `Unavailable`."""
        data = msgspec.json.encode(msgspec.structs.replace(request, channel=channel))
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

    async def questions(self, namespace: str, task: str, channel: str) -> list[ShownQuestion]:
        """What a task has asked of people by a channel, answered or not."""
        try:
            place = self._task(namespace, task)
        except ValueError:
            return []
        entries = await self._bus.log(place.partition).last([f"{place.root}.int.{place.task}.>"])
        by_subject = {entry.subject: entry.data for entry in entries}
        found: list[ShownQuestion] = []
        for subject, data in by_subject.items():
            root, _, what = subject.rpartition(".")
            if what != "asked":
                continue
            records = (record for name, record in by_subject.items() if name.startswith(f"{root}.step."))
            steps = [step for step in (decode(one, InteractionStep) for one in records) if step.channel == channel]
            if steps:
                said = by_subject.get(f"{root}.answered")
                answered = decode(said, InteractionAnswered) if said is not None else None
                found.append(ShownQuestion(decode(data, InteractionRequested), steps[0].place, answered))
        return found

    # --- threads ---

    async def say(self, namespace: str, request: SendMessage, *, message_id: str, timeout_s: float) -> Reply:
        """Say something in a thread, once for each message id; what the planner says to it. Raises `Unavailable`."""
        data, headers = msgspec.json.encode(request), {MSG_ID: message_id, **trace_headers()}
        answer = await self._bus.signals.request(ask(namespace, "send"), data, headers, timeout_s=timeout_s)
        return _decode_reply(answer.data)

    async def told_by(self, namespace: str, task: str) -> str:
        """The contact channel that is told what becomes of a task; empty if there is none, or no such task."""
        try:
            place = self._task(namespace, task)
        except ValueError:
            return ""
        state = await state_of(self._bus.log(place.partition), place)
        return state.contact_channel if state is not None else ""

    async def is_told(self, namespace: str, task: str, notification: str) -> bool:
        """Whether a notification is one of a task that is there: names of tasks come again, their ids do not."""
        try:
            place = self._task(namespace, task)
            check_token("notification", notification)
        except ValueError:
            return False
        return await self._bus.log(place.partition).get(place.notification(notification)) is not None

    async def begun(self, namespace: str, thread_id: str) -> TaskSubmitted | None:
        """The task that began a thread which a caller has given this name, or None."""
        key = thread_key(thread_id)
        partition = partition_of(namespace, key, self._bus.partitions)
        entry = await self._bus.log(partition).get(thread_anchor(partition, namespace, key))
        return decode(entry.data, ThreadBegun).submitted if entry is not None else None

    async def thread_from(self, namespace: str, task: str) -> list[str]:
        """A task and those that go on from it, one after another."""
        try:
            place = self._task(namespace, task)
        except ValueError:
            return []
        names = [task]
        log = self._bus.log(place.partition)
        while len(names) < THREAD_MAX and (entry := await log.get(place.followed)) is not None:
            followed = decode_followed(entry.data)
            if not isinstance(followed, TaskFollowed):
                break
            names.append(followed.submitted.task)
            place = TaskSubjects(place.partition, namespace, names[-1])
        return names

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
