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
    """The most exact first."""
    status: int | None = None
    """The HTTP status, where the body repeats it: all that there is in the middle of a stream."""


def said(body: object, api_key: str) -> Said:
    """The words and codes in the body of an error; without the key, should it be quoted.

    `{"error": {"message", "type", "code"}}` (OpenAI, Anthropic), the same in a list (Google), `{"message": ...}`
    (Mistral), `{"detail": ...}` (servers of open models), or any text.
    """
    found = _said(body)
    words = found.words.replace(api_key, "***") if api_key else found.words
    return msgspec.structs.replace(found, words=words)


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
    return Said(words if fields else "", _codes(fields), _status(fields))


def _codes(fields: dict[str, Any]) -> tuple[str, ...]:
    inner = fields.get("innererror")
    codes: tuple[object, ...] = (
        *_deeper(fields.get("details")),
        *((msgspec.convert(inner, dict[str, Any]).get("code"),) if isinstance(inner, dict) else ()),
        fields.get("code"),
        fields.get("type"),
        fields.get("status"),
    )
    return tuple(dict.fromkeys(code for code in codes if isinstance(code, str) and code))


def _deeper(details: object) -> list[object]:
    """The codes in the details: Anthropic's `error_code`, or the reason and the violated quotas in Google's list."""
    if isinstance(details, dict):
        return [msgspec.convert(details, dict[str, Any]).get("error_code")]
    found: list[object] = []
    for detail in msgspec.convert(details, list[Any]) if isinstance(details, list) else ():
        if isinstance(detail, dict):
            fields = msgspec.convert(detail, dict[str, Any])
            found.append(fields.get("reason"))
            violations = fields.get("violations")
            found += (
                violation.get("quotaId")  # pyright: ignore[reportUnknownMemberType]  # any JSON object
                for violation in (msgspec.convert(violations, list[Any]) if isinstance(violations, list) else ())
                if isinstance(violation, dict)
            )
    return found


def _status(fields: dict[str, Any]) -> int | None:
    numbers = (fields.get("code"), fields.get("status"))
    return next((n for n in numbers if isinstance(n, int) and 400 <= n <= 599), None)


def _plain(text: str) -> str:
    return _SPACE.sub(" ", _TAG.sub(" ", text)).strip()[:TEXT_LENGTH_MAX]
