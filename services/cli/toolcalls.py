"""Tool calls as a resource: made by the system, read from the answers that asked for them and from their results."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from typing import Literal, NamedTuple

import msgspec

from schemas.commands import AskPerson
from schemas.events import ApprovalGranted, ModelAnswered, ToolFinished, ToolStarted
from schemas.ids import request_id, toolcall_name
from schemas.messages import ToolOutcome
from schemas.tools import DELEGATE
from services.cli.history import Recorded

Phase = Literal[
    "Pending",
    "AwaitingHumanApproval",
    "ReadyToExecuteApprovedTool",
    "AwaitingHumanInput",
    "AwaitingSubAgent",
    "Running",
    "Succeeded",
    "Failed",
    "Rejected",
    "TimedOut",
    "Cancelled",
    "Unknown",
]
"""The words are the predecessor's where it has the same."""

_PHASES: dict[ToolOutcome, Phase] = {
    "succeeded": "Succeeded",
    "failed": "Failed",
    "rejected": "Rejected",
    "timed_out": "TimedOut",
    "cancelled": "Cancelled",
    "unknown": "Unknown",
}
_NAME = re.compile(r"(?P<task>.+)-(?P<request>r\d+)-tc-(?P<n>\d{2,})")


class ToolCallView(msgspec.Struct, frozen=True, kw_only=True):
    """A tool call as people see it."""

    namespace: str
    task: str
    request: str
    n: int
    tool: str
    tool_call_id: str
    arguments: str
    phase: Phase
    started_at: datetime
    """When the model asked for it."""
    finished: ToolFinished | None
    attempts: int
    """How many replicas began it, as far as that is recorded; it is for calls that must not run twice."""

    @property
    def name(self) -> str:
        """`<task>-<request>-tc-<n>`."""
        return toolcall_name(self.task, self.request, self.n)


class ToolCallName(NamedTuple):
    """A tool call's name, taken apart."""

    task: str
    request: str
    n: int


def parse_name(name: str) -> ToolCallName | None:
    """The parts of a tool call's name, or None if it is not one."""
    match = _NAME.fullmatch(name)
    return None if match is None else ToolCallName(match["task"], match["request"], int(match["n"]))


def toolcalls(namespace: str, task: str, window: Iterable[int], records: Iterable[Recorded]) -> list[ToolCallView]:
    """The tool calls of a task, in the order in which they were asked for.

    Only answers in the window count: one that came after the task had moved on asked for nothing.
    """
    counted = frozenset(window)
    answers: list[tuple[int, ModelAnswered]] = []
    results: dict[tuple[str, int], ToolFinished] = {}
    begun: dict[tuple[str, int], int] = {}
    waiting: dict[tuple[str, int], Phase] = {}
    for recorded in records:
        match recorded.fact:
            case ModelAnswered() as answer if recorded.seq in counted:
                answers.append((recorded.seq, answer))
            case ToolFinished() as result:
                results[result.request, result.n] = result
            case ToolStarted(attempt=attempt):
                *_, request, n = recorded.subject.split(".")
                begun[request, int(n)] = attempt
            case AskPerson(request=request, n=n, kind=kind):
                asked: Phase = "AwaitingHumanApproval" if kind == "approval" else "AwaitingHumanInput"
                waiting.setdefault((request, n), asked)
            case ApprovalGranted(request=request, n=n):
                waiting[request, n] = "ReadyToExecuteApprovedTool"
            case _:
                pass
    return [
        _view(
            namespace,
            task,
            answer,
            n=n,
            result=results.get((request, n)),
            begun=begun.get((request, n), 0),
            waiting=waiting.get((request, n)),
        )
        for _, answer in sorted(answers, key=lambda pair: pair[0])
        for request in (request_id(answer.turn),)
        for n in range(1, len(answer.message.tool_calls) + 1)
    ]


def _view(
    namespace: str,
    task: str,
    answer: ModelAnswered,
    *,
    n: int,
    result: ToolFinished | None,
    begun: int,
    waiting: Phase | None,
) -> ToolCallView:
    call = answer.message.tool_calls[n - 1]
    is_delegated = call.name.startswith(f"{DELEGATE}__") and waiting in (None, "ReadyToExecuteApprovedTool")
    open_phase: Phase = "AwaitingSubAgent" if is_delegated else waiting or "Pending"
    return ToolCallView(
        namespace=namespace,
        task=task,
        request=request_id(answer.turn),
        n=n,
        tool=call.name,
        tool_call_id=call.id,
        arguments=call.arguments,
        phase=_PHASES[result.outcome] if result else ("Running" if begun else open_phase),
        started_at=answer.at,
        finished=result,
        attempts=result.attempt if result else begun,
    )
