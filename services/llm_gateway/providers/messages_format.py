"""Anthropic's messages format, out and back. Pure; `anthropic.py` sends it.

Its rules: the instructions are apart from the conversation; all results of parallel calls are in one user message, in
front; an empty text is an error; and the blocks of the model's thinking come back unchanged, each in its place among
the texts and calls. Where there are such blocks, `opaque` holds them and the order of all blocks; texts and calls are
not repeated in it.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from schemas.messages import (
    AssistantMessage,
    Message,
    SystemMessage,
    ToolCall,
    ToolMessage,
    Usage,
    UserMessage,
    text_of,
)
from schemas.tools import OfferedTool
from services.llm_gateway.core.answers import fitting_id, fitting_name
from services.llm_gateway.core.calls import ModelReply, ModelRequest
from services.llm_gateway.core.endpoints import Endpoint, Parameters
from services.llm_gateway.core.offers import arguments_object, parameters_of

MAX_TOKENS_DEFAULT = 16_384
"""Sent when the resource sets none, because the API demands one: room for a long answer with its thinking, within
what every current model allows."""

_IDS = re.compile(r"[A-Za-z0-9_-]{1,64}")
Block = dict[str, Any]


class Incomplete(Exception):
    """The stream is over and the answer is not."""


# --- what is sent -----------------------------------------------------------------------


class _Place(msgspec.Struct, frozen=True, omit_defaults=True):
    """One block of an answer: kept here, or how much of the text it is, or which call."""

    block: Block | None = None
    text_length: int = 0
    call: int | None = None


def request_body(endpoint: Endpoint, model: str, parameters: Parameters, request: ModelRequest) -> dict[str, Any]:
    """The arguments of the SDK's call, without those that are not set and without sampling (see `sampling`)."""
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": parameters.max_tokens if parameters.max_tokens is not None else MAX_TOKENS_DEFAULT,
        "messages": _conversation(endpoint, request.messages),
        "stream": True,
    }
    system = [m.content for m in request.messages if isinstance(m, SystemMessage) and m.content.strip()]
    if system:
        body["system"] = system[0] if len(system) == 1 else [{"type": "text", "text": text} for text in system]
    if request.tools:
        body["tools"] = [_tool(tool) for tool in request.tools]
    return body


def sampling(parameters: Parameters) -> dict[str, Any]:
    """The sampling parameters that are set. The newest version of the API has none; the one before it does."""
    numbers = {"temperature": parameters.temperature, "top_p": parameters.top_p, "top_k": parameters.top_k}
    return {name: value for name, value in numbers.items() if value is not None}


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
            return "user", _text(text_of(content))
        case ToolMessage():
            result: Block = {"type": "tool_result", "tool_use_id": fitting_id(message.tool_call_id, _IDS)}
            if message.content.strip():
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


def _places(endpoint: Endpoint, message: AssistantMessage) -> list[_Place] | None:
    """The order of the blocks, if it was kept for this provider and fits the message."""
    if message.opaque_for != endpoint.opaque_name:
        return None
    try:
        places = msgspec.json.decode(message.opaque, type=list[_Place])
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


def _text(text: str) -> list[Block]:
    return [{"type": "text", "text": text}] if text.strip() else []


# --- what comes back --------------------------------------------------------------------


class _OutputDetails(msgspec.Struct):
    thinking_tokens: int | None = None


class _Usage(msgspec.Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    output_tokens_details: _OutputDetails | None = None


class _Start(msgspec.Struct):
    id: str | None = None
    model: str | None = None
    usage: _Usage | None = None


class _Delta(msgspec.Struct):
    text: str | None = None
    partial_json: str | None = None
    thinking: str | None = None
    signature: str | None = None
    stop_reason: str | None = None


class _Opened(msgspec.Struct):
    type: str = ""
    id: str | None = None
    name: str | None = None
    text: str | None = None
    input: Any = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None


class Event(msgspec.Struct):
    """One event of a streamed answer."""

    type: str
    index: int = 0
    message: _Start | None = None
    content_block: _Opened | None = None
    delta: _Delta | None = None
    usage: _Usage | None = None


class _Growing(msgspec.Struct):
    opened: _Opened
    text: list[str] = []
    json: list[str] = []
    thinking: list[str] = []
    signature: list[str] = []


class Answer:
    """An answer as it comes together."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._blocks: dict[int, _Growing] = {}
        self._usage = _Usage()
        self._response_id = ""
        self._model = ""
        self._stop_reason = ""
        self._stopped = False

    @property
    def usage(self) -> Usage:
        """What was used so far. The input counts what was read from the cache and what was written to it."""
        usage = self._usage
        cached = usage.cache_read_input_tokens or 0
        details = usage.output_tokens_details
        return Usage(
            input_tokens=(usage.input_tokens or 0) + (usage.cache_creation_input_tokens or 0) + cached,
            output_tokens=usage.output_tokens or 0,
            cached_tokens=cached,
            reasoning_tokens=(details.thinking_tokens or 0) if details else 0,
        )

    def add(self, data: dict[str, Any]) -> str:
        """Take the next event; the text that it added. Raises `msgspec.ValidationError` for what is no event."""
        event = msgspec.convert(data, Event)
        if event.usage is not None:
            self._take_usage(event.usage)
        match event.type:
            case "message_start":
                self._take_start(event.message or _Start())
            case "content_block_start":
                return self._open(event.index, event.content_block or _Opened())
            case "content_block_delta":
                return self._grow(event.index, event.delta or _Delta())
            case "message_delta":
                self._stop_reason = (event.delta.stop_reason if event.delta else None) or self._stop_reason
            case "message_stop":
                self._stopped = True
            case _:
                pass  # the API may add events, and says so
        return ""

    def reply(self) -> ModelReply:
        """The whole answer; raises `Incomplete`."""
        if not self._stopped:
            raise Incomplete("the stream ended before the answer did")
        blocks = [self._blocks[index] for index in sorted(self._blocks)]
        calls = tuple(_tool_call(block) for block in blocks if block.opened.type == "tool_use")
        content = "".join("".join(block.text) for block in blocks)
        opaque = _opaque(blocks)
        return ModelReply(
            message=AssistantMessage(
                content=content,
                tool_calls=calls,
                opaque=opaque,
                opaque_for=self._endpoint.opaque_name if opaque else "",
            ),
            usage=self.usage,
            model=self._model,
            finish_reason=self._stop_reason,
            response_id=self._response_id,
        )

    def _take_start(self, start: _Start) -> None:
        self._response_id = start.id or ""
        self._model = start.model or ""
        if start.usage is not None:
            self._take_usage(start.usage)

    def _take_usage(self, usage: _Usage) -> None:
        """Counts are cumulative; what an event does not say stays."""
        for name in _Usage.__struct_fields__:
            if (value := getattr(usage, name)) is not None:
                setattr(self._usage, name, value)

    def _open(self, index: int, opened: _Opened) -> str:
        text = opened.text or ""
        self._blocks[index] = _Growing(opened, text=[text] if text else [])
        return text

    def _grow(self, index: int, delta: _Delta) -> str:
        block = self._blocks.setdefault(index, _Growing(_Opened()))
        for pieces, piece in (
            (block.text, delta.text),
            (block.json, delta.partial_json),
            (block.thinking, delta.thinking),
            (block.signature, delta.signature),
        ):
            if piece:
                pieces.append(piece)
        return delta.text or ""


def _tool_call(block: _Growing) -> ToolCall:
    opened = block.opened
    arguments = "".join(block.json)
    if not arguments and opened.input:
        arguments = msgspec.json.encode(opened.input).decode()
    return ToolCall(id=opened.id or "", name=opened.name or "", arguments=arguments)


def _opaque(blocks: list[_Growing]) -> str:
    """The thinking, and the order of everything, if there is any thinking."""
    places: list[_Place] = []
    calls = 0
    for block in blocks:
        match block.opened.type:
            case "thinking":
                thinking = (block.opened.thinking or "") + "".join(block.thinking)
                signature = (block.opened.signature or "") + "".join(block.signature)
                places.append(_Place(block={"type": "thinking", "thinking": thinking, "signature": signature}))
            case "redacted_thinking":
                places.append(_Place(block={"type": "redacted_thinking", "data": block.opened.data or ""}))
            case "tool_use":
                places.append(_Place(call=calls))
                calls += 1
            case _:
                places.append(_Place(text_length=len("".join(block.text))))
    return msgspec.json.encode(places).decode() if any(place.block for place in places) else ""
