"""Whether an agent can work: decided from what is said of everything that it names."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from schemas.resources import Agent, ResourceStatus, Status
from schemas.toolsets import builtin_toolset
from services.planner.core.delegation import delegation_cycle

Look = Callable[[str, str], tuple[bool, ResourceStatus | None]]
"""`(kind, name) -> (exists, status)`, in the agent's namespace."""


class Verdict(NamedTuple):
    """An agent's status."""

    status: Status
    detail: str


READY = Verdict("Ready", "All dependencies validated successfully")


SubAgents = Callable[[str], tuple[str, ...]]
"""The agents that an agent of this namespace may delegate to."""


def evaluate(agent: Agent, look: Look, sub_agents: SubAgents) -> Verdict:
    """An agent's status: of its model, sub-agents, MCP servers and contact channels, the first that is not ready."""
    spec = agent.spec
    named: list[tuple[str, str]] = [
        ("LLM", spec.llm_ref.name),
        *(("Agent", ref.name) for ref in spec.sub_agents),
        *(("MCPServer", ref.name) for ref in spec.mcp_servers),
        *(("Toolset", ref.name) for ref in spec.toolsets),
        *(("ContactChannel", ref.name) for ref in spec.human_contact_channels),
    ]
    if not spec.system.strip():
        return Verdict("Error", "system is empty")
    if cycle := delegation_cycle(agent.metadata.name, sub_agents):
        return Verdict("Error", f"subAgents: agents delegate in a circle: {' -> '.join(cycle)}")
    standing_in = False
    for fallback in spec.fallbacks:
        exists, status = look("LLM", fallback.llm_ref.name)
        if not exists:
            return Verdict("Error", f'LLM "{fallback.llm_ref.name}" (a fallback) not found')
        standing_in |= "notReady" in fallback.on and status is not None and status.ready
    for kind, name in named:
        exists, status = look(kind, name)
        if exists and kind == "LLM" and standing_in:
            continue
        if not exists and kind == "Toolset" and builtin_toolset(name) is not None:
            continue
        if not exists:
            return Verdict("Error", f'{kind} "{name}" not found')
        if status is None:
            return Verdict("Pending", f'{kind} "{name}" is not ready (nobody has looked at it yet)')
        if not status.ready:
            return Verdict("Pending", f'{kind} "{name}" is not ready (status: "{status.status}")')
    return READY
