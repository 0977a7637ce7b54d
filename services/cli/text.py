"""Small texts: ages, times, one-line previews, money."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from decimal import Decimal

ELLIPSIS = "…"

_SPACE = re.compile(r"\s+")
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def safe(text: str) -> str:
    """`text` without what drives a terminal or turns round what it shows: a model, a tool or a stranger said it."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text.replace("\r\n", "\n"))


def one_line(text: str, width: int = 0) -> str:
    """`text` on one line, cut to `width` characters (0: not cut)."""
    line = _SPACE.sub(" ", safe(text)).strip()
    return line if not width or len(line) <= width else line[: width - 1].rstrip() + ELLIPSIS


def age(since: datetime, now: datetime) -> str:
    """How long ago, in the two largest units: `3s`, `4m10s`, `2h3m`, `5d1h`."""
    return duration(now - since)


def duration(span: timedelta) -> str:
    """A span of time in its two largest units."""
    seconds = max(int(span.total_seconds()), 0)
    units = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))
    parts: list[str] = []
    for unit, size in units:
        count, seconds = divmod(seconds, size)
        if count or (parts and len(parts) < 2):
            parts.append(f"{count}{unit}" if count else "")
        if len(parts) == 2:
            break
    return "".join(parts) or "0s"


def seconds_text(seconds: float) -> str:
    """A short time: `12ms`, `1.3s`, `2m5s`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    return f"{seconds:.1f}s" if seconds < 60 else duration(timedelta(seconds=seconds))


def stamp(at: datetime) -> str:
    """A time as it is written in tables and documents: RFC 3339, UTC, in seconds."""
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def money(amount: Decimal) -> str:
    """US dollars, in cents or as small as they are."""
    return (
        f"${amount.quantize(Decimal('0.01'))}"
        if amount == 0 or amount >= Decimal("0.01")
        else f"${amount.normalize():f}"
    )


def yes(value: bool) -> str:
    """`true` or `false`, as the predecessor's columns had it."""
    return "true" if value else "false"
