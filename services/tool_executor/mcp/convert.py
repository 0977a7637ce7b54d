"""From the SDK's types to ours."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import assert_never

from mcp_types import (
    AudioContent,
    BlobResourceContents,
    CallToolResult,
    ContentBlock,
    EmbeddedResource,
    ImageContent,
    ResourceLink,
    TextContent,
    TextResourceContents,
    Tool,
)

from schemas.resources import ToolAnnotations, ToolInfo
from services.tool_executor.core.results import Attachment, Part, Reply, Text, size_of_base64

DESCRIPTION_LENGTH_MAX = 8_000


def tool_info(tool: Tool) -> ToolInfo:
    """A tool as its server describes it."""
    hints = tool.annotations
    return ToolInfo(
        name=tool.name,
        description=(tool.description or tool.title or "")[:DESCRIPTION_LENGTH_MAX],
        input_schema=tool.input_schema,
        annotations=ToolAnnotations()
        if hints is None
        else ToolAnnotations(
            read_only=hints.read_only_hint,
            idempotent=hints.idempotent_hint,
            destructive=hints.destructive_hint,
            open_world=hints.open_world_hint,
        ),
    )


def reply_of(result: CallToolResult, redact: Callable[[str], str]) -> Reply:
    """What a tool returned, its texts passed through `redact`."""
    structured = result.structured_content
    return Reply(
        parts=tuple(part_of(block, redact) for block in result.content),
        structured="" if structured is None else redact(json.dumps(structured, ensure_ascii=False)),
        is_error=result.is_error,
    )


def part_of(block: ContentBlock, redact: Callable[[str], str]) -> Part:
    """One part of what a server said."""
    match block:
        case TextContent():
            return Text(redact(block.text))
        case ImageContent():
            return Attachment(kind="image", mime_type=block.mime_type, size=size_of_base64(block.data), data=block.data)
        case AudioContent():
            return Attachment(kind="audio", mime_type=block.mime_type, size=size_of_base64(block.data))
        case ResourceLink():
            return Attachment(
                kind="resource link", mime_type=block.mime_type or "", size=block.size, name=str(block.uri)
            )
        case EmbeddedResource():
            return resource_of(block.resource, redact)
        case _:
            assert_never(block)


def resource_of(found: TextResourceContents | BlobResourceContents, redact: Callable[[str], str]) -> Attachment:
    """A document, or a part of one."""
    mime_type, name = found.mime_type or "", str(found.uri)
    if isinstance(found, BlobResourceContents):
        data = found.blob if mime_type.startswith("image/") else ""
        return Attachment(kind="resource", mime_type=mime_type, size=size_of_base64(found.blob), name=name, data=data)
    size = len(found.text.encode(errors="replace"))
    return Attachment(kind="resource", mime_type=mime_type, size=size, name=name, text=redact(found.text))
