"""How a provider's failure is taken: what it is of, and whether the same call would fail again.

refused     the provider understood and will not: 4xx, an exhausted quota, which no wait of ours refills, and a
            conversation that is too long, whatever its status
transient   408, 409, 425, 429, 5xx, and whatever is the network's

A provider's own codes decide first. Its words are looked at only for what it has no code for: the kinds that most
often come as a plain 400, 429 or 500. Words that are not known leave the cause to the status.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime

from schemas.messages import Usage
from schemas.requests import FailureCause
from services.llm_gateway.core.calls import ERROR_LENGTH_MAX, Failure

TRANSIENT_STATUSES = frozenset({408, 409, 425, 429})
RETRY_AFTER_MAX_S = 3600.0
WORDS_LENGTH_MAX = 10_000
"""Characters of a provider's words that are looked at."""

CODES: dict[str, FailureCause] = {
    # OpenAI, Azure and their like
    "insufficient_quota": "quotaExhausted",
    "billing_hard_limit_reached": "quotaExhausted",
    "billing_not_active": "quotaExhausted",
    "context_length_exceeded": "contextTooLong",
    "content_filter": "contentFiltered",
    "content_policy_violation": "contentFiltered",
    "ResponsibleAIPolicyViolation": "contentFiltered",
    "invalid_prompt": "contentFiltered",
    "invalid_api_key": "authentication",
    "model_not_found": "invalidRequest",
    "server_error": "overloaded",
    # Anthropic
    "billing_error": "quotaExhausted",
    "enforced_spend_limit_reached": "quotaExhausted",
    "contract_spend_limit_reached": "quotaExhausted",
    "linked_organization_spend_limit_reached": "quotaExhausted",
    "linked_organization_billing_unavailable": "quotaExhausted",
    "user_profile_not_billable": "quotaExhausted",
    "request_too_large": "contextTooLong",
    "request_body_too_large_after_decoding": "contextTooLong",
    "authentication_error": "authentication",
    "permission_error": "authentication",
    "overloaded_error": "overloaded",
    "api_error": "overloaded",
    "timeout_error": "timeout",
    # Google
    "API_KEY_INVALID": "authentication",
    "UNAUTHENTICATED": "authentication",
    "PERMISSION_DENIED": "authentication",
    "UNAVAILABLE": "overloaded",
    "DEADLINE_EXCEEDED": "timeout",
    # llama.cpp
    "exceed_context_size_error": "contextTooLong",
}
"""What providers' error codes mean, where they mean one thing. Codes that are as broad as a status are not here."""

REFUSED: frozenset[FailureCause] = frozenset(
    {"quotaExhausted", "contextTooLong", "authentication", "invalidRequest", "contentFiltered"}
)
"""Causes that stay, whatever the status is."""

_DAILY_QUOTA = re.compile(r"PerDay")
_TOO_LONG = re.compile(
    r"maximum (?:context|prompt) length"
    r"|longer than the (?:maximum model length|model's context length)"
    r"|exceeds? (?:the )?(?:available |max(?:imum)? )?context (?:size|length|window|limit)"
    r"|exceeded max context length"
    r"|prompt (?:is )?too long"
    r"|input token count.{0,40} exceeds the maximum number of tokens"
    r"|request too large for (?:model )?\S+ .{0,200}tokens per min",
    re.IGNORECASE | re.DOTALL,
)
_NO_QUOTA = re.compile(
    r"credit balance is too low"
    r"|insufficient (?:balance|credits|quota)"
    r"|requires more credits"
    r"|reached your specified (?:\w+ )?api usage limits"
    r"|exceeded your current quota, please check your plan and billing(?!.{0,2000}retry in)"
    r"|quota exceeded for metric.{0,200}, limit: 0\b",
    re.IGNORECASE | re.DOTALL,
)
"""Google says the same words as OpenAI where a minute's limit is meant, and then when to retry."""
_FILTERED = re.compile(r"content management policy|content filtering policy|violating our usage policy", re.IGNORECASE)
_BAD_KEY = re.compile(r"api key not valid", re.IGNORECASE)
_WORDS: tuple[tuple[re.Pattern[str], FailureCause], ...] = (
    (_NO_QUOTA, "quotaExhausted"),
    (_TOO_LONG, "contextTooLong"),
    (_FILTERED, "contentFiltered"),
    (_BAD_KEY, "authentication"),
)
_SPEAKING = frozenset({400, 403, 413, 422, 429, 500})
"""Statuses whose words are looked at: the others say enough."""
_WAIT = re.compile(
    r"(?:try again|retry) (?:in|after) (?:(?P<h>\d+)h)?(?:(?P<m>\d+)m(?!s))?"
    r"(?:(?P<n>\d+(?:\.\d+)?)\s?(?P<unit>ms|s\b|seconds?\b))?",
    re.IGNORECASE,
)


def http_failure(
    provider: str,
    status: int,
    words: str,
    *,
    codes: tuple[str, ...] = (),
    retry_after_s: float | None = None,
    usage: Usage | None = None,
) -> Failure:
    """The provider answered with an HTTP status of failure, with `words` and perhaps error codes of its own."""
    cause = cause_of(status, words, codes)
    transient = (status in TRANSIENT_STATUSES or status >= 500) and cause not in REFUSED
    named = ", ".join((f"HTTP {status}", *codes[:1]))
    said = words.strip() or "no explanation"
    verb = "failed" if transient else "refused the call"
    return Failure(
        error=f"{provider} {verb} ({named}): {said}"[:ERROR_LENGTH_MAX],
        transient=transient,
        cause=cause,
        status=status,
        retry_after_s=(wait_in_words(words) if retry_after_s is None else retry_after_s) if transient else None,
        usage=usage or Usage(),
    )


def stream_failure(
    provider: str, words: str, *, codes: tuple[str, ...] = (), status: int | None = None, usage: Usage | None = None
) -> Failure:
    """The provider reported a failure in the middle of its answer, perhaps with the status that it would have been."""
    if status is not None and 400 <= status <= 599:
        return http_failure(provider, status, words, codes=codes, usage=usage)
    cause = _cause_said(words, codes)
    if cause is None:
        cause = "invalidRequest" if "invalid_request_error" in codes else "other"
    transient = cause not in REFUSED
    named = f" ({codes[0]})" if codes else ""
    verb = "failed in the middle of its answer" if transient else "refused the call"
    return Failure(
        error=f"{provider} {verb}{named}: {words.strip()}"[:ERROR_LENGTH_MAX],
        transient=transient,
        cause=cause,
        retry_after_s=wait_in_words(words) if transient else None,
        usage=usage or Usage(),
    )


def network_failure(
    provider: str, words: str, *, usage: Usage | None = None, cause: FailureCause = "network"
) -> Failure:
    """The provider could not be reached, did not answer in time, or what it sent cannot be read or is not whole."""
    error = f"{provider}: {words.strip()}"[:ERROR_LENGTH_MAX]
    return Failure(error=error, transient=True, cause=cause, usage=usage or Usage())


def cause_of(status: int, words: str, codes: tuple[str, ...] = ()) -> FailureCause:
    """What a call failed of: by code, by words, by status, in this order."""
    said = _cause_said(words if status in _SPEAKING else "", codes)
    if said is not None:
        return said
    match status:
        case 401 | 403:
            return "authentication"
        case 402:
            return "quotaExhausted"
        case 408:
            return "timeout"
        case 409 | 425:
            return "other"
        case 413:
            return "contextTooLong"
        case 429:
            return "rateLimited"
        case _:
            return "overloaded" if status >= 500 else "invalidRequest"


def _cause_said(words: str, codes: tuple[str, ...]) -> FailureCause | None:
    for code in codes:
        if code in CODES:
            return CODES[code]
        if _DAILY_QUOTA.search(code):
            return "quotaExhausted"
    return next((cause for pattern, cause in _WORDS if pattern.search(words, 0, WORDS_LENGTH_MAX)), None)


def retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """How long the provider asked to wait, in seconds: `retry-after-ms`, or `Retry-After` in seconds or as a date."""
    lower = {name.lower(): value.strip() for name, value in headers.items()}
    wait = _number(lower.get("retry-after-ms"))
    wait = wait / 1000 if wait is not None else _seconds(lower.get("retry-after"), now)
    return None if wait is None else min(max(wait, 0.0), RETRY_AFTER_MAX_S)


def wait_in_words(words: str) -> float | None:
    """How long the provider asked to wait in its words only: "try again in 1m30s", "retry after 7 seconds"."""
    for found in _WAIT.finditer(words, 0, WORDS_LENGTH_MAX):
        hours, minutes, number, unit = found["h"], found["m"], found["n"], found["unit"]
        if hours or minutes or number:
            seconds = float(number or 0) / (1000 if unit == "ms" else 1)
            return min(int(hours or 0) * 3600 + int(minutes or 0) * 60 + seconds, RETRY_AFTER_MAX_S)
    return None


def _seconds(value: str | None, now: datetime) -> float | None:
    number = _number(value)
    if number is not None or not value:
        return number
    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return None
    return (at.replace(tzinfo=at.tzinfo or now.tzinfo) - now).total_seconds()


def _number(value: str | None) -> float | None:
    try:
        number = float(value) if value else None
    except ValueError:
        return None
    return number if number is not None and math.isfinite(number) else None
