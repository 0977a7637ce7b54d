"""The conversation that the model sees next, out of the entries that the task's state names.

A window only grows, so it is extended by what is new. Every tool call in it has its result before anything else is
said; a window that breaks this is refused, because no provider accepts it and nothing would ever repair it.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from schemas.events import ConversationStarted, ModelAnswered, ToolFinished
from schemas.messages import AssistantMessage, Message, ToolMessage
from schemas.wire import Malformed, decode


class BadWindow(ValueError):
    """The entries are not a conversation."""


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation so far."""

    messages: tuple[Message, ...] = ()
    unanswered: tuple[str, ...] = ()
    """Ids of the tool calls at its end that have no result."""
    size: int = 0
    """Stored bytes."""


def extend(window: Window, entries: Iterable[tuple[str, bytes]]) -> Window:
    """`window` with more entries (subject and data, in order); raises `BadWindow`."""
    added: list[Message] = []
    unanswered = window.unanswered
    size = window.size
    for subject, data in entries:
        size += len(data)
        for message in messages_of(subject, data):
            unanswered = _after(unanswered, message, subject)
            added.append(message)
    return Window(messages=(*window.messages, *added), unanswered=unanswered, size=size)


def messages_of(subject: str, data: bytes) -> tuple[Message, ...]:
    """What an entry adds to the conversation; raises `BadWindow`."""
    try:
        match subject.split("."):
            case ["hf", _, _, "msg", _, "context"]:
                return decode(data, ConversationStarted).messages
            case ["hf", _, _, "evt", _, "llm", _, _]:
                return (decode(data, ModelAnswered).message,)
            case ["hf", _, _, "evt", _, "tool", _, _]:
                return (result_message(decode(data, ToolFinished)),)
            case _:
                raise BadWindow(f"{subject} is no entry of a conversation")
    except Malformed as error:
        raise BadWindow(f"{subject} cannot be read: {error}") from error


def result_message(finished: ToolFinished) -> ToolMessage:
    """A tool call's result as the model sees it."""
    return ToolMessage(
        tool_call_id=finished.tool_call_id,
        name=finished.tool,
        content=finished.content,
        is_error=finished.outcome != "succeeded",
    )


def _after(unanswered: tuple[str, ...], message: Message, subject: str) -> tuple[str, ...]:
    if isinstance(message, ToolMessage):
        if message.tool_call_id not in unanswered:
            raise BadWindow(f"{subject} has a result for {message.tool_call_id!r}, which is not open at that place")
        return tuple(call for call in unanswered if call != message.tool_call_id)
    if unanswered:
        raise BadWindow(f"{subject} goes on while tool call {unanswered[0]!r} has no result")
    return tuple(call.id for call in message.tool_calls) if isinstance(message, AssistantMessage) else ()
