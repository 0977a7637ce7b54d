"""Signed links, and ids of messages that can be answered. Pure.

A token is what it says and an HMAC over that: nothing is stored, and nobody without the key can make one or change it.
The key signs nothing else, and each kind of token names itself in what is signed, so none passes for another.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from datetime import datetime
from typing import Literal

import msgspec

from schemas.ids import InvalidId, check_token

KEY_LENGTH_MIN = 32
TOKEN_LENGTH_MAX = 2_000
LINK_PREFIX = b"holdfast-link-v1."
REPLY_PREFIX = b"holdfast-reply-v1."
REPLY_MARK = "holdfast."
"""What the ids of our messages begin with."""

LinkAction = Literal["", "accept", "decline"]
"""What a link is for; empty: whatever can be answered."""


class BadToken(ValueError):
    """A token that is none of ours, or is too old. The text is for the person who has it."""


class Link(msgspec.Struct, frozen=True, array_like=True):
    """What a link stands for."""

    namespace: str
    task: str
    interaction: str
    asking: str
    """Which question it was when the link was made."""
    action: LinkAction
    channel: str
    to: str
    """Whom it was sent to: who answers by it."""
    expires: int
    """Seconds since 1970."""


class ReplyTo(msgspec.Struct, frozen=True, array_like=True):
    """What a message is about that can be answered by a reply."""

    namespace: str
    task: str
    interaction: str
    channel: str
    n: int = 0
    """0: the question; above: reminders of it."""
    asking: str = ""
    """Which question it was."""


def link_token(keys: Sequence[bytes], link: Link) -> str:
    """The token of a link, signed with the first key."""
    payload = msgspec.json.encode(link)
    return f"{_text(payload)}.{_text(_mac(keys[0], LINK_PREFIX + payload))}"


def link_of(keys: Sequence[bytes], token: str, now: datetime) -> Link:
    """What a token stands for; raises `BadToken`."""
    payload = _checked(keys, LINK_PREFIX, token)
    try:
        link = msgspec.json.decode(payload, type=Link)
        check_token("namespace", link.namespace)
        check_token("task", link.task)
    except (msgspec.DecodeError, InvalidId) as error:
        raise BadToken("This link is of another version of this system.") from error
    if now.timestamp() >= link.expires:
        raise BadToken("This link has expired. Answer by a newer message, or by `holdfast inbox`.")
    return link


def reply_id(keys: Sequence[bytes], reply: ReplyTo, to: str, domain: str) -> str:
    """The `Message-ID` of a message; the same whenever it is sent again."""
    payload = msgspec.json.encode(reply)
    mac = _mac(keys[0], _reply_prefix(to) + payload)[:20]
    return f"<{REPLY_MARK}{_text(payload)}.{_text(mac)}@{domain}>"


def named_in_reply(message_id: str) -> ReplyTo | None:
    """What a message's id says that it is about. Whether that is true, `is_reply` tells."""
    payload, _ = _reply_parts(message_id)
    try:
        return msgspec.json.decode(payload, type=ReplyTo)
    except (msgspec.DecodeError, RecursionError):
        return None


def is_reply(keys: Sequence[bytes], message_id: str, to: str) -> bool:
    """Whether a message's id is one that we made for somebody."""
    payload, mac = _reply_parts(message_id)
    signed = _reply_prefix(to) + payload
    return any(hmac.compare_digest(_mac(key, signed)[:20], mac) for key in keys)


def _reply_prefix(to: str) -> bytes:
    return REPLY_PREFIX + _text(to.strip().lower().encode()).encode() + b"."


def _reply_parts(message_id: str) -> tuple[bytes, bytes]:
    local = message_id.strip().removeprefix("<").removesuffix(">").rpartition("@")[0]
    if not local.startswith(REPLY_MARK) or len(local) > TOKEN_LENGTH_MAX:
        return b"", b""
    payload, _, mac = local.removeprefix(REPLY_MARK).partition(".")
    try:
        return _bytes(payload), _bytes(mac)
    except BadToken:
        return b"", b""


def keys_of(text: str) -> tuple[bytes, ...]:
    """The keys in a file: one a line, the one to sign with first. Raises `ValueError`, which does not tell them."""
    keys = tuple(line.strip().encode() for line in text.splitlines() if line.strip())
    if not keys:
        raise ValueError("it is empty")
    if any(len(key) < KEY_LENGTH_MIN for key in keys):
        raise ValueError(f"a key has fewer than {KEY_LENGTH_MIN} characters; `openssl rand -hex 32` makes one")
    return keys


def _checked(keys: Sequence[bytes], prefix: bytes, token: str) -> bytes:
    if len(token) > TOKEN_LENGTH_MAX:
        raise BadToken("This link is not one of ours.")
    payload_text, _, mac_text = token.partition(".")
    payload, mac = _bytes(payload_text), _bytes(mac_text)
    if not any(hmac.compare_digest(_mac(key, prefix + payload), mac) for key in keys):
        raise BadToken("This link is not one of ours, or a part of it is missing.")
    return payload


def _mac(key: bytes, data: bytes) -> bytes:
    return hmac.new(key, data, hashlib.sha256).digest()


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _bytes(text: str) -> bytes:
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadToken("This link is not one of ours, or a part of it is missing.") from error
    if _text(data) != text:
        raise BadToken("This link is not one of ours, or a part of it is missing.")
    return data
