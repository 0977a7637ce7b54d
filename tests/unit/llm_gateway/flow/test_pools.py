"""Which LLMs share a pool, and what its name tells."""

from __future__ import annotations

import string

from schemas.resources import (
    LLM,
    LLMParameters,
    LLMSpec,
    Metadata,
    OpenAIOptions,
    ScriptedOptions,
    SecretKeyRef,
    SecretSource,
)
from services.llm_gateway.flow.pools import ACCOUNT_LENGTH, Pools
from services.llm_gateway.models import Models
from services.runtime.memory.clock import LoopClock
from services.runtime.secrets import Secrets

KEYS = {"HOLDFAST_SECRET_LLM_ONE": "sk-one", "HOLDFAST_SECRET_LLM_SAME": "sk-one", "HOLDFAST_SECRET_LLM_OTHER": "sk-2"}


class Accounts:
    def __init__(self) -> None:
        self.keys = dict(KEYS)
        self._secrets = Secrets("", self.keys)
        self._models = Models(self._secrets, LoopClock())
        self._pools = Pools(self._secrets)

    async def of(self, name: str, key: str, model: str = "gpt-test", url: str = "http://127.0.0.1:9/v1") -> str:
        """The pool of an LLM."""
        spec = LLMSpec(
            provider="openai",
            api_key_from=SecretSource(secret_key_ref=SecretKeyRef(name="llm", key=key)),
            parameters=LLMParameters(model=model, base_url=url),
            openai=OpenAIOptions(),
        )
        return await self._named(LLM(metadata=Metadata(name=name, namespace=f"of-{name}"), spec=spec))

    async def scripted(self, name: str, model: str | None) -> str:
        spec = LLMSpec(provider="scripted", scripted=ScriptedOptions(), parameters=LLMParameters(model=model))
        return await self._named(LLM(metadata=Metadata(name=name), spec=spec))

    async def _named(self, llm: LLM) -> str:
        async with self._models.use(llm, 1) as model:
            return await self._pools.account(llm, model)

    async def close(self) -> None:
        await self._models.close()


async def test_the_same_key_model_and_address_are_one_pool_in_whatever_namespace() -> None:
    accounts = Accounts()
    first = await accounts.of("a", "one")
    assert await accounts.of("b", "same") == first
    others = [
        await accounts.of("c", "other"),
        await accounts.of("d", "one", model="gpt-other"),
        await accounts.of("e", "one", url="http://127.0.0.1:8/v1"),
    ]
    assert len({first, *others}) == 4
    assert len(first) == ACCOUNT_LENGTH
    assert set(first) <= set(string.ascii_lowercase + string.digits)  # it is a token of a subject
    await accounts.close()


async def test_a_key_that_changes_changes_the_pool() -> None:
    accounts = Accounts()
    before = await accounts.of("a", "one")
    accounts.keys["HOLDFAST_SECRET_LLM_ONE"] = "sk-new"
    assert await accounts.of("a", "one") != before
    await accounts.close()


async def test_scripts_are_no_account_unless_they_name_a_model() -> None:
    accounts = Accounts()
    assert await accounts.scripted("a", None) != await accounts.scripted("b", None)
    assert await accounts.scripted("a", "shared") == await accounts.scripted("b", "shared")
    await accounts.close()
