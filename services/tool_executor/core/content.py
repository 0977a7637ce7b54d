"""What some bytes are: text, or not."""

from __future__ import annotations

import codecs

_LOOKED_AT = 8192
_NO_CHARSETS = ("idna", "punycode", "raw_unicode_escape", "undefined", "unicode_escape")
"""Codecs that are not for pages; some of them can be made to take for ever."""


def text_of(data: bytes, charset: str = "") -> str | None:
    """The text that the bytes are, in the character set that was named or in UTF-8; None if they are no text."""
    if charset:
        try:
            name = codecs.lookup(charset[:40]).name.replace("-", "_")
            if name not in _NO_CHARSETS:
                return data.decode(name, errors="replace")
        except (LookupError, UnicodeError, ValueError):
            pass  # a set that nobody knows, or no set of characters: find out
    if b"\0" in data[:_LOOKED_AT]:
        return None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None
