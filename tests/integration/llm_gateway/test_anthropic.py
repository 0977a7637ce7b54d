"""The Anthropic family, through its SDK, against a server that speaks its protocol."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from schemas.events import ModelAnswered, ModelFailed
from schemas.messages import AssistantMessage, SystemMessage, ToolCall, ToolMessage, UserMessage
from schemas.resources import (
    AnthropicOptions,
    LLMParameters,
    LLMSpec,
    Pricing,
    SecretKeyRef,
    SecretSource,
    ToolInfo,
)
from tests.support.gateway import START, GatewayRig, TaskRig, apply_agent, apply_llm, apply_server
from tests.support.provider_server import ProviderServer, Recorded, Reply, Silence, Stream
from tests.support.provider_wire import (
    OVERLOADED_MESSAGES,
    RATE_LIMITED_MESSAGES,
    Call,
    Thinking,
    messages_error,
    messages_stream,
    sse,
    unmarked,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEY = SecretSource(secret_key_ref=SecretKeyRef(name="llm", key="key"))
CLOCK = ToolInfo(name="now", description="The time in a zone.", input_schema={"type": "object", "properties": {}})
SCHEMA: dict[str, Any] = {"type": "object", "properties": {}}


def spec_of(server: ProviderServer, **given: Any) -> LLMSpec:
    fields: dict[str, Any] = {"model": "claude-test", "base_url": server.url, **given}
    return LLMSpec(provider="anthropic", api_key_from=KEY, parameters=LLMParameters(**fields))


async def task_on(gateway: GatewayRig, server: ProviderServer, spec: LLMSpec | None = None) -> TaskRig:
    """A task whose agent uses this LLM and a clock."""
    await apply_server(gateway.store, "clock", CLOCK)
    await apply_llm(gateway.store, spec or spec_of(server))
    await apply_agent(gateway.store, "clock")
    await gateway.llm_status(status="Ready")
    return await gateway.task()


async def ask(task: TaskRig, server: ProviderServer, turn: int = 1) -> tuple[ModelAnswered, Recorded]:
    await task.ask(turn)
    answer = await task.answered(turn)
    return answer, server.generations()[-1]


async def fail(task: TaskRig) -> ModelFailed:
    await task.ask()
    return await task.failed()


async def test_a_streamed_answer_is_recorded_whole_with_its_usage(gateway: GatewayRig, server: ProviderServer) -> None:
    task = await task_on(gateway, server)
    pricing = Pricing(input=Decimal(2), output=Decimal(8), cached_input=Decimal("0.5"), cache_write=Decimal("2.5"))
    plain = spec_of(server)
    await apply_llm(
        gateway.store,
        LLMSpec(provider="anthropic", api_key_from=KEY, parameters=plain.parameters, pricing=pricing),
    )
    server.then(Stream(messages_stream("It is noon — « exactly ».")))
    answer, request = await ask(task, server)
    assert answer.message == AssistantMessage(content="It is noon — « exactly ».")
    assert (answer.model, answer.finish_reason, answer.llm) == ("claude-test-1", "end_turn", "model")
    usage = answer.usage
    assert (usage.input_tokens, usage.output_tokens, usage.cached_tokens) == (120, 30, 90)
    assert (usage.cache_write_tokens, usage.reasoning_tokens) == (10, 8)
    assert usage.cost_usd == (20 * Decimal(2) + 10 * Decimal("2.5") + 90 * Decimal("0.5") + 30 * Decimal(8)) / 1_000_000
    assert request.headers["authorization"] == "Bearer sk-right"
    assert request.headers["x-api-key"] == "sk-right"


async def test_what_is_not_set_is_not_sent_but_for_the_limit_that_must_be(
    gateway: GatewayRig, server: ProviderServer
) -> None:
    task = await task_on(gateway, server)
    _, request = await ask(task, server)
    assert unmarked(request.body) == {
        "model": "claude-test",
        "max_tokens": 16384,
        "system": [{"type": "text", "text": "Be brief."}],
        "messages": [{"role": "user", "content": [{"type": "text", "text": "What time is it?"}]}],
        "tools": [{"name": "clock__now", "description": "The time in a zone.", "input_schema": SCHEMA}],
        "stream": True,
    }


async def test_parameters_reach_the_provider_in_the_version_that_has_them(
    gateway: GatewayRig, server: ProviderServer
) -> None:
    spec = spec_of(server, temperature="0.7", max_tokens=100, top_p="0.95", top_k=40, frequency_penalty="0.5")
    task = await task_on(gateway, server, spec)
    _, request = await ask(task, server)
    sent = {name: request.body[name] for name in ("temperature", "max_tokens", "top_p", "top_k")}
    assert sent == {"temperature": 0.7, "max_tokens": 100, "top_p": 0.95, "top_k": 40}
    assert request.headers["anthropic-version"] == "2023-06-01"
    assert "frequencyPenalty not sent" in (await gateway.llm_status()).status_detail


async def test_a_beta_is_asked_for_and_a_v1_in_the_url_is_not_doubled(
    gateway: GatewayRig, server: ProviderServer
) -> None:
    plain = spec_of(server, base_url=f"{server.url}/v1")
    spec = LLMSpec(
        provider="anthropic",
        api_key_from=KEY,
        parameters=plain.parameters,
        anthropic=AnthropicOptions(anthropic_beta_header="some-beta-2026"),
    )
    task = await task_on(gateway, server, spec)
    _, request = await ask(task, server)
    assert request.path == "/v1/messages"
    assert request.headers["anthropic-beta"] == "some-beta-2026"


async def test_parallel_calls_go_round_with_all_results_in_one_message(
    gateway: GatewayRig, server: ProviderServer
) -> None:
    task = await task_on(gateway, server)
    calls = [Call("toolu_a", "clock__now", '{"zone": "Europe/Vienna"}'), Call("toolu_b", "clock__now", "")]
    server.then(Stream(messages_stream("Let me look.", *calls)), Stream(messages_stream("Both done.")))
    answer, _ = await ask(task, server)
    assert answer.message == AssistantMessage(
        content="Let me look.",
        tool_calls=(
            ToolCall(id="toolu_a", name="clock__now", arguments='{"zone": "Europe/Vienna"}'),
            ToolCall(id="toolu_b", name="clock__now", arguments="{}"),
        ),
    )
    await task.tool_result("r1", 1, "toolu_a", "noon")
    await task.tool_result("r1", 2, "toolu_b", " \n", failed=True)
    answer, request = await ask(task, server, 2)
    assert answer.message.content == "Both done."
    assert unmarked(request.body)["messages"][1:] == [
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "Let me look."},
                {"type": "tool_use", "id": "toolu_a", "name": "clock__now", "input": {"zone": "Europe/Vienna"}},
                {"type": "tool_use", "id": "toolu_b", "name": "clock__now", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "toolu_a", "content": "noon"},
                {"type": "tool_result", "tool_use_id": "toolu_b", "is_error": True},
            ],
        },
    ]


async def test_thinking_comes_back_unchanged_and_in_its_place(gateway: GatewayRig, server: ProviderServer) -> None:
    task = await task_on(gateway, server)
    content = (
        Thinking("I should look.", "c2lnbmF0dXJl"),
        "Looking.",
        Thinking("aGlkZGVu", redacted=True),
        Call("toolu_a", "clock__now", "{}"),
        "And once more.",
        Call("toolu_b", "clock__now", "{}"),
    )
    server.then(Stream(messages_stream(*content)))
    answer, _ = await ask(task, server)
    assert answer.message.content == "Looking.And once more."
    assert "I should look." not in answer.message.content
    await task.tool_result("r1", 1, "toolu_a", "noon")
    await task.tool_result("r1", 2, "toolu_b", "still noon")
    _, request = await ask(task, server, 2)
    assert request.body["messages"][1]["content"] == [
        {"type": "thinking", "thinking": "I should look.", "signature": "c2lnbmF0dXJl"},
        {"type": "text", "text": "Looking."},
        {"type": "redacted_thinking", "data": "aGlkZGVu"},
        {"type": "tool_use", "id": "toolu_a", "name": "clock__now", "input": {}},
        {"type": "text", "text": "And once more."},
        {"type": "tool_use", "id": "toolu_b", "name": "clock__now", "input": {}},
    ]


async def test_an_answer_without_thinking_keeps_nothing_unread(gateway: GatewayRig, server: ProviderServer) -> None:
    task = await task_on(gateway, server)
    server.then(Stream(messages_stream("One. ", "Two.")))
    answer, _ = await ask(task, server)
    assert answer.message == AssistantMessage(content="One. Two.")


async def test_a_conversation_with_all_that_the_api_refuses_is_made_acceptable(
    gateway: GatewayRig, server: ProviderServer
) -> None:
    await task_on(gateway, server)
    call = ToolCall(id="call:1/odd", name="clock now", arguments="[1]")
    messages = (
        *START,
        SystemMessage(content="And polite."),
        SystemMessage(content=" "),
        AssistantMessage(content=" ", tool_calls=(call,)),
        ToolMessage(tool_call_id="call:1/odd", content="noon"),
        UserMessage(content=""),
        UserMessage(content="Really?"),
        AssistantMessage(content=""),
        UserMessage(content="Hello?"),
    )
    task = await gateway.task("other", messages)
    _, request = await ask(task, server)
    system: list[dict[str, str]] = request.body["system"]
    assert [block["text"] for block in system] == ["Be brief.", "And polite."]
    roles = [message["role"] for message in request.body["messages"]]
    assert roles == ["user", "assistant", "user"]
    use = request.body["messages"][1]["content"][0]
    assert (use["name"], use["input"]) == ("clock_now", {"malformed_arguments": "[1]"})
    results = request.body["messages"][2]["content"]
    assert results[0]["tool_use_id"] == use["id"]
    assert [block["type"] for block in results] == ["tool_result", "text", "text"]


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (400, "invalid_request_error", "Your credit balance is too low to access the Anthropic API."),
        (403, "permission_error", "Your API key does not have permission to use the specified resource."),
        (404, "not_found_error", "model: claude-none"),
        (413, "request_too_large", "Request exceeds the maximum size"),
    ],
)
async def test_what_the_provider_refuses_is_refused_in_its_words_after_one_attempt(
    gateway: GatewayRig, server: ProviderServer, status: int, kind: str, words: str
) -> None:
    task = await task_on(gateway, server)
    server.then(Reply(status, messages_error(kind, words)))
    failed = await fail(task)
    assert (failed.failure, failed.status) == ("refused", status)
    assert words in failed.error
    assert len(server.generations()) == 1


@pytest.mark.parametrize(
    ("reply", "wait_s"),
    [
        (Reply(429, RATE_LIMITED_MESSAGES, {"retry-after": "12"}), 12.0),
        (Reply(500, messages_error("api_error", "Internal server error")), None),
        (Reply(529, OVERLOADED_MESSAGES, {"x-should-retry": "true"}), None),
    ],
    ids=["429", "500", "529"],
)
async def test_what_may_pass_is_transient_and_not_retried_here(
    gateway: GatewayRig, server: ProviderServer, reply: Reply, wait_s: float | None
) -> None:
    task = await task_on(gateway, server)
    server.then(reply)
    failed = await fail(task)
    assert (failed.failure, failed.status, failed.retry_after_s) == ("transient", reply.status, wait_s)
    assert len(server.generations()) == 1


STREAM = messages_stream("It is noon.", Call("toolu_a", "clock__now", "{}"))


@pytest.mark.parametrize(
    ("broken", "input_tokens"),
    [
        (Stream(STREAM, cut_after=0), 0),
        (Stream(STREAM, cut_after=5), 120),
        (Stream(STREAM[:-1]), 120),
        (Stream([*STREAM[:5], sse("{not json", "content_block_delta"), *STREAM[5:]]), 120),
        (Stream([*STREAM[:5], sse({"type": "content_block_delta", "index": "x"}, "content_block_delta")]), 120),
        (Stream([]), 0),
    ],
    ids=["cut-at-once", "cut", "ended", "no-json", "wrong-shape", "empty"],
)
async def test_an_answer_that_is_not_whole_is_a_transient_failure_and_its_spend_is_booked(
    gateway: GatewayRig, server: ProviderServer, broken: Stream, input_tokens: int
) -> None:
    task = await task_on(gateway, server)
    server.then(broken)
    failed = await fail(task)
    assert failed.failure == "transient"
    assert failed.usage.input_tokens == input_tokens
    assert "noon" not in failed.error
    assert len(server.generations()) == 1


@pytest.mark.parametrize(
    ("kind", "failure", "status"),
    [
        ("overloaded_error", "transient", 529),
        ("invalid_request_error", "refused", 400),
        ("odd_error", "transient", 500),
    ],
)
async def test_an_error_inside_the_stream_counts_as_what_it_is(
    gateway: GatewayRig, server: ProviderServer, kind: str, failure: str, status: int
) -> None:
    task = await task_on(gateway, server)
    server.then(Stream([*STREAM[:5], sse(messages_error(kind, "some words"), "error")]))
    failed = await fail(task)
    assert (failed.failure, failed.status) == (failure, status)
    assert "some words" in failed.error
    assert failed.usage.input_tokens == 120


@pytest.mark.parametrize("behaviour", [Silence(), Stream(STREAM, stall_after=4)], ids=["silent", "stalled"])
async def test_a_call_that_takes_too_long_is_transient(
    gateway: GatewayRig, server: ProviderServer, behaviour: Silence | Stream
) -> None:
    task = await task_on(gateway, server, spec_of(server, timeout_s=0.3))
    server.then(behaviour)
    failed = await fail(task)
    assert (failed.failure, failed.status) == ("transient", None)


async def test_a_refusal_that_leaves_nothing_is_final(gateway: GatewayRig, server: ProviderServer) -> None:
    task = await task_on(gateway, server)
    server.then(Stream(messages_stream(stop="refusal")))
    failed = await fail(task)
    assert failed.failure == "refused"
    assert "refusal" in failed.error
