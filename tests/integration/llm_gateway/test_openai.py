"""The OpenAI family, through its SDK, against a server that speaks its protocol."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from schemas.events import ModelAnswered, ModelFailed
from schemas.messages import AssistantMessage, SystemMessage, ToolCall, ToolMessage, UserMessage
from schemas.resources import (
    LLMParameters,
    LLMSpec,
    MistralOptions,
    OpenAIOptions,
    Pricing,
    SecretKeyRef,
    SecretSource,
    ToolInfo,
    VertexOptions,
)
from tests.support.gateway import START, GatewayRig, TaskRig, apply_agent, apply_llm, apply_server, until
from tests.support.provider_server import ProviderServer, Recorded, Reply, Silence, Stream
from tests.support.provider_wire import (
    NO_MODEL_CHAT,
    NO_QUOTA_CHAT,
    RATE_LIMITED_CHAT,
    SERVER_ERROR_CHAT,
    Call,
    chat_chunk,
    chat_error,
    chat_stream,
    sse,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEY = SecretSource(secret_key_ref=SecretKeyRef(name="llm", key="key"))
CLOCK = ToolInfo(name="now", description="The time in a zone.", input_schema={"type": "object", "properties": {}})
BARE = ToolInfo(name="bare")


def parameters(server: ProviderServer, **given: Any) -> LLMParameters:
    fields: dict[str, Any] = {"model": "gpt-test", "base_url": server.openai_url, **given}
    return LLMParameters(**fields)


async def task_on(gateway: GatewayRig, server: ProviderServer, spec: LLMSpec | None = None) -> TaskRig:
    """A task whose agent uses this LLM and a clock."""
    spec = spec or LLMSpec(provider="openai", api_key_from=KEY, parameters=parameters(server))
    await apply_server(gateway.store, "clock", CLOCK, BARE)
    await apply_llm(gateway.store, spec)
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
    pricing = Pricing(input=Decimal(2), output=Decimal(8), cached_input=Decimal("0.5"), cache_write=Decimal(3))
    spec = LLMSpec(provider="openai", api_key_from=KEY, parameters=parameters(server), pricing=pricing)
    task = await task_on(gateway, server, spec)
    server.then(Stream(chat_stream("It is noon — « exactly ».")))
    answer, request = await ask(task, server)
    assert answer.message == AssistantMessage(content="It is noon — « exactly ».")
    assert (answer.model, answer.finish_reason, answer.llm) == ("gpt-test-2026-01-01", "stop", "model")
    usage = answer.usage
    assert (usage.input_tokens, usage.output_tokens, usage.cached_tokens, usage.reasoning_tokens) == (120, 30, 100, 8)
    assert usage.cache_write_tokens == 15
    assert usage.cost_usd == (5 * Decimal(2) + 15 * Decimal(3) + 100 * Decimal("0.5") + 30 * Decimal(8)) / 1_000_000
    assert request.headers["authorization"] == "Bearer sk-right"


async def test_what_is_not_set_is_not_sent(gateway: GatewayRig, server: ProviderServer) -> None:
    task = await task_on(gateway, server)
    _, request = await ask(task, server)
    assert request.body.keys() == {"model", "messages", "tools", "stream", "stream_options"}
    assert request.body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What time is it?"},
    ]
    assert "openai-organization" not in request.headers
    assert "openai-project" not in request.headers


async def test_tools_are_offered_sorted_and_with_a_schema(gateway: GatewayRig, server: ProviderServer) -> None:
    task = await task_on(gateway, server)
    _, request = await ask(task, server)
    schema: dict[str, Any] = {"type": "object", "properties": {}}
    assert [tool["function"] for tool in request.body["tools"]] == [
        {"name": "clock__bare", "parameters": schema},
        {"name": "clock__now", "description": "The time in a zone.", "parameters": schema},
    ]


async def test_parameters_reach_the_provider_as_numbers(gateway: GatewayRig, server: ProviderServer) -> None:
    given = parameters(
        server,
        temperature="0.7",
        max_tokens=100,
        top_p="0.95",
        top_k=40,
        frequency_penalty="0.5",
        presence_penalty="-1",
    )
    spec = LLMSpec(provider="openai", api_key_from=KEY, parameters=given, openai=OpenAIOptions(organization="org-test"))
    task = await task_on(gateway, server, spec)
    _, request = await ask(task, server)
    sent = {name: request.body[name] for name in ("temperature", "max_tokens", "top_p", "top_k")}
    assert sent == {"temperature": 0.7, "max_tokens": 100, "top_p": 0.95, "top_k": 40}
    assert (request.body["frequency_penalty"], request.body["presence_penalty"]) == (0.5, -1.0)
    assert request.headers["openai-organization"] == "org-test"


async def test_parallel_calls_go_round_with_text_and_exact_arguments(
    gateway: GatewayRig, server: ProviderServer
) -> None:
    task = await task_on(gateway, server)
    calls = [Call("call_a", "clock__now", '{"zone": "Europe/Vienna"}'), Call("call_b", "clock__bare", '{"x":  1 }')]
    server.then(Stream(chat_stream("Let me look.", calls)), Stream(chat_stream("Both done.")))
    answer, _ = await ask(task, server)
    assert answer.message == AssistantMessage(
        content="Let me look.", tool_calls=tuple(ToolCall(id=c.id, name=c.name, arguments=c.arguments) for c in calls)
    )
    await task.tool_result("r1", 1, "call_a", "noon")
    await task.tool_result("r1", 2, "call_b", "it broke", failed=True)
    answer, request = await ask(task, server, 2)
    assert answer.message.content == "Both done."
    assert request.body["messages"][2:] == [
        {
            "role": "assistant",
            "content": "Let me look.",
            "tool_calls": [
                {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}} for c in calls
            ],
        },
        {"role": "tool", "tool_call_id": "call_a", "content": "noon"},
        {"role": "tool", "tool_call_id": "call_b", "content": "it broke"},
    ]


async def test_the_next_request_repeats_the_last_one_byte_for_byte(gateway: GatewayRig, server: ProviderServer) -> None:
    task = await task_on(gateway, server)
    server.then(Stream(chat_stream(calls=[Call("call_a", "clock__now", "{}")])))
    _, first = await ask(task, server)
    await task.tool_result("r1", 1, "call_a", "noon")
    _, second = await ask(task, server, 2)
    said, divider, rest = first.raw.partition(b'}],"stream_options"')
    assert divider
    assert second.raw.startswith(said)
    assert second.raw.endswith(rest)


async def test_no_arguments_are_an_empty_object(gateway: GatewayRig, server: ProviderServer) -> None:
    task = await task_on(gateway, server)
    server.then(Stream(chat_stream(calls=[Call("call_a", "clock__now", "")])))
    answer, _ = await ask(task, server)
    assert answer.message.tool_calls[0].arguments == "{}"


async def test_malformed_arguments_are_kept_and_said_back_as_an_object(
    gateway: GatewayRig, server: ProviderServer
) -> None:
    task = await task_on(gateway, server)
    server.then(Stream(chat_stream(calls=[Call("call_a", "clock__now", '{"zone": "Eur')], finish="length")))
    answer, _ = await ask(task, server)
    assert answer.message.tool_calls[0].arguments == '{"zone": "Eur'
    await task.tool_result("r1", 1, "call_a", "bad arguments", failed=True)
    _, request = await ask(task, server, 2)
    said = request.body["messages"][2]["tool_calls"][0]["function"]["arguments"]
    assert msgspec.json.decode(said) == {"malformed_arguments": '{"zone": "Eur'}


async def test_missing_and_double_ids_are_mended_the_same_way_each_time(
    gateway: GatewayRig, server: ProviderServer
) -> None:
    task = await task_on(gateway, server)
    calls = [Call("", "clock__now", "{}"), Call("same", "clock__now", "{}"), Call("same", "clock__bare", "{}")]
    server.then(Stream(chat_stream(calls=calls)), Stream(chat_stream(calls=calls)))
    await task.ask()
    first = await task.outcome()
    await task.ask(attempt=2)
    second = await task.outcome(attempt=2)
    assert isinstance(first, ModelAnswered)
    assert isinstance(second, ModelAnswered)
    ids = [call.id for call in first.message.tool_calls]
    assert len(set(ids)) == 3
    assert ids[1] == "same"
    assert all(ids)
    assert ids == [call.id for call in second.message.tool_calls]


async def test_calls_that_come_whole_and_badly_numbered_stay_apart(gateway: GatewayRig, server: ProviderServer) -> None:
    def whole(id_: str, zone: str, index: int | None) -> bytes:
        function = {"name": "clock__now", "arguments": f'{{"zone": "{zone}"}}'}
        piece = {"id": id_, "type": "function", "function": function}
        return sse(chat_chunk({"tool_calls": [piece if index is None else {**piece, "index": index}]}))

    task = await task_on(gateway, server)
    end = [sse(chat_chunk({}, finish="tool_calls")), sse("[DONE]")]
    server.then(Stream([whole("a", "A", 0), whole("b", "B", 0), whole("c", "C", -1), whole("d", "D", None), *end]))
    answer, _ = await ask(task, server)
    assert [(c.id, c.arguments) for c in answer.message.tool_calls] == [
        (name, f'{{"zone": "{name.upper()}"}}') for name in "abcd"
    ]


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply(400, chat_error("Unsupported value: 'temperature' does not support 0.7.")), "Unsupported value"),
        (Reply(403, chat_error("Country, region, or territory not supported")), "territory not supported"),
        (Reply(404, NO_MODEL_CHAT), "does not exist"),
        (Reply(422, {"detail": [{"loc": ["body"], "msg": "Field required"}]}), "Field required"),
        (Reply(429, NO_QUOTA_CHAT), "exceeded your current quota"),
    ],
    ids=lambda value: str(value.status) if isinstance(value, Reply) else "",
)
async def test_what_the_provider_refuses_is_refused_in_its_words_after_one_attempt(
    gateway: GatewayRig, server: ProviderServer, reply: Reply, words: str
) -> None:
    task = await task_on(gateway, server)
    server.then(reply)
    failed = await fail(task)
    assert (failed.failure, failed.status) == ("refused", reply.status)
    assert words in failed.error
    assert len(server.generations()) == 1


async def test_a_key_that_is_refused_later_is_refused_without_being_quoted(
    gateway: GatewayRig, server: ProviderServer
) -> None:
    task = await task_on(gateway, server)
    server.then(Reply(401, chat_error("Incorrect API key provided: sk-right.", code="invalid_api_key")))
    failed = await fail(task)
    assert (failed.failure, failed.status) == ("refused", 401)
    assert "Incorrect API key provided: ***" in failed.error
    assert "sk-right" not in failed.error


@pytest.mark.parametrize(
    ("reply", "wait_s"),
    [
        (Reply(408, chat_error("timeout")), None),
        (Reply(409, chat_error("conflict")), None),
        (Reply(429, RATE_LIMITED_CHAT, {"retry-after": "7"}), 7.0),
        (Reply(429, RATE_LIMITED_CHAT, {"retry-after": "7", "retry-after-ms": "250"}), 0.25),
        (Reply(500, SERVER_ERROR_CHAT), None),
        (Reply(502, "<html><body><h1>502 Bad Gateway</h1></body></html>"), None),
        (Reply(503, SERVER_ERROR_CHAT, {"retry-after": "3"}), 3.0),
    ],
    ids=lambda value: str(value.status) if isinstance(value, Reply) else "",
)
async def test_what_may_pass_is_transient_and_not_retried_here(
    gateway: GatewayRig, server: ProviderServer, reply: Reply, wait_s: float | None
) -> None:
    task = await task_on(gateway, server)
    server.then(reply)
    failed = await fail(task)
    assert (failed.failure, failed.status, failed.retry_after_s) == ("transient", reply.status, wait_s)
    assert "<html>" not in failed.error
    assert len(server.generations()) == 1


async def test_a_date_says_how_long_to_wait(gateway: GatewayRig, server: ProviderServer) -> None:
    task = await task_on(gateway, server)
    server.then(Reply(429, RATE_LIMITED_CHAT, {"retry-after": "Wed, 21 Oct 2099 07:28:00 GMT"}))
    failed = await fail(task)
    assert failed.retry_after_s == 3600.0


STREAM = chat_stream("It is noon.", [Call("call_a", "clock__now", "{}")])


@pytest.mark.parametrize(
    "broken",
    [
        Stream(STREAM, cut_after=0),
        Stream(STREAM, cut_after=3),
        Stream(STREAM[:4]),
        Stream([*STREAM[:3], sse("{not json"), *STREAM[3:]]),
        Stream([*STREAM[:3], b"data: \xff\xfe\n\n", *STREAM[3:]]),
        Stream([*STREAM[:3], sse({"choices": [{"delta": {"tool_calls": "none"}}]}), *STREAM[3:]]),
        Stream([sse(chat_chunk(None)), sse("[DONE]")]),
        Stream([]),
        Stream([*STREAM[:3], sse(chat_error("The server had an error", kind="server_error"))]),
    ],
    ids=["cut-at-once", "cut", "ended", "no-json", "no-utf8", "wrong-shape", "no-choices", "empty", "error-event"],
)
async def test_an_answer_that_is_not_whole_is_a_transient_failure_and_nothing_of_it_is_recorded(
    gateway: GatewayRig, server: ProviderServer, broken: Stream
) -> None:
    task = await task_on(gateway, server)
    server.then(broken)
    failed = await fail(task)
    assert failed.failure == "transient"
    assert failed.error.startswith("openai")
    assert "noon" not in failed.error
    assert len(server.generations()) == 1


async def test_a_refusal_inside_the_stream_is_final(gateway: GatewayRig, server: ProviderServer) -> None:
    task = await task_on(gateway, server)
    server.then(Stream([*STREAM[:2], sse(chat_error("too long", code="context_length_exceeded"))]))
    failed = await fail(task)
    assert failed.failure == "refused"
    assert "too long" in failed.error


@pytest.mark.parametrize("behaviour", [Silence(), Stream(STREAM, stall_after=2)], ids=["silent", "stalled"])
async def test_a_call_that_takes_too_long_is_transient(
    gateway: GatewayRig, server: ProviderServer, behaviour: Silence | Stream
) -> None:
    spec = LLMSpec(provider="openai", api_key_from=KEY, parameters=parameters(server, timeout_s=0.3))
    task = await task_on(gateway, server, spec)
    server.then(behaviour)
    failed = await fail(task)
    assert (failed.failure, failed.status) == ("transient", None)
    assert "0.3 s" in failed.error or "in time" in failed.error


async def test_a_stopped_task_hangs_up_on_the_provider(gateway: GatewayRig, server: ProviderServer) -> None:
    task = await task_on(gateway, server)
    server.then(Stream(STREAM, stall_after=3))
    await task.ask()
    await asyncio.wait_for(server.arrived.wait(), 5)
    await until(lambda: bool(server.generations()))
    await gateway.bus.signals.publish(task.subjects.stop, b"")
    await asyncio.wait_for(server.gone.wait(), 5)


async def test_a_server_that_is_not_there_is_transient(gateway: GatewayRig, server: ProviderServer) -> None:
    task = await task_on(gateway, server)
    spec = LLMSpec(provider="openai", parameters=parameters(server, base_url="http://127.0.0.1:9/v1"))
    await apply_llm(gateway.store, spec)
    status = await gateway.llm_status(status="Error")
    assert "cannot be reached" in status.status_detail
    failed = await fail(task)
    assert failed.failure == "transient"


async def test_a_content_filter_that_leaves_nothing_is_a_refusal(gateway: GatewayRig, server: ProviderServer) -> None:
    task = await task_on(gateway, server)
    server.then(Stream(chat_stream(finish="content_filter")))
    failed = await fail(task)
    assert failed.failure == "refused"
    assert "content_filter" in failed.error
    assert failed.usage.input_tokens == 120


async def test_a_local_server_needs_no_key_and_is_sent_none(gateway: GatewayRig, server: ProviderServer) -> None:
    task = await task_on(gateway, server, LLMSpec(provider="openai", parameters=parameters(server)))
    _, request = await ask(task, server)
    assert "authorization" not in request.headers


async def test_azure_is_asked_by_deployment_and_version(gateway: GatewayRig, server: ProviderServer) -> None:
    spec = LLMSpec(
        provider="openai",
        api_key_from=KEY,
        parameters=parameters(server, base_url=server.url, max_tokens=9),
        openai=OpenAIOptions(api_type="AZURE", api_version="2025-01-01-preview"),
    )
    task = await task_on(gateway, server, spec)
    answer, request = await ask(task, server)
    assert answer.message.content == "ok"
    assert request.path == "/openai/deployments/gpt-test/chat/completions"
    assert request.query == "api-version=2025-01-01-preview"
    assert request.headers["api-key"] == "sk-right"
    assert request.body["max_completion_tokens"] == 9


async def test_mistral_is_sent_nothing_that_it_refuses(gateway: GatewayRig, server: ProviderServer) -> None:
    spec = LLMSpec(
        provider="mistral",
        api_key_from=KEY,
        parameters=parameters(server, max_tokens=9, top_k=3),
        mistral=MistralOptions(random_seed=4, max_retries=9, timeout=60),
    )
    task = await task_on(gateway, server, spec)
    server.then(Stream(chat_stream(calls=[Call("call_longer_than_nine", "clock__now", "{}")])))
    await ask(task, server)
    await task.tool_result("r1", 1, "call_longer_than_nine", "noon")
    _, request = await ask(task, server, 2)
    assert request.body.keys() == {"model", "messages", "tools", "stream", "max_tokens", "random_seed"}
    call, result = request.body["messages"][2]["tool_calls"][0], request.body["messages"][3]
    assert call["id"] == result["tool_call_id"]
    assert len(call["id"]) == 9
    assert call["id"].isalnum()


async def test_google_gets_its_signatures_back_and_another_server_does_not(
    gateway: GatewayRig, server: ProviderServer
) -> None:
    task = await task_on(gateway, server, LLMSpec(provider="google", api_key_from=KEY, parameters=parameters(server)))
    extra = {"google": {"thought_signature": "EoYC"}}
    function = {"name": "clock__now", "arguments": "{}"}
    opened = {"index": 0, "id": "call_a", "type": "function", "function": function, "extra_content": extra}
    server.then(Stream([sse(chat_chunk({"tool_calls": [opened]})), sse(chat_chunk({}, finish="tool_calls"))]))
    await ask(task, server)
    await task.tool_result("r1", 1, "call_a", "noon")
    _, request = await ask(task, server, 2)
    assert request.body["messages"][2]["tool_calls"][0]["extra_content"] == extra
    await apply_llm(gateway.store, LLMSpec(provider="openai", parameters=parameters(server)))
    await task.ask(turn=2, attempt=2)
    await task.answered(turn=2, attempt=2)
    assert "extra_content" not in server.generations()[-1].body["messages"][2]["tool_calls"][0]


async def test_vertex_takes_its_base_url_when_one_is_given(gateway: GatewayRig, server: ProviderServer) -> None:
    vertex = VertexOptions(cloud_project="project", cloud_location="europe-west1")
    spec = LLMSpec(provider="vertex", api_key_from=KEY, parameters=parameters(server), vertex=vertex)
    task = await task_on(gateway, server, spec)
    answer, _ = await ask(task, server)
    assert answer.message.content == "ok"


async def test_a_conversation_of_another_provider_is_said_in_names_that_this_one_takes(
    gateway: GatewayRig, server: ProviderServer
) -> None:
    await task_on(gateway, server)
    long_id = "toolu_" + "x" * 60
    call = ToolCall(id=long_id, name="functions.now()", arguments="{}")
    messages = (
        *START,
        AssistantMessage(tool_calls=(call,)),
        ToolMessage(tool_call_id=long_id, content="noon"),
        SystemMessage(content="Now in French."),
        UserMessage(content="Again?", name="bob"),
    )
    task = await gateway.task("other", messages)
    _, request = await ask(task, server)
    said = request.body["messages"]
    assert said[2]["tool_calls"][0]["function"]["name"] == "functions_now__"
    assert said[2]["tool_calls"][0]["id"] == said[3]["tool_call_id"]
    assert len(said[3]["tool_call_id"]) <= 40
    assert said[5] == {"role": "user", "content": "Again?", "name": "bob"}
