"""From the name that a model used to what carries it out, exactly.

That is a tool of a server, one of ours that asks a server for more than tools, or a tool of a toolset.

The tools of an agent are put together again only when the agent, or a server or toolset of its namespace, changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import assert_never

import msgspec

from schemas.messages import ToolCall
from schemas.resources import Agent, MCPServer, MCPServerSpec, ToolInfo, Toolset, ToolsetSpec
from schemas.subjects import ResourceKey
from schemas.tools import OfferedTool, Via, agent_tools
from schemas.toolsets import builtin_toolset
from services.runtime.resources import Resources, approver_of, is_approved_for_good, tools_of
from services.tool_executor.calls import NotNow
from services.tool_executor.core.arguments import BadArguments
from services.tool_executor.core.names import unknown_tool
from services.tool_executor.core.policy import CallPolicy, channel_of, policy_of, toolset_policy


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """A tool that can be called."""

    via: Via
    server: str
    """The server, or the toolset."""
    info: ToolInfo
    policy: CallPolicy
    concurrency: int
    """Calls that its server takes at once from one process."""
    contact_channel: str = ""
    """By which people are asked about its calls; empty: they look into the inbox."""

    @property
    def where(self) -> str:
        """Where it comes from, in words."""
        return f"{'toolset' if self.via == 'Toolset' else 'MCP server'} {self.server!r}"


class Resolver:
    """Looks tools up by the names that agents' models know them by."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._tables: dict[tuple[str, str], Mapping[str, OfferedTool]] = {}
        resources.on_change(self._on_change)

    def resolve(self, namespace: str, agent_name: str, name: str) -> Target:
        """The tool that `name` means for an agent.

        Raises `BadArguments` if the agent has no such tool, and `NotNow` if that cannot be said at the moment.
        """
        agent = self._resources.get(Agent, namespace, agent_name)
        if agent is None:
            raise NotNow(f"agent {agent_name!r} is not there any more")
        table = self._table(agent)
        offered = table.get(name)
        if offered is None:
            if why := next(self._not_ready(agent), ""):
                raise NotNow(why)
            raise BadArguments(unknown_tool(name, table))
        return self._target(namespace, offered)

    def approver(self, namespace: str, agent_name: str, call: ToolCall) -> str:
        """The contact channel that has to approve a call, for good if it has not been asked; empty: none has to."""
        agent = self._resources.get(Agent, namespace, agent_name)
        offered = self._table(agent).get(call.name) if agent is not None else None
        if agent is None or offered is None:
            return ""
        channel = approver_of(self._resources, agent, offered)
        return "" if channel and is_approved_for_good(self._resources, agent, call.name, call.arguments) else channel

    def _on_change(self, key: ResourceKey) -> None:
        if key.kind == "Agent":
            self._tables.pop((key.namespace, key.name), None)
        elif key.kind in ("MCPServer", "Toolset"):
            for place in [place for place in self._tables if place[0] == key.namespace]:
                del self._tables[place]

    def _table(self, agent: Agent) -> Mapping[str, OfferedTool]:
        key = (agent.metadata.namespace, agent.metadata.name)
        if key not in self._tables:
            self._tables[key] = agent_tools(agent.spec, partial(tools_of, self._resources, key[0]))
        return self._tables[key]

    def _not_ready(self, agent: Agent) -> Iterator[str]:
        """Why tools of the agent may be missing from its table."""
        for ref in agent.spec.mcp_servers:
            status = self._resources.status("MCPServer", agent.metadata.namespace, ref.name)
            if status is None or not status.ready:
                why = status.status_detail if status else "nothing is known of it yet"
                yield f"MCP server {ref.name!r} is not ready: {why}"
        for ref in agent.spec.toolsets:
            if not tools_of(self._resources, agent.metadata.namespace, "Toolset", ref.name):
                yield f"toolset {ref.name!r} is not there"

    def _target(self, namespace: str, offered: OfferedTool) -> Target:
        match offered.via:
            case "MCPServer" | "MCPExtra":
                declared = self._resources.get(MCPServer, namespace, offered.server)
                if declared is None:
                    raise NotNow(f"MCP server {offered.server!r} is not there any more")
                spec: MCPServerSpec | ToolsetSpec = declared.spec
                policy = policy_of(declared.spec, offered.info)
            case "Toolset":
                toolset = self._resources.get(Toolset, namespace, offered.server)
                found = toolset.spec if toolset is not None else builtin_toolset(offered.server)
                if found is None:
                    raise NotNow(f"toolset {offered.server!r} is not there any more")
                spec, policy = found, toolset_policy(found, offered.info)
            case "Agent" | "ContactChannel":  # the planner does these, unless it does not know them at that moment
                kind = "agent" if offered.via == "Agent" else "contact channel"
                raise BadArguments(f"{offered.name!r} was not done: this {kind} was just being changed. Call it again.")
            case _:
                assert_never(offered.via)
        return Target(
            via=offered.via,
            server=offered.server,
            info=offered.info,
            policy=policy,
            concurrency=spec.concurrency,
            contact_channel=channel_of(spec),
        )
