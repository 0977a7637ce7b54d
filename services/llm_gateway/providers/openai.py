"""Models that are reached by OpenAI's chat completions, through its SDK: OpenAI, Azure, and what is compatible.

The SDK's own retries are off: a failure is recorded, and the planner decides about the next attempt. Nothing is taken
from the process's environment (see `environment.py`): organization, address and headers are the resource's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, cast

import msgspec

from schemas.messages import Usage
from services.llm_gateway.core.calls import CallFailed, Failure, ModelReply, ModelRequest
from services.llm_gateway.core.endpoints import timeout_s_of
from services.llm_gateway.core.failures import http_failure, network_failure, retry_after, stream_failure
from services.llm_gateway.providers.base import Checked, OnText, Setup, listed, unverified
from services.llm_gateway.providers.chat_answer import Answer, Incomplete
from services.llm_gateway.providers.chat_format import extra_body, request_body
from services.llm_gateway.providers.environment import LOG_LEVELS, PREFIXES, hidden
from services.llm_gateway.providers.words import said

with hidden(*LOG_LEVELS):
    import openai

if TYPE_CHECKING:
    from openai import AsyncStream
    from openai.types.chat import ChatCompletionChunk

CONNECT_TIMEOUT_S = 10.0
NO_KEY = "none"
"""The SDK wants a key; a server that wants none is sent no header."""


UNREADABLE = (openai.OpenAIError, OSError, ValueError, RecursionError)
"""What the SDK raises for a call that brings nothing that can be read."""


class OpenAIModel:
    """The `Provider` of the family `openai`."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._name = setup.spec.provider
        self._client = _client(setup)
        self._headers: dict[str, Any] = {} if setup.api_key else {"Authorization": openai.Omit()}

    async def call(self, request: ModelRequest, on_text: OnText) -> ModelReply:
        """One streamed chat completion."""
        setup = self._setup
        answer = Answer(setup.endpoint)
        body = request_body(setup.endpoint, setup.model, setup.parameters, request)
        try:
            stream = cast(
                "AsyncStream[ChatCompletionChunk]",
                await self._client.chat.completions.create(
                    **body,
                    extra_body=extra_body(setup.endpoint, setup.parameters) or None,
                    extra_headers=self._headers,
                ),
            )
            async with stream:
                async for chunk in stream:
                    if text := answer.add(_fields(chunk)):
                        on_text(text)
            return answer.reply()
        except Incomplete as error:
            raise CallFailed(network_failure(self._name, str(error), usage=answer.usage)) from error
        except (*UNREADABLE, msgspec.ValidationError) as error:
            raise CallFailed(self._failure(error, answer)) from error

    async def check(self) -> Checked:
        """A list of models shows that the key is accepted, and costs nothing."""
        try:
            page = await self._client.models.list(extra_headers=self._headers)
        except openai.APIStatusError as error:
            if why := unverified(error.status_code, self._setup.endpoint):
                return Checked(unverified=why)
            raise CallFailed(self._failure(error, None)) from error
        except (*UNREADABLE, AttributeError, TypeError) as error:  # the SDK stumbles over a list that is no object
            raise CallFailed(self._failure(error, None)) from error
        if self._setup.endpoint.azure is not None:
            return Checked()  # lists base models, while ours is the name of a deployment
        return listed(page)

    async def close(self) -> None:
        """Close the client's connections."""
        await self._client.close()

    def _failure(self, error: Exception, answer: Answer | None) -> Failure:
        key = self._setup.api_key
        match error:
            case openai.APIStatusError():
                found = said(error.body, key)
                wait_s = retry_after(error.response.headers, self._setup.clock.now())
                return http_failure(self._name, error.status_code, found.words, codes=found.codes, retry_after_s=wait_s)
            case openai.APITimeoutError():
                return network_failure(self._name, "no answer in time", usage=_usage_of(answer), cause="timeout")
            case openai.APIConnectionError():
                words = f"cannot be reached: {_root(error)}"
            case openai.APIError(body=body) if body is not None:
                found = said(body, key)
                words = found.words or error.message
                return stream_failure(
                    self._name, words, codes=found.codes, status=found.status, usage=_usage_of(answer)
                )
            case _:
                words = f"what it sent cannot be read ({type(error).__name__}: {error})"
        return network_failure(self._name, words, usage=_usage_of(answer))


def make(setup: Setup) -> OpenAIModel:
    """The model behind an LLM of this family."""
    return OpenAIModel(setup)


def _client(setup: Setup) -> openai.AsyncOpenAI:
    endpoint, options = setup.endpoint, setup.spec.openai
    common: dict[str, Any] = {
        "max_retries": 0,
        "timeout": openai.Timeout(timeout_s_of(setup.spec), connect=CONNECT_TIMEOUT_S),
        "organization": options.organization if options is not None else None,
    }
    with hidden(*PREFIXES):
        if endpoint.azure is None:
            return openai.AsyncOpenAI(api_key=_credential(setup), base_url=endpoint.base_url, **common)
        by_token = endpoint.azure.api_type == "AZURE_AD"
        return openai.AsyncAzureOpenAI(
            azure_endpoint=endpoint.base_url.rstrip("/").removesuffix("/openai"),
            api_version=endpoint.azure.api_version,
            api_key=None if by_token else setup.api_key,
            azure_ad_token=setup.api_key if by_token else None,
            **common,
        )


def _credential(setup: Setup) -> str | Callable[[], Awaitable[str]]:
    if setup.endpoint.provider == "vertex":
        from services.llm_gateway.providers.google_token import GoogleToken, service_account_key  # noqa: PLC0415 - heavy

        if (key := service_account_key(setup.api_key)) is not None:
            return GoogleToken(key, setup.clock)
    return setup.api_key or NO_KEY


def _usage_of(answer: Answer | None) -> Usage | None:
    return answer.usage if answer is not None else None


def _fields(chunk: object) -> dict[str, Any]:
    """What an event says; raises `ValueError` for what is no object, which the SDK hands on as it is."""
    if not isinstance(chunk, openai.BaseModel):
        raise ValueError(f"{type(chunk).__name__} instead of an object")  # noqa: TRY004 - of what was sent, not of ours
    return chunk.to_dict(mode="json", warnings=False)


def _root(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
