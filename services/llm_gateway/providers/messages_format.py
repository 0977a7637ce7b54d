"""A request in Anthropic's messages format. Pure; `anthropic.py` sends it, `messages_answer.py` reads the answer.

Its rules: the instructions are apart from the conversation; all results of parallel calls are in one user message, in
front; an empty text is an error; and the blocks of the model's thinking come back unchanged, each in its place among
the texts and calls. Where there are such blocks, `opaque` holds them and the order of all blocks; texts and calls are
not repeated in it.

What is said of a conversation's beginning never depends on what follows, but for the marks of the cache: they are on
the last tool, on the instructions, and on the ends of the last two things that the user said. The provider reads from
its cache up to a mark, and looks for older entries only some blocks back, so the mark of the turn before is repeated.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from schemas.messages import (
    AssistantMessage,
    Content,
    ImagePart,
    Message,
    SystemMessage,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from schemas.tools import OfferedTool
from services.llm_gateway.core.answers import fitting_id, fitting_name
from services.llm_gateway.core.calls import ModelRequest
from services.llm_gateway.core.endpoints import THINKING_TOKENS_MIN, Endpoint, Parameters
from services.llm_gateway.core.formats import ANTHROPIC, instruction, qualifies, sent_schema, with_instructions
from services.llm_gateway.core.offers import arguments_object, parameters_of

MAX_TOKENS_DEFAULT = 16_384
"""Sent when the resource sets none, because the API demands one: room for a long answer with its thinking, within
what every current model allows."""

CACHE_MARK: dict[str, str] = {"type": "ephemeral"}

_IDS = re.compile(r"[A-Za-z0-9_-]{1,64}")
Block = dict[str, Any]


class Place(msgspec.Struct, frozen=True, omit_defaults=True):
    """One block of an answer: kept here, or how much of the text it is, or which call."""

    block: Block | None = None
    text_length: int = 0
    call: int | None = None


def request_body(endpoint: Endpoint, model: str, parameters: Parameters, request: ModelRequest) -> dict[str, Any]:
    """The arguments of the SDK's call, without those that are not set and without sampling, which the SDK lacks."""
    wanted = request.response_format
    held = wanted is not None and endpoint.takes_format_with_tools and qualifies(wanted, ANTHROPIC)
    messages = request.messages
    if wanted is not None and not held:
        messages = with_instructions(messages, instruction(wanted))
    turns = _conversation(endpoint, messages)
    max_tokens = _max_tokens(parameters, request)
    body: dict[str, Any] = {"model": model, "max_tokens": max_tokens, "messages": turns, "stream": True}
    if thinking := _thinking(parameters, max_tokens, turns):
        body["thinking"] = thinking
    if parameters.stop:
        body["stop_sequences"] = list(parameters.stop)
    config: dict[str, Any] = {}
    if parameters.reasoning_effort is not None:
        config["effort"] = parameters.reasoning_effort
    if wanted is not None and held:
        config["format"] = {"type": "json_schema", "schema": sent_schema(wanted)}
    if config:
        body["output_config"] = config
    if system := [m.content for m in messages if isinstance(m, SystemMessage) and m.content.strip()]:
        body["system"] = [{"type": "text", "text": text} for text in system]
    if request.tools:
        body["tools"] = [_tool(tool) for tool in request.tools]
    if parameters.prompt_caching:
        _mark(body)
    return body


def _max_tokens(parameters: Parameters, request: ModelRequest) -> int:
    """The limit of thinking and answer together: at least the default, where only a task's budget could set one."""
    default = MAX_TOKENS_DEFAULT + (parameters.thinking_budget_tokens or 0)
    limit = parameters.output_tokens_max(request.output_tokens_max)
    return min(limit, default) if parameters.max_tokens is None and limit is not None else limit or default


def _thinking(parameters: Parameters, max_tokens: int, turns: list[Block]) -> Block | None:
    """How much it may think: less than the limit of the answer, so that something is left for the answer itself.

    None where the API would refuse it: too little is left, or the turn under way was begun without thinking.
    """
    budget = parameters.thinking_budget_tokens
    if budget is None or not _begun_with_thinking(turns):
        return None
    if budget >= max_tokens:
        budget = max_tokens // 2
    return {"type": "enabled", "budget_tokens": budget} if budget >= THINKING_TOKENS_MIN else None


def _begun_with_thinking(turns: list[Block]) -> bool:
    """Whether the answer that the last results belong to began with thinking; true if there is none under way."""
    begun = next((n for n in range(len(turns) - 1, -1, -1) if _is_said(turns[n])), -1)
    answers = turns[begun + 1 :]
    return not answers or answers[0]["content"][0]["type"] in ("thinking", "redacted_thinking")


def _is_said(turn: Block) -> bool:
    return turn["role"] == "user" and any(block["type"] != "tool_result" for block in turn["content"])


def _mark(body: dict[str, Any]) -> None:
    said = [turn["content"] for turn in body["messages"] if turn["role"] == "user"]
    for blocks in (body.get("tools"), body.get("system"), *said[-2:]):
        if blocks:
            blocks[-1] = {**blocks[-1], "cache_control": CACHE_MARK}


def _tool(tool: OfferedTool) -> Block:
    offered: Block = {"name": tool.name, "input_schema": parameters_of(tool.info)}
    if tool.info.description:
        offered["description"] = tool.info.description
    return offered


def _conversation(endpoint: Endpoint, messages: tuple[Message, ...]) -> list[Block]:
    turns: list[Block] = []
    for message in messages:
        role, blocks = _blocks(endpoint, message)
        if not blocks:
            continue
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        else:
            turns.append({"role": role, "content": blocks})
    return turns


def _blocks(endpoint: Endpoint, message: Message) -> tuple[str, list[Block]]:
    match message:
        case SystemMessage():
            return "", []
        case UserMessage(content=content):
            return "user", _content(content)
        case ToolMessage():
            result: Block = {"type": "tool_result", "tool_use_id": fitting_id(message.tool_call_id, _IDS)}
            if message.images:
                result["content"] = [*_text(message.content), *map(_image, message.images)]
            elif message.content.strip():
                result["content"] = message.content
            if message.is_error:
                result["is_error"] = True
            return "user", [result]
        case AssistantMessage():
            return "assistant", _assistant(endpoint, message)


def _assistant(endpoint: Endpoint, message: AssistantMessage) -> list[Block]:
    calls = [_call(call) for call in message.tool_calls]
    places = _places(endpoint, message)
    if places is None:
        return [*_text(message.content), *calls]
    blocks: list[Block] = []
    at = 0
    for place in places:
        if place.block is not None:
            blocks.append(place.block)
        elif place.call is not None:
            blocks.append(calls[place.call])
        else:
            blocks += _text(message.content[at : at + place.text_length])
            at += place.text_length
    return blocks


def _places(endpoint: Endpoint, message: AssistantMessage) -> list[Place] | None:
    """The order of the blocks, if it was kept for this provider and fits the message."""
    if message.opaque_for != endpoint.opaque_name:
        return None
    try:
        places = msgspec.json.decode(message.opaque, type=list[Place])
    except msgspec.DecodeError:
        return None
    calls = [place.call for place in places if place.call is not None]
    length = sum(place.text_length for place in places)
    return places if calls == list(range(len(message.tool_calls))) and length == len(message.content) else None


def _call(call: ToolCall) -> Block:
    return {
        "type": "tool_use",
        "id": fitting_id(call.id, _IDS),
        "name": fitting_name(call.name),
        "input": arguments_object(call.arguments),
    }


def _content(content: Content) -> list[Block]:
    if isinstance(content, str):
        return _text(content)
    blocks: list[Block] = []
    for part in content:
        blocks += [_image(part)] if isinstance(part, ImagePart) else _text(part.text)
    return blocks


def _image(image: ImagePart) -> Block:
    if image.url:
        return {"type": "image", "source": {"type": "url", "url": image.url}}
    return {"type": "image", "source": {"type": "base64", "media_type": image.media_type, "data": image.data}}


def _text(text: str) -> list[Block]:
    return [{"type": "text", "text": text}] if text.strip() else []
