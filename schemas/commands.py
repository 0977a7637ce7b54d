"""Commands: what must be under way for a task. A projection of its state, never a truth of their own.

A command names what to work on and carries none of the conversation: the worker reads that by reference.
"""

from __future__ import annotations

from schemas.wire import Wire


class CallModel(Wire, frozen=True, kw_only=True, tag="model.call.v1"):
    """Call the model of the task's agent for a turn. The window is in the task's state."""

    namespace: str
    task: str
    agent: str
    turn: int
    attempt: int
    llm: str = ""
    """The LLM to call instead of the agent's own: one of its fallbacks."""


class RunTool(Wire, frozen=True, kw_only=True, tag="tool.run.v1"):
    """Run call `n` (from 1) of the model answer that was recorded at `answer_seq`."""

    namespace: str
    task: str
    agent: str
    request: str
    n: int
    answer_seq: int
    tool: str
    """The name the model used; for people who watch, and for routing."""


Command = CallModel | RunTool
