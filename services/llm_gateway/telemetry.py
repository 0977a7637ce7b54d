"""What is told about a model call: a span in the words of OpenTelemetry's GenAI conventions, metrics, a line of log.

Sizes and counts; what was said only where that is asked for (`HOLDFAST_TRACE_CONTENT`).
"""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from schemas.messages import Usage
from schemas.resources import LLM
from schemas.task import AwaitingModel
from services.llm_gateway.core.calls import Failure, ModelReply, ModelRequest
from services.llm_gateway.core.endpoints import Endpoint, parameters_of
from services.runtime.telemetry.content import Content

if TYPE_CHECKING:
    from services.runtime.secrets import Secrets
    from services.runtime.telemetry.metrics import Metrics
    from services.runtime.telemetry.traces import Traces

logger = logging.getLogger(__name__)

PORTS = {"https": 443, "http": 80}


class Observed:
    """One call under observation."""

    def __init__(self, metrics: Metrics, provider: str, span: dict[str, Any], content: Content | None) -> None:
        self._metrics = metrics
        self._content = content
        self._provider = provider
        self._span = span

    def parked(self, parked_s: float) -> None:
        """It waited so long for limits of ours before it was made."""
        if parked_s > 0:
            self._span["holdfast.parked_s"] = round(parked_s, 3)

    def began(self, after_s: float) -> None:
        """The first piece of its text came."""
        self._metrics.first_token_seconds.labels(self._provider).observe(after_s)
        self._span["gen_ai.response.time_to_first_chunk"] = round(after_s, 6)

    def answered(self, reply: ModelReply, latency_s: float) -> None:
        """It brought an answer."""
        self._span["gen_ai.response.model"] = reply.model or None
        self._span["gen_ai.response.id"] = reply.response_id or None
        self._span["gen_ai.response.finish_reasons"] = [reply.finish_reason] if reply.finish_reason else None
        if self._content is not None:
            self._span.update(self._content.answered(reply.message, reply.finish_reason))
        self._count(reply.usage, "answered", latency_s)
        logger.info(
            "the model answered with %d characters and %d tool calls",
            len(reply.message.content),
            len(reply.message.tool_calls),
            extra={
                "action": "model.answered",
                "latency_s": round(latency_s, 3),
                "input_tokens": reply.usage.input_tokens,
                "output_tokens": reply.usage.output_tokens,
            },
        )

    def failed(self, failure: Failure, latency_s: float) -> None:
        """It failed."""
        self._span["error.type"] = str(failure.status) if failure.status is not None else failure.cause
        self._span["holdfast.cause"] = failure.cause
        self._count(failure.usage, "transient" if failure.transient else "refused", latency_s)
        logger.warning(
            "%s",
            failure.error,
            extra={
                "action": "model.failed",
                "latency_s": round(latency_s, 3),
                "status": failure.status,
                "cause": failure.cause,
            },
        )

    def _count(self, usage: Usage, outcome: str, latency_s: float) -> None:
        self._metrics.model_seconds.labels(self._provider, outcome).observe(latency_s)
        for direction, tokens in (("input", usage.input_tokens), ("output", usage.output_tokens)):
            self._metrics.tokens.labels(self._provider, direction).inc(tokens)
        if usage.cost_usd is not None:
            self._metrics.cost.labels(self._provider).inc(float(usage.cost_usd))
        if usage != Usage():
            self._span["gen_ai.usage.input_tokens"] = usage.input_tokens
            self._span["gen_ai.usage.output_tokens"] = usage.output_tokens
            self._span["gen_ai.usage.cache_read.input_tokens"] = usage.cached_tokens or None
            self._span["gen_ai.usage.cache_creation.input_tokens"] = usage.cache_write_tokens or None
            self._span["gen_ai.usage.reasoning.output_tokens"] = usage.reasoning_tokens or None


class Observer:
    """Observes calls."""

    def __init__(self, metrics: Metrics, traces: Traces, secrets: Secrets) -> None:
        self._metrics = metrics
        self._traces = traces
        self._content = Content(secrets) if traces.captures else None

    @contextmanager
    def call(self, llm: LLM, endpoint: Endpoint, request: ModelRequest, state: AwaitingModel) -> Generator[Observed]:
        """A span around a call."""
        model = llm.spec.parameters.model or endpoint.provider
        attributes = _attributes(llm, endpoint, request, state, model) if self._traces.recording else None
        with self._traces.span(f"chat {model}", kind="client", attributes=attributes) as span:
            if self._content is not None:
                span.update(self._content.asked(request.messages))
            yield Observed(self._metrics, endpoint.provider, span, self._content)


def _attributes(
    llm: LLM, endpoint: Endpoint, request: ModelRequest, state: AwaitingModel, model: str
) -> dict[str, str | int | float | bool]:
    parameters = parameters_of(llm.spec)
    at = urlsplit(endpoint.base_url)
    known: dict[str, str | int | float | bool | None] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": endpoint.telemetry_name,
        "gen_ai.request.model": model,
        "gen_ai.request.stream": True,
        "gen_ai.conversation.id": f"{state.namespace}/{state.thread or state.task}",
        "gen_ai.agent.name": state.agent,
        "gen_ai.request.temperature": parameters.temperature,
        "gen_ai.request.top_p": parameters.top_p,
        "gen_ai.request.top_k": parameters.top_k,
        "gen_ai.request.max_tokens": parameters.output_tokens_max(request.output_tokens_max),
        "gen_ai.request.frequency_penalty": parameters.frequency_penalty,
        "gen_ai.request.presence_penalty": parameters.presence_penalty,
        "gen_ai.request.seed": parameters.seed,
        "gen_ai.output.type": "json" if request.response_format is not None else None,
        "server.address": at.hostname,
        "server.port": at.port or PORTS.get(at.scheme),
        "holdfast.llm": llm.metadata.name,
        "holdfast.turn": request.turn,
        "holdfast.attempt": request.attempt,
    }
    return {name: value for name, value in known.items() if value is not None}
