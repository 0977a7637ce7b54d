"""One call of a tool of a toolset, as the tool sees it."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from services.tool_executor.core.results import Attachment, Reply, Text

Place = Callable[[], Awaitable[tuple[Path, bool]]]
"""The working directory of the call's task, and whether it was made just now."""


class CannotRun(Exception):
    """The tool cannot do this here. The text tells the model why."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A call to be carried out. Its arguments fit the tool's schema."""

    tool: str
    arguments: Mapping[str, Any]
    timeout_s: float
    place: Place
    key: str = ""
    """What makes a repeated request recognizable; empty if the policy lets nobody repeat it."""


def words(text: str, *, is_error: bool = False) -> Reply:
    """A reply of text alone."""
    return Reply(parts=(Text(text),), is_error=is_error)


def image(data: bytes, media_type: str, *, about: str = "", is_error: bool = False) -> Reply:
    """A reply that is an image, with some words."""
    shown = Attachment(kind="image", mime_type=media_type, size=len(data), data=b64encode(data).decode())
    return Reply(parts=(*((Text(about),) if about else ()), shown), is_error=is_error)
