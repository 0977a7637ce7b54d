"""Streams as servers really send them, through the real SDKs: cut anywhere, commented, numbered badly, unfinished."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx2
import pytest

from schemas.events import ModelAnswered, ModelFailed
from schemas.messages import AssistantMessage, Usage, UserMessage
from schemas.resources import LLMParameters, LLMSpec, ToolInfo
from services.llm_gateway.core.calls import ModelReply, ModelRequest
from services.llm_gateway.core.endpoints import endpoint_of, parameters_of
from services.llm_gateway.providers import anthropic as anthropic_provider
from services.llm_gateway.providers import openai as openai_provider
from services.llm_gateway.providers.base import Setup
from services.runtime.memory.clock import ManualClock
from tests.support.gateway import GatewayRig, Outcome, TaskRig, apply_agent, apply_llm, apply_server
from tests.support.provider_server import ProviderServer, Reply, Stream
from tests.support.provider_wire import (
    KEEP_ALIVE,
    MESSAGES_USAGE,
    Call,
    Json,
    Thinking,
    chat_chunk,
    chat_error,
    chat_stream,
    messages_error,
    messages_stream,
    sse,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

TEXT = "Ä « 🙂 »."
CALLS = (Call("call_a", "clock__now", '{"zone": "Köln"}'), Call("call_b", "clock__now", ""))
WHOLE: dict[str, list[bytes]] = {
    "openai": chat_stream(TEXT, CALLS),
    "anthropic": messages_stream(Thinking("Hm 🙂", "c2ln"), TEXT, *CALLS),
}


def plainly(*data: Json) -> list[bytes]:
    """Events with characters as they are, not escaped."""
    bodies = [json.dumps(event, ensure_ascii=False, separators=(",", ":")) for event in data]
    return [sse(body, event.get("type", "")) for body, event in zip(bodies, data, strict=True)]


SHORT: dict[str, list[bytes]] = {
    "openai": [
        KEEP_ALIVE,
        *plainly(
            *(
                {"choices": [{"delta": delta}]}
                for delta in (
                    {"content": TEXT[:5]},
                    {"content": TEXT[5:]},
                    {"tool_calls": [{"index": 0, "id": "a", "function": {"name": "n", "arguments": '{"zone": "K'}}]},
                    {"tool_calls": [{"index": 0, "function": {"arguments": 'öln"}'}}]},
                )
            ),
            {"choices": [{"delta": {}, "finish_reason": "stop"}]},
        ),
        sse("[DONE]"),
    ],
    "anthropic": plainly(
        {"type": "message_start", "message": {"usage": {"input_tokens": 3}}},
        {"type": "ping"},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": TEXT[:5]}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": TEXT[5:]}},
        {"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "id": "a", "name": "n"}},
        {
            "type": "content_block_delta",
            "index": 1,
            "delta": {"partial_json": '{"zone": "K', "type": "input_json_delta"},
        },
        {"type": "content_block_delta", "index": 1, "delta": {"partial_json": 'öln"}', "type": "input_json_delta"}},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 4}},
        {"type": "message_stop"},
    ),
}
"""As little as an answer can be, because it is read once for each of its bytes."""


async def task_on(gateway: GatewayRig, server: ProviderServer, family: Any, **given: Any) -> TaskRig:
    url = server.url if family == "anthropic" else server.openai_url
    spec = LLMSpec(provider=family, parameters=LLMParameters(model="m", base_url=url, **given))
    await apply_server(gateway.store, "clock", ToolInfo(name="now"))
    await apply_llm(gateway.store, spec)
    await apply_agent(gateway.store, "clock")
    await gateway.llm_status(status="Ready")
    return await gateway.task()


async def outcome(gateway: GatewayRig, server: ProviderServer, family: Any, behaviour: Stream | Reply) -> Outcome:
    task = await task_on(gateway, server, family)
    server.then(behaviour)
    await task.ask()
    return await task.outcome()


async def answer(gateway: GatewayRig, server: ProviderServer, family: Any, events: Sequence[bytes]) -> ModelAnswered:
    came = await outcome(gateway, server, family, Stream(events))
    assert isinstance(came, ModelAnswered), came
    return came


async def failure(gateway: GatewayRig, server: ProviderServer, family: Any, events: Sequence[bytes]) -> ModelFailed:
    came = await outcome(gateway, server, family, Stream(events))
    assert isinstance(came, ModelFailed), came
    return came


# --- bytes ------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["openai", "anthropic"])
async def test_an_answer_of_single_bytes_is_the_same_answer(
    gateway: GatewayRig, server: ProviderServer, family: str
) -> None:
    came = await outcome(gateway, server, family, Stream(WHOLE[family], bytewise=True))
    assert isinstance(came, ModelAnswered)
    assert came.message.content == TEXT
    assert [(c.name, c.arguments) for c in came.message.tool_calls] == [
        ("clock__now", '{"zone": "Köln"}'),
        ("clock__now", "{}"),
    ]


class Cut(httpx2.AsyncBaseTransport):
    """Answers with some bytes, in two pieces."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.at = 0

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        async def pieces() -> AsyncIterator[bytes]:
            yield self.body[: self.at]
            yield self.body[self.at :]

        headers = {"content-type": "text/event-stream"}
        return httpx2.Response(200, headers=headers, content=pieces(), request=request)


async def reply_of(model: Any) -> tuple[ModelReply, str]:
    heard: list[str] = []
    reply = await model.call(ModelRequest(messages=(UserMessage(content="Hi"),)), heard.append)
    return reply, "".join(heard)


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"], ids=["lf", "crlf"])
@pytest.mark.parametrize("family", ["openai", "anthropic"])
async def test_an_answer_cut_at_any_byte_is_the_same_answer(family: Any, line_end: bytes) -> None:
    body = b"".join(SHORT[family]).replace(b"\n", line_end)
    transport = Cut(body)
    spec = LLMSpec(provider=family, parameters=LLMParameters(model="m", base_url="http://provider.test"))
    setup = Setup(
        spec=spec, endpoint=endpoint_of(spec), parameters=parameters_of(spec), api_key="k", clock=ManualClock()
    )
    make: Any = openai_provider.make if family == "openai" else anthropic_provider.make
    model = make(setup)
    model._client = model._client.copy(http_client=httpx2.AsyncClient(transport=transport))
    expected = await reply_of(model)
    assert expected[1] == TEXT
    assert expected[0].message.content == TEXT
    assert [call.arguments for call in expected[0].message.tool_calls] == ['{"zone": "Köln"}']
    different: list[int] = []
    for at in range(1, len(body)):
        transport.at = at
        if await reply_of(model) != expected:
            different.append(at)
    assert different == []
    await model.close()


# --- the OpenAI family ----------------------------------------------------------------------


FINISH = [sse(chat_chunk({}, finish="stop")), sse("[DONE]")]


async def test_comments_between_events_are_no_events(gateway: GatewayRig, server: ProviderServer) -> None:
    events = [piece for event in WHOLE["openai"] for piece in (KEEP_ALIVE, b": OPENROUTER PROCESSING\n\n", event)]
    assert (await answer(gateway, server, "openai", events)).message.content == TEXT


async def test_azures_first_chunk_and_filter_results_are_no_answer(gateway: GatewayRig, server: ProviderServer) -> None:
    safe = {"hate": {"filtered": False, "severity": "safe"}}
    first: Json = {
        "choices": [],
        "created": 0,
        "id": "",
        "model": "",
        "object": "",
        "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": safe}],
    }
    said = chat_chunk({"content": "noon"})
    said["choices"][0]["content_filter_results"] = safe
    came = await answer(gateway, server, "openai", [sse(first), sse(said), *FINISH])
    assert (came.message.content, came.model) == ("noon", "gpt-test-2026-01-01")


async def test_a_role_in_every_chunk_and_empty_pieces_add_nothing(gateway: GatewayRig, server: ProviderServer) -> None:
    pieces: list[Json] = [
        {"role": "assistant", "content": ""},
        {"role": "assistant", "content": "no", "tool_calls": None},
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "assistant", "content": "on", "refusal": None},
    ]
    came = await answer(gateway, server, "openai", [*(sse(chat_chunk(piece)) for piece in pieces), *FINISH])
    assert came.message == AssistantMessage(content="noon")


@pytest.mark.parametrize("index", ["counted", None, -1])
async def test_calls_that_come_whole_in_one_chunk_with_the_end_are_read(
    gateway: GatewayRig, server: ProviderServer, index: Any
) -> None:
    calls: list[Json] = []
    for n in range(3):
        function = {"name": "clock__now", "arguments": f'{{"n": {n}}}'}
        numbered = {} if index is None else {"index": n if index == "counted" else index}
        calls.append({**numbered, "id": f"call_{n}", "type": "function", "function": function})
    events = [sse(chat_chunk({"content": None, "tool_calls": calls}, finish="tool_calls")), sse("[DONE]")]
    came = await answer(gateway, server, "openai", events)
    assert [(c.id, c.arguments) for c in came.message.tool_calls] == [(f"call_{n}", f'{{"n": {n}}}') for n in range(3)]


async def test_pieces_of_calls_without_numbers_belong_to_the_last_call(
    gateway: GatewayRig, server: ProviderServer
) -> None:
    def piece(id_: str | None, name: str | None, arguments: str, index: int | None) -> bytes:
        call: Json = {"function": {"name": name, "arguments": arguments}}
        call |= {"id": id_, "type": "function"} if id_ else {}
        call |= {} if index is None else {"index": index}
        return sse(chat_chunk({"tool_calls": [call]}))

    events = [
        piece("a", "clock__now", '{"n"', None),
        piece(None, None, ": 1}", None),
        piece("b", "clock__now", '{"n"', -1),
        piece(None, None, ": 2}", -1),
        sse(chat_chunk({}, finish="tool_calls")),
        sse("[DONE]"),
    ]
    came = await answer(gateway, server, "openai", events)
    assert [(c.id, c.arguments) for c in came.message.tool_calls] == [("a", '{"n": 1}'), ("b", '{"n": 2}')]


@pytest.mark.parametrize("finish", ["length", "content_filter", "eos", "function_call"])
async def test_however_it_ended_what_was_said_is_recorded_with_the_reason(
    gateway: GatewayRig, server: ProviderServer, finish: str
) -> None:
    came = await answer(gateway, server, "openai", chat_stream("It is no", finish=finish))
    assert (came.message.content, came.finish_reason) == ("It is no", finish)


async def test_a_refusal_in_words_is_the_answer(gateway: GatewayRig, server: ProviderServer) -> None:
    events = [sse(chat_chunk({"refusal": "I can't "})), sse(chat_chunk({"refusal": "help."})), *FINISH]
    assert (await answer(gateway, server, "openai", events)).message.content == "I can't help."


async def test_an_answer_without_usage_counts_nothing(gateway: GatewayRig, server: ProviderServer) -> None:
    assert (await answer(gateway, server, "openai", chat_stream("noon", usage=None))).usage == Usage()


async def test_usage_in_every_chunk_counts_once(gateway: GatewayRig, server: ProviderServer) -> None:
    def used(n: int) -> Json:
        return {"prompt_tokens": 10, "completion_tokens": n, "total_tokens": 10 + n, "prompt_cache_hit_tokens": 4}

    events = [sse(chat_chunk({"content": str(n)}, usage=used(n))) for n in (1, 2, 3)]
    usage = (await answer(gateway, server, "openai", [*events, *FINISH])).usage
    assert (usage.input_tokens, usage.output_tokens, usage.cached_tokens) == (10, 3, 4)


async def test_a_character_in_two_halves_is_whole(gateway: GatewayRig, server: ProviderServer) -> None:
    halves = [chat_chunk({"content": half}) for half in ("a\ud83d", "\ude42b")]
    assert (await answer(gateway, server, "openai", [*map(sse, halves), *FINISH])).message.content == "a🙂b"


REASONING: list[Json] = [
    {"reasoning_content": "I \ud83d", "reasoning_details": [{"type": "reasoning.text", "text": "I ", "index": 0}]},
    {"reasoning_content": "\ude42", "reasoning_details": [{"type": "reasoning.text", "text": "look", "index": 0}]},
    {"reasoning_details": [{"type": "reasoning.text", "signature": "c2ln", "index": 0}]},
    {"reasoning_details": [{"type": "reasoning.encrypted", "data": "eA==", "index": 1}]},
]


async def test_reasoning_before_a_call_goes_back_as_it_came_and_is_no_text(
    gateway: GatewayRig, server: ProviderServer
) -> None:
    task = await task_on(gateway, server, "openai")
    call = chat_stream(calls=[Call("call_a", "clock__now", "{}")])
    server.then(Stream([*(sse(chat_chunk(piece)) for piece in REASONING), *call]))
    await task.ask()
    assert (await task.answered()).message.content == ""
    await task.tool_result("r1", 1, "call_a", "noon")
    await task.ask(2)
    await task.answered(2)
    said = server.generations()[-1].body["messages"][2]
    assert said["reasoning_content"] == "I 🙂"
    assert said["reasoning_details"] == [
        {"type": "reasoning.text", "text": "I look", "index": 0, "signature": "c2ln"},
        {"type": "reasoning.encrypted", "data": "eA==", "index": 1},
    ]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"error": {"code": 502, "message": "Provider disconnected"}}, ("transient", "overloaded", 502)),
        ({"error": {"code": 429, "message": "slow down"}}, ("transient", "rateLimited", 429)),
        (chat_error("x", kind="server_error"), ("transient", "overloaded", None)),
        (chat_error("x", code="insufficient_quota"), ("refused", "quotaExhausted", None)),
        ({"error": "oh no"}, ("transient", "other", None)),
    ],
)
async def test_an_error_in_the_middle_is_what_it_says(
    gateway: GatewayRig, server: ProviderServer, body: Json, told: tuple[str, str, int | None]
) -> None:
    failed = await failure(gateway, server, "openai", [*WHOLE["openai"][:3], sse(body)])
    assert (failed.failure, failed.cause, failed.status) == told


# --- Anthropic --------------------------------------------------------------------------------


async def test_events_and_blocks_that_are_new_are_passed_over(gateway: GatewayRig, server: ProviderServer) -> None:
    start, ping, *rest = messages_stream("noon")
    new: list[Json] = [
        {"type": "something_new", "detail": {"x": 1}},
        {"type": "content_block_start", "index": 5, "content_block": {"type": "new_block", "payload": "x"}},
        {"type": "content_block_delta", "index": 5, "delta": {"type": "new_delta", "payload": "y"}},
        {"type": "content_block_stop", "index": 5},
    ]
    events = [start, ping, KEEP_ALIVE, *(sse(event, event["type"]) for event in new), *rest]
    assert (await answer(gateway, server, "anthropic", events)).message == AssistantMessage(content="noon")


async def test_input_that_comes_whole_is_read(gateway: GatewayRig, server: ProviderServer) -> None:
    start, *_, delta, stop = messages_stream(Call("toolu_a", "clock__now", ""))
    opened = {"type": "tool_use", "id": "toolu_a", "name": "clock__now", "input": {"zone": "UTC"}}
    whole: list[Json] = [
        {"type": "content_block_start", "index": 0, "content_block": opened},
        {"type": "content_block_stop", "index": 0},
    ]
    events = [start, *(sse(event, event["type"]) for event in whole), delta, stop]
    (call,) = (await answer(gateway, server, "anthropic", events)).message.tool_calls
    assert (call.id, call.arguments) == ("toolu_a", '{"zone":"UTC"}')


async def test_malformed_input_is_kept(gateway: GatewayRig, server: ProviderServer) -> None:
    events = messages_stream(Call("toolu_a", "clock__now", '{"zone": "Eu'), stop="max_tokens")
    came = await answer(gateway, server, "anthropic", events)
    assert (came.message.tool_calls[0].arguments, came.finish_reason) == ('{"zone": "Eu', "max_tokens")


@pytest.mark.parametrize("stop", ["max_tokens", "stop_sequence", "refusal", "pause_turn", "something_new"])
async def test_however_anthropic_stopped_what_was_said_is_recorded(
    gateway: GatewayRig, server: ProviderServer, stop: str
) -> None:
    came = await answer(gateway, server, "anthropic", messages_stream("It is no", stop=stop))
    assert (came.message.content, came.finish_reason) == ("It is no", stop)


async def test_a_refusal_is_explained(gateway: GatewayRig, server: ProviderServer) -> None:
    details = {"type": "refusal", "category": "cyber", "explanation": "It could do harm."}
    failed = await failure(gateway, server, "anthropic", messages_stream(stop="refusal", details=details))
    assert (failed.failure, failed.cause) == ("refused", "contentFiltered")
    assert "refusal (cyber: It could do harm.)" in failed.error


async def test_a_full_context_that_leaves_nothing_is_too_long(gateway: GatewayRig, server: ProviderServer) -> None:
    failed = await failure(gateway, server, "anthropic", messages_stream(stop="model_context_window_exceeded"))
    assert failed.cause == "contextTooLong"


async def test_what_anthropic_does_not_count_is_not_counted(gateway: GatewayRig, server: ProviderServer) -> None:
    message: Json = {"id": "m", "type": "message", "role": "assistant", "model": "c", "content": [], "usage": None}
    bare: list[Json] = [
        {"type": "message_start", "message": message},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": "noon"}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}},
        {"type": "message_stop"},
    ]
    came = await answer(gateway, server, "anthropic", [sse(event, event["type"]) for event in bare])
    assert (came.message.content, came.usage) == ("noon", Usage())


async def test_thinking_in_two_halves_goes_back_whole(gateway: GatewayRig, server: ProviderServer) -> None:
    task = await task_on(gateway, server, "anthropic")
    start, ping, opened, _, *rest = messages_stream(Thinking("x", "c2ln"), "a", Call("toolu_a", "clock__now", "{}"))
    thought = [
        {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": half}}
        for half in ("\ud83d", "\ude42")
    ]
    server.then(Stream([start, ping, opened, *(sse(event, "content_block_delta") for event in thought), *rest]))
    await task.ask()
    await task.answered()
    await task.tool_result("r1", 1, "toolu_a", "noon")
    await task.ask(2)
    await task.answered(2)
    blocks = server.generations()[-1].body["messages"][1]["content"]
    assert [block["type"] for block in blocks] == ["thinking", "text", "tool_use"]
    assert blocks[0]["thinking"] == "🙂"


# --- both ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["openai", "anthropic"])
async def test_a_slow_first_token_is_waited_for(gateway: GatewayRig, server: ProviderServer, family: str) -> None:
    task = await task_on(gateway, server, family, timeout_s=30)
    server.then(Stream(WHOLE[family], stall_after=0))
    await task.ask()
    await asyncio.wait_for(server.arrived.wait(), 5)
    assert await task.log.get(task.subjects.model_event(1, 1)) is None
    server.released.set()
    assert (await task.answered()).message.content == TEXT


@pytest.mark.parametrize("family", ["openai", "anthropic"])
async def test_a_page_instead_of_a_stream_is_the_networks(
    gateway: GatewayRig, server: ProviderServer, family: str
) -> None:
    failed = await outcome(gateway, server, family, Reply(200, "<html>Please log in</html>"))
    assert isinstance(failed, ModelFailed)
    assert (failed.failure, failed.cause) == ("transient", "network")


@pytest.mark.parametrize(
    "data",
    [
        *("[]", "[1]", '"text"', "17", "null", "{}", "true", "NaN", '{"choices": "x"}', '{"choices": [null]}'),
        *('{"choices": [[]]}', '{"choices": [{"delta": "x"}]}', '{"choices": [{"delta": {"content": {"a": 1}}}]}'),
        *('{"choices": [{"delta": {"tool_calls": [null]}}]}', '{"usage": "x"}', '{"error": null}', '{"error": []}'),
        *('{"type": 3}', '{"type": "message_start", "message": "x"}', '{"type": "content_block_start", "index": "x"}'),
        *('{"type": "content_block_delta", "delta": [1]}', '{"type": "message_delta", "usage": []}'),
        *("[" * 100_000, '{"a":' * 50_000 + "1" + "}" * 50_000, "9" * 5000, '{"id": "\\ud800"}', "x", ""),
    ],
    ids=lambda data: data[:40],
)
@pytest.mark.parametrize("family", ["openai", "anthropic"])
async def test_whatever_comes_in_the_middle_the_call_ends_as_an_answer_or_a_failure(
    gateway: GatewayRig, server: ProviderServer, family: str, data: str
) -> None:
    events = WHOLE[family]
    strange = sse(data, "message_start" if family == "anthropic" else "")
    came = await outcome(gateway, server, family, Stream([*events[:2], strange, *events[2:]]))
    if isinstance(came, ModelAnswered):
        assert came.message.content == TEXT
    else:
        assert isinstance(came, ModelFailed)
        assert (came.failure, came.cause) in {("transient", "network"), ("transient", "other")}


@pytest.mark.parametrize(
    ("family", "body"),
    [
        ("openai", chat_error("This model's maximum context length is 9 tokens.", code="context_length_exceeded")),
        ("anthropic", messages_error("invalid_request_error", "prompt is too long: 208310 tokens > 200000 maximum")),
    ],
)
async def test_a_conversation_that_is_too_long_is_told_apart(
    gateway: GatewayRig, server: ProviderServer, family: str, body: Json
) -> None:
    failed = await outcome(gateway, server, family, Reply(400, body))
    assert isinstance(failed, ModelFailed)
    assert (failed.failure, failed.cause, failed.status) == ("refused", "contextTooLong", 400)


async def test_cached_and_written_tokens_are_part_of_the_input(gateway: GatewayRig, server: ProviderServer) -> None:
    came = await answer(gateway, server, "anthropic", messages_stream("noon"))
    assert came.usage.input_tokens == sum(value for name, value in MESSAGES_USAGE.items() if "input" in name)
