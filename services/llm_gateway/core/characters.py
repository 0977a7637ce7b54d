"""Characters that a provider cut in two.

JSON writes a character beyond the first 65,536 as two halves, and some servers send the halves in different pieces.
A half alone is no character and cannot be written as UTF-8.
"""

from __future__ import annotations

import re

_HALF = re.compile("[\ud800-\udfff]")
_FIRST_HALF = re.compile("[\ud800-\udbff]\\Z")


def mended(text: str) -> str:
    """`text` with halves that belong together joined, and a replacement character for a half that is alone."""
    if _HALF.search(text) is None:
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def whole_part(text: str) -> tuple[str, str]:
    """`text` without a first half at its end, and that half: the other one may be in the next piece."""
    return (text[:-1], text[-1:]) if _FIRST_HALF.search(text) else (text, "")
