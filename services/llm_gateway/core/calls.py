"""What goes to a model and what comes back, in no provider's words."""

from __future__ import annotations

import msgspec

from schemas.messages import AssistantMessage, Message, Usage
from schemas.requests import FailureCause, ResponseFormat
from schemas.tools import OfferedTool

ERROR_LENGTH_MAX = 2000
"""Characters of a provider's words that are kept."""


class ModelRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One call: the conversation, and the tools that the model may ask for, sorted by name."""

    messages: tuple[Message, ...]
    tools: tuple[OfferedTool, ...] = ()
    turn: int = 1
    attempt: int = 1
    size: int = 0
    """Stored bytes of the conversation."""
    response_format: ResponseFormat | None = None
    """What a final answer has to look like."""
    output_tokens_max: int | None = None
    """What the task's budget leaves for the answer; the LLM's own `maxTokens` may be less."""


class ModelReply(msgspec.Struct, frozen=True, kw_only=True):
    """A whole answer. A provider gives one only after the model said that it was finished."""

    message: AssistantMessage
    usage: Usage = Usage()
    model: str = ""
    """The model, in the provider's words."""
    finish_reason: str = ""
    finish_detail: str = ""
    """What the provider says of it, for people."""
    response_id: str = ""


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why there is no answer, and whether asking again may help."""

    error: str
    transient: bool
    cause: FailureCause = "other"
    status: int | None = None
    retry_after_s: float | None = None
    usage: Usage = Usage()
    """What the provider said it used before it failed."""
    throttled: bool = False
    """It was not made: a limit of ours leaves no room."""


class CallFailed(Exception):
    """A model call did not bring an answer."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.error)
        self.failure = failure
