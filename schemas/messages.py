"""The conversation, in no provider's words.

Every message of a conversation is stored once, in the event or entry that brought it. A provider's adapter
translates these to its own form and back; nothing else knows a provider's form.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Literal
from urllib.parse import urlsplit

from schemas.wire import Wire, check_money

ToolOutcome = Literal["succeeded", "failed", "rejected", "timed_out", "cancelled", "unknown"]
"""How a tool call ended. `unknown`: it was started, and nobody can say whether it took effect."""


IMAGE_TYPES = ("image/png", "image/jpeg", "image/gif", "image/webp")
"""What both families of providers take."""
IMAGE_DATA_LENGTH_MAX = 20 << 20
"""Characters of base 64 of one image."""


class TextPart(Wire, frozen=True, kw_only=True, tag_field="type", tag="text"):
    """A piece of text."""

    text: str


class ImagePart(Wire, frozen=True, kw_only=True, tag_field="type", tag="image"):
    """An image: its bytes, or where its provider fetches it. Exactly one of `data` and `url`."""

    media_type: str = ""
    """Of `data`: one of `IMAGE_TYPES`."""
    data: str = ""
    """Base 64."""
    url: str = ""
    """An http or https address, which the model's provider reads; Holdfast never does."""

    def __post_init__(self) -> None:
        """Refuse what no provider takes."""
        if bool(self.data) == bool(self.url):
            raise ValueError("an image has either data (base 64, with mediaType) or url")
        if self.data and self.media_type not in IMAGE_TYPES:
            raise ValueError(f"mediaType is {self.media_type[:60]!r}; it must be one of {', '.join(IMAGE_TYPES)}")
        if len(self.data) > IMAGE_DATA_LENGTH_MAX:
            raise ValueError(f"the image has {len(self.data)} characters of base 64; {IMAGE_DATA_LENGTH_MAX} at most")
        if self.url and urlsplit(self.url).scheme not in ("http", "https"):
            raise ValueError(f"the image's url {self.url[:60]!r} is not an http or https address")


ContentPart = TextPart | ImagePart
Content = str | tuple[ContentPart, ...]


def image_type(data: bytes) -> str:
    """The media type of an image by its first bytes: one of `IMAGE_TYPES`, or empty for anything else."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return ""


def text_of(content: Content) -> str:
    """The text in some content; its images are left out."""
    if isinstance(content, str):
        return content
    return "\n".join(part.text for part in content if isinstance(part, TextPart))


def images_of(content: Content) -> tuple[ImagePart, ...]:
    """The images in some content."""
    return () if isinstance(content, str) else tuple(part for part in content if isinstance(part, ImagePart))


class ToolCall(Wire, frozen=True, kw_only=True):
    """One call that a model asked for."""

    id: str
    """The provider's id."""
    name: str
    """The name the model used: `server__tool`."""
    arguments: str
    """The arguments exactly as the model wrote them; meant to be a JSON object."""


class SystemMessage(Wire, frozen=True, kw_only=True, tag_field="role", tag="system"):
    """The instructions."""

    content: str


class UserMessage(Wire, frozen=True, kw_only=True, tag_field="role", tag="user"):
    """What somebody said to the agent."""

    content: Content
    """Text, or parts: text and images in their order."""
    name: str = ""


class AssistantMessage(Wire, frozen=True, kw_only=True, tag_field="role", tag="assistant"):
    """What the model answered: text, tool calls, or both."""

    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    opaque: str = ""
    """What the provider wants back unread with this message (its reasoning blocks), as JSON text."""
    opaque_for: str = ""
    """The provider that wants it."""


class ToolMessage(Wire, frozen=True, kw_only=True, tag_field="role", tag="tool"):
    """The one result of a tool call, as the model sees it."""

    tool_call_id: str
    name: str = ""
    content: str
    is_error: bool = False
    images: tuple[ImagePart, ...] = ()


Message = SystemMessage | UserMessage | AssistantMessage | ToolMessage


class Usage(Wire, frozen=True, kw_only=True):
    """What one model call used, in tokens, and what it cost, in US dollars (absent: no price is known)."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    """The part of the input that came from the provider's cache."""
    reasoning_tokens: int = 0
    """The part of the output that was reasoning."""
    cache_write_tokens: int = 0
    """The part of the input that the provider wrote into its cache, where it says so."""
    cost_usd: Decimal | None = None

    def __post_init__(self) -> None:
        """Refuse a cost that could not be added up."""
        check_money("costUsd", self.cost_usd)
