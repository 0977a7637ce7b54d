"""Arithmetic of limits and waits. Pure leaves, called by the machine."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import ROUND_DOWN, Decimal
from typing import TypeVar

from schemas.events import ModelFailed
from schemas.messages import ToolCall, Usage
from schemas.requests import PREVIEW_LENGTH, TURNS_MAX_DEFAULT, Limits
from schemas.task import Budget, FailureReason, LLMSpend, Spend

N = TypeVar("N", int, Decimal)

ATTEMPTS_MAX = 10
"""Attempts at one model call, the first included, before the task fails."""
REPAIRS_MAX = 1
"""Times that a model is asked to mend an answer that does not fit the response format."""
COMPACTIONS_MAX = 2
"""Times that a conversation is made shorter for one turn."""
EMPTY_REPLIES_MAX = 3
"""Empty replies to one turn before the task fails."""
CALLS_MAX = 128
"""Tool calls of one answer. OpenAI offers a model 128 tools at most; more calls than that at once are a runaway."""
CALL_TEXT_MAX = 256
"""Characters of a call's id or tool name, which the state holds."""
BACKOFF_BASE_S = 1.0
BACKOFF_MAX_S = 60.0
RETRY_AFTER_MAX_S = 3600.0
"""The longest wait that a provider may ask for."""
DELEGATION_DEPTH_MAX = 5
"""Agents below the one at the root of a tree of tasks."""
COST_STEP = Decimal("0.000001")
"""The smallest part of a budget that is handed on, in US dollars."""
PARK_MIN_S = 0.05
PARK_MAX_S = 24 * 3600.0
"""A limit of a day ends at midnight at the latest."""
RECHECK_MIN_S = 5.0
RECHECK_MAX_S = 600.0


def budget_of(task: Limits, agent: Limits) -> Budget:
    """The narrower of the task's limits and its agent's; 20 turns if neither says."""
    return Budget(
        max_turns=_narrower(task.max_turns, agent.max_turns) or TURNS_MAX_DEFAULT,
        max_tokens=_narrower(task.max_tokens, agent.max_tokens),
        max_cost_usd=_narrower(task.max_cost_usd, agent.max_cost_usd),
    )


def deadline_of(limits: Limits, submitted_at: datetime) -> datetime | None:
    """When a task that was submitted then must have ended, by these limits."""
    return submitted_at + timedelta(seconds=limits.deadline_s) if limits.deadline_s is not None else None


def _narrower(one: N | None, other: N | None) -> N | None:
    given = [limit for limit in (one, other) if limit is not None]
    return min(given) if given else None


def add_usage(spend: Spend, usage: Usage, llm: str) -> Spend:
    """What a task has used after one more call of a model."""
    by_llm = spend.by_llm
    if llm:
        call = LLMSpend(
            model_calls=1,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cached_tokens=usage.cached_tokens,
            reasoning_tokens=usage.reasoning_tokens,
            cost_usd=usage.cost_usd or Decimal(0),
        )
        after = _add_llm(by_llm.get(llm, LLMSpend()), call)
        by_llm = {**by_llm, llm: after}
    return Spend(
        model_calls=spend.model_calls + 1,
        input_tokens=spend.input_tokens + usage.input_tokens,
        output_tokens=spend.output_tokens + usage.output_tokens,
        cost_usd=spend.cost_usd + (usage.cost_usd or 0),
        by_llm=by_llm,
    )


def add_spend(spend: Spend, *more: Spend) -> Spend:
    """What a task has used together with tasks that it asked for."""
    for other in more:
        by_llm = dict(spend.by_llm)
        for name, used in other.by_llm.items():
            by_llm[name] = _add_llm(by_llm.get(name, LLMSpend()), used)
        spend = Spend(
            model_calls=spend.model_calls + other.model_calls,
            input_tokens=spend.input_tokens + other.input_tokens,
            output_tokens=spend.output_tokens + other.output_tokens,
            cost_usd=spend.cost_usd + other.cost_usd,
            by_llm=by_llm,
        )
    return spend


def _add_llm(one: LLMSpend, other: LLMSpend) -> LLMSpend:
    return LLMSpend(**{name: getattr(one, name) + getattr(other, name) for name in LLMSpend.__struct_fields__})


def share_of(budget: Budget, spend: Spend, parts: int) -> Limits:
    """What each of `parts` delegated calls may use: together, no more than the caller has left."""
    tokens = cost = None
    if budget.max_tokens is not None:
        left = budget.max_tokens - spend.input_tokens - spend.output_tokens
        tokens = max(left // parts, 1)
    if budget.max_cost_usd is not None:
        part = (budget.max_cost_usd - spend.cost_usd) / parts
        cost = max(part.quantize(COST_STEP, rounding=ROUND_DOWN), COST_STEP)
    return Limits(max_tokens=tokens, max_cost_usd=cost)


def refusal(event: ModelFailed) -> tuple[FailureReason, str]:
    """Why a task fails whose model call was refused."""
    match event.cause:
        case "maxTokens":
            return "MaxTokensReached", event.error
        case "maxCost":
            return "MaxCostReached", event.error
        case "namespaceQuota":
            return "QuotaReached", event.error
        case "contextTooLong":
            reason: FailureReason = "ContextTooLong"
        case "quotaExhausted":
            reason = "LLMQuotaExhausted"
        case _:
            reason = "LLMRequestFailed4xx" if event.status is not None else "LLMRequestFailed"
    status = f" with status {event.status}" if event.status is not None else ""
    return reason, f"LLM request failed{status}: {event.error}"


def exhausted(spend: Spend, budget: Budget, next_turn: int) -> tuple[FailureReason, str] | None:
    """Why there may be no further model call, or None if there may be one."""
    if next_turn > budget.max_turns:
        return "MaxTurnsReached", f"no final answer after {budget.max_turns} turns (maxTurns)"
    tokens = spend.input_tokens + spend.output_tokens
    if budget.max_tokens is not None and tokens >= budget.max_tokens:
        return "MaxTokensReached", f"used {tokens} of {budget.max_tokens} tokens (maxTokens)"
    if budget.max_cost_usd is not None and spend.cost_usd >= budget.max_cost_usd:
        return "MaxCostReached", f"spent {spend.cost_usd} of {budget.max_cost_usd} US dollars (maxCost)"
    return None


def unreasonable(calls: Sequence[ToolCall]) -> str:
    """Why an answer's calls cannot be taken, or empty."""
    if len(calls) > CALLS_MAX:
        return f"the model asked for {len(calls)} tool calls at once; {CALLS_MAX} at most"
    if any(len(call.id) > CALL_TEXT_MAX or len(call.name) > CALL_TEXT_MAX for call in calls):
        return f"the model asked for a tool call whose id or name has more than {CALL_TEXT_MAX} characters"
    return ""


def park(failure: ModelFailed) -> timedelta:
    """How long a call waits that a limit of ours leaves no room for."""
    return timedelta(seconds=min(max(failure.retry_after_s or 0.0, PARK_MIN_S), PARK_MAX_S))


def backoff(task: str, failure: ModelFailed, failures: int) -> timedelta:
    """How long to wait after so many transient failures: exponential with full jitter, never less than was asked for.

    The jitter is drawn from the call's own ids, so a replay waits just as long.
    """
    ceiling = min(BACKOFF_MAX_S, BACKOFF_BASE_S * 2 ** (failures - 1))
    draw = zlib.crc32(f"{task}/{failure.turn}/{failure.attempt}".encode()) / 2**32
    asked = min(failure.retry_after_s or 0.0, RETRY_AFTER_MAX_S)
    return timedelta(seconds=max(asked, ceiling * draw))


def recheck_after(since: datetime, now: datetime) -> timedelta:
    """How long until a waiting task is looked at again: as long as it has waited, within bounds."""
    waited = (now - since).total_seconds()
    return timedelta(seconds=min(max(waited, RECHECK_MIN_S), RECHECK_MAX_S))


def preview(text: str) -> str:
    """The beginning of what the user asked, 50 characters at most."""
    flat = " ".join(text.split())
    return flat if len(flat) <= PREVIEW_LENGTH else f"{flat[: PREVIEW_LENGTH - 3]}..."
