"""How a tool may be called: what its manifest says, else what its server says of it, else with the most care."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Literal

import msgspec

from schemas.resources import MCPServerSpec, ToolInfo, ToolPolicy, ToolsetSpec
from schemas.toolsets import toolset_timeout_s

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
    return _policy(spec.policies, tool, spec.timeout_s)


def toolset_policy(spec: ToolsetSpec, tool: ToolInfo) -> CallPolicy:
    """The policy of a toolset's tool, in the same way."""
    return _policy(spec.policies, tool, toolset_timeout_s(spec, tool.name))


def _policy(policies: tuple[ToolPolicy, ...], tool: ToolInfo, timeout_s: float) -> CallPolicy:
    stated = _stated(policies, tool.name)
    read_only = tool.annotations.read_only if stated.read_only is None else stated.read_only
    idempotent = tool.annotations.idempotent if stated.idempotent is None else stated.idempotent
    return CallPolicy(
        repeatable=bool(read_only or idempotent),
        on_uncertain=stated.on_uncertain or "fail",
        timeout_s=timeout_s if stated.timeout_s is None else stated.timeout_s,
    )


def _stated(policies: tuple[ToolPolicy, ...], tool: str) -> ToolPolicy:
    for policy in policies:
        if policy.tool == tool or fnmatchcase(tool, policy.tool):
            return policy
    return ToolPolicy(tool=tool)
