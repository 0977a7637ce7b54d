"""Messages of a conversation as manifests have them: OpenAI's form, or ours."""

from __future__ import annotations

from typing import Literal

from schemas.messages import AssistantMessage, Message, SystemMessage, ToolCall, ToolMessage, UserMessage
from schemas.wire import Strict


class ManifestFunction(Strict, frozen=True, kw_only=True):
    """The function of a tool call, in OpenAI's form."""

    name: str
    arguments: str


class ManifestToolCall(Strict, frozen=True, kw_only=True):
    """A tool call: `{id, type, function: {name, arguments}}`, or `{id, name, arguments}`."""

    id: str
    type: str = "function"
    function: ManifestFunction | None = None
    name: str = ""
    arguments: str = ""


class ManifestMessage(Strict, frozen=True, kw_only=True):
    """One message; which fields mean something depends on the role."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str = ""
    tool_calls: tuple[ManifestToolCall, ...] = ()
    tool_call_id: str = ""
    name: str = ""
    is_error: bool = False


def as_message(message: ManifestMessage) -> Message:
    """The message in the contract's form."""
    match message.role:
        case "system":
            return SystemMessage(content=message.content)
        case "user":
            return UserMessage(content=message.content, name=message.name)
        case "assistant":
            return AssistantMessage(content=message.content, tool_calls=tuple(map(_call, message.tool_calls)))
        case "tool":
            return ToolMessage(
                tool_call_id=message.tool_call_id,
                name=message.name,
                content=message.content,
                is_error=message.is_error,
            )


def _call(call: ManifestToolCall) -> ToolCall:
    if call.function is not None:
        return ToolCall(id=call.id, name=call.function.name, arguments=call.function.arguments)
    return ToolCall(id=call.id, name=call.name, arguments=call.arguments)
