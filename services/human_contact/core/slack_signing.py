"""Whether a request comes from Slack: its signature, version 0, and its age. Pure."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from datetime import datetime

AGE_MAX_S = 300
"""Slack's own advice: older ones may be somebody's who has recorded them."""


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """The signature that Slack makes."""
    signed = b":".join((b"v0", timestamp.encode(), body))
    return "v0=" + hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()


def is_signed(secret: str, headers: Mapping[str, str], body: bytes) -> bool:
    """Whether a request has the signature of a secret. Its age is another question: `is_fresh`."""
    timestamp = headers.get("x-slack-request-timestamp", "")
    given = headers.get("x-slack-signature", "")
    return hmac.compare_digest(signature(secret, timestamp, body).encode(), given.encode("utf-8", "replace"))


def is_fresh(headers: Mapping[str, str], now: datetime) -> bool:
    """Whether a request was made just now."""
    timestamp = headers.get("x-slack-request-timestamp", "")
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 12):
        return False
    return abs(now.timestamp() - int(timestamp)) <= AGE_MAX_S
