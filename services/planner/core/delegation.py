"""Delegation: one agent's tool call that is another agent's task.

The task derives from the call, and its result is the call's result. It inherits the namespace, the deadline and a part
of what is left of the budget; what it uses comes back with the result.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from schemas.messages import ToolCall
from services.planner.core.policy import DELEGATION_DEPTH_MAX


class Refusal(msgspec.Struct, frozen=True):
    """Why a delegated call cannot be taken, for the model that made it."""

    text: str


def asked_of(call: ToolCall, callers: tuple[str, ...], agent: str) -> str | Refusal:
    """What a call asks of `agent`, or why that may not be. `callers`: the agents from the root down to the caller."""
    if agent in callers:
        return Refusal(f"agents may not delegate in a circle: {' -> '.join((*callers, agent))}")
    if len(callers) > DELEGATION_DEPTH_MAX:
        way = " -> ".join((*callers, agent))
        return Refusal(f"agents may delegate over {DELEGATION_DEPTH_MAX} levels at most: {way}")
    try:
        arguments: Any = msgspec.json.decode(call.arguments or "{}")
    except (msgspec.DecodeError, RecursionError) as error:
        return Refusal(f"the arguments are not valid JSON ({error}); they must be an object with a message")
    message: Any = arguments.get("message") if isinstance(arguments, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] - any JSON
    if not isinstance(message, str) or not message.strip():
        return Refusal("missing or invalid 'message' argument: say in it what the agent is asked to do")
    return message


def delegation_cycle(agent: str, sub_agents: Callable[[str], tuple[str, ...]]) -> tuple[str, ...]:
    """A way by which an agent would delegate to itself, or nothing."""
    ways: list[tuple[str, ...]] = [(agent,)]
    seen: set[str] = set()
    while ways:
        way = ways.pop()
        for name in sub_agents(way[-1]):
            if name == agent:
                return (*way, agent)
            if name not in seen:
                seen.add(name)
                ways.append((*way, name))
    return ()
