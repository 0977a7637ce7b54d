"""What was said, as attributes of spans: only where a process was told to capture it, and only so much of it.

The form of messages is that of OpenTelemetry's GenAI conventions (their JSON schemas of input and output messages).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, assert_never

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
from services.runtime.redaction import redact

if TYPE_CHECKING:
    from services.runtime.secrets import Secrets

TEXT_LENGTH_MAX = 4_000
"""Characters of one text: a message, a call's arguments, a result."""
MESSAGES_MAX = 12
"""Messages of a conversation, the newest: every call would otherwise repeat all before it."""


class Content:
    """What may be shown of what was said: all of it but the secrets that this process knows, up to a length."""

    def __init__(self, secrets: Secrets) -> None:
        self._secrets = secrets

    def text(self, text: str) -> str:
        """The beginning of a text, and how much is left out."""
        shown = redact(text, self._secrets.given)
        left_out = len(shown) - TEXT_LENGTH_MAX
        return shown if left_out <= 0 else f"{shown[:TEXT_LENGTH_MAX]}… ({left_out} characters more)"

    def asked(self, messages: Sequence[Message]) -> dict[str, str]:
        """The attributes that show what a model was asked."""
        instructions = [self._part(one.content) for one in messages if isinstance(one, SystemMessage)]
        said = [one for one in messages if not isinstance(one, SystemMessage)]
        found = {"gen_ai.input.messages": _json([self._shown(one) for one in said[-MESSAGES_MAX:]])}
        if instructions:
            found["gen_ai.system_instructions"] = _json(instructions)
        return found

    def answered(self, message: AssistantMessage, finish_reason: str) -> dict[str, str]:
        """The attribute that shows what it answered."""
        return {"gen_ai.output.messages": _json([{**self._shown(message), "finish_reason": finish_reason}])}

    def _shown(self, message: Message) -> dict[str, Any]:
        match message:
            case SystemMessage(content=content):
                return {"role": "system", "parts": [self._part(content)]}
            case UserMessage(content=content):
                images = [{"type": "image", "media_type": image.media_type} for image in images_of(content)]
                return {"role": "user", "parts": [self._part(text_of(content)), *images]}
            case AssistantMessage(content=content, tool_calls=calls):
                called = [
                    {"type": "tool_call", "id": call.id, "name": call.name, "arguments": self.text(call.arguments)}
                    for call in calls
                ]
                return {"role": "assistant", "parts": [*([self._part(content)] if content else []), *called]}
            case ToolMessage(tool_call_id=id_, content=content):
                part = {"type": "tool_call_response", "id": id_, "response": self.text(content)}
                return {"role": "tool", "parts": [part]}
            case _:
                assert_never(message)

    def _part(self, content: str) -> dict[str, str]:
        return {"type": "text", "content": self.text(content)}


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
