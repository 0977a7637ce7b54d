"""An LLM's status: what it says, and when it is looked at again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from schemas.resources import (
    AnthropicOptions,
    GoogleOptions,
    LLMParameters,
    LLMSpec,
    MistralOptions,
    OpenAIOptions,
    ScriptedOptions,
    ScriptedReply,
    SecretKeyRef,
    SecretSource,
    VertexOptions,
)
from tests.support.gateway import NAMESPACE, GatewayRig, apply_agent, apply_llm, until
from tests.support.provider_server import ProviderServer, Reply, Silence
from tests.support.provider_wire import BAD_KEY_CHAT, SERVER_ERROR_CHAT

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEY = SecretSource(secret_key_ref=SecretKeyRef(name="llm", key="key"))
NO_SECRET = SecretSource(secret_key_ref=SecretKeyRef(name="nowhere", key="key"))


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.runtime.readiness.POLL_S", 0.05)
    monkeypatch.setattr("services.runtime.readiness.RETRY_MIN_S", 0.05)
    monkeypatch.setattr("services.llm_gateway.readiness.CHECK_TIMEOUT_S", 0.5)


def openai(server: ProviderServer, **given: Any) -> LLMSpec:
    fields: dict[str, Any] = {"model": "gpt-test", "base_url": server.openai_url, **given}
    return LLMSpec(provider="openai", api_key_from=KEY, parameters=LLMParameters(**fields))


async def test_a_key_that_is_accepted_makes_it_ready_without_a_generation(
    gateway: GatewayRig, server: ProviderServer
) -> None:
    server.keys = {"sk-right"}
    await apply_llm(gateway.store, openai(server))
    status = await gateway.llm_status(status="Ready")
    assert status.status_detail == "openai provider validated successfully"
    assert status.by == "llm-gateway"
    assert server.generations() == []


async def test_all_parameters_of_the_predecessor_are_taken(gateway: GatewayRig, server: ProviderServer) -> None:
    given = LLMParameters(
        model="gpt-test",
        base_url=server.openai_url,
        temperature="0.7",
        max_tokens=100,
        top_p="0.95",
        top_k=40,
        frequency_penalty="0.5",
        presence_penalty="0.5",
    )
    spec = LLMSpec(provider="openai", api_key_from=KEY, parameters=given, openai=OpenAIOptions(organization="org"))
    await apply_llm(gateway.store, spec)
    status = await gateway.llm_status(status="Ready")
    assert status.status_detail == "openai provider validated successfully"


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
async def test_a_key_that_is_refused_is_an_error_in_the_providers_words(
    gateway: GatewayRig, server: ProviderServer, provider: Any
) -> None:
    server.keys = {"sk-other"}
    url = server.url if provider == "anthropic" else server.openai_url
    parameters = LLMParameters(model="m", base_url=url)
    await apply_llm(gateway.store, LLMSpec(provider=provider, api_key_from=KEY, parameters=parameters))
    status = await gateway.llm_status(status="Error")
    assert "HTTP 401" in status.status_detail
    words = "invalid x-api-key" if provider == "anthropic" else "Incorrect API key provided"
    assert words in status.status_detail


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (LLMSpec(provider="openai", parameters=LLMParameters(model="m")), "apiKeyFrom is required"),
        (LLMSpec(provider="anthropic", parameters=LLMParameters(model="m")), "apiKeyFrom is required"),
        (
            LLMSpec(provider="openai", api_key_from=NO_SECRET, parameters=LLMParameters(model="m")),
            "failed to get secret",
        ),
        (LLMSpec(provider="openai", api_key_from=KEY), "parameters.model is required"),
        (LLMSpec(provider="openai", parameters=LLMParameters(model="m", timeout_s=0)), "timeoutSeconds is 0"),
        (LLMSpec(provider="vertex", api_key_from=KEY), "vertex configuration is required for vertex provider"),
        (LLMSpec(provider="scripted"), "scripted configuration is required for scripted provider"),
        (
            LLMSpec(provider="openai", api_key_from=KEY, parameters=LLMParameters(model="m", temperature="0.7abc")),
            "parameters.temperature '0.7abc' is not a number",
        ),
        (
            LLMSpec(provider="openai", api_key_from=KEY, parameters=LLMParameters(model="m", base_url="localhost:1")),
            "is not an http or https URL",
        ),
        (
            LLMSpec(
                provider="openai",
                api_key_from=KEY,
                parameters=LLMParameters(model="m"),
                openai=OpenAIOptions(api_type="AZURE", api_version="1"),
            ),
            "parameters.baseUrl is required",
        ),
        (
            LLMSpec(
                provider="openai",
                api_key_from=KEY,
                parameters=LLMParameters(model="m", base_url="http://x"),
                openai=OpenAIOptions(api_type="AZURE"),
            ),
            "openai.apiVersion is required",
        ),
    ],
)
async def test_what_is_missing_is_said(gateway: GatewayRig, spec: LLMSpec, text: str) -> None:
    await apply_llm(gateway.store, spec)
    status = await gateway.llm_status(status="Error")
    assert text in status.status_detail


async def test_a_secret_that_appears_and_is_rotated_is_seen(
    gateway: GatewayRig, server: ProviderServer, secrets_dir: Path
) -> None:
    server.keys = {"sk-new"}
    key = secrets_dir / "llm" / "key"
    key.unlink()
    await apply_llm(gateway.store, openai(server))
    await gateway.llm_status(status="Error", containing="failed to get secret")
    key.write_text("sk-old")
    await gateway.llm_status(status="Error", containing="Incorrect API key")
    key.write_text("sk-new\n")
    await gateway.llm_status(status="Ready")
    await apply_agent(gateway.store)
    task = await gateway.task()
    await task.ask()
    await task.answered()
    assert server.generations()[-1].headers["authorization"] == "Bearer sk-new"


async def test_a_changed_resource_is_looked_at_again(gateway: GatewayRig, server: ProviderServer) -> None:
    await apply_llm(gateway.store, LLMSpec(provider="openai", parameters=LLMParameters(model="m")))
    await gateway.llm_status(status="Error")
    await apply_llm(gateway.store, openai(server))
    await gateway.llm_status(status="Ready")


@pytest.mark.parametrize("trouble", [Reply(503, SERVER_ERROR_CHAT), Silence()], ids=["503", "silent"])
async def test_what_may_pass_is_looked_at_again_until_it_has(
    gateway: GatewayRig, server: ProviderServer, trouble: Reply | Silence
) -> None:
    server.models = trouble
    await apply_llm(gateway.store, openai(server))
    await gateway.llm_status(status="Error", containing="openai API validation failed")
    server.models = None
    server.released.set()
    await gateway.llm_status(status="Ready")


async def test_a_provider_that_keeps_silent_does_not_hold_up_the_others(
    gateway: GatewayRig, server: ProviderServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.llm_gateway.readiness.CHECK_TIMEOUT_S", 600)
    server.models = Silence()
    await apply_llm(gateway.store, openai(server))
    await until(lambda: len(server.requests) == 1)
    await apply_llm(gateway.store, LLMSpec(provider="openai"), name="other")
    await gateway.llm_status(name="other", status="Error")


async def test_a_refusal_is_not_asked_about_again_until_something_changes(
    gateway: GatewayRig, server: ProviderServer
) -> None:
    server.models = Reply(401, BAD_KEY_CHAT)
    await apply_llm(gateway.store, openai(server))
    await gateway.llm_status(status="Error")
    asked = len(server.requests)
    await apply_llm(gateway.store, openai(server), name="other")
    await gateway.llm_status(name="other", status="Error")
    assert len(server.requests) == asked + 1


async def test_a_server_without_a_list_is_accepted_and_said_to_be_unverified(
    gateway: GatewayRig, server: ProviderServer
) -> None:
    server.models = Reply(404, "<html>404 page not found</html>")
    await apply_llm(gateway.store, openai(server))
    status = await gateway.llm_status(status="Ready")
    assert "not verified" in status.status_detail


@pytest.mark.parametrize(
    "body",
    [{"data": [1, None, {"noid": 1}]}, {"data": "x"}, {"data": {}}, {}, [1], "<html>Log in</html>", "17"],
    ids=str,
)
@pytest.mark.parametrize("provider", ["openai", "anthropic"])
async def test_a_list_that_is_none_tells_nothing_and_breaks_nothing(
    gateway: GatewayRig, server: ProviderServer, provider: Any, body: Any
) -> None:
    server.models = Reply(200, body)
    url = server.url if provider == "anthropic" else server.openai_url
    await apply_llm(gateway.store, LLMSpec(provider=provider, parameters=LLMParameters(model="m", base_url=url)))
    status = await gateway.llm_status()
    if status.ready:
        assert "not verified: the server lists no models" in status.status_detail or "noid" in str(body)
    else:
        assert "cannot be read" in status.status_detail


async def test_a_rate_limit_on_the_list_does_not_make_a_key_bad(gateway: GatewayRig, server: ProviderServer) -> None:
    server.models = Reply(429, SERVER_ERROR_CHAT)
    await apply_llm(gateway.store, openai(server))
    status = await gateway.llm_status(status="Ready")
    assert "not verified" in status.status_detail


async def test_a_model_that_the_provider_does_not_list_is_pointed_out(
    gateway: GatewayRig, server: ProviderServer
) -> None:
    await apply_llm(gateway.store, openai(server, model="gpt-tset"))
    status = await gateway.llm_status(status="Ready")
    assert "does not name 'gpt-tset'" in status.status_detail


async def test_a_parameter_that_the_provider_lacks_is_pointed_out(gateway: GatewayRig, server: ProviderServer) -> None:
    spec = LLMSpec(
        provider="mistral",
        api_key_from=KEY,
        parameters=LLMParameters(model="gpt-test", base_url=server.openai_url, top_k=4),
        mistral=MistralOptions(random_seed=1),
    )
    await apply_llm(gateway.store, spec)
    status = await gateway.llm_status(status="Ready")
    assert "topK not sent" in status.status_detail


@pytest.mark.parametrize(
    ("options", "parameters", "text"),
    [
        ({"thinking_budget_tokens": 1000}, {}, "anthropic.thinkingBudgetTokens is 1000; it must be 1024 at least"),
        ({"thinking_budget_tokens": 4096}, {"max_tokens": 4096}, "parameters.maxTokens is 4096; it must be more than"),
    ],
)
async def test_thinking_that_the_api_would_refuse_is_said_before_a_call(
    gateway: GatewayRig, server: ProviderServer, options: dict[str, Any], parameters: dict[str, Any], text: str
) -> None:
    given = LLMParameters(model="claude-test", base_url=server.url, **parameters)
    spec = LLMSpec(provider="anthropic", api_key_from=KEY, parameters=given, anthropic=AnthropicOptions(**options))
    await apply_llm(gateway.store, spec)
    status = await gateway.llm_status(status="Error")
    assert text in status.status_detail
    assert server.requests == []
    fixed = LLMParameters(model="claude-test", base_url=server.url, max_tokens=9000)
    options = {"thinking_budget_tokens": 2048}
    await apply_llm(
        gateway.store,
        LLMSpec(provider="anthropic", api_key_from=KEY, parameters=fixed, anthropic=AnthropicOptions(**options)),
    )
    status = await gateway.llm_status(status="Ready")
    assert status.status_detail == "anthropic provider validated successfully"
    assert server.generations() == []


async def test_what_a_model_that_thinks_is_not_sent_is_pointed_out(gateway: GatewayRig, server: ProviderServer) -> None:
    given = LLMParameters(model="claude-test", base_url=server.url, temperature="0.2", seed=3)
    thinking = AnthropicOptions(thinking_budget_tokens=2048)
    await apply_llm(
        gateway.store, LLMSpec(provider="anthropic", api_key_from=KEY, parameters=given, anthropic=thinking)
    )
    status = await gateway.llm_status(status="Ready")
    assert "seed, temperature not sent" in status.status_detail


async def test_tools_in_text_and_options_that_go_nowhere_are_pointed_out(
    gateway: GatewayRig, server: ProviderServer
) -> None:
    spec = LLMSpec(
        provider="google",
        api_key_from=KEY,
        parameters=LLMParameters(model="gpt-test", base_url=server.openai_url),
        google=GoogleOptions(cloud_project="project"),
        tool_calling="text",
    )
    await apply_llm(gateway.store, spec)
    status = await gateway.llm_status(status="Ready")
    assert "cloudLocation not sent" in status.status_detail
    assert "tools are called in its text" in status.status_detail


async def test_a_secret_that_is_taken_away_makes_it_unready(
    gateway: GatewayRig, server: ProviderServer, secrets_dir: Path
) -> None:
    await apply_llm(gateway.store, openai(server))
    await gateway.llm_status(status="Ready")
    (secrets_dir / "llm" / "key").unlink()
    await gateway.llm_status(status="Error", containing="failed to get secret")


async def test_a_vertex_endpoint_lists_nothing_and_is_accepted(gateway: GatewayRig, server: ProviderServer) -> None:
    server.models = Reply(404, "<html>Not Found</html>")
    spec = LLMSpec(
        provider="vertex",
        api_key_from=KEY,
        parameters=LLMParameters(model="google/gemini", base_url=server.openai_url),
        vertex=VertexOptions(cloud_project="project", cloud_location="global"),
    )
    await apply_llm(gateway.store, spec)
    status = await gateway.llm_status(status="Ready")
    assert status.status_detail.startswith("vertex provider validated successfully")


async def test_a_deleted_llm_has_no_status_any_more(gateway: GatewayRig) -> None:
    spec = LLMSpec(provider="scripted", scripted=ScriptedOptions(transcript=(ScriptedReply(text="x"),)))
    await apply_llm(gateway.store, spec)
    await gateway.llm_status(status="Ready")
    await gateway.store.delete(f"spec.LLM.{NAMESPACE}.model")
    await until(lambda: gateway.runtime.resources.known("LLM", NAMESPACE, "model") is None)
    for _ in range(200):
        entry = await gateway.store.get(f"status.LLM.{NAMESPACE}.model")
        if entry is None or entry.data is None:
            break
    else:
        raise AssertionError("the status is still there")
