"""How a tool may be called: what its manifest says, else what its server says of it, else with the most care."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Literal

import msgspec

from schemas.resources import MCPServerSpec, ToolInfo, ToolPolicy

OnUncertain = Literal["fail", "retry"]


class CallPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How one tool may be called."""

    repeatable: bool
    """Running it twice does no more than running it once, so it needs no ledger."""
    on_uncertain: OnUncertain
    """What to do with a call that was started and whose outcome nobody knows. Counts only if not `repeatable`."""
    timeout_s: float


def policy_of(spec: MCPServerSpec, tool: ToolInfo) -> CallPolicy:
    """The policy of a server's tool. What the manifest leaves open is taken from the tool's annotations."""
    stated = _stated(spec.policies, tool.name)
    read_only = tool.annotations.read_only if stated.read_only is None else stated.read_only
    idempotent = tool.annotations.idempotent if stated.idempotent is None else stated.idempotent
    return CallPolicy(
        repeatable=bool(read_only or idempotent),
        on_uncertain=stated.on_uncertain or "fail",
        timeout_s=spec.timeout_s if stated.timeout_s is None else stated.timeout_s,
    )


def annotated_policy(tool: ToolInfo, timeout_s: float = 60.0) -> CallPolicy:
    """The policy of a tool of which only its annotations speak."""
    hints = tool.annotations
    return CallPolicy(repeatable=bool(hints.read_only or hints.idempotent), on_uncertain="fail", timeout_s=timeout_s)


def _stated(policies: tuple[ToolPolicy, ...], tool: str) -> ToolPolicy:
    for policy in policies:
        if policy.tool == tool or fnmatchcase(tool, policy.tool):
            return policy
    return ToolPolicy(tool=tool)
