"""Anthropic's models, through its SDK.

The SDK's own retries and spans are off, and it takes nothing from the process's environment (see `environment.py`).
Two versions of the API are spoken: the newest, which the SDK sends, refuses sampling parameters; so does not the one
before, which is named when the resource sets any, and to servers that are compatible with Anthropic, because that is
what they implement.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import httpx2
import msgspec

from services.llm_gateway.core.calls import CallFailed, Failure, ModelReply, ModelRequest
from services.llm_gateway.core.endpoints import sampling, timeout_s_of
from services.llm_gateway.core.failures import http_failure, network_failure, retry_after
from services.llm_gateway.providers.base import Checked, OnText, Setup, listed, unverified
from services.llm_gateway.providers.environment import LOG_LEVELS, PREFIXES, hidden
from services.llm_gateway.providers.messages_answer import Answer, Incomplete
from services.llm_gateway.providers.messages_format import request_body
from services.llm_gateway.providers.words import said

with hidden(*LOG_LEVELS):
    import anthropic

if TYPE_CHECKING:
    from anthropic import AsyncStream
    from anthropic.types import RawMessageStreamEvent

CONNECT_TIMEOUT_S = 10.0
VERSION_WITH_SAMPLING = "2023-06-01"
NO_KEY = "none"
MODELS_MAX = 1000
"""Models asked for in one page: the most that the API gives."""
STATUSES = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "conflict_error": 409,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""What an error in the middle of a stream would have been as a status."""


UNREADABLE = (anthropic.AnthropicError, httpx2.HTTPError, OSError, ValueError, RecursionError)
"""What the SDK raises for a call that brings nothing that can be read."""


class AnthropicModel:
    """The `Provider` of the family `anthropic`."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._sampling = sampling(setup.parameters)
        self._headers = _headers(setup, with_sampling=bool(self._sampling))
        with hidden(*PREFIXES):
            self._client = anthropic.AsyncAnthropic(
                api_key=setup.api_key or NO_KEY,
                base_url=setup.endpoint.base_url,
                max_retries=0,
                timeout=anthropic.Timeout(timeout_s_of(setup.spec), connect=CONNECT_TIMEOUT_S),
                open_telemetry=False,
            )

    async def call(self, request: ModelRequest, on_text: OnText) -> ModelReply:
        """One streamed message."""
        setup = self._setup
        answer = Answer(setup.endpoint)
        body = request_body(setup.endpoint, setup.model, setup.parameters, request)
        try:
            stream = cast(
                "AsyncStream[RawMessageStreamEvent]",
                await self._client.messages.create(
                    **body, extra_body=self._sampling or None, extra_headers=self._headers
                ),
            )
            async with stream:
                async for event in stream:
                    if text := answer.add(_fields(event)):
                        on_text(text)
            return answer.reply()
        except Incomplete as error:
            raise CallFailed(network_failure("anthropic", str(error), usage=answer.usage)) from error
        except (*UNREADABLE, msgspec.ValidationError) as error:
            raise CallFailed(self._failure(error, answer)) from error

    async def check(self) -> Checked:
        """A list of models shows that the key is accepted, and costs nothing."""
        try:
            page = await self._client.models.list(limit=MODELS_MAX, extra_headers=self._headers)
        except anthropic.APIStatusError as error:
            if why := unverified(error.status_code, self._setup.endpoint):
                return Checked(unverified=why)
            raise CallFailed(self._failure(error, None)) from error
        except (*UNREADABLE, AttributeError, TypeError) as error:  # the SDK stumbles over a list that is no object
            raise CallFailed(self._failure(error, None)) from error
        return listed(page)

    async def close(self) -> None:
        """Close the client's connections."""
        await self._client.close()

    def _failure(self, error: Exception, answer: Answer | None) -> Failure:
        usage = answer.usage if answer is not None else None
        match error:
            case anthropic.APIStatusError():
                found = said(error.body, self._setup.api_key)
                status = error.status_code
                if status < 400:
                    status = next((STATUSES[code] for code in found.codes if code in STATUSES), 500)
                wait_s = retry_after(error.response.headers, self._setup.clock.now())
                return http_failure(
                    "anthropic", status, found.words, codes=found.codes, retry_after_s=wait_s, usage=usage
                )
            case anthropic.APITimeoutError() | httpx2.TimeoutException():
                return network_failure("anthropic", "no answer in time", usage=usage, cause="timeout")
            case anthropic.APIConnectionError() | httpx2.HTTPError():
                words = f"cannot be reached, or the connection was lost: {_root(error)}"
            case _:
                words = f"what it sent cannot be read ({type(error).__name__}: {error})"
        return network_failure("anthropic", words, usage=usage)


def make(setup: Setup) -> AnthropicModel:
    """The model behind an LLM of this family."""
    return AnthropicModel(setup)


def _headers(setup: Setup, *, with_sampling: bool) -> dict[str, Any]:
    headers: dict[str, Any] = {}
    options = setup.spec.anthropic
    if options is not None and options.anthropic_beta_header:
        headers["anthropic-beta"] = options.anthropic_beta_header
    if with_sampling or not setup.endpoint.official:
        headers["anthropic-version"] = VERSION_WITH_SAMPLING
    if not setup.api_key:
        headers["Authorization"] = anthropic.Omit()
    elif not setup.endpoint.official:
        headers["X-Api-Key"] = setup.api_key  # where compatible servers look; the SDK sends a bearer token
    return headers


def _fields(event: object) -> dict[str, Any]:
    """What an event says; raises `ValueError` for what is no object, which the SDK hands on as it is."""
    if not isinstance(event, anthropic.BaseModel):
        raise ValueError(f"{type(event).__name__} instead of an object")  # noqa: TRY004 - of what was sent, not of ours
    return event.to_dict(mode="json", warnings=False)


def _root(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
