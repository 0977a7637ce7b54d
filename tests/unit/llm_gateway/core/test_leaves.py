"""Costs, answers, endpoints and moments: the arithmetic below the handlers."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.messages import AssistantMessage, ToolCall, Usage
from schemas.resources import (
    AnthropicOptions,
    LLMParameters,
    LLMSpec,
    OpenAIOptions,
    Pricing,
    ScriptedOptions,
    ToolInfo,
    VertexOptions,
)
from schemas.task import AwaitingModel, Budget, Initializing, RetryingModel
from services.llm_gateway.core.answers import derived_id, fitting_id, fitting_name, recorded
from services.llm_gateway.core.calls import ModelRequest
from services.llm_gateway.core.cost import priced
from services.llm_gateway.core.endpoints import BadSpec, endpoint_of, parameters_of, timeout_s_of, unsent
from services.llm_gateway.core.failures import http_failure, stream_failure
from services.llm_gateway.core.moments import moment
from services.llm_gateway.core.offers import arguments_object
from services.llm_gateway.core.offers import parameters_of as schema_of
from services.llm_gateway.providers import chat_format, messages_format
from services.llm_gateway.providers.words import said

AT = datetime(2030, 1, 1, tzinfo=UTC)
HEADER: dict[str, Any] = {
    "namespace": "n",
    "task": "t",
    "agent": "a",
    "submitted_seq": 1,
    "created_at": AT,
    "updated_at": AT,
}


# --- costs ------------------------------------------------------------------------------


def test_a_price_that_is_not_known_makes_no_cost() -> None:
    assert priced(Usage(input_tokens=5), None).cost_usd is None


def test_cached_input_has_its_own_price_or_the_common_one() -> None:
    usage = Usage(input_tokens=1_000_000, output_tokens=1_000_000, cached_tokens=400_000)
    cheap = Pricing(input=Decimal(3), output=Decimal(15), cached_input=Decimal("0.3"))
    assert priced(usage, cheap).cost_usd == Decimal("16.92")
    assert priced(usage, Pricing(input=Decimal(3), output=Decimal(15))).cost_usd == Decimal(18)


def test_what_is_written_into_the_cache_has_its_own_price_or_the_common_one() -> None:
    usage = Usage(input_tokens=1_000_000, cached_tokens=400_000, cache_write_tokens=500_000)
    dear = Pricing(input=Decimal(3), output=Decimal(15), cached_input=Decimal("0.3"), cache_write=Decimal("3.75"))
    assert priced(usage, dear).cost_usd == Decimal("0.3") + Decimal("0.12") + Decimal("1.875")
    assert priced(usage, Pricing(input=Decimal(3), output=Decimal(15))).cost_usd == Decimal(3)


COUNTS = st.integers(0, 10**9)


@given(COUNTS, COUNTS, COUNTS, COUNTS, st.decimals(0, 10**6, places=6))
def test_a_cost_is_exact_to_a_millionth_rounded_up_and_plain_on_the_wire(
    inputs: int, outputs: int, cached: int, written: int, price: Decimal
) -> None:
    usage = Usage(input_tokens=inputs, output_tokens=outputs, cached_tokens=cached, cache_write_tokens=written)
    pricing = Pricing(input=price, output=price, cached_input=price / 2, cache_write=price * 2)
    cost = priced(usage, pricing).cost_usd
    assert cost is not None
    read = min(cached, inputs)
    wrote = min(written, inputs - read)  # no token is paid for twice, whatever a provider counts
    exact = ((inputs - read - wrote) * price + read * price / 2 + wrote * price * 2 + outputs * price) / 1_000_000
    assert 0 <= cost - exact < Decimal("0.000001")
    assert "E" not in str(cost)


# --- answers ----------------------------------------------------------------------------


@given(st.lists(st.tuples(st.sampled_from(["", "a", "b"]), st.sampled_from(["", "x"]), st.text(max_size=5))))
def test_every_recorded_call_has_a_name_an_id_of_its_own_and_arguments(calls: list[tuple[str, str, str]]) -> None:
    made = tuple(ToolCall(id=id_, name=name, arguments=arguments) for id_, name, arguments in calls)
    message = recorded(AssistantMessage(content="c", tool_calls=made), "n", "t", 1)
    ids = [call.id for call in message.tool_calls]
    assert len(set(ids)) == len(ids)
    assert all(ids)
    assert len(ids) == sum(1 for call in made if call.name)
    assert all(call.arguments.strip() for call in message.tool_calls)
    assert message == recorded(AssistantMessage(content="c", tool_calls=made), "n", "t", 1)


def test_derived_ids_fit_every_provider_and_differ_by_task_and_turn() -> None:
    ids = {derived_id("n", task, str(turn), "1", "") for task in ("t", "u") for turn in (1, 2)}
    assert len(ids) == 4
    assert all(re.fullmatch(r"[A-Za-z0-9]{9}", id_) for id_ in ids)


def test_an_id_that_fits_is_left_alone() -> None:
    allowed = re.compile(r"[a-z]+")
    assert fitting_id("abc", allowed) == "abc"
    assert fitting_id("A B", allowed) == fitting_id("A B", allowed) != "A B"


@given(st.text())
def test_a_name_is_always_one_that_providers_take(name: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,64}", fitting_name(name))


@pytest.mark.parametrize("text", ["", "{", "[]", "1", "null", '"x"', "[" * 100_000])
def test_arguments_that_are_no_object_are_told_as_they_are(text: str) -> None:
    assert arguments_object(text) == {"malformed_arguments": text}


def test_arguments_that_are_an_object_are_that_object() -> None:
    assert arguments_object(' {"a": [1, {"b": null}]} ') == {"a": [1, {"b": None}]}


@pytest.mark.parametrize("schema", [{}, {"type": "string"}, {"type": "object"}, {"type": "object", "properties": None}])
def test_a_tool_without_a_schema_takes_an_object(schema: dict[str, Any]) -> None:
    assert schema_of(ToolInfo(name="t", input_schema=schema)) == {"type": "object", "properties": {}}


# --- endpoints --------------------------------------------------------------------------


def spec(provider: Any, **given: Any) -> LLMSpec:
    parameters = LLMParameters(**given)
    return LLMSpec(provider=provider, parameters=parameters)


@pytest.mark.parametrize(
    ("given", "url", "official"),
    [
        (spec("openai"), "https://api.openai.com/v1", True),
        (spec("openai", base_url="https://API.openai.com/v1/"), "https://API.openai.com/v1/", True),
        (spec("openai", base_url="http://localhost:11434/v1"), "http://localhost:11434/v1", False),
        (spec("anthropic"), "https://api.anthropic.com", True),
        (spec("anthropic", base_url="https://api.anthropic.com/v1"), "https://api.anthropic.com", True),
        (spec("anthropic", base_url="http://proxy/anthropic"), "http://proxy/anthropic", False),
        (spec("mistral"), "https://api.mistral.ai/v1", True),
        (spec("google"), "https://generativelanguage.googleapis.com/v1beta/openai/", True),
    ],
)
def test_the_address_of_a_provider(given: LLMSpec, url: str, official: bool) -> None:
    endpoint = endpoint_of(given)
    assert (endpoint.base_url, endpoint.official) == (url, official)
    assert endpoint.key_required is official


@pytest.mark.parametrize(
    ("location", "host"),
    [("europe-west1", "europe-west1-aiplatform.googleapis.com"), ("global", "aiplatform.googleapis.com")],
)
def test_vertex_is_found_by_project_and_location(location: str, host: str) -> None:
    options = VertexOptions(cloud_project="p", cloud_location=location)
    endpoint = endpoint_of(LLMSpec(provider="vertex", vertex=options))
    assert endpoint.base_url == f"https://{host}/v1/projects/p/locations/{location}/endpoints/openapi"
    assert endpoint.key_required


@pytest.mark.parametrize("project", ["", "a/b", "../x", "a b"])
def test_a_vertex_project_cannot_lead_elsewhere(project: str) -> None:
    options = VertexOptions(cloud_project=project, cloud_location="global")
    with pytest.raises(BadSpec, match="cloudProject"):
        endpoint_of(LLMSpec(provider="vertex", vertex=options))


def test_a_script_needs_no_key() -> None:
    assert not endpoint_of(LLMSpec(provider="scripted", scripted=ScriptedOptions())).key_required


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (spec("openai", max_tokens=5), "max_completion_tokens"),
        (spec("openai", max_tokens=5, base_url="http://localhost/v1"), "max_tokens"),
        (spec("mistral", max_tokens=5), "max_tokens"),
        (spec("google", max_tokens=5), "max_tokens"),
    ],
)
def test_a_token_limit_has_the_name_that_the_provider_knows(given: LLMSpec, name: str) -> None:
    body = chat_format.request_body(endpoint_of(given), "m", parameters_of(given), ModelRequest(messages=()))
    assert body[name] == 5
    assert len({"max_tokens", "max_completion_tokens"} & body.keys()) == 1


@pytest.mark.parametrize(("version", "name"), [("2024-02-01", "max_tokens"), ("2024-10-21", "max_completion_tokens")])
def test_azure_knows_the_newer_name_from_a_version_on(version: str, name: str) -> None:
    azure = OpenAIOptions(api_type="AZURE", api_version=version)
    given = LLMSpec(provider="openai", parameters=LLMParameters(base_url="https://x", max_tokens=5), openai=azure)
    endpoint = endpoint_of(given)
    assert name in chat_format.request_body(endpoint, "m", parameters_of(given), ModelRequest(messages=()))
    assert endpoint.telemetry_name == "azure.ai.openai"


def test_parameters_that_a_provider_lacks_are_named() -> None:
    every = {"top_k": 1, "frequency_penalty": 1, "presence_penalty": "0", "seed": 0, "temperature": 0}
    assert unsent(endpoint_of(spec("openai")), parameters_of(spec("openai", **every))) == ("topK",)
    names = ("frequencyPenalty", "presencePenalty", "seed")
    assert unsent(endpoint_of(spec("anthropic")), parameters_of(spec("anthropic", **every))) == names
    local = spec("openai", base_url="http://x/v1", **every)
    assert unsent(endpoint_of(local), parameters_of(local)) == ()


def test_mistrals_own_time_limit_counts() -> None:
    given = msgspec.convert({"provider": "mistral", "mistral": {"timeout": 7}}, LLMSpec)
    assert timeout_s_of(given) == 7.0
    assert timeout_s_of(spec("mistral")) == 120.0
    assert timeout_s_of(spec("openai", timeout_s=3)) == 3


# --- what is kept for a provider goes to that provider alone ------------------------------


@pytest.mark.parametrize("opaque", ["", "{", "[]", '[{"call": 3}]', '[{"textLength": 99}]', "[[]]"])
def test_what_was_kept_and_does_not_fit_is_left_out(opaque: str) -> None:
    call = ToolCall(id="a", name="t", arguments="{}")
    message = AssistantMessage(content="hello", tool_calls=(call,), opaque=opaque, opaque_for="anthropic")
    given = LLMSpec(provider="anthropic", anthropic=AnthropicOptions())
    endpoint = endpoint_of(given)
    body = messages_format.request_body(endpoint, "m", parameters_of(given), ModelRequest(messages=(message,)))
    assert [block["type"] for block in body["messages"][0]["content"]] == ["text", "tool_use"]
    chat = msgspec.structs.replace(message, opaque_for="openai")
    body = chat_format.request_body(
        endpoint_of(spec("openai")), "m", parameters_of(given), ModelRequest(messages=(chat,))
    )
    assert body["messages"][0].keys() == {"role", "content", "tool_calls"}


# --- what providers say -------------------------------------------------------------------

SAID = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["error", "message", "detail", "details", "code", "type", "status", "innererror", "x"])
            | st.sampled_from(["violations", "quotaId", "reason", "error_code"]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@given(SAID, st.sampled_from([400, 401, 402, 404, 408, 409, 413, 429, 500, 503, 529]))
def test_whatever_an_error_says_it_is_a_failure(body: object, status: int) -> None:
    found = said(body, "sk-secret")
    assert all(isinstance(code, str) and code for code in found.codes)
    failure = http_failure("p", status, found.words, codes=found.codes)
    assert failure.error.startswith("p ")
    assert not (failure.transient and failure.cause in ("contextTooLong", "quotaExhausted", "authentication"))
    assert stream_failure("p", found.words, codes=found.codes, status=found.status).error.startswith("p ")


# --- moments ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("turn", "attempt", "expected"), [(2, 3, "now"), (2, 2, "late"), (1, 9, "late"), (2, 4, "early"), (3, 1, "early")]
)
def test_a_command_is_for_now_or_late_or_early(turn: int, attempt: int, expected: str) -> None:
    state = AwaitingModel(**HEADER, budget=Budget(max_turns=1), turn=2, attempt=3)
    assert moment(state, turn, attempt) == expected


def test_a_command_is_early_for_a_state_before_it() -> None:
    retrying = RetryingModel(**HEADER, budget=Budget(max_turns=1), turn=2, attempt=3, not_before=AT, error="")
    assert moment(Initializing(**HEADER), 1, 1) == "early"
    assert moment(retrying, 2, 3) == "early"
    assert moment(retrying, 2, 2) == "late"
