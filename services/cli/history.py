"""What is recorded about a task, decoded and in order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, TypeVar, cast

import msgspec

from schemas.commands import Command
from schemas.events import (
    ConversationStarted,
    MessageSent,
    ModelAnswered,
    TaskEvent,
    ToolFinished,
    ToolStarted,
    WindowCompacted,
    decode_task_event,
)
from schemas.ids import request_id
from schemas.messages import Message, UserMessage
from schemas.notifications import Notification, decode_notification
from schemas.wire import Malformed, decode

if TYPE_CHECKING:
    from schemas.subjects import TaskSubjects
    from services.runtime.ports import Entry, Log

T = TypeVar("T")
Fact = TaskEvent | ConversationStarted | ToolStarted | Command | Notification


class Recorded(msgspec.Struct, frozen=True):
    """A stored message about a task."""

    seq: int
    at: datetime
    subject: str
    fact: Fact


async def history(log: Log, task: TaskSubjects) -> list[Recorded]:
    """Everything that was said about a task: requests, commands, answers, results."""
    kinds = ("cmd.llm", "cmd.tool", "cmd.ask", "led", "evt", "ntf")
    return decoded(await log.last([task.context, *(f"{task.root}.{kind}.{task.task}.>" for kind in kinds)]))


async def turns(log: Log, task: TaskSubjects, first: int, last: int, *, at_least: int = 0) -> list[Recorded]:
    """What was recorded in some turns: answers, failures, results, a cancellation."""
    filters = [task.cancel]
    for turn in range(max(first, 1), last + 1):
        filters += [f"{task.root}.evt.{task.task}.llm.{turn}.*", task.tool_events(request_id(turn))]
    return decoded(await log.last(filters, at_least=at_least))


class Step(msgspec.Struct, frozen=True):
    """An entry of a conversation: what was recorded, and the messages that a model sees for it."""

    fact: Fact
    messages: tuple[Message, ...]


async def steps(log: Log, window: Sequence[int]) -> list[Step]:
    """A conversation's entries, in order."""
    found: list[Step] = []
    for recorded in decoded(await log.read(window)):
        fact = recorded.fact
        match fact:
            case ConversationStarted(messages=several) | WindowCompacted(messages=several):
                found.append(Step(fact, several))
            case ModelAnswered(message=message):
                found.append(Step(fact, (message,)))
            case MessageSent(content=content, by=by):
                found.append(Step(fact, (UserMessage(content=content, name=by),)))
            case ToolFinished():
                found.append(Step(fact, (fact.message,)))
            case _:
                continue
    return found


def messages_of(entries: Iterable[Step]) -> list[Message]:
    """The messages of a conversation, in order."""
    return [message for entry in entries for message in entry.messages]


def decoded(entries: Sequence[Entry]) -> list[Recorded]:
    """Entries in the order of their sequences given; what cannot be read is left out."""
    found: list[Recorded] = []
    for entry in entries:
        try:
            found.append(Recorded(entry.seq, entry.at, entry.subject, _fact(entry)))
        except (Malformed, LookupError):
            continue
    return found


def _fact(entry: Entry) -> Fact:
    area = entry.subject.split(".")[3]
    match area:
        case "evt":
            return decode_task_event(entry.data)
        case "msg":
            return decode(entry.data, ConversationStarted)
        case "led":
            return decode(entry.data, ToolStarted)
        case "ntf":
            return decode_notification(entry.data)
        case "cmd":
            return decode(entry.data, cast("type[Command]", Command))
        case _:
            raise LookupError(area)
