"""The conversation, in no provider's words.

Every message of a conversation is stored once, in the event or entry that brought it. A provider's adapter
translates these to its own form and back; nothing else knows a provider's form.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Literal

from schemas.wire import Wire, check_money

ToolOutcome = Literal["succeeded", "failed", "rejected", "timed_out", "cancelled", "unknown"]
"""How a tool call ended. `unknown`: it was started, and nobody can say whether it took effect."""


class ToolCall(Wire, frozen=True, kw_only=True):
    """One call that a model asked for."""

    id: str
    """The provider's id."""
    name: str
    """The name the model used: `server__tool`."""
    arguments: str
    """The arguments exactly as the model wrote them; meant to be a JSON object."""


class SystemMessage(Wire, frozen=True, kw_only=True, tag_field="role", tag="system"):
    """The instructions."""

    content: str


class UserMessage(Wire, frozen=True, kw_only=True, tag_field="role", tag="user"):
    """What somebody said to the agent."""

    content: str
    name: str = ""


class AssistantMessage(Wire, frozen=True, kw_only=True, tag_field="role", tag="assistant"):
    """What the model answered: text, tool calls, or both."""

    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    opaque: str = ""
    """What the provider wants back unread with this message (its reasoning blocks), as JSON text."""
    opaque_for: str = ""
    """The provider that wants it."""


class ToolMessage(Wire, frozen=True, kw_only=True, tag_field="role", tag="tool"):
    """The one result of a tool call, as the model sees it."""

    tool_call_id: str
    name: str = ""
    content: str
    is_error: bool = False


Message = SystemMessage | UserMessage | AssistantMessage | ToolMessage


class Usage(Wire, frozen=True, kw_only=True):
    """What one model call used, in tokens, and what it cost, in US dollars (absent: no price is known)."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    """The part of the input that came from the provider's cache."""
    reasoning_tokens: int = 0
    """The part of the output that was reasoning."""
    cost_usd: Decimal | None = None

    def __post_init__(self) -> None:
        """Refuse a cost that could not be added up."""
        check_money("costUsd", self.cost_usd)
