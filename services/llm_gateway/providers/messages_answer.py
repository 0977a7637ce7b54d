"""An answer in Anthropic's messages format, as it comes together out of the events of a stream. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from schemas.messages import AssistantMessage, ToolCall, Usage
from services.llm_gateway.core.calls import ModelReply
from services.llm_gateway.core.characters import mended
from services.llm_gateway.core.endpoints import Endpoint
from services.llm_gateway.providers.messages_format import Place


class Incomplete(Exception):
    """The stream is over and the answer is not."""


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


class _StopDetails(msgspec.Struct):
    category: str | None = None
    explanation: str | None = None


class _Delta(msgspec.Struct):
    text: str | None = None
    partial_json: str | None = None
    thinking: str | None = None
    signature: str | None = None
    stop_reason: str | None = None
    stop_details: _StopDetails | None = None


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

    @property
    def said(self) -> str:
        """The text, with characters that came in halves made whole."""
        return mended("".join(self.text))


class Answer:
    """An answer as it comes together."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._blocks: dict[int, _Growing] = {}
        self._usage = _Usage()
        self._response_id = ""
        self._model = ""
        self._stop_reason = ""
        self._stop_detail = ""
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
            cache_write_tokens=usage.cache_creation_input_tokens or 0,
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
                self._take_stop(event.delta or _Delta())
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
        content = "".join(block.said for block in blocks)
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
            finish_detail=self._stop_detail,
            response_id=self._response_id,
        )

    def _take_start(self, start: _Start) -> None:
        self._response_id = start.id or ""
        self._model = start.model or ""
        if start.usage is not None:
            self._take_usage(start.usage)

    def _take_stop(self, delta: _Delta) -> None:
        self._stop_reason = delta.stop_reason or self._stop_reason
        if (details := delta.stop_details) is not None:
            said = [words for words in (details.category, details.explanation) if words]
            self._stop_detail = ": ".join(said) or self._stop_detail

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
    places: list[Place] = []
    calls = 0
    for block in blocks:
        match block.opened.type:
            case "thinking":
                thinking = mended((block.opened.thinking or "") + "".join(block.thinking))
                signature = (block.opened.signature or "") + "".join(block.signature)
                places.append(Place(block={"type": "thinking", "thinking": thinking, "signature": signature}))
            case "redacted_thinking":
                places.append(Place(block={"type": "redacted_thinking", "data": block.opened.data or ""}))
            case "tool_use":
                places.append(Place(call=calls))
                calls += 1
            case _:
                places.append(Place(text_length=len(block.said)))
    return msgspec.json.encode(places).decode() if any(place.block for place in places) else ""
