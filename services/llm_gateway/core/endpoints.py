"""Where a model is and what its provider accepts, from its LLM resource.

All but Anthropic speak OpenAI's chat completions, and differ in what they take; what they refuse with an error when
it is sent is told apart here, by provider and by host.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

import msgspec

from schemas.resources import AnthropicOptions, LLMSpec, Number, OpenAIOptions, VertexOptions

Family = Literal["openai", "anthropic", "scripted"]
"""Which SDK speaks to it."""

DEFAULT_URLS = {
    "openai": "https://api.openai.com/v1",
    "anthropic": "https://api.anthropic.com",
    "mistral": "https://api.mistral.ai/v1",
    "google": "https://generativelanguage.googleapis.com/v1beta/openai/",
}
TELEMETRY_NAMES = {
    "openai": "openai",
    "anthropic": "anthropic",
    "mistral": "mistral_ai",
    "google": "gcp.gemini",
    "vertex": "gcp.vertex_ai",
    "scripted": "scripted",
}
"""`gen_ai.provider.name` in OpenTelemetry's semantic conventions."""
AZURE_TELEMETRY_NAME = "azure.ai.openai"
AZURE_MAX_COMPLETION_TOKENS_SINCE = "2024-09"

OPENAI_DESCRIPTION_LENGTH_MAX = 1024
THINKING_TOKENS_MIN = 1024
THINKING_TOP_P_MIN = 0.95

_VERTEX_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]*")


class BadSpec(ValueError):
    """An LLM resource that cannot be used. The text is its status."""


class Parameters(NamedTuple):
    """What is sent with every call; None and empty are not sent."""

    temperature: float | None
    top_p: float | None
    top_k: int | None
    frequency_penalty: float | None
    presence_penalty: float | None
    max_tokens: int | None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    reasoning_effort: str | None = None
    thinking_budget_tokens: int | None = None
    """Anthropic: how many tokens it may think."""
    prompt_caching: bool = True
    """Anthropic: whether what stays the same is marked."""

    def output_tokens_max(self, budget: int | None) -> int | None:
        """The limit of an answer: the resource's or what a task's budget leaves, whichever is less."""
        limits = [limit for limit in (self.max_tokens, budget) if limit is not None]
        return min(limits, default=None)


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach a model."""

    family: Family
    provider: str
    """The resource's own word for it."""
    telemetry_name: str
    base_url: str
    official: bool
    """The provider's own address, whose habits are known; not a server that is compatible with it."""
    azure: OpenAIOptions | None = None

    @property
    def key_required(self) -> bool:
        """Whether a call without a key is certain to fail."""
        return self.family != "scripted" and (self.official or self.azure is not None)

    @property
    def opaque_name(self) -> str:
        """Who gets back what it wanted kept: reasoning of one server means nothing to another."""
        return self.provider if self.official else f"{self.provider}:{urlsplit(self.base_url).hostname}"

    @property
    def takes_max_completion_tokens(self) -> bool:
        """OpenAI deprecated `max_tokens`, and its reasoning models refuse it.

        Compatible servers know only `max_tokens`: they ignore the newer name, or refuse it, as Mistral does. Azure
        takes the newer one from an API version on.
        """
        if self.azure is not None:
            return (self.azure.api_version or "") >= AZURE_MAX_COMPLETION_TOKENS_SINCE
        return self.provider == "openai" and self.official

    @property
    def takes_stream_options(self) -> bool:
        """Mistral refuses the option that asks for usage, and tells it unasked."""
        return self.provider != "mistral"

    @property
    def takes_top_k(self) -> bool:
        """Anthropic has it, and servers of open models do as an extension; the other providers refuse it."""
        return self.family == "anthropic" or (self.provider == "openai" and not self.official and self.azure is None)

    @property
    def takes_penalties(self) -> bool:
        """Anthropic has none."""
        return self.family != "anthropic"

    @property
    def takes_seed(self) -> bool:
        """Anthropic has none."""
        return self.family != "anthropic"

    @property
    def description_length_max(self) -> int | None:
        """Characters of a tool's description that OpenAI and Azure take; servers of MCP have longer ones."""
        is_openai = self.azure is not None or (self.official and self.provider == "openai")
        return OPENAI_DESCRIPTION_LENGTH_MAX if is_openai else None

    @property
    def takes_image_results(self) -> bool:
        """Whether a tool's result may hold images; elsewhere they are said by the user after it.

        OpenAI takes text only there; Mistral takes images, and no user message after a result.
        """
        return self.family == "anthropic" or self.provider == "mistral"

    @property
    def takes_format_with_tools(self) -> bool:
        """Whether a model that is held to a format may still call tools.

        Servers of open models and Google's compatible endpoint force every answer into the format, or refuse both.
        """
        return self.azure is not None or (self.official and self.provider in ("openai", "anthropic"))


def endpoint_of(spec: LLMSpec) -> Endpoint:
    """The endpoint of an LLM; raises `BadSpec`."""
    family: Family = "anthropic" if spec.provider == "anthropic" else "openai"
    options = spec.openai
    azure = options if options is not None and options.api_type != "OPEN_AI" and spec.provider == "openai" else None
    given = spec.parameters.base_url
    match spec.provider:
        case "scripted":
            if spec.scripted is None:
                raise BadSpec("scripted configuration is required for scripted provider")
            family, default = "scripted", ""
        case "vertex":
            if spec.vertex is None:
                raise BadSpec("vertex configuration is required for vertex provider")
            default = _vertex_url(spec.vertex)
        case _:
            default = DEFAULT_URLS[spec.provider]
    if azure is not None:
        _check_azure(azure, given)
    if given and (urlsplit(given).scheme not in ("http", "https") or not urlsplit(given).hostname):
        raise BadSpec(f"parameters.baseUrl {given!r} is not an http or https URL")
    return Endpoint(
        family=family,
        provider=spec.provider,
        telemetry_name=AZURE_TELEMETRY_NAME if azure else TELEMETRY_NAMES[spec.provider],
        base_url=_sdk_url(family, given or default),
        official=azure is None and (not given or urlsplit(given).hostname == urlsplit(default).hostname),
        azure=azure,
    )


def parameters_of(spec: LLMSpec) -> Parameters:
    """What an LLM's calls are sent; raises `BadSpec` for what no provider could take."""
    given = spec.parameters
    options = spec.anthropic if spec.provider == "anthropic" and spec.anthropic is not None else AnthropicOptions()
    _check_thinking(options.thinking_budget_tokens, given.max_tokens)
    return Parameters(
        temperature=_number("temperature", given.temperature),
        top_p=_number("topP", given.top_p),
        top_k=given.top_k,
        frequency_penalty=_number("frequencyPenalty", given.frequency_penalty),
        presence_penalty=_number("presencePenalty", given.presence_penalty),
        max_tokens=given.max_tokens,
        stop=given.stop,
        seed=_seed(spec),
        reasoning_effort=given.reasoning_effort,
        thinking_budget_tokens=options.thinking_budget_tokens,
        prompt_caching=options.prompt_caching,
    )


def sampling(parameters: Parameters) -> dict[str, float]:
    """The sampling that Anthropic is sent. A model that thinks takes only a top-p, and only near to 1."""
    numbers = {"temperature": parameters.temperature, "top_p": parameters.top_p, "top_k": parameters.top_k}
    if parameters.thinking_budget_tokens is not None:
        top_p = parameters.top_p
        numbers = {"top_p": top_p if top_p is not None and top_p >= THINKING_TOP_P_MIN else None}
    return {name: value for name, value in numbers.items() if value is not None}


def unsent(endpoint: Endpoint, parameters: Parameters) -> tuple[str, ...]:
    """The parameters that are set and that this provider does not take."""
    lacking: list[tuple[str, object, bool]] = [
        ("topK", parameters.top_k, endpoint.takes_top_k),
        ("frequencyPenalty", parameters.frequency_penalty, endpoint.takes_penalties),
        ("presencePenalty", parameters.presence_penalty, endpoint.takes_penalties),
        ("seed", parameters.seed, endpoint.takes_seed),
    ]
    if endpoint.family == "anthropic":
        sent = sampling(parameters)
        lacking[0] = ("topK", parameters.top_k, "top_k" in sent)
        lacking += [
            ("temperature", parameters.temperature, "temperature" in sent),
            ("topP", parameters.top_p, "top_p" in sent),
        ]
    names = tuple(name for name, value, taken in lacking if value is not None and not taken)
    return () if endpoint.family == "scripted" else names


def timeout_s_of(spec: LLMSpec) -> float:
    """Wall time of one call: Mistral's own option, where the predecessor's manifests have it, or the common one.

    Raises `BadSpec` for none at all.
    """
    if spec.provider == "mistral" and spec.mistral is not None and spec.mistral.timeout is not None:
        limit_s = float(spec.mistral.timeout)
    else:
        limit_s = spec.parameters.timeout_s
    if not limit_s > 0:
        raise BadSpec(f"parameters.timeoutSeconds is {limit_s:g}; it must be more than 0")
    return limit_s


def _check_thinking(budget: int | None, max_tokens: int | None) -> None:
    if budget is None:
        return
    if budget < THINKING_TOKENS_MIN:
        raise BadSpec(f"anthropic.thinkingBudgetTokens is {budget}; it must be {THINKING_TOKENS_MIN} at least")
    if max_tokens is not None and max_tokens <= budget:
        raise BadSpec(
            f"parameters.maxTokens is {max_tokens}; it must be more than anthropic.thinkingBudgetTokens ({budget}), "
            "which counts towards it"
        )


def _seed(spec: LLMSpec) -> int | None:
    own = spec.mistral.random_seed if spec.provider == "mistral" and spec.mistral is not None else None
    return spec.parameters.seed if own is None else own


def _check_azure(azure: OpenAIOptions, base_url: str | None) -> None:
    if not base_url:
        raise BadSpec(f"parameters.baseUrl is required for openai.apiType {azure.api_type}")
    if not azure.api_version:
        raise BadSpec(f"openai.apiVersion is required for openai.apiType {azure.api_type}")


def _vertex_url(options: VertexOptions) -> str:
    project, location = options.cloud_project, options.cloud_location
    for name, value in (("cloudProject", project), ("cloudLocation", location)):
        if not _VERTEX_PART.fullmatch(value):
            raise BadSpec(f"vertex.{name} {value!r} is not the name of one")
    host = "aiplatform.googleapis.com" if location == "global" else f"{location}-aiplatform.googleapis.com"
    return f"https://{host}/v1/projects/{project}/locations/{location}/endpoints/openapi"


def _sdk_url(family: Family, url: str) -> str:
    # Anthropic's SDK appends /v1/messages; the predecessor's manifests end in /v1.
    return url.rstrip("/").removesuffix("/v1") if family == "anthropic" else url


def _number(name: str, value: Number | None) -> float | None:
    if value is None:
        return None
    try:
        return float(value)
    except ValueError:
        raise BadSpec(f"parameters.{name} {value!r} is not a number") from None
