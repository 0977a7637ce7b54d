"""What agents may ask of a server beyond its tools: its resources and its prompts, by tools of ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from mcp.client import Client
from mcp.shared.exceptions import MCPError
from mcp_types import METHOD_NOT_FOUND, RequestParamsMeta, ResourceTemplate

from services.tool_executor.core.results import Reply, Text
from services.tool_executor.mcp.convert import part_of, resource_of

PAGES_MAX = 20
"""Pages of resource templates; they are listed with the first page of the resources."""

Redact = Callable[[str], str]


async def ask_extra(
    client: Client, name: str, arguments: Mapping[str, Any], meta: RequestParamsMeta, redact: Redact
) -> Reply:
    """Carry out one of `schemas.tools.RESOURCE_TOOLS` and `PROMPT_TOOLS`. Raises what the SDK raises."""
    capabilities = client.server_capabilities
    what = "prompts" if name in ("list_prompts", "get_prompt") else "resources"
    if getattr(capabilities, what) is None:
        return Reply(parts=(Text(f"This server offers no {what}."),), is_error=True)
    cursor = arguments.get("cursor") or None
    match name:
        case "list_resources":
            return await _resources(client, cursor, meta, redact)
        case "read_resource":
            read = await client.read_resource(arguments["uri"], meta=meta)
            return Reply(parts=tuple(resource_of(found, redact) for found in read.contents))
        case "list_prompts":
            page = await client.list_prompts(cursor=cursor, meta=meta)
            return _listing({"prompts": [_fields(prompt) for prompt in page.prompts]}, page.next_cursor, redact)
        case "get_prompt":
            return await _prompt(client, arguments, meta, redact)
        case _:
            raise AssertionError(f"{name} is none of ours")


async def _resources(client: Client, cursor: str | None, meta: RequestParamsMeta, redact: Redact) -> Reply:
    page = await client.list_resources(cursor=cursor, meta=meta)
    listed: dict[str, Sequence[object]] = {"resources": [_fields(resource) for resource in page.resources]}
    if cursor is None and (templates := await _templates(client, meta)):
        listed["templates"] = [_fields(template) for template in templates]
    return _listing(listed, page.next_cursor, redact)


async def _templates(client: Client, meta: RequestParamsMeta) -> list[ResourceTemplate]:
    found: list[ResourceTemplate] = []
    cursor: str | None = None
    for _ in range(PAGES_MAX):
        try:
            page = await client.list_resource_templates(cursor=cursor, meta=meta)
        except MCPError as error:
            if error.code == METHOD_NOT_FOUND:
                break
            raise
        found += page.resource_templates
        cursor = page.next_cursor
        if cursor is None:
            break
    return found


async def _prompt(client: Client, arguments: Mapping[str, Any], meta: RequestParamsMeta, redact: Redact) -> Reply:
    prompt = await client.get_prompt(arguments["name"], dict(arguments.get("arguments") or {}), meta=meta)
    parts = [Text(redact(prompt.description))] if prompt.description else []
    said = [part for one in prompt.messages for part in (Text(f"{one.role}:"), part_of(one.content, redact))]
    return Reply(parts=(*parts, *said))


def _listing(listed: dict[str, Any], cursor: str | None, redact: Redact) -> Reply:
    if cursor is not None:
        listed["nextCursor"] = cursor
    return Reply(parts=(Text(redact(msgspec.json.format(msgspec.json.encode(listed), indent=1).decode())),))


def _fields(thing: Any) -> dict[str, Any]:
    """What a model may want to know of something that is listed."""
    shown: dict[str, Any] = thing.model_dump(
        mode="json",
        by_alias=True,
        exclude_none=True,
        include={"name", "title", "description", "uri", "uri_template", "mime_type", "size", "arguments"},
    )
    return shown
