"""Every field of an LLM's parameters and options: where it is on the wire, or that it is ours.

A field that is added and not said here fails the test.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec
import pytest

from schemas.resources import (
    AnthropicOptions,
    GoogleOptions,
    LLMParameters,
    LLMSpec,
    MistralOptions,
    OpenAIOptions,
    SecretKeyRef,
    SecretSource,
    VertexOptions,
)
from services.llm_gateway.core.endpoints import endpoint_of
from tests.support.gateway import GatewayRig, apply_agent, apply_llm
from tests.support.provider_server import ProviderServer, Recorded

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEY = SecretSource(secret_key_ref=SecretKeyRef(name="llm", key="key"))
OURS = "ours"
"""Used by the gateway and the planner, and no provider's business."""


class Sent(NamedTuple):
    """A value and where it is found in a request of the OpenAI family, of Anthropic, and of Mistral."""

    value: Any
    chat: str = ""
    messages: str = ""
    mistral: str = ""
    as_: Any = None


PARAMETERS: dict[str, Sent | str] = {
    "model": Sent("some-model", "model", "model", "model"),
    "base_url": "where the request goes",
    "temperature": Sent("0.5", "temperature", "temperature", "temperature", 0.5),
    "max_tokens": Sent(3000, "max_tokens", "max_tokens", "max_tokens"),
    "top_p": Sent(0.75, "top_p", "top_p", "top_p"),
    "top_k": Sent(7, "top_k", "top_k"),
    "frequency_penalty": Sent("0.25", "frequency_penalty", "", "frequency_penalty", 0.25),
    "presence_penalty": Sent(0.5, "presence_penalty", "", "presence_penalty"),
    "timeout_s": OURS,
    "concurrency": OURS,
    "context_tokens": OURS,
    "stop": Sent(("END", "\n\n"), "stop", "stop_sequences", "stop", ["END", "\n\n"]),
    "seed": Sent(11, "seed", "", "random_seed"),
    "reasoning_effort": Sent("low", "reasoning_effort", "output_config.effort", "reasoning_effort"),
}
OPTIONS: dict[type[msgspec.Struct], dict[str, str]] = {
    OpenAIOptions: {
        "organization": "header openai-organization",
        "api_type": "which of Azure's ways in is taken",
        "api_version": "query api-version",
    },
    AnthropicOptions: {
        "anthropic_beta_header": "header anthropic-beta",
        "thinking_budget_tokens": "body thinking.budget_tokens",
        "prompt_caching": "body cache_control",
    },
    VertexOptions: {"cloud_project": "the address", "cloud_location": "the address"},
    MistralOptions: {"max_retries": OURS, "timeout": OURS, "random_seed": "body random_seed"},
    GoogleOptions: {"cloud_project": "only Vertex has it", "cloud_location": "only Vertex has it"},
}


def found(request: Recorded, path: str) -> Any:
    value: Any = request.body
    for name in path.split("."):
        value = value[name]
    return value


async def request_of(gateway: GatewayRig, server: ProviderServer, spec: LLMSpec) -> Recorded:
    await apply_llm(gateway.store, spec)
    await apply_agent(gateway.store)
    await gateway.llm_status(status="Ready")
    task = await gateway.task(f"job-{len(server.requests)}")
    await task.ask()
    await task.answered()
    return server.generations()[-1]


def spec_of(provider: Any, server: ProviderServer, values: dict[str, Any], **options: Any) -> LLMSpec:
    url = server.url if provider == "anthropic" else server.openai_url
    given: dict[str, Any] = {"model": "m", **values, "base_url": url}
    return LLMSpec(provider=provider, api_key_from=KEY, parameters=LLMParameters(**given), **options)


async def test_every_field_is_spoken_of() -> None:
    assert set(PARAMETERS) == set(LLMParameters.__struct_fields__)
    for options, fields in OPTIONS.items():
        assert set(fields) == set(options.__struct_fields__), options
    of_spec = {field.name for field in msgspec.structs.fields(LLMSpec)}
    assert {"openai", "anthropic", "vertex", "mistral", "google"} == of_spec - {
        *("provider", "api_key_from", "parameters", "scripted", "pricing", "limits", "tool_calling")
    }


@pytest.mark.parametrize("provider", ["openai", "anthropic", "mistral"])
async def test_every_parameter_that_is_set_reaches_the_provider(
    gateway: GatewayRig, server: ProviderServer, provider: str
) -> None:
    sent = {name: what for name, what in PARAMETERS.items() if isinstance(what, Sent)}
    request = await request_of(gateway, server, spec_of(provider, server, {n: s.value for n, s in sent.items()}))
    status = (await gateway.llm_status()).status_detail
    paths: set[str] = set()
    for name, what in sent.items():
        path = {"openai": what.chat, "anthropic": what.messages, "mistral": what.mistral}[provider]
        if path:
            assert found(request, path) == (what.value if what.as_ is None else what.as_), name
            paths.add(path.split(".")[0])
        else:
            camel = msgspec.structs.fields(LLMParameters)
            assert next(f.encode_name for f in camel if f.name == name) in status
    rest = {"messages", "stream", "stream_options", "system"}
    assert request.body.keys() - rest == paths


@pytest.mark.parametrize("provider", ["openai", "anthropic", "mistral"])
async def test_what_is_not_set_is_not_sent_and_what_is_ours_neither(
    gateway: GatewayRig, server: ProviderServer, provider: str
) -> None:
    ours = {"timeout_s": 33.0, "concurrency": 3, "context_tokens": 4444}
    request = await request_of(gateway, server, spec_of(provider, server, ours))
    needed = {"max_tokens", "system"} if provider == "anthropic" else set[str]()
    assert request.body.keys() - {"stream_options"} == {"model", "messages", "stream", *needed}
    assert b"4444" not in request.raw


async def test_the_options_of_anthropic_reach_it(gateway: GatewayRig, server: ProviderServer) -> None:
    options = AnthropicOptions(anthropic_beta_header="beta-1", thinking_budget_tokens=2048, prompt_caching=False)
    request = await request_of(gateway, server, spec_of("anthropic", server, {"max_tokens": 9000}, anthropic=options))
    assert request.headers["anthropic-beta"] == "beta-1"
    assert request.body["thinking"] == {"type": "enabled", "budget_tokens": 2048}
    assert b"cache_control" not in request.raw
    request = await request_of(gateway, server, spec_of("anthropic", server, {}))
    assert b"cache_control" in request.raw


async def test_the_options_of_openai_reach_it(gateway: GatewayRig, server: ProviderServer) -> None:
    options = OpenAIOptions(organization="org-1")
    request = await request_of(gateway, server, spec_of("openai", server, {}, openai=options))
    assert request.headers["openai-organization"] == "org-1"
    azure = OpenAIOptions(organization="org-1", api_type="AZURE", api_version="2025-01-01")
    spec = spec_of("openai", server, {}, openai=azure)
    parameters = msgspec.structs.replace(spec.parameters, base_url=server.url)
    request = await request_of(gateway, server, msgspec.structs.replace(spec, parameters=parameters))
    assert request.query == "api-version=2025-01-01"


async def test_mistrals_own_seed_goes_before_the_common_one(gateway: GatewayRig, server: ProviderServer) -> None:
    options = MistralOptions(random_seed=0, max_retries=7, timeout=44)
    request = await request_of(gateway, server, spec_of("mistral", server, {"seed": 5}, mistral=options))
    assert request.body["random_seed"] == 0
    assert not {"max_retries", "timeout", "seed"} & request.body.keys()


async def test_vertexs_options_are_its_address() -> None:
    vertex = VertexOptions(cloud_project="project-1", cloud_location="europe-west1")
    url = endpoint_of(LLMSpec(provider="vertex", vertex=vertex)).base_url
    assert "/projects/project-1/locations/europe-west1/" in url
