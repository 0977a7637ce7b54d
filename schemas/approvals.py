"""Approvals: which calls people are asked about before they are made.

Decided by the planner when the model has answered, and looked at again by whoever runs a call: a call that needs an
approval is never made without one, whatever was changed in between.
"""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase

from schemas.ids import call_digest
from schemas.resources import AgentSpec, ApprovalRule, Grant
from schemas.tools import OfferedTool

ServerChannel = Callable[[str], str]
"""The channel that approves every call of an MCP server, by the server's name; empty: none."""


def approving_channel(agent: AgentSpec, tool: OfferedTool, server_channel: ServerChannel) -> str:
    """The channel that has to approve a call of a tool; empty: none has to.

    What a server asks for is not an agent's to waive.
    """
    if tool.via in ("MCPServer", "MCPExtra") and (channel := server_channel(tool.server)):
        return channel
    for rule in agent.approvals:
        if any(fnmatchcase(tool.name, pattern) for pattern in rule.tools):
            return _asks(rule, tool)
    return ""


def is_granted(grant: Grant, agent: str, tool: str, arguments: str) -> bool:
    """Whether people have approved such a call for good."""
    spec = grant.spec
    if (spec.agent, spec.tool) != (agent, tool):
        return False
    return not spec.digest or spec.digest == call_digest(tool, arguments)


def _asks(rule: ApprovalRule, tool: OfferedTool) -> str:
    if rule.contact_channel is None or rule.when == "never":
        return ""
    if rule.when == "writes" and tool.info.annotations.read_only:
        return ""
    return rule.contact_channel.name
