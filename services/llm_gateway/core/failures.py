"""How a provider's failure is taken: would the same call fail again, or may it pass.

refused     the provider understood and will not: 4xx, and an exhausted quota, which no wait of ours refills
transient   408, 409, 425, 429, 5xx, and whatever is the network's
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime

from schemas.messages import Usage
from services.llm_gateway.core.calls import ERROR_LENGTH_MAX, Failure

TRANSIENT_STATUSES = frozenset({408, 409, 425, 429})
QUOTA_CODES = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})
"""Come as 429, and stay until somebody pays."""
REFUSED_CODES = QUOTA_CODES | {"context_length_exceeded", "invalid_api_key", "model_not_found", "invalid_request_error"}
"""Said inside a stream that had begun with 200, where the status says nothing."""
RETRY_AFTER_MAX_S = 3600.0


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
    transient = (status in TRANSIENT_STATUSES or status >= 500) and QUOTA_CODES.isdisjoint(codes)
    named = ", ".join((f"HTTP {status}", *codes[:1]))
    said = words.strip() or "no explanation"
    verb = "failed" if transient else "refused the call"
    return Failure(
        error=f"{provider} {verb} ({named}): {said}"[:ERROR_LENGTH_MAX],
        transient=transient,
        status=status,
        retry_after_s=retry_after_s if transient else None,
        usage=usage or Usage(),
    )


def stream_failure(provider: str, words: str, *, codes: tuple[str, ...] = (), usage: Usage | None = None) -> Failure:
    """The provider reported a failure in the middle of its answer."""
    transient = REFUSED_CODES.isdisjoint(codes)
    named = f" ({codes[0]})" if codes else ""
    verb = "failed in the middle of its answer" if transient else "refused the call"
    return Failure(
        error=f"{provider} {verb}{named}: {words.strip()}"[:ERROR_LENGTH_MAX],
        transient=transient,
        usage=usage or Usage(),
    )


def network_failure(provider: str, words: str, *, usage: Usage | None = None) -> Failure:
    """The provider could not be reached, or what it sent cannot be read or is not whole."""
    return Failure(error=f"{provider}: {words.strip()}"[:ERROR_LENGTH_MAX], transient=True, usage=usage or Usage())


def retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """How long the provider asked to wait, in seconds: `retry-after-ms`, or `Retry-After` in seconds or as a date."""
    lower = {name.lower(): value.strip() for name, value in headers.items()}
    wait = _number(lower.get("retry-after-ms"))
    wait = wait / 1000 if wait is not None else _seconds(lower.get("retry-after"), now)
    return None if wait is None else min(max(wait, 0.0), RETRY_AFTER_MAX_S)


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
