"""A conversation made shorter, so that it fits into a model's context. What is left out stays recorded.

truncateToolResults   the oldest tool results lose their middle, as few as needed; if that is not enough, all of them
summarize             the beginning becomes a summary; what came last stays word for word

The instructions and the first user message stay as they are, and a tool call is never parted from its result. All of
this is by weight (`core/tokens.py`), of the messages alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Literal

import msgspec

from schemas.messages import AssistantMessage, Message, SystemMessage, ToolMessage, UserMessage, images_of, text_of
from services.llm_gateway.core.tokens import message_weight, messages_weight, text_weight
from services.llm_gateway.core.window import Window

CompactionPolicy = Literal["truncateToolResults", "summarize"]

HEAD_LENGTH = 1_500
"""Characters that stay of the beginning of a shortened text."""
TAIL_LENGTH = 500
SHORTENED_LENGTH_MAX = HEAD_LENGTH + TAIL_LENGTH + 300
"""A text of this length is not worth shortening, and one that was shortened is no longer than this."""

LEFT_OUT = "[... {count:,} characters are left out here, because the conversation became too long for the model's \
context. The task's record has the whole. ...]"
DROPPED = (
    "[This result, of {count:,} characters, is left out, because the conversation became too long for the model's \
context. The task's record has it.]"
)
IMAGES_DROPPED = "\n[{count} of its images are left out, too.]"
SUMMARY = "The conversation became too long for the model's context. Its beginning, after the first message, is left \
out; this is a summary of it:\n\n{summary}"


class Goal(msgspec.Struct, frozen=True, kw_only=True):
    """How short a conversation should become."""

    wanted: int
    """What leaves room for some more turns."""
    limit: int
    """What it must not be heavier than."""


class Compacted(msgspec.Struct, frozen=True, kw_only=True):
    """A shorter conversation: `messages` instead of the first `replaced` entries."""

    replaced: int
    messages: tuple[Message, ...]
    weight: int
    """Of the whole new conversation."""


class Split(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation taken apart, so that its beginning can be summarized."""

    head: tuple[Message, ...]
    """What stays of the beginning."""
    left_out: tuple[Message, ...]
    """What the summary stands for."""
    tail: tuple[Message, ...]
    """What stays as it is."""


# --- shorter results --------------------------------------------------------------------


def truncated(window: Window, goal: Goal) -> Compacted | None:
    """`window` with shorter tool results, the oldest first; None if that does not bring it under the limit.

    The newest results are touched only as far as the limit demands: the model has yet to see them.
    """
    messages = list(window.messages)
    newest = _last_group(messages)
    changed, weight = 0, window.weight
    for shorten in (_shortened, _dropped):
        if shorten is _dropped and weight <= goal.limit:
            break
        for n, message in enumerate(window.messages):
            if weight <= (goal.wanted if n < newest else goal.limit):
                break
            if isinstance(message, ToolMessage):
                shorter = shorten(message)
                saved = message_weight(messages[n]) - message_weight(shorter)
                if saved > 0:
                    messages[n] = shorter
                    changed, weight = max(changed, n + 1), weight - saved
    if not changed or weight > goal.limit:
        return None
    replaced = _entries_to(window, changed)
    return Compacted(replaced=replaced, messages=tuple(messages[: window.ends[replaced - 1]]), weight=weight)


def shortened(text: str) -> str:
    """The head and the tail of a text that is long."""
    return text if len(text) <= SHORTENED_LENGTH_MAX else _without_middle(text, HEAD_LENGTH, TAIL_LENGTH)


def _without_middle(text: str, head: int, tail: int) -> str:
    left_out = LEFT_OUT.format(count=len(text) - head - tail)
    return f"{text[:head]}\n{left_out}\n{text[len(text) - tail :]}"


def _shortened(message: ToolMessage) -> ToolMessage:
    content = shortened(message.content)
    if message.images:
        content += IMAGES_DROPPED.format(count=len(message.images))
    return msgspec.structs.replace(message, content=content, images=())


def _dropped(message: ToolMessage) -> ToolMessage:
    return msgspec.structs.replace(message, content=DROPPED.format(count=len(message.content)), images=())


# --- a summary --------------------------------------------------------------------------


def split(window: Window, goal: Goal, summary_weight: int) -> Split | None:
    """What to summarize so that the rest is as short as wanted; None if there is nothing that a summary could replace.

    The newest answer with its results is never summarized: the model has yet to see them.
    """
    messages = window.messages
    kept = _kept(messages)
    left_out = [*accumulate((0 if keep else message_weight(m) for m, keep in zip(messages, kept, strict=True)))]
    newest = _last_group(messages)
    cuts = [cut for cut in _closed(messages) if cut <= newest and True in kept[:cut] and left_out[cut - 1] > 0]
    if not cuts:
        return None
    short = (cut for cut in cuts if window.weight - left_out[cut - 1] + summary_weight <= goal.wanted)
    cut = next(short, cuts[-1])
    beginning = list(zip(messages[:cut], kept[:cut], strict=True))
    return Split(
        head=tuple(message for message, keep in beginning if keep),
        left_out=tuple(message for message, keep in beginning if not keep),
        tail=messages[cut:],
    )


def summarized(window: Window, parts: Split, summary: str) -> Compacted:
    """`window` with the summary of what `parts` leaves out."""
    beginning = (*parts.head, UserMessage(content=SUMMARY.format(summary=summary)))
    cut = len(window.messages) - len(parts.tail)
    replaced = _entries_to(window, cut)
    in_replaced = parts.tail[: window.ends[replaced - 1] - cut]
    return Compacted(
        replaced=replaced,
        messages=(*beginning, *in_replaced),
        weight=messages_weight(beginning) + messages_weight(parts.tail),
    )


def spelled_out(messages: Iterable[Message], weight_max: int) -> str:
    """Messages as a text to be summarized, long results shortened, and its middle left out if it is still too long."""
    text = whole = "\n\n".join(_spelled(message) for message in messages)
    kept = len(whole)
    while kept and (weight := text_weight(text)) > weight_max:
        kept = int(kept * min(max(weight_max, 0) / weight, 0.9))
        text = _without_middle(whole, kept // 2, kept // 2)
    return text


def _spelled(message: Message) -> str:
    match message:
        case SystemMessage(content=content):
            return f"SYSTEM: {content}"
        case UserMessage(content=content):
            images = images_of(content)
            return f"USER: {text_of(content)}{_images(len(images))}"
        case AssistantMessage(content=content, tool_calls=calls):
            called = "".join(f"\n(calls {call.name} with {shortened(call.arguments)})" for call in calls)
            return f"ASSISTANT: {content}{called}"
        case ToolMessage(name=name, content=content, images=images):
            return f"RESULT of {name or 'a tool'}: {shortened(content)}{_images(len(images))}"


def _images(count: int) -> str:
    return f" [{count} images]" if count else ""


# --- places -----------------------------------------------------------------------------


def _kept(messages: Sequence[Message]) -> list[bool]:
    """Which messages a summary never replaces: the instructions and the first user message."""
    first = next((n for n, message in enumerate(messages) if isinstance(message, UserMessage)), -1)
    return [isinstance(message, SystemMessage) or n == first for n, message in enumerate(messages)]


def _last_group(messages: Sequence[Message]) -> int:
    """Where the newest answer with its results begins; where there is none, the newest message."""
    places = (n for n in range(len(messages) - 1, -1, -1) if isinstance(messages[n], AssistantMessage))
    return next(places, max(len(messages) - 1, 0))


def _entries_to(window: Window, count: int) -> int:
    """The fewest entries that hold the first `count` messages and part no call from its result."""
    closed = {*_closed(window.messages)}
    return next(k for k, end in enumerate(window.ends, start=1) if end >= count and end in closed)


def _closed(messages: Sequence[Message]) -> Iterator[int]:
    """The places, as counts of messages before them, where no tool call is open."""
    open_calls: set[str] = set()
    for n, message in enumerate(messages, start=1):
        if isinstance(message, AssistantMessage):
            open_calls |= {call.id for call in message.tool_calls}
        elif isinstance(message, ToolMessage):
            open_calls.discard(message.tool_call_id)
        if not open_calls:
            yield n
