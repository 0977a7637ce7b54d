"""How a tool may be called: what its manifest says, else what its server says of it, else with the most care."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Literal

import msgspec

from schemas.resources import MCPServerSpec, ToolInfo, ToolPolicy, ToolsetSpec
from schemas.toolsets import toolset_timeout_s

OnUncertain = Literal["fail", "retry", "ask"]


class CallPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How one tool may be called."""

    repeatable: bool
    """Running it twice does no more than running it once, so it needs no ledger."""
    on_uncertain: OnUncertain
    """What to do with a call that was started and whose outcome nobody knows. Counts only if not `repeatable`."""
    timeout_s: float

    @property
    def asks(self) -> bool:
        """Whether people say what becomes of a call whose outcome nobody knows."""
        return self.on_uncertain == "ask" and not self.repeatable


def channel_of(spec: MCPServerSpec | ToolsetSpec) -> str:
    """The name of the channel by which people are asked about a server's or toolset's calls; empty: it has none."""
    ref = spec.contact_channel
    if ref is None and isinstance(spec, MCPServerSpec):
        ref = spec.approval_contact_channel
    return ref.name if ref is not None else ""


def channels_of(spec: MCPServerSpec | ToolsetSpec) -> tuple[str, ...]:
    """The names of all channels that a server or toolset needs."""
    approving = spec.approval_contact_channel if isinstance(spec, MCPServerSpec) else None
    refs = (approving, spec.contact_channel)
    return tuple(dict.fromkeys(ref.name for ref in refs if ref is not None))


def nobody_is_told(spec: MCPServerSpec | ToolsetSpec) -> str:
    """What a status says more, where people are to be asked and nothing brings them the question."""
    if channel_of(spec) or all(policy.on_uncertain != "ask" for policy in spec.policies):
        return ""
    return "; onUncertain: ask without contactChannel: `holdfast inbox` shows what is asked, and nobody is told"


def policy_of(spec: MCPServerSpec, tool: ToolInfo) -> CallPolicy:
    """The policy of a server's tool. What the manifest leaves open is taken from the tool's annotations."""
    return _policy(spec, tool, spec.timeout_s)


def toolset_policy(spec: ToolsetSpec, tool: ToolInfo) -> CallPolicy:
    """The policy of a toolset's tool, in the same way."""
    return _policy(spec, tool, toolset_timeout_s(spec, tool.name))


def _policy(spec: MCPServerSpec | ToolsetSpec, tool: ToolInfo, timeout_s: float) -> CallPolicy:
    stated = _stated(spec.policies, tool.name)
    read_only = tool.annotations.read_only if stated.read_only is None else stated.read_only
    idempotent = tool.annotations.idempotent if stated.idempotent is None else stated.idempotent
    return CallPolicy(
        repeatable=bool(read_only or idempotent),
        on_uncertain=stated.on_uncertain or ("ask" if channel_of(spec) else "fail"),
        timeout_s=timeout_s if stated.timeout_s is None else stated.timeout_s,
    )


def _stated(policies: tuple[ToolPolicy, ...], tool: str) -> ToolPolicy:
    for policy in policies:
        if policy.tool == tool or fnmatchcase(tool, policy.tool):
            return policy
    return ToolPolicy(tool=tool)
