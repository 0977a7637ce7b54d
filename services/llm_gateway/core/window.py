"""The conversation that the model sees next, out of the entries that the task's state names.

A window only grows, so it is extended by what is new. Every tool call in it has its result before anything else is
said; a window that breaks this is refused, because no provider accepts it and nothing would ever repair it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import assert_never

import msgspec

from schemas.events import ConversationStarted, MessageSent, ModelAnswered, ToolFinished, WindowCompacted
from schemas.messages import AssistantMessage, Message, ToolMessage, UserMessage
from schemas.requests import ResponseFormat
from schemas.wire import Malformed, decode, decoder_of
from services.llm_gateway.core.tokens import message_weight

Entry = ConversationStarted | ModelAnswered | WindowCompacted | ToolFinished | MessageSent
decode_model_entry: Callable[[bytes], ModelAnswered | WindowCompacted] = decoder_of(ModelAnswered | WindowCompacted)


class BadWindow(ValueError):
    """The entries are not a conversation."""


REPAIR = "Your answer does not fit the required format:\n{problem}\nAnswer again, with the corrected answer only."


class Counted(msgspec.Struct, frozen=True):
    """What a provider counted when it last answered in a conversation, and the weight of the messages it was sent."""

    llm: str
    tokens: int
    weight: int


class Shortened(msgspec.Struct, frozen=True):
    """A step that replaced the beginning of a conversation: the model call that it came instead of."""

    turn: int = 0
    attempt: int = 0
    llm: str = ""


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation so far."""

    messages: tuple[Message, ...] = ()
    unanswered: tuple[str, ...] = ()
    """Ids of the tool calls at its end that have no result."""
    size: int = 0
    """Stored bytes."""
    weight: int = 0
    """Of the messages, as `core/tokens.py` weighs them."""
    ends: tuple[int, ...] = ()
    """How many messages there are up to each entry, that entry's own included."""
    response_format: ResponseFormat | None = None
    """What the final answer has to look like."""
    counted: Counted | None = None
    """Absent: nobody has answered yet, or only before the beginning was replaced."""
    shortened: Shortened = Shortened()
    """The step that made it shorter, if one did; answers before that were given to a longer one."""


def extend(window: Window, entries: Iterable[tuple[str, bytes]]) -> Window:
    """`window` with more entries (subject and data, in order); raises `BadWindow`."""
    messages = list(window.messages)
    ends = list(window.ends)
    unanswered, size, weight = window.unanswered, window.size, window.weight
    response_format, counted, shortened = window.response_format, window.counted, window.shortened
    for subject, data in entries:
        size += len(data)
        entry = entry_of(subject, data)
        match entry:
            case ConversationStarted():
                response_format = entry.response_format
            case WindowCompacted():
                response_format = entry.response_format
                shortened = Shortened(entry.turn, entry.attempt, entry.llm)
            case ModelAnswered() if entry.usage.input_tokens > 0 and _is_after(entry, shortened):
                counted = Counted(entry.llm, entry.usage.input_tokens, weight)
            case _:
                pass
        for message in messages_in(entry):
            unanswered = _after(unanswered, message, subject)
            messages.append(message)
            weight += message_weight(message)
        ends.append(len(messages))
    return Window(
        messages=tuple(messages),
        unanswered=unanswered,
        size=size,
        weight=weight,
        ends=tuple(ends),
        response_format=response_format,
        counted=counted,
        shortened=shortened,
    )


def entry_of(subject: str, data: bytes) -> Entry:
    """The entry of a conversation that is stored on `subject`; raises `BadWindow`."""
    try:
        match subject.split("."):
            case ["hf", _, _, "msg", _, "context"]:
                return decode(data, ConversationStarted)
            case ["hf", _, _, "evt", _, "llm", _, _]:
                return decode_model_entry(data)
            case ["hf", _, _, "evt", _, "tool", _, _]:
                return decode(data, ToolFinished)
            case ["hf", _, _, "evt", _, "said", _]:
                return decode(data, MessageSent)
            case _:
                raise BadWindow(f"{subject} is no entry of a conversation")
    except Malformed as error:
        raise BadWindow(f"{subject} cannot be read: {error}") from error


def messages_in(entry: Entry) -> tuple[Message, ...]:
    """What an entry adds to the conversation."""
    match entry:
        case ConversationStarted(messages=messages) | WindowCompacted(messages=messages):
            return messages
        case ModelAnswered(message=message, invalid=""):
            return (message,)
        case ModelAnswered(message=message, invalid=problem):
            return (message, UserMessage(content=REPAIR.format(problem=problem)))
        case MessageSent(content=content):
            return (UserMessage(content=content),)
        case ToolFinished():
            return (entry.message,)
        case _:
            assert_never(entry)


def _is_after(answer: ModelAnswered, step: Shortened) -> bool:
    return (answer.turn, answer.attempt) > (step.turn, step.attempt)


def _after(unanswered: tuple[str, ...], message: Message, subject: str) -> tuple[str, ...]:
    if isinstance(message, ToolMessage):
        if message.tool_call_id not in unanswered:
            raise BadWindow(f"{subject} has a result for {message.tool_call_id!r}, which is not open at that place")
        return tuple(call for call in unanswered if call != message.tool_call_id)
    if unanswered:
        raise BadWindow(f"{subject} goes on while tool call {unanswered[0]!r} has no result")
    return tuple(call.id for call in message.tool_calls) if isinstance(message, AssistantMessage) else ()
