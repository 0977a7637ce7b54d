"""Where people follow a thread of tasks: one conversation in each channel, whichever service posts there.

What a channel calls a conversation is found where it was last said: with the answer that a task's people were told, or
with the question that they were asked. The names that a caller may know a conversation by, and give as a thread's id,
are those of the channel itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from schemas.interactions import InteractionStep
from schemas.notifications import NotificationDelivered, decode_notification
from schemas.subjects import TaskSubjects
from schemas.task import State, decode_state
from schemas.wire import Malformed, decode

if TYPE_CHECKING:
    from services.runtime.ports import Log

EARLIER_MAX = 50
"""Tasks of a thread that are looked at, from the newest back."""

_TS = re.compile(r"[0-9]+\.[0-9]+")
_WHOLE_TS = re.compile(r"[0-9]{10}\.[0-9]{6}")
"""Stricter: a thread's id may be a number with a point that is none of Slack's."""
_MESSAGE_ID = re.compile(r"<[!-;=?A-~]{1,900}@[!-;=?A-~]{1,255}>")


async def conversation(
    log: Log, task: TaskSubjects, took: Callable[[NotificationDelivered], bool], channel: str
) -> str:
    """What a channel calls the conversation about a task, or else about those that it goes on from; or empty.

    `took`: whether a notification went there; `channel`: the ContactChannel whose questions belong there, if any do.
    """
    for _ in range(EARLIER_MAX):
        if (found := await _of_task(log, task, took, channel)) != "":
            return found
        state = await state_of(log, task)
        if state is None or not state.continues:
            break
        task = TaskSubjects(task.partition, task.namespace, state.continues)
    return ""


async def state_of(log: Log, task: TaskSubjects) -> State | None:
    """A task's state, as it was a moment ago."""
    entry = await log.get(task.state)
    return decode_state(entry.data) if entry is not None else None


async def _of_task(log: Log, task: TaskSubjects, took: Callable[[NotificationDelivered], bool], channel: str) -> str:
    for entry in await log.last([task.notifications]):
        try:
            told = decode_notification(entry.data)
        except Malformed:
            continue  # written by a newer version
        if isinstance(told, NotificationDelivered) and told.thread and took(told):
            return told.thread
    if channel:
        for entry in await log.last([task.interaction_steps]):
            step = decode(entry.data, InteractionStep)
            if step.delivered and step.channel == channel and step.place:
                return step.place
    return ""


def slack_thread(thread_id: str, place: str = "") -> str:
    """The `ts` of the message that a Slack thread begins with: that of a place, or else a thread's id that is one."""
    ts = place.rpartition(":")[2]
    if _TS.fullmatch(ts):
        return ts
    return thread_id if _WHOLE_TS.fullmatch(thread_id) else ""


def mail_thread(thread_id: str, place: str = "") -> str:
    """The Message-ID of the mail that a conversation begins with: a place that is one, or else a thread's id."""
    return next((one for one in (place, thread_id) if _MESSAGE_ID.fullmatch(one)), "")
