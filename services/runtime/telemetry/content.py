"""What was said, as attributes of spans: only where a process was told to capture it, and only so much of it.

The form of messages is that of OpenTelemetry's GenAI conventions (their JSON schemas of input and output messages).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, assert_never

import msgspec

from schemas.messages import (
    AssistantMessage,
    Message,
    SystemMessage,
    ToolMessage,
    UserMessage,
    images_of,
    text_of,
)

TEXT_LENGTH_MAX = 4_000
"""Characters of one text: a message, a call's arguments, a result."""
MESSAGES_MAX = 12
"""Messages of a conversation, the newest: every call would otherwise repeat all before it."""


def shortened(text: str) -> str:
    """The beginning of a text, and how much is left out."""
    left_out = len(text) - TEXT_LENGTH_MAX
    return text if left_out <= 0 else f"{text[:TEXT_LENGTH_MAX]}… ({left_out} characters more)"


def asked(messages: Sequence[Message]) -> dict[str, str]:
    """The attributes that show what a model was asked."""
    instructions = [_text(one.content) for one in messages if isinstance(one, SystemMessage)]
    said = [one for one in messages if not isinstance(one, SystemMessage)]
    shown = [_shown(one) for one in said[-MESSAGES_MAX:]]
    found = {"gen_ai.input.messages": _json(shown)}
    if instructions:
        found["gen_ai.system_instructions"] = _json(instructions)
    return found


def answered(message: AssistantMessage, finish_reason: str) -> dict[str, str]:
    """The attribute that shows what it answered."""
    return {"gen_ai.output.messages": _json([{**_shown(message), "finish_reason": finish_reason}])}


def _shown(message: Message) -> dict[str, Any]:
    match message:
        case SystemMessage(content=content):
            return {"role": "system", "parts": [_text(content)]}
        case UserMessage(content=content):
            images = [{"type": "image", "media_type": image.media_type} for image in images_of(content)]
            return {"role": "user", "parts": [_text(text_of(content)), *images]}
        case AssistantMessage(content=content, tool_calls=calls):
            called = [
                {"type": "tool_call", "id": call.id, "name": call.name, "arguments": shortened(call.arguments)}
                for call in calls
            ]
            return {"role": "assistant", "parts": [*([_text(content)] if content else []), *called]}
        case ToolMessage(tool_call_id=id_, content=content):
            part = {"type": "tool_call_response", "id": id_, "response": shortened(content)}
            return {"role": "tool", "parts": [part]}
        case _:
            assert_never(message)


def _text(content: str) -> dict[str, str]:
    return {"type": "text", "content": shortened(content)}


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
