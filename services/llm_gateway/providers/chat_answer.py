"""An answer in OpenAI's chat completions format, as it comes together out of the chunks of a stream. Pure.

Servers differ in what they leave out and number badly; what can be understood is taken, and what cannot is an error of
the network: nothing is made up.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from schemas.messages import AssistantMessage, ToolCall, Usage
from services.llm_gateway.core.calls import ModelReply
from services.llm_gateway.core.characters import mended
from services.llm_gateway.core.endpoints import Endpoint
from services.llm_gateway.providers.chat_format import Opaque


class Incomplete(Exception):
    """The stream is over and the answer is not."""


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _CallPiece(msgspec.Struct):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None
    extra_content: dict[str, Any] | None = None


class _TextPart(msgspec.Struct):
    type: str = ""
    text: str | None = None


class _Delta(msgspec.Struct):
    content: str | list[_TextPart] | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning_details: list[dict[str, Any]] | None = None
    tool_calls: list[_CallPiece] | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    delta: _Delta | None = None
    finish_reason: str | None = None


class _InputDetails(msgspec.Struct):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class _OutputDetails(msgspec.Struct):
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_cache_hit_tokens: int | None = None
    """DeepSeek's word for cached tokens."""
    prompt_tokens_details: _InputDetails | None = None
    completion_tokens_details: _OutputDetails | None = None


class Chunk(msgspec.Struct):
    """One piece of a streamed answer."""

    id: str | None = None
    model: str | None = None
    choices: list[_Choice] | None = None
    usage: _Usage | None = None


class _Call(msgspec.Struct):
    id: str = ""
    name: str = ""
    arguments: list[str] = []
    extra_content: dict[str, Any] | None = None


class Answer:
    """An answer as it comes together."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._text: list[str] = []
        self._refusal: list[str] = []
        self._reasoning: list[str] = []
        self._reasoning_details: list[dict[str, Any]] = []
        self._calls: list[_Call] = []
        self._by_index: dict[int, _Call] = {}
        self._finish_reason = ""
        self._response_id = ""
        self._model = ""
        self.usage = Usage()

    def add(self, data: dict[str, Any]) -> str:
        """Take the next chunk; the text that it added. Raises `msgspec.ValidationError` for what is no chunk."""
        chunk = msgspec.convert(data, Chunk)
        self._response_id = chunk.id or self._response_id
        self._model = chunk.model or self._model
        if chunk.usage is not None:
            self.usage = _usage(chunk.usage)
        for choice in chunk.choices or ():
            if choice.index == 0:
                self._finish_reason = choice.finish_reason or self._finish_reason
                return self._add_delta(choice.delta) if choice.delta is not None else ""
        return ""

    def reply(self) -> ModelReply:
        """The whole answer; raises `Incomplete`."""
        if not self._finish_reason:
            raise Incomplete("the stream ended before the answer did")
        calls = tuple(ToolCall(id=c.id, name=c.name, arguments="".join(c.arguments)) for c in self._calls)
        content = mended("".join(self._text) or "".join(self._refusal))
        opaque = self._opaque()
        return ModelReply(
            message=AssistantMessage(
                content=content,
                tool_calls=calls,
                opaque=opaque,
                opaque_for=self._endpoint.opaque_name if opaque else "",
            ),
            usage=self.usage,
            model=self._model,
            finish_reason=self._finish_reason,
            response_id=self._response_id,
        )

    def _add_delta(self, delta: _Delta) -> str:
        for piece in delta.tool_calls or ():
            self._add_call(piece)
        if delta.reasoning_content:
            self._reasoning.append(delta.reasoning_content)
        for detail in delta.reasoning_details or ():
            _add_detail(self._reasoning_details, detail)
        if delta.refusal:
            self._refusal.append(delta.refusal)
        text = delta.content or ""
        if not isinstance(text, str):
            text = "".join(part.text or "" for part in text if part.type == "text")
        if text:
            self._text.append(text)
        return text

    def _add_call(self, piece: _CallPiece) -> None:
        call = self._call_for(piece)
        function = piece.function or _Function()
        call.id = call.id or piece.id or ""
        call.name = call.name or function.name or ""
        call.extra_content = piece.extra_content or call.extra_content
        if function.arguments:
            call.arguments.append(function.arguments)

    def _call_for(self, piece: _CallPiece) -> _Call:
        """Which call a piece belongs to: by index, unless a server numbers badly and the id says otherwise."""
        index = piece.index if piece.index is not None and piece.index >= 0 else None
        known = self._by_index.get(index) if index is not None else None
        if index is None and self._calls and not piece.id:
            known = self._calls[-1]
        if index is None and piece.id:
            known = next((call for call in self._calls if call.id == piece.id), None)
        if known is not None and not (piece.id and known.id and piece.id != known.id):
            return known
        call = _Call()
        self._calls.append(call)
        if index is not None:
            self._by_index[index] = call
        return call

    def _opaque(self) -> str:
        if not self._calls:
            return ""
        extra = {str(n): call.extra_content for n, call in enumerate(self._calls) if call.extra_content}
        opaque = Opaque(
            reasoning_content="".join(self._reasoning), reasoning_details=self._reasoning_details, extra_content=extra
        )
        return "" if opaque == Opaque() else _encoded(opaque)


def _encoded(opaque: Opaque) -> str:
    try:
        return msgspec.json.encode(opaque).decode()
    except UnicodeEncodeError:  # characters that came in halves; escaped, they are whole again when they are read
        return json.dumps(msgspec.to_builtins(opaque))


GROWING = ("text", "summary", "data")
"""The fields of a block of reasoning that come in pieces."""


def _add_detail(details: list[dict[str, Any]], piece: dict[str, Any]) -> None:
    """Add a piece of a block of reasoning: to the last one, if it is of the same block, which its index says."""
    last = details[-1] if details else {}
    if "index" not in piece or (last.get("index"), last.get("type")) != (piece["index"], piece.get("type")):
        details.append(dict(piece))
        return
    for name, value in piece.items():
        if name in GROWING and isinstance(value, str) and isinstance(last.get(name), str):
            last[name] += value
        elif value is not None:
            last[name] = value


def _usage(usage: _Usage) -> Usage:
    inputs, outputs = usage.prompt_tokens_details, usage.completion_tokens_details
    cached = inputs.cached_tokens if inputs else None
    return Usage(
        input_tokens=usage.prompt_tokens or 0,
        output_tokens=usage.completion_tokens or 0,
        cached_tokens=cached or usage.prompt_cache_hit_tokens or 0,
        cache_write_tokens=(inputs.cache_write_tokens or 0) if inputs else 0,
        reasoning_tokens=(outputs.reasoning_tokens or 0) if outputs else 0,
    )
