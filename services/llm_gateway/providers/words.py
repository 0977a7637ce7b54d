"""What a provider said went wrong, out of the shapes in which they say it."""

from __future__ import annotations

import re
from typing import Any

import msgspec

TEXT_LENGTH_MAX = 400
"""Characters kept of a body that is no JSON: a proxy's page."""
_SPACE = re.compile(r"\s+")
_TAG = re.compile(r"<[^>]{0,200}>")


class Said(msgspec.Struct, frozen=True):
    """A provider's own words and codes."""

    words: str
    codes: tuple[str, ...] = ()


def said(body: object, api_key: str) -> Said:
    """The words and codes in the body of an error; without the key, should it be quoted.

    `{"error": {"message", "type", "code"}}` (OpenAI, Anthropic), the same in a list (Google), `{"message": ...}`
    (Mistral), `{"detail": ...}` (servers of open models), or any text.
    """
    found = _said(body)
    words = found.words.replace(api_key, "***") if api_key else found.words
    return Said(words, found.codes)


def _said(body: object) -> Said:
    if isinstance(body, list):
        items = msgspec.convert(body, list[Any])
        return _said(items[0]) if items else Said("")
    if not isinstance(body, dict):
        return Said("" if body is None else _plain(str(body)))
    fields = msgspec.convert(body, dict[str, Any])
    if isinstance(fields.get("error"), dict | str):
        return _said(fields["error"])
    message: object = fields.get("message") or fields.get("detail") or fields
    words = message if isinstance(message, str) else msgspec.json.encode(message).decode()
    return Said(words if fields else "", _codes(fields))


def _codes(fields: dict[str, Any]) -> tuple[str, ...]:
    details = fields.get("details")
    deeper = msgspec.convert(details, dict[str, Any]).get("error_code") if isinstance(details, dict) else None
    codes: tuple[object, ...] = (deeper, fields.get("code"), fields.get("type"), fields.get("status"))
    return tuple(dict.fromkeys(code for code in codes if isinstance(code, str) and code))


def _plain(text: str) -> str:
    return _SPACE.sub(" ", _TAG.sub(" ", text)).strip()[:TEXT_LENGTH_MAX]
