"""What people are asked about the calls of an answer: decided once, when the model has answered."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from schemas.messages import ToolCall
from schemas.tools import OfferedTool
from services.planner.core.inputs import Gate

Offered = Callable[[str], OfferedTool | None]
"""The tool of this name that the agent has, or None."""
Approver = Callable[[OfferedTool], str]
"""The contact channel that has to approve calls of a tool; empty: none has to."""
Granted = Callable[[ToolCall], bool]
"""Whether people have approved such calls before, for this task or for good."""


def gates_of(calls: Sequence[ToolCall], *, offered: Offered, approver: Approver, granted: Granted) -> dict[int, Gate]:
    """What people are asked about the calls of an answer, by their places (from 1)."""
    found: dict[int, Gate] = {}
    for n, call in enumerate(calls, start=1):
        tool = offered(call.name)
        if tool is None:
            continue
        if tool.via == "ContactChannel":
            found[n] = Gate("question", tool.server)
            continue
        channel = approver(tool)
        if channel and not granted(call):
            found[n] = Gate("approval", channel)
    return found
