"""The models that this replica can call: one client per LLM, made when it is first needed.

A client belongs to a revision of its resource and to a value of its secret. When either changes, calls under way
finish on the old client, which is closed after the last of them. A provider's SDK is imported with the first client
of its family, in a thread, because that takes a good part of a second.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from types import ModuleType
from typing import NamedTuple

from schemas.resources import LLM, LLMSpec
from services.llm_gateway.core.endpoints import BadSpec, Endpoint, endpoint_of, parameters_of, timeout_s_of
from services.llm_gateway.providers.base import Provider, Setup
from services.llm_gateway.providers.text_calling import TextCalling
from services.runtime.ports import Clock
from services.runtime.secrets import SecretMissing, Secrets
from services.runtime.tasks import Tasks

PROVIDERS = "services.llm_gateway.providers"


class ModelKey(NamedTuple):
    """An LLM resource."""

    namespace: str
    name: str


class Model:
    """A client, and how many may use it at once."""

    def __init__(self, version: tuple[int, str], endpoint: Endpoint, provider: Provider, concurrency: int) -> None:
        self.version = version
        self.endpoint = endpoint
        self.provider = provider
        self.slots = asyncio.Semaphore(max(concurrency, 1))
        self.users = 0
        self.replaced = False


class Models:
    """Clients by LLM."""

    def __init__(self, secrets: Secrets, clock: Clock) -> None:
        self._secrets = secrets
        self._clock = clock
        self._models: dict[ModelKey, Model] = {}
        self._making = asyncio.Lock()
        self._closing = Tasks()

    @asynccontextmanager
    async def use(self, llm: LLM, revision: int) -> AsyncGenerator[Model]:
        """The client of an LLM, kept open meanwhile; raises `BadSpec` or `SecretMissing`."""
        model = await self._get(llm, revision)
        model.users += 1
        try:
            yield model
        finally:
            model.users -= 1
            self._close_if_done(model)

    def forget(self, key: ModelKey) -> None:
        """The resource is gone."""
        model = self._models.pop(key, None)
        if model is not None:
            model.replaced = True
            self._close_if_done(model)

    async def close(self) -> None:
        """Close all clients."""
        for key in list(self._models):
            self.forget(key)
        await self._closing.join()

    async def _get(self, llm: LLM, revision: int) -> Model:
        key = ModelKey(llm.metadata.namespace, llm.metadata.name)
        version = (revision, secret_version(llm.spec, self._secrets))
        async with self._making:
            model = self._models.get(key)
            if model is None or model.version != version:
                made = await self._make(llm.spec, version)
                self.forget(key)
                model = self._models[key] = made
        return model

    async def _make(self, spec: LLMSpec, version: tuple[int, str]) -> Model:
        endpoint = endpoint_of(spec)
        parameters = parameters_of(spec)
        timeout_s_of(spec)  # raises now rather than at the first call
        api_key = self._api_key(spec, endpoint)
        if endpoint.family != "scripted" and not spec.parameters.model:
            raise BadSpec("parameters.model is required")
        module = await asyncio.to_thread(_provider_module, endpoint.family)
        setup = Setup(spec=spec, endpoint=endpoint, parameters=parameters, api_key=api_key, clock=self._clock)
        provider: Provider = module.make(setup)
        if spec.tool_calling == "text" and endpoint.family != "scripted":
            provider = TextCalling(provider)
        return Model(version, endpoint, provider, spec.parameters.concurrency)

    def _api_key(self, spec: LLMSpec, endpoint: Endpoint) -> str:
        if spec.api_key_from is None:
            if endpoint.key_required:
                raise BadSpec("apiKeyFrom is required")
            return ""
        key = self._secrets.get(spec.api_key_from.secret_key_ref)
        if not key:
            ref = spec.api_key_from.secret_key_ref
            raise SecretMissing(f"failed to get secret: key {ref.key!r} of secret {ref.name!r} is empty")
        return key

    def _close_if_done(self, model: Model) -> None:
        if model.replaced and model.users == 0:
            self._closing.spawn(model.provider.close(), name="model:close")


def secret_version(spec: LLMSpec, secrets: Secrets) -> str:
    """Changes when the secret of an LLM does; empty if it has none or it is missing."""
    return secrets.fingerprint(spec.api_key_from.secret_key_ref) if spec.api_key_from else ""


def _provider_module(family: str) -> ModuleType:
    return importlib.import_module(f"{PROVIDERS}.{family}")
