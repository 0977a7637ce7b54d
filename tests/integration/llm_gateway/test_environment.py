"""A hostile environment: whatever the SDKs read of it, nobody's LLM is called with it, and nothing is printed."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

import pytest

from schemas.resources import LLMParameters, LLMSpec, OpenAIOptions, SecretKeyRef, SecretSource
from services.llm_gateway.providers.environment import hidden
from tests.support.gateway import GatewayRig, apply_agent, apply_llm
from tests.support.provider_server import ProviderServer

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEY = SecretSource(secret_key_ref=SecretKeyRef(name="llm", key="key"))
FOREIGN = "foreign-value"
ELSEWHERE = "http://127.0.0.1:9/elsewhere"
HOSTILE = {
    **dict.fromkeys(
        (
            *("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_WEBHOOK_SECRET"),
            *("OPENAI_API_TYPE", "OPENAI_API_VERSION", "AZURE_OPENAI_API_KEY", "AZURE_OPENAI_AD_TOKEN"),
            *("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_PROFILE", "ANTHROPIC_ORGANIZATION_ID"),
            *("ANTHROPIC_IDENTITY_TOKEN", "ANTHROPIC_FEDERATION_RULE_ID", "ANTHROPIC_WEBHOOK_SIGNING_KEY"),
        ),
        FOREIGN,
    ),
    "OPENAI_BASE_URL": ELSEWHERE,
    "AZURE_OPENAI_ENDPOINT": ELSEWHERE,
    "ANTHROPIC_BASE_URL": ELSEWHERE,
    "OPENAI_CUSTOM_HEADERS": f"X-Foreign: {FOREIGN}\nAuthorization: Bearer {FOREIGN}\nOpenAI-Project: {FOREIGN}",
    "ANTHROPIC_CUSTOM_HEADERS": f"X-Foreign: {FOREIGN}\nAuthorization: Bearer {FOREIGN}\nX-Api-Key: {FOREIGN}",
    "OPENAI_LOG": "debug",
    "ANTHROPIC_LOG": "debug",
    "ANTHROPIC_OPEN_TELEMETRY_TRACES_CONTENT_MODE": "content",
}


def spec_of(kind: str, server: ProviderServer) -> LLMSpec:
    secret = None if kind == "keyless" else KEY
    url = server.url if kind in ("anthropic", "azure", "azure-ad") else server.openai_url
    types: dict[str, Any] = {"azure": "AZURE", "azure-ad": "AZURE_AD"}
    options = OpenAIOptions(api_type=types[kind], api_version="2025-01-01") if kind in types else None
    return LLMSpec(
        provider="anthropic" if kind == "anthropic" else "openai",
        api_key_from=secret,
        parameters=LLMParameters(model="m", base_url=url),
        openai=options,
    )


@pytest.mark.parametrize("kind", ["openai", "keyless", "azure", "azure-ad", "anthropic"])
async def test_nothing_of_the_environment_reaches_a_provider(
    gateway: GatewayRig, server: ProviderServer, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    for name, value in HOSTILE.items():
        monkeypatch.setenv(name, value)
    await apply_llm(gateway.store, spec_of(kind, server))
    await apply_agent(gateway.store)
    await gateway.llm_status(status="Ready")
    task = await gateway.task()
    await task.ask()
    assert (await task.answered()).message.content == "ok"
    assert len(server.requests) == 2
    for request in server.requests:
        said = f"{request.path}?{request.query} {dict(request.headers)} {request.raw.decode()}"
        assert FOREIGN not in said
        assert "x-foreign" not in request.headers
        assert not {"openai-project", "openai-organization"} & request.headers.keys()
        key = request.headers.get("api-key") or request.headers.get("authorization", "")
        assert key == {"keyless": "", "azure": "sk-right"}.get(kind, "Bearer sk-right")
    assert {name: os.environ[name] for name in HOSTILE} == HOSTILE


LOOK = """
import importlib, logging
importlib.import_module("services.llm_gateway.providers.{name}")
levels = {{logger: logging.getLogger(logger).level for logger in ("openai", "anthropic", "httpx2")}}
assert not any(levels.values()), levels
assert not logging.getLogger().handlers
"""


@pytest.mark.parametrize("name", ["openai", "anthropic"])
async def test_no_variable_makes_an_sdk_print_what_is_said(name: str) -> None:
    environment = {**os.environ, **HOSTILE}
    script = LOOK.format(name=name)
    looking = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await asyncio.wait_for(looking.communicate(), 60)
    assert looking.returncode == 0, said.decode()


async def test_what_was_hidden_is_there_again_whatever_happened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_LOG", "debug")
    with pytest.raises(KeyError), hidden("OPENAI_"):
        os.environ["OPENAI_LOG"]
    assert os.environ["OPENAI_LOG"] == "debug"
