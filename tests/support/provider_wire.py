"""What the two provider families say on the wire, and what they refuse, as their servers do it.

`chat_*` is OpenAI's chat completions, `messages_*` Anthropic's messages. Streams are lists of server-sent events;
errors have the providers' own shapes and words. Requests are read by the types of the providers' SDKs, strictly: what
is no field there is refused, but for what servers of open models have beside them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from anthropic.types.message_create_params import MessageCreateParamsStreaming
from openai.types.chat.completion_create_params import CompletionCreateParamsStreaming

from tests.support.sdk_types import problems

Json = dict[str, Any]


class Call(NamedTuple):
    """A tool call that the model makes."""

    id: str
    name: str
    arguments: str


class Thinking(NamedTuple):
    """A block of visible or hidden thinking (Anthropic)."""

    text: str
    signature: str = ""
    redacted: bool = False


KEEP_ALIVE = b": keep-alive\n\n"
"""A comment between events, which says only that the server lives."""


def sse(data: Any, event: str = "") -> bytes:
    """One server-sent event."""
    body = data if isinstance(data, str) else json.dumps(data)
    return (f"event: {event}\n" if event else "").encode() + f"data: {body}\n\n".encode()


def pieces(text: str, size: int = 7) -> Iterable[str]:
    """A text as a model's tokens might cut it."""
    return (text[at : at + size] for at in range(0, len(text), size))


# --- chat completions -------------------------------------------------------------------

CHAT_USAGE: Json = {
    "prompt_tokens": 120,
    "completion_tokens": 30,
    "total_tokens": 150,
    "prompt_tokens_details": {"cached_tokens": 100, "audio_tokens": 0, "cache_write_tokens": 15},
    "completion_tokens_details": {"reasoning_tokens": 8, "audio_tokens": 0, "accepted_prediction_tokens": 0},
}


def chat_chunk(delta: Json | None, *, finish: str | None = None, usage: Json | None = None) -> Json:
    """One chunk; without a delta, the one that carries usage only."""
    choices = [] if delta is None else [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]
    return {
        "id": "chatcmpl-B9MBs8Cjcvolr",
        "object": "chat.completion.chunk",
        "created": 1741569952,
        "model": "gpt-test-2026-01-01",
        "service_tier": "default",
        "system_fingerprint": "fp_44709d6fcb",
        "choices": choices,
        "usage": usage,
    }


def chat_stream(
    text: str = "", calls: Sequence[Call] = (), *, finish: str = "", usage: Json | None = CHAT_USAGE
) -> list[bytes]:
    """A whole streamed answer."""
    chunks = [chat_chunk({"role": "assistant", "content": "" if text else None, "refusal": None})]
    chunks += [chat_chunk({"content": piece}) for piece in pieces(text)]
    for index, call in enumerate(calls):
        function = {"name": call.name, "arguments": ""}
        opened = {"index": index, "id": call.id, "type": "function", "function": function}
        chunks.append(chat_chunk({"tool_calls": [opened]}))
        chunks += [
            chat_chunk({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
            for piece in pieces(call.arguments)
        ]
    chunks.append(chat_chunk({}, finish=finish or ("tool_calls" if calls else "stop")))
    if usage is not None:
        chunks.append(chat_chunk(None, usage=usage))
    return [*(sse(chunk) for chunk in chunks), sse("[DONE]")]


def chat_error(message: str, *, kind: str = "invalid_request_error", code: str | None = None) -> Json:
    """The body of an error."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


BAD_KEY_CHAT = chat_error(
    "Incorrect API key provided: sk-wrong. You can find your API key at https://platform.openai.com/account/api-keys.",
    code="invalid_api_key",
)
RATE_LIMITED_CHAT = chat_error(
    "Rate limit reached for gpt-test in organization org-test on requests per min (RPM): Limit 3, Used 3.",
    kind="requests",
    code="rate_limit_exceeded",
)
NO_QUOTA_CHAT = chat_error(
    "You exceeded your current quota, please check your plan and billing details.",
    kind="insufficient_quota",
    code="insufficient_quota",
)
NO_MODEL_CHAT = chat_error(
    "The model `gpt-none` does not exist or you do not have access to it.", code="model_not_found"
)
SERVER_ERROR_CHAT = chat_error(
    "The server had an error while processing your request. Sorry about that!", kind="server_error"
)


MODELS_CHAT: Json = {
    "object": "list",
    "data": [{"id": "gpt-test", "object": "model", "created": 1767225600, "owned_by": "openai"}],
}
"""A list of models."""


def chat_problem(body: Json) -> Json | None:
    """Why OpenAI refuses a request, or None."""
    open_calls: list[str] = []
    for at, message in enumerate(body["messages"]):
        if message["role"] == "tool":
            if message["tool_call_id"] not in open_calls:
                return chat_error(
                    f"Invalid parameter: messages with role 'tool' must be a response to a preceeding message with "
                    f"'tool_calls'. (messages[{at}])"
                )
            open_calls.remove(message["tool_call_id"])
            continue
        if open_calls:
            return chat_error(
                "An assistant message with 'tool_calls' must be followed by tool messages responding to each "
                f"'tool_call_id'. The following tool_call_ids did not have response messages: {', '.join(open_calls)}"
            )
        open_calls = [call["id"] for call in message.get("tool_calls", ())]
    for problem in problems(body, CompletionCreateParamsStreaming):
        if not _EXTENSION.fullmatch(problem):
            return chat_error(f"Unrecognized request argument supplied, or of a wrong type: {problem}")
    return None


_EXTENSION = re.compile(
    r"\$\.(top_k|random_seed): .* no such field"
    r"|\$\.messages\[\d+\]\.(reasoning_content|reasoning_details|tool_calls\[\d+\]\.extra_content): .* no such field"
)
"""What compatible servers have beside OpenAI."""

# --- messages ---------------------------------------------------------------------------

MESSAGES_USAGE: Json = {
    "input_tokens": 20,
    "cache_creation_input_tokens": 10,
    "cache_read_input_tokens": 90,
    "output_tokens": 1,
}
OUTPUT_TOKENS = 30
THINKING_TOKENS = 8
Content = str | Call | Thinking


def messages_stream(*content: Content, stop: str = "", details: Json | None = None) -> list[bytes]:
    """A whole streamed answer; `details` of why it stopped."""
    message: Json = {
        "id": "msg_01XFDUDYJgAACzvnptvVoYEL",
        "type": "message",
        "role": "assistant",
        "model": "claude-test-1",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": MESSAGES_USAGE,
    }
    events: list[Json] = [{"type": "message_start", "message": message}, {"type": "ping"}]
    for index, block in enumerate(content):
        opened, deltas = _block(block)
        events.append({"type": "content_block_start", "index": index, "content_block": opened})
        events += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        events.append({"type": "content_block_stop", "index": index})
    reason = stop or ("tool_use" if any(isinstance(block, Call) for block in content) else "end_turn")
    events.append(
        {
            "type": "message_delta",
            "delta": {"stop_reason": reason, "stop_sequence": None, "stop_details": details},
            "usage": {"output_tokens": OUTPUT_TOKENS, "output_tokens_details": {"thinking_tokens": THINKING_TOKENS}},
        }
    )
    events.append({"type": "message_stop"})
    return [sse(event, event["type"]) for event in events]


def _block(block: Content) -> tuple[Json, list[Json]]:
    match block:
        case str():
            return {"type": "text", "text": ""}, [{"type": "text_delta", "text": piece} for piece in pieces(block)]
        case Call(id=id_, name=name, arguments=arguments):
            opened: Json = {"type": "tool_use", "id": id_, "name": name, "input": {}}
            written = [{"type": "input_json_delta", "partial_json": piece} for piece in ("", *pieces(arguments))]
            return opened, written
        case Thinking(text=text, redacted=True):
            return {"type": "redacted_thinking", "data": text}, []
        case Thinking(text=text, signature=signature):
            thought = [{"type": "thinking_delta", "thinking": piece} for piece in pieces(text)]
            signed = {"type": "signature_delta", "signature": signature}
            return {"type": "thinking", "thinking": "", "signature": ""}, [*thought, signed]


def messages_error(kind: str, message: str) -> Json:
    """The body of an error."""
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_011CSHoEeqs5C35K2UUqR7Fy"}


BAD_KEY_MESSAGES = messages_error("authentication_error", "invalid x-api-key")
OVERLOADED_MESSAGES = messages_error("overloaded_error", "Overloaded")
RATE_LIMITED_MESSAGES = messages_error(
    "rate_limit_error", "This request would exceed your organization's rate limit of 50 requests per minute."
)


MODELS_MESSAGES: Json = {
    "data": [
        {
            "type": "model",
            "id": "claude-test",
            "display_name": "Test",
            "created_at": "2026-01-01T00:00:00Z",
            "lifecycle": "active",
        }
    ],
    "has_more": False,
    "first_id": "claude-test",
    "last_id": "claude-test",
}
"""A list of models."""


def messages_problem(body: Json, version: str) -> Json | None:
    """Why Anthropic refuses a request, or None."""
    if "max_tokens" not in body:
        return messages_error("invalid_request_error", "max_tokens: Field required")
    sampling: set[str] = set() if version > "2023-06-01" else {"temperature", "top_p", "top_k"}
    rest = {name: value for name, value in body.items() if name not in sampling}
    if found := problems(rest, MessageCreateParamsStreaming):
        return messages_error("invalid_request_error", f"{found[0]}: Extra inputs are not permitted")
    if problem := _thinking_problem(body) or _cache_problem(body):
        return messages_error("invalid_request_error", problem)
    wanted: list[str] = []
    for at, message in enumerate(body["messages"]):
        if problem := _content_problem(at, message, wanted):
            return messages_error("invalid_request_error", problem)
        wanted = [block["id"] for block in message["content"] if block["type"] == "tool_use"]
    return None


def _content_problem(at: int, message: Json, wanted: list[str]) -> str:
    blocks: list[Json] = message["content"]
    if not blocks:
        return f"messages.{at}: all messages must have non-empty content"
    texts = [block["text"] for block in blocks if block["type"] == "text"]
    for block in blocks:
        within = block.get("content", [])
        texts += [within] if isinstance(within, str) else [part["text"] for part in within if part["type"] == "text"]
    if not all(text.strip() for text in texts):
        return "messages: text content blocks must be non-empty"
    answered = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
    if missing := [id_ for id_ in wanted if id_ not in answered]:
        return (
            f"messages.{at}: `tool_use` ids were found without `tool_result` blocks immediately after: "
            f"{', '.join(missing)}. Each `tool_use` block must have a corresponding `tool_result` block in the next "
            "message."
        )
    if extra := [id_ for id_ in answered if id_ not in wanted]:
        return f"messages.{at}.content.0: unexpected `tool_use_id` found in `tool_result` blocks: {extra[0]}."
    if answered and [block["type"] for block in blocks[: len(answered)]] != ["tool_result"] * len(answered):
        return f"messages.{at}: `tool_result` blocks must come first"
    if any(block["type"] == "tool_use" and not isinstance(block["input"], dict) for block in blocks):
        return f"messages.{at}.content: tool_use.input: Input should be a valid dictionary"
    return ""


def _thinking_problem(body: Json) -> str:
    thinking: Json = body.get("thinking", {})
    if not thinking:
        return ""
    if thinking["budget_tokens"] < 1024:
        return "thinking.enabled.budget_tokens: Input should be greater than or equal to 1024"
    if body["max_tokens"] <= thinking["budget_tokens"]:
        return "`max_tokens` must be greater than `thinking.budget_tokens`."
    if body.get("temperature", 1) != 1:
        return "`temperature` may only be set to 1 when thinking is enabled."
    if "top_k" in body:
        return "`top_k` must be unset when thinking is enabled."
    messages: list[Json] = body["messages"]
    under_way: list[Json] = []
    for message in reversed(messages):
        if message["role"] == "user" and any(block["type"] != "tool_result" for block in message["content"]):
            break
        under_way.append(message)
    if under_way and (kind := under_way[-1]["content"][0]["type"]) not in ("thinking", "redacted_thinking"):
        return f"Expected `thinking` or `redacted_thinking`, but found `{kind}`."
    return ""


def _cache_problem(body: Json) -> str:
    marks = json.dumps(body).count('"cache_control"')
    return f"A maximum of 4 blocks with cache_control may be provided. Found {marks}." if marks > 4 else ""


def unmarked(body: Json) -> Json:
    """A request without the marks of the cache."""

    def without(value: Any) -> Any:
        match value:
            case dict():
                return {key: without(inner) for key, inner in value.items() if key != "cache_control"}  # pyright: ignore[reportUnknownVariableType]  # any JSON
            case list():
                return [without(inner) for inner in value]  # pyright: ignore[reportUnknownVariableType]  # any JSON
            case _:
                return value

    stripped: Json = without(body)
    return stripped
