"""From the name that a model used to a tool of a server, exactly."""

from __future__ import annotations

from functools import partial

import msgspec

from schemas.resources import Agent, MCPServer, ToolInfo
from schemas.tools import agent_tools
from services.runtime.resources import Resources, tools_of
from services.tool_executor.calls import NotNow
from services.tool_executor.core.arguments import BadArguments
from services.tool_executor.core.names import unknown_tool
from services.tool_executor.core.policy import CallPolicy, policy_of


class Target(msgspec.Struct, frozen=True):
    """A tool that can be called."""

    server: str
    info: ToolInfo
    policy: CallPolicy
    concurrency: int
    """Calls that its server takes at once from one process."""


def resolve(resources: Resources, namespace: str, agent_name: str, name: str) -> Target:
    """The tool that `name` means for an agent.

    Raises `BadArguments` if the agent has no such tool, and `NotNow` if that cannot be said at the moment.
    """
    agent = resources.get(Agent, namespace, agent_name)
    if agent is None:
        raise NotNow(f"agent {agent_name!r} is not there any more")
    statuses = [(ref.name, resources.status("MCPServer", namespace, ref.name)) for ref in agent.spec.mcp_servers]
    table = agent_tools(agent.spec, partial(tools_of, resources, namespace))
    offered = table.get(name)
    if offered is None:
        for server, status in statuses:
            if status is None or not status.ready:
                why = status.status_detail if status else "nothing is known of it yet"
                raise NotNow(f"MCP server {server!r} is not ready: {why}")
        raise BadArguments(unknown_tool(name, table))
    declared = resources.get(MCPServer, namespace, offered.server)
    if declared is None:
        raise NotNow(f"MCP server {offered.server!r} is not there any more")
    return Target(offered.server, offered.info, policy_of(declared.spec, offered.info), declared.spec.concurrency)
