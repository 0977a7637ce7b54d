"""OpenAI's chat completions format, out and back. Pure; `openai.py` sends it.

The same format is spoken by Mistral, Google, Vertex, Azure and the servers of open models, each with its own habits:
what one of them refuses is left out for it (see `Endpoint`), and what it wants back unread is kept in `opaque`.
"""

from __future__ import annotations

import json
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

_IDS = re.compile(r"[\x21-\x7e]{1,40}")
_MISTRAL_IDS = re.compile(r"[A-Za-z0-9]{9}")
_USER_NAMES = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Incomplete(Exception):
    """The stream is over and the answer is not."""


# --- what is sent -----------------------------------------------------------------------


class _Opaque(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a server wants back with its own message."""

    reasoning_content: str = ""
    """Open reasoning models: their reasoning before a tool call."""
    extra_content: dict[str, Any] = {}
    """Google: the signature of its thoughts, by the place of the call that carried it."""


def request_body(endpoint: Endpoint, model: str, parameters: Parameters, request: ModelRequest) -> dict[str, Any]:
    """The arguments of the SDK's call, without those that are not set."""
    body: dict[str, Any] = {
        "model": model,
        "messages": [_message(endpoint, message) for message in request.messages],
        "stream": True,
    }
    if request.tools:
        body["tools"] = [_tool(tool) for tool in request.tools]
    if endpoint.takes_stream_options:
        body["stream_options"] = {"include_usage": True}
    limit = "max_completion_tokens" if endpoint.takes_max_completion_tokens else "max_tokens"
    numbers = {
        "temperature": parameters.temperature,
        "top_p": parameters.top_p,
        "frequency_penalty": parameters.frequency_penalty,
        "presence_penalty": parameters.presence_penalty,
        limit: parameters.max_tokens,
    }
    body.update((name, value) for name, value in numbers.items() if value is not None)
    return body


def _tool(tool: OfferedTool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name, "parameters": parameters_of(tool.info)}
    if tool.info.description:
        function["description"] = tool.info.description
    return {"type": "function", "function": function}


def _message(endpoint: Endpoint, message: Message) -> dict[str, Any]:
    match message:
        case SystemMessage(content=content):
            return {"role": "system", "content": content}
        case UserMessage(content=content, name=name):
            user = {"role": "user", "content": text_of(content)}
            if endpoint.provider == "openai" and _USER_NAMES.fullmatch(name):
                user["name"] = name
            return user
        case AssistantMessage():
            return _assistant(endpoint, message)
        case ToolMessage(tool_call_id=id_, content=content):
            return {"role": "tool", "tool_call_id": _id(endpoint, id_), "content": content}


def _assistant(endpoint: Endpoint, message: AssistantMessage) -> dict[str, Any]:
    if not message.tool_calls:
        return {"role": "assistant", "content": message.content}
    opaque = _opaque_of(endpoint, message)
    calls: list[dict[str, Any]] = []
    for n, call in enumerate(message.tool_calls):
        function = {"name": fitting_name(call.name), "arguments": _arguments(endpoint, call)}
        said: dict[str, Any] = {"id": _id(endpoint, call.id), "type": "function", "function": function}
        if str(n) in opaque.extra_content:
            said["extra_content"] = opaque.extra_content[str(n)]
        calls.append(said)
    body: dict[str, Any] = {"role": "assistant", "content": message.content or None, "tool_calls": calls}
    if opaque.reasoning_content:
        body["reasoning_content"] = opaque.reasoning_content
    return body


def _opaque_of(endpoint: Endpoint, message: AssistantMessage) -> _Opaque:
    if message.opaque_for != endpoint.opaque_name:
        return _Opaque()
    try:
        return msgspec.json.decode(message.opaque, type=_Opaque)
    except msgspec.DecodeError:
        return _Opaque()


def _arguments(endpoint: Endpoint, call: ToolCall) -> str:
    # OpenAI takes what its model wrote, whatever that is; compatible servers parse it and fail on what is no object.
    if endpoint.provider == "openai" and (endpoint.official or endpoint.azure is not None):
        return call.arguments
    fields = arguments_object(call.arguments)
    return json.dumps(fields, ensure_ascii=False) if list(fields) == ["malformed_arguments"] else call.arguments


def _id(endpoint: Endpoint, id_: str) -> str:
    return fitting_id(id_, _MISTRAL_IDS if endpoint.provider == "mistral" else _IDS)


# --- what comes back --------------------------------------------------------------------


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
    tool_calls: list[_CallPiece] | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    delta: _Delta | None = None
    finish_reason: str | None = None


class _InputDetails(msgspec.Struct):
    cached_tokens: int | None = None


class _OutputDetails(msgspec.Struct):
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
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
        content = "".join(self._text) or "".join(self._refusal)
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
        opaque = _Opaque(reasoning_content="".join(self._reasoning), extra_content=extra)
        return "" if opaque == _Opaque() else msgspec.json.encode(opaque).decode()


def _usage(usage: _Usage) -> Usage:
    inputs, outputs = usage.prompt_tokens_details, usage.completion_tokens_details
    return Usage(
        input_tokens=usage.prompt_tokens or 0,
        output_tokens=usage.completion_tokens or 0,
        cached_tokens=(inputs.cached_tokens or 0) if inputs else 0,
        reasoning_tokens=(outputs.reasoning_tokens or 0) if outputs else 0,
    )
