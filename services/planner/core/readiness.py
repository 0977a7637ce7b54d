"""Whether an agent can work: decided from what is said of everything that it names."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from schemas.resources import Agent, Ref, ResourceStatus, Status

Look = Callable[[str, str], tuple[bool, ResourceStatus | None]]
"""`(kind, name) -> (exists, status)`, in the agent's namespace."""


class Verdict(NamedTuple):
    """An agent's status."""

    status: Status
    detail: str


READY = Verdict("Ready", "All dependencies validated successfully")


def evaluate(agent: Agent, look: Look) -> Verdict:
    """An agent's status: of its model, sub-agents, MCP servers and contact channels, the first that is not ready."""
    spec = agent.spec
    named: list[tuple[str, Ref]] = [
        ("LLM", spec.llm_ref),
        *(("Agent", ref) for ref in spec.sub_agents),
        *(("MCPServer", ref) for ref in spec.mcp_servers),
        *(("ContactChannel", ref) for ref in spec.human_contact_channels),
    ]
    if not spec.system.strip():
        return Verdict("Error", "system is empty")
    for kind, ref in named:
        exists, status = look(kind, ref.name)
        if not exists:
            return Verdict("Error", f'{kind} "{ref.name}" not found')
        if status is None:
            return Verdict("Pending", f'{kind} "{ref.name}" is not ready (nobody has looked at it yet)')
        if not status.ready:
            return Verdict("Pending", f'{kind} "{ref.name}" is not ready (status: "{status.status}")')
    if spec.sub_agents:
        return Verdict("Error", "subAgents: delegation to other agents is not available in this version")
    return READY
