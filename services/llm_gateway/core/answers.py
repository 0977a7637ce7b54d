"""A model's answer as it is recorded, and its names and ids as another provider accepts them.

The record keeps what the model wrote. Only what nobody could answer is mended: a call without an id, two calls with
one id, no arguments where an object is meant. Derived ids come out the same in every replay.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import msgspec

from schemas.ids import digest
from schemas.messages import AssistantMessage, ToolCall
from schemas.requests import FailureCause
from services.llm_gateway.core.calls import ModelReply
from services.llm_gateway.core.characters import mended

DERIVED_ID_LENGTH = 9
"""The one length and alphabet (letters and digits) that every provider accepts; Mistral takes no other."""
NO_ARGUMENTS = "{}"
NAME_LENGTH_MAX = 64
REFUSALS: dict[str, FailureCause] = {
    "content_filter": "contentFiltered",
    "refusal": "contentFiltered",
    "model_context_window_exceeded": "contextTooLong",
}
"""Finish reasons of OpenAI and Anthropic that explain an empty answer."""


class Refusal(NamedTuple):
    """Why there is no answer, in words and in a word."""

    why: str
    cause: FailureCause


_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]")


def derived_id(*parts: str) -> str:
    """An id that all providers accept."""
    return digest("tool-call", *parts)[:DERIVED_ID_LENGTH]


def recorded(message: AssistantMessage, namespace: str, task: str, turn: int) -> AssistantMessage:
    """`message` with an id for each call, unique in it, and `{}` for no arguments; calls without a name are dropped.

    A call without a name can be neither run nor said back to the provider. A character that came in halves is whole.
    """
    taken: set[str] = set()
    calls: list[ToolCall] = []
    for n, call in enumerate((call for call in message.tool_calls if call.name), start=1):
        id_ = mended(call.id)
        if not id_ or id_ in taken:
            id_ = derived_id(namespace, task, str(turn), str(n), id_)
        taken.add(id_)
        arguments = mended(call.arguments) if call.arguments.strip() else NO_ARGUMENTS
        calls.append(msgspec.structs.replace(call, id=id_, name=mended(call.name), arguments=arguments))
    return msgspec.structs.replace(
        message, content=mended(message.content), tool_calls=tuple(calls), opaque=mended(message.opaque)
    )


def refusal_of(reply: ModelReply) -> Refusal | None:
    """Why the provider gave nothing, if it says that it will not: asking again would get the same."""
    message = reply.message
    cause = REFUSALS.get(reply.finish_reason)
    if message.content.strip() or message.tool_calls or cause is None:
        return None
    detail = f" ({reply.finish_detail})" if reply.finish_detail else ""
    return Refusal(f"the model gave no answer and says why: {reply.finish_reason}{detail}", cause)


def fitting_id(id_: str, allowed: re.Pattern[str]) -> str:
    """`id_` if the provider accepts it, or one that stands for it wherever it occurs."""
    return id_ if allowed.fullmatch(id_) else derived_id(id_)


def fitting_name(name: str) -> str:
    """A name that a model made up, in the characters that providers accept in a conversation."""
    return _NOT_IN_NAMES.sub("_", name)[:NAME_LENGTH_MAX] or "_"
