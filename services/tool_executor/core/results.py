"""What a tool returned, as the model sees it: text of bounded length, and some images."""

from __future__ import annotations

import binascii
from base64 import b64decode
from typing import Literal

import msgspec

from schemas.messages import ImagePart, image_type

RESULT_BYTES_MAX = 64 * 1024
"""Longest result in front of a model, in bytes of UTF-8."""
NOTICE_BYTES_MAX = 160
"""Room for the sentence that stands where text was left out."""
NOTHING = "[no content]"
IMAGES_MAX = 8
"""Images of one result that a model sees."""
IMAGE_BYTES_MAX = 5_000_000
"""The largest of them, in bytes; the least that one of the providers takes."""
IMAGES_BYTES_MAX = 10_000_000
"""All of them together."""


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
    data: str = ""
    """What may be an image, in base 64."""


Part = Text | Attachment


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What a tool returned."""

    parts: tuple[Part, ...] = ()
    structured: str = ""
    """Structured content, as JSON text."""
    is_error: bool = False


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """A result as the model sees it."""

    text: str
    images: tuple[ImagePart, ...] = ()
    whole: str = ""
    """All of the text, if `text` is only its head and tail."""


def show(reply: Reply, *, limit: int = RESULT_BYTES_MAX) -> Shown:
    """A reply for the model: its texts by line, or else its structured content, in `limit` bytes; and its images."""
    images: list[ImagePart] = []
    lines = [_line(part, images) for part in reply.parts]
    if reply.structured and not any(isinstance(part, Text) for part in reply.parts):
        lines.append(reply.structured)
    whole = ("\n".join(lines) or NOTHING).encode("utf-8", "replace").decode()
    text = cap(whole, limit)
    return Shown(text=text, images=tuple(images), whole=whole if text != whole else "")


def render(reply: Reply, *, limit: int = RESULT_BYTES_MAX) -> str:
    """The text of a reply alone."""
    return show(reply, limit=limit).text


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


def _line(part: Part, images: list[ImagePart]) -> str:
    if isinstance(part, Text):
        return part.text
    about = [" ".join(filter(None, (part.kind, part.mime_type)))]
    if part.size is not None:
        about.append(f"{part.size} bytes")
    if part.kind == "image" or part.data:
        about += filter(None, (_see(part, images),))
    note = ", ".join(about)
    note = f"[{note}: {part.name}]" if part.name else f"[{note}]"
    return f"{note}\n{part.text}" if part.text else note


def _see(part: Attachment, images: list[ImagePart]) -> str:
    """Let the model see an image; or say why not.

    What its bytes are counts, and not what its server says: a provider that is given anything else refuses the whole
    conversation, now and for ever.
    """
    size = size_of_base64(part.data)
    if len(images) >= IMAGES_MAX:
        return f"not shown: a result has {IMAGES_MAX} images at most"
    if size > IMAGE_BYTES_MAX or size + sum(size_of_base64(image.data) for image in images) > IMAGES_BYTES_MAX:
        return "not shown: too large"
    try:
        data = b64decode(part.data, validate=True)
    except (binascii.Error, ValueError):
        return "not shown: not valid base 64"
    media_type = image_type(data)
    if not media_type:
        return "not shown: not an image of a kind that models see"
    images.append(ImagePart(media_type=media_type, data=part.data))
    return ""
