"""What a tool returned, as the text that the model sees."""

from __future__ import annotations

from typing import Literal

import msgspec

RESULT_BYTES_MAX = 64 * 1024
"""Longest result in front of a model, in bytes of UTF-8."""
NOTICE_BYTES_MAX = 160
"""Room for the sentence that stands where text was left out."""
NOTHING = "[no content]"


class Text(msgspec.Struct, frozen=True):
    """Text for the model."""

    text: str


class Attachment(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is not text, or that is text of a named place."""

    kind: Literal["image", "audio", "resource", "resource link"]
    mime_type: str = ""
    size: int | None = None
    """In bytes, if it is known."""
    name: str = ""
    text: str = ""
    """The text of it, if it is text."""


Part = Text | Attachment


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What a tool returned."""

    parts: tuple[Part, ...] = ()
    structured: str = ""
    """Structured content, as JSON text."""
    is_error: bool = False


def render(reply: Reply, *, limit: int = RESULT_BYTES_MAX) -> str:
    """The text of a reply, `limit` bytes at most: its texts by line, or else its structured content."""
    lines = [_line(part) for part in reply.parts]
    if reply.structured and not any(isinstance(part, Text) for part in reply.parts):
        lines.append(reply.structured)
    return cap("\n".join(lines) or NOTHING, limit)


def cap(text: str, limit: int = RESULT_BYTES_MAX) -> str:
    """`text` if it has `limit` bytes at most; else its head and tail, and between them how much was left out."""
    data = text.encode("utf-8", "replace")
    if len(data) <= limit:
        return data.decode()
    room = max(limit - NOTICE_BYTES_MAX, 0)
    head = data[: room - room // 2].decode(errors="ignore")
    tail = data[len(data) - room // 2 :].decode(errors="ignore")
    left_out = len(data) - len(head.encode()) - len(tail.encode())
    notice = f"\n[... {left_out} of {len(data)} bytes were left out here, because a result holds {limit} at most ...]\n"
    return f"{head}{notice}{tail}"


def size_of_base64(data: str) -> int:
    """How many bytes base 64 text stands for, without decoding it."""
    return max(len(data) * 3 // 4 - data[-2:].count("="), 0)


def _line(part: Part) -> str:
    if isinstance(part, Text):
        return part.text
    size = f"{part.size} bytes" if part.size is not None else ""
    about = ", ".join(word for word in (" ".join(filter(None, (part.kind, part.mime_type))), size) if word)
    note = f"[{about}: {part.name}]" if part.name else f"[{about}]"
    return f"{note}\n{part.text}" if part.text else note
