"""Takes secrets out of what a tool says."""

from __future__ import annotations

from collections.abc import Iterable

REDACTED = "[secret]"
LENGTH_MIN = 8
"""Values shorter than this are left: they may be ordinary words."""


def redact(text: str, secrets: Iterable[str]) -> str:
    """`text` without the secrets."""
    for value in sorted(set(secrets), key=len, reverse=True):
        if len(value) >= LENGTH_MIN:
            text = text.replace(value, REDACTED)
    return text


def redact_cut(head: str, tail: str, secrets: Iterable[str]) -> tuple[str, str]:
    """The two ends of a text whose middle was cut out, without the secrets: also without halves of them at the cut."""
    values = [value for value in secrets if len(value) >= LENGTH_MIN]
    head, tail = redact(head, values), redact(tail, values)
    at_head = max((_overlap(head, value) for value in values), default=0)
    at_tail = max((_overlap(tail[::-1], value[::-1]) for value in values), default=0)
    return (f"{head[:-at_head]}{REDACTED}" if at_head else head), (f"{REDACTED}{tail[at_tail:]}" if at_tail else tail)


def _overlap(text: str, value: str) -> int:
    """How many characters at the end of `text` are the beginning of `value`."""
    for length in range(min(len(text), len(value) - 1), 0, -1):
        if text.endswith(value[:length]):
            return length
    return 0
