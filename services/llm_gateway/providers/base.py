"""The port of a provider: one model behind one LLM resource."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from schemas.resources import LLMSpec
from services.llm_gateway.core.calls import ModelReply, ModelRequest
from services.llm_gateway.core.endpoints import Endpoint, Parameters
from services.runtime.ports import Clock

NO_LIST = frozenset({404, 405, 501})
"""Statuses of a server that lists no models."""
RATE_LIMITED = 429

OnText = Callable[[str], None]
"""Told every piece of the answer's text as it comes."""


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """What a look at the provider showed."""

    unverified: str = ""
    """Why the provider's word on the key could not be had without spending a generation; empty: it accepts it."""
    models: frozenset[str] = frozenset()
    """The models that it names; empty if it names none."""


class Provider(Protocol):
    """A model that can be called."""

    async def call(self, request: ModelRequest, on_text: OnText) -> ModelReply:
        """The whole answer; raises `CallFailed`. It tries once, and takes as long as it takes."""
        ...

    async def check(self) -> Checked:
        """Whether the provider accepts us, without spending a generation; raises `CallFailed`."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


def unverified(status: int, endpoint: Endpoint) -> str:
    """Why a list of models that was answered with `status` says nothing about the key; empty: it does."""
    if status == RATE_LIMITED:
        return "the provider limits our rate"
    lists_models = endpoint.official and endpoint.provider != "vertex"
    return "the server lists no models" if status in NO_LIST and not lists_models else ""


def listed(page: object) -> Checked:
    """What a list of models says; one that cannot be read says nothing about the key."""
    data = getattr(page, "data", None)
    if not isinstance(data, list):
        return Checked(unverified="the server lists no models")
    ids = (getattr(model, "id", None) for model in data)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]  # whatever a server sent
    return Checked(models=frozenset(id_.removeprefix("models/") for id_ in ids if isinstance(id_, str)))


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """What a provider is made of."""

    spec: LLMSpec
    endpoint: Endpoint
    parameters: Parameters
    api_key: str
    """Empty: the server wants none."""
    clock: Clock

    @property
    def model(self) -> str:
        """The model's name, as the resource has it."""
        return self.spec.parameters.model or ""
