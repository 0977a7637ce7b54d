"""Tool names: how a server's tool is called in front of a model, and mapped back exactly.

`server__tool` (or `toolset__tool`) where providers accept that: letters, digits, `_` and `-`, 64 characters at most.
Any other name is cleaned and ends in a digest of the exact one. The table is built from the agent's servers in the
same way by whoever offers tools and by whoever runs them, so a name never has to be taken apart.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, Literal, NamedTuple

from schemas.ids import digest
from schemas.resources import AgentSpec, ContactChannelSpec, ServerRef, ToolAnnotations, ToolInfo

NAME_LENGTH_MAX = 64
DIGEST_LENGTH = 8
SEPARATOR = "__"

_INVALID = re.compile(r"[^A-Za-z0-9_-]")


Via = Literal["MCPServer", "MCPExtra", "Toolset", "ContactChannel", "Agent"]
"""Where a tool comes from: a tool of an MCP server; one of ours that asks a server for resources or prompts; a tool of
a toolset; a person; another agent."""
CHANNEL_WORDS = {"slack": "Slack", "email": "email", "webhook": "a webhook", "console": "the console"}
DELEGATE = "delegate_to_agent"
"""Before the name of an agent: the tool that delegates to it."""


class OfferedTool(NamedTuple):
    """A tool as an agent's model sees it, and where it comes from."""

    name: str
    server: str
    info: ToolInfo
    via: Via = "MCPServer"


class Source(NamedTuple):
    """A server or toolset and the tools of it that an agent may use."""

    via: Via
    server: str
    tools: tuple[ToolInfo, ...]


ToolsOf = Callable[[Literal["MCPServer", "Toolset", "ContactChannel", "Agent"], str], Iterable[ToolInfo]]
"""The tools of a server or toolset of the agent's namespace, or the one that asks people or delegates to an agent."""


def agent_tools(agent: AgentSpec, tools_of: ToolsOf) -> Mapping[str, OfferedTool]:
    """All tools that an agent's model may call, by offered name, sorted by name."""
    return offer(agent_sources(agent, tools_of))


def agent_sources(agent: AgentSpec, tools_of: ToolsOf) -> tuple[Source, ...]:
    """Where an agent's tools come from: its servers, what it asks of them beyond tools, its toolsets."""
    sources: list[Source] = []
    for ref in agent.mcp_servers:
        sources.append(Source("MCPServer", ref.name, _allowed(ref, tools_of("MCPServer", ref.name))))
        if extras := _extras(ref):
            sources.append(Source("MCPExtra", ref.name, extras))
    sources += (Source("Toolset", ref.name, _allowed(ref, tools_of("Toolset", ref.name))) for ref in agent.toolsets)
    sources += (
        Source("ContactChannel", ref.name, tuple(tools_of("ContactChannel", ref.name)))
        for ref in agent.human_contact_channels
    )
    if agent.sub_agents:
        delegates = tuple(info for ref in agent.sub_agents for info in tools_of("Agent", ref.name))
        sources.append(Source("Agent", DELEGATE, delegates))
    return tuple(sources)


def contact_tool(channel: ContactChannelSpec) -> ToolInfo:
    """The tool that asks people, through a channel."""
    about = channel.slack.context_about_channel_or_user if channel.slack is not None else ""
    about = channel.description or about or (channel.email.context_about_user if channel.email is not None else "")
    message = {"type": "string", "description": "What the person is asked or told."}
    choices: dict[str, Any] = {
        "type": "array",
        "items": {"type": "string"},
        "default": [],
        "description": "Answers to choose from, if there are only some.",
    }
    return ToolInfo(
        name=f"human_contact_{channel.type}",
        description=about or f"Contact a human via {CHANNEL_WORDS[channel.type]}",
        input_schema=_schema(message=message, choices=choices),
        annotations=ToolAnnotations(read_only=False, idempotent=True),
    )


def delegate_tool(agent: str, description: str) -> ToolInfo:
    """The tool that delegates to an agent."""
    return ToolInfo(
        name=agent,
        description=description or f"Give a task to the agent {agent} and get its answer.",
        input_schema=_schema(message={"type": "string", "description": "What the agent is asked to do."}),
        annotations=ToolAnnotations(read_only=False, idempotent=True),
    )


def _allowed(ref: ServerRef, tools: Iterable[ToolInfo]) -> tuple[ToolInfo, ...]:
    if ref.tools is None:
        return tuple(tools)
    patterns = ref.tools
    return tuple(tool for tool in tools if any(fnmatchcase(tool.name, pattern) for pattern in patterns))


def _extras(ref: ServerRef) -> tuple[ToolInfo, ...]:
    return (*(RESOURCE_TOOLS if ref.resources else ()), *(PROMPT_TOOLS if ref.prompts else ()))


def offered_name(server: str, tool: str) -> str:
    """The name of a server's tool in front of a model."""
    exact = f"{server}{SEPARATOR}{tool}"
    cleaned = _INVALID.sub("_", exact)
    if cleaned == exact and len(exact) <= NAME_LENGTH_MAX:
        return exact
    return f"{cleaned[: NAME_LENGTH_MAX - DIGEST_LENGTH - 1]}_{digest(server, tool)[:DIGEST_LENGTH]}"


def offer(sources: Iterable[Source]) -> Mapping[str, OfferedTool]:
    """All tools of `sources` by offered name, sorted by name.

    Two tools whose plain names coincide (server `a__b` with `c`, and `a` with `b__c`) both get a digest.
    """
    found: dict[str, list[tuple[Via, str, ToolInfo]]] = {}
    for via, server, tools in sources:
        for info in tools:
            found.setdefault(offered_name(server, info.name), []).append((via, server, info))
    table: list[OfferedTool] = []
    for name, candidates in found.items():
        stem = name if len(candidates) == 1 else name[: NAME_LENGTH_MAX - DIGEST_LENGTH - 1]
        for via, server, info in candidates:
            exact = (server, info.name) if via == "MCPServer" else (via, server, info.name)
            suffix = "" if len(candidates) == 1 else f"_{digest(*exact)[:DIGEST_LENGTH]}"
            table.append(OfferedTool(f"{stem}{suffix}", server, info, via))
    return {tool.name: tool for tool in sorted(table, key=lambda tool: tool.name)}


def _schema(**properties: dict[str, Any]) -> dict[str, Any]:
    required = [name for name, schema in properties.items() if schema["type"] == "string" and "default" not in schema]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


_READS = ToolAnnotations(read_only=True, idempotent=True, destructive=False)
RESOURCE_TOOLS = (
    ToolInfo(
        name="list_resources",
        description="List the resources of this server: documents that it can give, and patterns of their addresses.",
        input_schema=_schema(cursor={"type": "string", "default": "", "description": "Where the last list ended."}),
        annotations=_READS,
    ),
    ToolInfo(
        name="read_resource",
        description="Read a resource of this server.",
        input_schema=_schema(uri={"type": "string", "description": "The resource's address."}),
        annotations=_READS,
    ),
)
"""For agents that ask for a server's resources."""
PROMPT_TOOLS = (
    ToolInfo(
        name="list_prompts",
        description="List the prompts of this server: texts that it has prepared for certain tasks.",
        input_schema=_schema(cursor={"type": "string", "default": "", "description": "Where the last list ended."}),
        annotations=_READS,
    ),
    ToolInfo(
        name="get_prompt",
        description="Get a prompt of this server.",
        input_schema=_schema(
            name={"type": "string", "description": "The prompt's name."},
            arguments={"type": "object", "additionalProperties": {"type": "string"}, "default": {}},
        ),
        annotations=_READS,
    ),
)
"""For agents that ask for a server's prompts."""
