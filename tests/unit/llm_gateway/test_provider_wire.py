"""The providers' double against the types of their own SDKs: every event and body that it sends, field by field.

An unknown field fails, and so does a missing one. What is deliberately not as the types say (another server's habit, a
broken answer) is written out in the tests that send it.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from anthropic.types import ErrorResponse, ModelInfo, RawMessageStreamEvent
from openai.types import ErrorObject, Model
from openai.types.chat import ChatCompletionChunk

from tests.support import provider_wire as wire
from tests.support.provider_wire import Call, Json, Thinking, chat_stream, messages_stream
from tests.support.sdk_types import problems

CALLS = [Call("call_a", "clock__now", '{"zone": "Europe/Vienna"}'), Call("call_b", "clock__now", "")]


def events(stream: list[bytes]) -> list[tuple[str, Any]]:
    """The events of a stream: their names and data."""
    read: list[tuple[str, Any]] = []
    for event in stream:
        *named, data = event.decode().rstrip("\n").split("\n")
        assert data.startswith("data: ")
        name = named[0].removeprefix("event: ") if named else ""
        body = data.removeprefix("data: ")
        read.append((name, None if body == "[DONE]" else json.loads(body)))
    return read


@pytest.mark.parametrize(
    "stream",
    [
        chat_stream("Hello, « world »."),
        chat_stream(calls=CALLS),
        chat_stream("Both.", CALLS),
        chat_stream("cut", finish="length"),
        chat_stream(finish="content_filter"),
        chat_stream("no usage", usage=None),
    ],
)
def test_chunks_are_as_openais_types_say(stream: list[bytes]) -> None:
    *chunks, (_, done) = events(stream)
    assert done is None
    for name, chunk in chunks:
        assert name == ""
        assert problems(chunk, ChatCompletionChunk) == []


@pytest.mark.parametrize(
    "stream",
    [
        messages_stream("Hello, « world »."),
        messages_stream("Looking.", *CALLS),
        messages_stream(Thinking("I think.", "c2ln"), Thinking("aGlkZGVu", redacted=True), "Well."),
        messages_stream("cut", stop="max_tokens"),
        messages_stream(stop="refusal", details={"type": "refusal", "category": "cyber", "explanation": "No."}),
    ],
)
def test_events_are_as_anthropics_types_say(stream: list[bytes]) -> None:
    kinds: list[str] = []
    for name, event in events(stream):
        kinds.append(name)
        assert event["type"] == name
        if name != "ping":  # the SDK has no type for it, and skips it
            assert problems(event, RawMessageStreamEvent) == []
    assert kinds[0] == "message_start"
    assert kinds[-2:] == ["message_delta", "message_stop"]
    assert kinds.count("content_block_start") == kinds.count("content_block_stop")


CHAT_ERRORS = [getattr(wire, name) for name in dir(wire) if name.endswith("_CHAT") and not name.startswith("MODELS")]
MESSAGES_ERRORS = [getattr(wire, n) for n in dir(wire) if n.endswith("_MESSAGES") and not n.startswith("MODELS")]


def test_errors_are_as_the_types_say() -> None:
    assert len(CHAT_ERRORS) >= 5
    assert len(MESSAGES_ERRORS) >= 3
    for body in CHAT_ERRORS:
        assert body.keys() == {"error"}
        assert problems(body["error"], ErrorObject) == []
    for body in MESSAGES_ERRORS:
        assert problems(body, ErrorResponse) == []


def test_lists_of_models_are_as_the_types_say() -> None:
    assert [problems(model, Model) for model in wire.MODELS_CHAT["data"]] == [[]]
    assert [problems(model, ModelInfo) for model in wire.MODELS_MESSAGES["data"]] == [[]]


CHUNK: Json = wire.chat_chunk({"content": "x"})


@pytest.mark.parametrize(
    ("chunk", "problem"),
    [
        ({**CHUNK, "extra": 1}, "$.extra: ChatCompletionChunk has no such field"),
        ({k: v for k, v in CHUNK.items() if k != "created"}, "$.created: missing in ChatCompletionChunk"),
        ({**CHUNK, "created": "now"}, "$.created: 'now' is not an integer"),
        ({**CHUNK, "object": "chat.completion"}, "$.object: 'chat.completion' is not ('chat.completion.chunk',)"),
        ({**CHUNK, "choices": {}}, "$.choices: '{}' is not an array"),
        (wire.chat_chunk({"contents": "x"}), "$.choices[0].delta.contents: ChoiceDelta has no such field"),
        (
            wire.chat_chunk({"tool_calls": [{}]}),
            "$.choices[0].delta.tool_calls[0].index: missing in ChoiceDeltaToolCall",
        ),
    ],
)
def test_a_double_that_is_not_like_the_provider_is_found_out(chunk: Json, problem: str) -> None:
    assert problems(chunk, ChatCompletionChunk) == [problem]


@pytest.mark.parametrize(
    "event",
    [
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "txt": "x"}},
        {"type": "content_block_stop"},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "tool_use", "id": "a", "name": "b"}},
        {"type": "something_new"},
    ],
)
def test_an_event_that_is_none_is_found_out(event: Json) -> None:
    assert problems(event, RawMessageStreamEvent)
