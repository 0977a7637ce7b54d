"""What people are asked about the calls of an answer: decided once, when the model has answered."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from schemas.approvals import ServerChannel, approving_channel
from schemas.messages import ToolCall
from schemas.resources import AgentSpec
from schemas.tools import OfferedTool
from services.planner.core.inputs import Gate

Offered = Callable[[str], OfferedTool | None]
"""The tool of this name that the agent has, or None."""
Granted = Callable[[ToolCall], bool]
"""Whether people have approved such calls before, for this task or for good."""


def gates_of(
    agent: AgentSpec, calls: Sequence[ToolCall], *, offered: Offered, server_channel: ServerChannel, granted: Granted
) -> dict[int, Gate]:
    """What people are asked about the calls of an answer, by their places (from 1)."""
    found: dict[int, Gate] = {}
    for n, call in enumerate(calls, start=1):
        tool = offered(call.name)
        if tool is None:
            continue
        if tool.via == "ContactChannel":
            found[n] = Gate("question", tool.server)
            continue
        channel = approving_channel(agent, tool, server_channel)
        if channel and not granted(call):
            found[n] = Gate("approval", channel)
    return found
