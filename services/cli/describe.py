"""What `describe` prints: everything about one thing, for people who look for what is wrong."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import msgspec

from schemas.messages import AssistantMessage, Message, SystemMessage, ToolMessage, UserMessage, text_of
from schemas.task import AwaitingModel, AwaitingTools, Ended, RetryingModel, State, Waiting
from schemas.task_view import describe_state
from services.cli.client import Client, Declared
from services.cli.documents import status_text
from services.cli.events import EventLine, event_lines
from services.cli.exits import not_found
from services.cli.history import conversation
from services.cli.kinds import KindInfo
from services.cli.listing import TaskDetails, details, find_toolcall
from services.cli.render import as_yaml, plain_rows
from services.cli.text import age, money, one_line, safe, seconds_text, stamp
from services.cli.toolcalls import ToolCallView

LABEL_WIDTH = 14
PART_WIDTH = 2000
"""Characters of one message that are shown."""


async def describe(client: Client, info: KindInfo, namespace: str, name: str, now: datetime) -> str:
    """The text about one resource, task or tool call; the command ends when there is none."""
    match info.kind:
        case "Task":
            known = await details(client, namespace, name)
            messages = await conversation(client.log_of(known.task), known.state.window)
            return "\n".join(_task(known, messages, now))
        case "ToolCall":
            return "\n".join(_toolcall(await find_toolcall(client, namespace, name), now))
        case _:
            declared = await client.resource(info.kind, namespace, name)
            if declared is None:
                raise not_found(info.kind, namespace, name)
            return "\n".join(_resource(declared, info, now))


def event_rows(events: Iterable[EventLine], now: datetime) -> list[str]:
    """Events as a table."""
    rows = [(age(event.at, now), event.type, event.reason, event.message) for event in events]
    return plain_rows(("AGE", "TYPE", "REASON", "MESSAGE"), rows)


def _resource(declared: Declared, info: KindInfo, now: datetime) -> list[str]:
    metadata = declared.resource.metadata
    ready, status, detail = status_text(declared, info)
    lines = [
        *_fields(
            ("Kind", info.kind),
            ("Name", metadata.name),
            ("Namespace", metadata.namespace),
            ("Labels", _pairs(metadata.labels)),
            ("Ready", f"{'yes' if ready else 'no'} ({status})"),
            ("Detail", detail),
        )
    ]
    if declared.status is not None:
        said = declared.status
        lines += _fields(("Since", f"{stamp(said.at)} ({age(said.at, now)} ago), says {said.by or 'its owner'}"))
    lines += ["Spec:", *_indented(as_yaml(msgspec.to_builtins(declared.resource.spec)))]
    if declared.status is not None and declared.status.tools:
        lines.append("Tools:")
        rows = [
            (tool.name, _effects(tool.annotations), one_line(tool.description, 80)) for tool in declared.status.tools
        ]
        lines += _indented("\n".join(plain_rows(("NAME", "EFFECTS", "DESCRIPTION"), rows)))
    return lines


def _effects(annotations: Any) -> str:
    if annotations.read_only:
        return "read-only"
    if annotations.idempotent:
        return "idempotent"
    return "destructive" if annotations.destructive else "changes things"


def _task(known: TaskDetails, messages: Sequence[Message], now: datetime) -> list[str]:
    state = known.state
    view = describe_state(state)
    lines = _fields(
        ("Kind", "Task"),
        ("Name", state.task),
        ("Namespace", state.namespace),
        ("Labels", _pairs(state.labels)),
        ("Agent", state.agent),
        ("Phase", view.phase),
        ("Ready", f"{'yes' if view.ready else 'no'} ({view.status})"),
        ("Detail", view.status_detail),
        ("Error", view.error if view.error != view.status_detail else ""),
        ("Turn", "" if not _turn(state) else str(_turn(state))),
        ("Started", f"{stamp(state.created_at)} ({age(state.created_at, now)} ago)"),
        (
            "Ended",
            f"{stamp(state.ended_at)} (after {age(state.created_at, state.ended_at)})"
            if isinstance(state, Ended)
            else "",
        ),
        ("Trace", state.traceparent),
        ("Revision", str(known.stored.revision)),
    )
    lines += ["Spent:", *_indented("\n".join(_spent(known)))]
    if known.calls:
        lines += ["Tool calls:", *_indented("\n".join(toolcall_rows(known.calls)))]
    lines += ["Conversation:", *_indented("\n".join(transcript(messages)) or "(not started)")]
    lines += ["Events:", *_indented("\n".join(event_rows(event_lines(state.task, state, known.records), now)))]
    return lines


def _turn(state: State) -> int:
    match state:
        case AwaitingModel(turn=turn) | RetryingModel(turn=turn) | AwaitingTools(turn=turn) | Waiting(turn=turn):
            return turn
        case Ended(turn=turn):
            return turn
        case _:
            return 0


def _spent(known: TaskDetails) -> list[str]:
    state = known.state
    budget = state.budget if isinstance(state, AwaitingModel | RetryingModel | AwaitingTools | Waiting) else None
    limits = known.spec.spec.limits if known.spec else None
    turns = budget.max_turns if budget else limits.max_turns if limits else None
    tokens = budget.max_tokens if budget else limits.max_tokens if limits else None
    cost = budget.max_cost_usd if budget else limits.max_cost_usd if limits else None
    spend = state.spend
    used = spend.input_tokens + spend.output_tokens
    return _fields(
        ("Model calls", str(spend.model_calls)),
        ("Turns", f"{_turn(state)}{f' of {turns}' if turns else ''}"),
        ("Tokens", f"{used}{f' of {tokens}' if tokens else ''} ({spend.input_tokens} in, {spend.output_tokens} out)"),
        ("Cost", f"{money(spend.cost_usd)}{f' of {money(cost)}' if cost is not None else ''}"),
        ("Deadline", stamp(state.deadline) if state.deadline else ""),
    )


def toolcall_rows(calls: Iterable[ToolCallView]) -> list[str]:
    """Tool calls as a table with their outcome."""
    rows = [
        (
            call.name,
            call.tool,
            call.phase,
            seconds_text(call.finished.latency_s) if call.finished else "",
            str(call.attempts or ""),
            one_line(call.finished.content, 60) if call.finished else "",
        )
        for call in calls
    ]
    return plain_rows(("NAME", "TOOL", "OUTCOME", "TOOK", "ATTEMPTS", "RESULT"), rows)


def transcript(messages: Iterable[Message]) -> list[str]:
    """A conversation, each message under its role."""
    lines: list[str] = []
    for message in messages:
        match message:
            case SystemMessage(content=content):
                lines += _said("system", content)
            case UserMessage(content=said, name=name):
                content = text_of(said)
                lines += _said(f"user {name}".rstrip(), content)
            case AssistantMessage(content=content, tool_calls=calls):
                lines += _said("assistant", content)
                lines += [f"  calls {call.name} {one_line(call.arguments, 200)}  [{call.id}]" for call in calls]
            case ToolMessage(content=content, name=name, tool_call_id=call):
                lines += _said(f"tool {name} [{call}]{' (error)' if message.is_error else ''}", content)
    return lines


def _said(who: str, content: str) -> list[str]:
    text = safe(content)
    shown = text[:PART_WIDTH] + (f"… ({len(text) - PART_WIDTH} characters more)" if len(text) > PART_WIDTH else "")
    return [f"{who}:", *(f"  {line}" for line in shown.splitlines())]


def _toolcall(call: ToolCallView, now: datetime) -> list[str]:
    finished = call.finished
    lines = _fields(
        ("Kind", "ToolCall"),
        ("Name", call.name),
        ("Namespace", call.namespace),
        ("Task", call.task),
        ("Tool", call.tool),
        ("Call id", call.tool_call_id),
        ("Phase", call.phase),
        ("Attempts", str(call.attempts or "")),
        ("Asked for", f"{stamp(call.started_at)} ({age(call.started_at, now)} ago)"),
        ("Finished", f"{stamp(finished.at)}, took {seconds_text(finished.latency_s)}" if finished else ""),
    )
    lines += ["Arguments:", *_indented(safe(call.arguments))]
    if finished:
        lines += ["Result:", *_indented(safe(finished.content))]
    return lines


def _fields(*pairs: tuple[str, str]) -> list[str]:
    return [f"{f'{label}:'.ljust(LABEL_WIDTH)}{one_line(value)}" for label, value in pairs if value]


def _indented(text: str) -> list[str]:
    return [f"  {line}".rstrip() for line in text.splitlines()]


def _pairs(labels: dict[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in sorted(labels.items()))
