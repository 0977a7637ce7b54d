"""Commands: what must be under way for a task. A projection of its state, never a truth of their own.

A command names what to work on and carries none of the conversation: the worker reads that by reference.
"""

from __future__ import annotations

from typing import Literal

from schemas.wire import Wire

PersonAsked = Literal["approval", "question"]
"""`approval`: may this call be made; `question`: the call itself is a question to a person."""


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

    approved_seq: int = 0
    """Where its approval is recorded (`ApprovalGranted`), with the arguments to run it with; 0: it needs none."""


class AskPerson(Wire, frozen=True, kw_only=True, tag="person.ask.v1"):
    """Ask people, through a contact channel, about call `n` of the model answer that was recorded at `answer_seq`."""

    namespace: str
    task: str
    agent: str
    request: str
    n: int
    tool_call_id: str
    tool: str
    answer_seq: int
    kind: PersonAsked
    channel: str
    """The ContactChannel to begin with."""


class WithdrawQuestion(Wire, frozen=True, kw_only=True, tag="person.withdraw.v1"):
    """Nobody waits for the answer about a call any more."""

    namespace: str
    task: str
    request: str
    n: int
    reason: str


Command = CallModel | RunTool | AskPerson | WithdrawQuestion
