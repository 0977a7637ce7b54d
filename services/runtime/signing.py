"""Signatures of what is posted, as the specification of Standard Webhooks has them (symmetric, `v1`).

What is signed is `<id>.<timestamp>.<body>`, by HMAC with SHA-256. With several keys there are several signatures, and
a receiver takes any that it can check: that is how keys are changed without losing a message.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from datetime import datetime

KEY_PREFIX = "whsec_"
KEY_BYTES_MIN = 16
AGE_MAX_S = 300
"""How old a message may be, and how far ahead its sender's clock."""
SIGNATURES_MAX = 8


class BadKey(ValueError):
    """A signing key that is none. The text does not tell it."""


class BadSignature(ValueError):
    """A message that none of our keys has signed just now. The text is for whoever sent it."""


def key_of(secret: str) -> bytes:
    """The bytes of a key as it is written: base 64, after `whsec_`."""
    try:
        key = base64.b64decode(secret.strip().removeprefix(KEY_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise BadKey(f"a signing key must be base 64, after {KEY_PREFIX!r}") from None
    if len(key) < KEY_BYTES_MIN:
        raise BadKey(f"a signing key has {len(key)} bytes; {KEY_BYTES_MIN} at least (24 to 64 are usual)")
    return key


def signature(key: bytes, id_: str, timestamp: int, body: bytes) -> str:
    """One signature."""
    signed = b".".join((id_.encode(), str(timestamp).encode(), body))
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def signed_headers(keys: Sequence[bytes], id_: str, at: datetime, body: bytes) -> dict[str, str]:
    """The three headers. `at` is when it is sent: receivers refuse what is old."""
    timestamp = int(at.timestamp())
    headers = {"webhook-id": id_, "webhook-timestamp": str(timestamp)}
    if keys:
        headers["webhook-signature"] = " ".join(signature(key, id_, timestamp, body) for key in keys)
    return headers


def check(keys: Sequence[bytes], headers: Mapping[str, str], body: bytes, now: datetime) -> str:
    """The id of a message that was signed with one of the keys just now; raises `BadSignature`.

    Names of headers are in lower case. Every key is tried, whatever the first ones say.
    """
    id_, stamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    given = [one.encode() for one in headers.get("webhook-signature", "").split()[:SIGNATURES_MAX]]
    if not (id_ and stamp and given):
        raise BadSignature("webhook-id, webhook-timestamp and webhook-signature are required")
    if not (stamp.isascii() and stamp.isdigit() and len(stamp) <= 12):
        raise BadSignature("webhook-timestamp is not a number of seconds since 1970")
    expected = [signature(key, id_, int(stamp), body).encode() for key in keys]
    found = [hmac.compare_digest(one, other) for one in expected for other in given]
    if not any(found):
        raise BadSignature("the signature is not that of this message")
    if abs(now.timestamp() - int(stamp)) > AGE_MAX_S:
        raise BadSignature(f"the message is older than {AGE_MAX_S} s, or from the future")
    return id_
