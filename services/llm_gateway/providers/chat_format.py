"""A request in OpenAI's chat completions format. Pure; `openai.py` sends it, `chat_answer.py` reads the answer.

The same format is spoken by Mistral, Google, Vertex, Azure and the servers of open models, each with its own habits:
what one of them refuses is left out for it (see `Endpoint`), and what it wants back unread is kept in `opaque`.
What is said of a conversation's beginning never depends on what follows: a turn repeats the last one's bytes.
"""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec

from schemas.messages import (
    AssistantMessage,
    Content,
    ContentPart,
    ImagePart,
    Message,
    SystemMessage,
    TextPart,
    ToolCall,
    ToolMessage,
    UserMessage,
    images_of,
    text_of,
)
from schemas.requests import ResponseFormat
from schemas.tools import OfferedTool
from services.llm_gateway.core.answers import fitting_id, fitting_name
from services.llm_gateway.core.calls import ModelRequest
from services.llm_gateway.core.endpoints import Endpoint, Parameters
from services.llm_gateway.core.formats import (
    OPENAI,
    instruction,
    is_object,
    qualifies,
    sent_schema,
    with_instructions,
)
from services.llm_gateway.core.offers import arguments_object, parameters_of

_IDS = re.compile(r"[\x21-\x7e]{1,40}")
_MISTRAL_IDS = re.compile(r"[A-Za-z0-9]{9}")
_USER_NAMES = re.compile(r"[A-Za-z0-9_-]{1,64}")
CUT = " [goes on in the instructions]"
MORE = "The description of the tool {name} goes on:\n{rest}"
"""A description that is longer than the provider takes is cut there, and nothing of it is lost."""
Body = dict[str, Any]


class Opaque(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a server wants back with its own message."""

    reasoning_content: str = ""
    """Open reasoning models: their reasoning before a tool call."""
    reasoning_details: list[dict[str, Any]] = []
    """Routers to other providers: the blocks of their reasoning, with signatures."""
    extra_content: dict[str, Any] = {}
    """Google: the signature of its thoughts, by the place of the call that carried it."""


def request_body(endpoint: Endpoint, model: str, parameters: Parameters, request: ModelRequest) -> Body:
    """The arguments of the SDK's call, without those that are not set."""
    wanted = request.response_format
    held = wanted is not None and is_object(wanted) and (endpoint.takes_format_with_tools or not request.tools)
    messages = request.messages
    if wanted is not None and not held:
        messages = with_instructions(messages, instruction(wanted))
    tools = [_tool(endpoint, tool) for tool in request.tools]
    if more := [_more(endpoint, tool) for tool in request.tools if _is_cut(endpoint, tool)]:
        messages = with_instructions(messages, "\n\n".join(more))
    body: Body = {"model": model, "messages": _conversation(endpoint, messages), "stream": True}
    if tools:
        body["tools"] = tools
    if endpoint.takes_stream_options:
        body["stream_options"] = {"include_usage": True}
    limit = "max_completion_tokens" if endpoint.takes_max_completion_tokens else "max_tokens"
    optional = {
        "temperature": parameters.temperature,
        "top_p": parameters.top_p,
        "frequency_penalty": parameters.frequency_penalty,
        "presence_penalty": parameters.presence_penalty,
        limit: parameters.output_tokens_max(request.output_tokens_max),
        "stop": list(parameters.stop) or None,
        "seed": parameters.seed if endpoint.provider != "mistral" else None,
        "reasoning_effort": parameters.reasoning_effort,
        "response_format": _format(wanted) if wanted is not None and held else None,
    }
    body.update((name, value) for name, value in optional.items() if value is not None)
    return body


def extra_body(endpoint: Endpoint, parameters: Parameters) -> Body:
    """What is sent beside, because only some servers have it and the SDK does not."""
    extra = {
        "top_k": parameters.top_k if endpoint.takes_top_k else None,
        "random_seed": parameters.seed if endpoint.provider == "mistral" else None,
    }
    return {name: value for name, value in extra.items() if value is not None}


def _tool(endpoint: Endpoint, tool: OfferedTool) -> Body:
    function: Body = {"name": tool.name, "parameters": parameters_of(tool.info)}
    if tool.info.description:
        function["description"] = tool.info.description
    if _is_cut(endpoint, tool):
        function["description"] = tool.info.description[: _cut_at(endpoint)] + CUT
    return {"type": "function", "function": function}


def _is_cut(endpoint: Endpoint, tool: OfferedTool) -> bool:
    limit = endpoint.description_length_max
    return limit is not None and len(tool.info.description) > limit


def _cut_at(endpoint: Endpoint) -> int:
    return (endpoint.description_length_max or 0) - len(CUT)


def _more(endpoint: Endpoint, tool: OfferedTool) -> str:
    return MORE.format(name=tool.name, rest=tool.info.description[_cut_at(endpoint) :])


def _format(wanted: ResponseFormat) -> Body:
    strict = qualifies(wanted, OPENAI)
    schema = {"name": fitting_name(wanted.name), "schema": sent_schema(wanted), "strict": strict}
    return {"type": "json_schema", "json_schema": schema}


# --- the conversation -------------------------------------------------------------------


def _conversation(endpoint: Endpoint, messages: tuple[Message, ...]) -> list[Body]:
    said: list[Body] = []
    shown: list[Body] = []
    for message in messages:
        if shown and not isinstance(message, ToolMessage):
            said.append({"role": "user", "content": shown})
            shown = []
        said.append(_message(endpoint, message))
        if isinstance(message, ToolMessage) and message.images and not endpoint.takes_image_results:
            shown = [*shown, *_shown_apart(endpoint, message)]
    return [*said, {"role": "user", "content": shown}] if shown else said


def _message(endpoint: Endpoint, message: Message) -> Body:
    match message:
        case SystemMessage(content=content):
            return {"role": "system", "content": content}
        case UserMessage(content=content, name=name):
            user: Body = {"role": "user", "content": _content(content)}
            if endpoint.provider == "openai" and _USER_NAMES.fullmatch(name):
                user["name"] = name
            return user
        case AssistantMessage():
            return _assistant(endpoint, message)
        case ToolMessage(tool_call_id=id_, content=text, images=images):
            within = images if endpoint.takes_image_results else ()
            parts = _content((*_texts(text), *within)) if within else text
            return {"role": "tool", "tool_call_id": _id(endpoint, id_), "content": parts}


def _content(content: Content) -> str | list[Body]:
    if isinstance(content, str) or not images_of(content):
        return text_of(content)
    return [_part(part) for part in content if isinstance(part, ImagePart) or part.text]


def _part(part: ContentPart) -> Body:
    if isinstance(part, ImagePart):
        url = part.url or f"data:{part.media_type};base64,{part.data}"
        return {"type": "image_url", "image_url": {"url": url}}
    return {"type": "text", "text": part.text}


def _texts(text: str) -> tuple[ContentPart, ...]:
    return (TextPart(text=text),) if text else ()


def _shown_apart(endpoint: Endpoint, message: ToolMessage) -> list[Body]:
    """The images of a result, for a message after all results."""
    of = f"{_id(endpoint, message.tool_call_id)} ({fitting_name(message.name)})" if message.name else ""
    caption = f"Images in the result of tool call {of or _id(endpoint, message.tool_call_id)}:"
    return [{"type": "text", "text": caption}, *(_part(image) for image in message.images)]


def _assistant(endpoint: Endpoint, message: AssistantMessage) -> Body:
    if not message.tool_calls:
        return {"role": "assistant", "content": message.content}
    opaque = _opaque_of(endpoint, message)
    calls: list[Body] = []
    for n, call in enumerate(message.tool_calls):
        function = {"name": fitting_name(call.name), "arguments": _arguments(endpoint, call)}
        said: Body = {"id": _id(endpoint, call.id), "type": "function", "function": function}
        if str(n) in opaque.extra_content:
            said["extra_content"] = opaque.extra_content[str(n)]
        calls.append(said)
    body: Body = {"role": "assistant", "content": message.content or None, "tool_calls": calls}
    if opaque.reasoning_content:
        body["reasoning_content"] = opaque.reasoning_content
    if opaque.reasoning_details:
        body["reasoning_details"] = opaque.reasoning_details
    return body


def _opaque_of(endpoint: Endpoint, message: AssistantMessage) -> Opaque:
    if message.opaque_for != endpoint.opaque_name:
        return Opaque()
    try:
        return msgspec.json.decode(message.opaque, type=Opaque)
    except msgspec.DecodeError:
        return Opaque()


def _arguments(endpoint: Endpoint, call: ToolCall) -> str:
    # OpenAI takes what its model wrote, whatever that is; compatible servers parse it and fail on what is no object.
    if endpoint.provider == "openai" and (endpoint.official or endpoint.azure is not None):
        return call.arguments
    fields = arguments_object(call.arguments)
    return json.dumps(fields, ensure_ascii=False) if list(fields) == ["malformed_arguments"] else call.arguments


def _id(endpoint: Endpoint, id_: str) -> str:
    return fitting_id(id_, _MISTRAL_IDS if endpoint.provider == "mistral" else _IDS)
