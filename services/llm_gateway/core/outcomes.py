"""What is recorded of a model call."""

from __future__ import annotations

from datetime import datetime

from schemas.events import ModelAnswered, ModelFailed, WindowCompacted
from schemas.messages import Usage
from schemas.requests import ResponseFormat
from schemas.resources import LLM
from services.llm_gateway.core.calls import Failure, ModelReply
from services.llm_gateway.core.compaction import Compacted, CompactionPolicy
from services.llm_gateway.core.cost import priced
from services.llm_gateway.core.moments import Place

Outcome = ModelAnswered | ModelFailed | WindowCompacted


def answered(
    place: Place, llm: LLM, reply: ModelReply, *, at: datetime, latency_s: float, invalid: str = ""
) -> ModelAnswered:
    """The model answered."""
    return ModelAnswered(
        turn=place.turn,
        attempt=place.attempt,
        message=reply.message,
        usage=reply.usage,
        at=at,
        llm=llm.metadata.name,
        model=reply.model,
        latency_s=round(latency_s, 6),
        finish_reason=reply.finish_reason,
        invalid=invalid,
    )


def failed(place: Place, llm: LLM, failure: Failure, *, at: datetime) -> ModelFailed:
    """The call failed."""
    return ModelFailed(
        turn=place.turn,
        attempt=place.attempt,
        failure="throttled" if failure.throttled else "transient" if failure.transient else "refused",
        error=failure.error,
        at=at,
        status=failure.status,
        retry_after_s=failure.retry_after_s,
        usage=_priced(failure.usage, llm),
        llm=llm.metadata.name,
        cause=failure.cause,
    )


def compacted(
    place: Place,
    llm: LLM,
    result: Compacted,
    *,
    policy: CompactionPolicy,
    at: datetime,
    tokens: tuple[int, int],
    reason: str,
    usage: Usage,
    response_format: ResponseFormat | None,
) -> WindowCompacted:
    """The conversation was made shorter; `tokens` are those of the whole window before and after."""
    before, after = tokens
    return WindowCompacted(
        turn=place.turn,
        attempt=place.attempt,
        policy=policy,
        replaced=result.replaced,
        messages=result.messages,
        tokens_before=before,
        tokens_after=after,
        at=at,
        reason=reason,
        usage=_priced(usage, llm),
        llm=llm.metadata.name,
        response_format=response_format,
    )


def _priced(usage: Usage, llm: LLM) -> Usage:
    """What was used, with its cost; nothing costs nothing."""
    return usage if usage == Usage() else priced(usage, llm.spec.pricing)
