"""Messages of a conversation as manifests have them: OpenAI's form, or ours."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

import msgspec

from schemas.messages import (
    AssistantMessage,
    Content,
    ContentPart,
    ImagePart,
    Message,
    SystemMessage,
    TextPart,
    ToolCall,
    ToolMessage,
    UserMessage,
    images_of,
    text_of,
)
from schemas.wire import Strict

_DATA_URL = re.compile(r"data:(?P<type>[a-z]+/[a-z0-9.+-]+);base64,(?P<data>[A-Za-z0-9+/]+={0,2})")


class ManifestText(Strict, frozen=True, kw_only=True, tag_field="type", tag="text"):
    """A piece of text: `{type: text, text: ...}`."""

    text: str


class ManifestImage(Strict, frozen=True, kw_only=True, tag_field="type", tag="image"):
    """An image: `{type: image, url: ...}`, or `{type: image, mediaType: image/png, data: <base 64>}`."""

    media_type: str = ""
    data: str = ""
    url: str = ""

    def __post_init__(self) -> None:
        """Refuse what is no image."""
        ImagePart(media_type=self.media_type, data=self.data, url=self.url)


class ManifestImageAddress(Strict, frozen=True, kw_only=True):
    """Where OpenAI's form has an image."""

    url: str
    detail: str = ""
    """Accepted and not passed on."""

    def __post_init__(self) -> None:
        """Refuse what is no image."""
        _image_at(self.url)


class ManifestImageURL(Strict, frozen=True, kw_only=True, tag_field="type", tag="image_url"):
    """An image in OpenAI's form: an address, or `data:image/png;base64,...`."""

    image_url: ManifestImageAddress = msgspec.field(name="image_url")


ManifestPart = ManifestText | ManifestImage | ManifestImageURL


class ManifestFunction(Strict, frozen=True, kw_only=True):
    """The function of a tool call, in OpenAI's form."""

    name: str
    arguments: str


class ManifestToolCall(Strict, frozen=True, kw_only=True):
    """A tool call: `{id, type, function: {name, arguments}}`, or `{id, name, arguments}`."""

    id: str
    type: str = "function"
    function: ManifestFunction | None = None
    name: str = ""
    arguments: str = ""


class ManifestMessage(Strict, frozen=True, kw_only=True):
    """One message; which fields mean something depends on the role."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | tuple[ManifestPart, ...] = ""
    tool_calls: tuple[ManifestToolCall, ...] = ()
    tool_call_id: str = ""
    name: str = ""
    is_error: bool = False


def as_message(message: ManifestMessage) -> Message:
    """The message in the contract's form."""
    content = _content(message.content)
    match message.role:
        case "system":
            return SystemMessage(content=text_of(content))
        case "user":
            return UserMessage(content=content, name=message.name)
        case "assistant":
            return AssistantMessage(content=text_of(content), tool_calls=tuple(map(_call, message.tool_calls)))
        case "tool":
            return ToolMessage(
                tool_call_id=message.tool_call_id,
                name=message.name,
                content=text_of(content),
                is_error=message.is_error,
                images=images_of(content),
            )


def misplaced_images(messages: tuple[ManifestMessage, ...]) -> Iterator[tuple[int, str]]:
    """Messages that cannot have images and do: their places and roles."""
    for n, message in enumerate(messages):
        if message.role in ("system", "assistant") and images_of(_content(message.content)):
            yield n, message.role


def _content(content: str | tuple[ManifestPart, ...]) -> Content:
    return content if isinstance(content, str) else tuple(map(_part, content))


def _part(part: ManifestPart) -> ContentPart:
    match part:
        case ManifestText(text=text):
            return TextPart(text=text)
        case ManifestImage(media_type=media_type, data=data, url=url):
            return ImagePart(media_type=media_type, data=data, url=url)
        case ManifestImageURL(image_url=address):
            return _image_at(address.url)


def _image_at(url: str) -> ImagePart:
    if match := _DATA_URL.fullmatch(url):
        return ImagePart(media_type=match["type"], data=match["data"])
    return ImagePart(url=url)


def _call(call: ManifestToolCall) -> ToolCall:
    if call.function is not None:
        return ToolCall(id=call.id, name=call.function.name, arguments=call.function.arguments)
    return ToolCall(id=call.id, name=call.name, arguments=call.arguments)
