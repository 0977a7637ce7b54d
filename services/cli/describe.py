"""What `describe` prints: everything about one thing, for people who look for what is wrong."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import msgspec

from schemas.task import AwaitingModel, AwaitingTools, Ended, LLMSpend, RetryingModel, State, Waiting
from schemas.task_view import describe_state
from services.cli.client import Client, Declared
from services.cli.deliveries import notification_rows, notifications
from services.cli.documents import status_text, thread_of
from services.cli.events import EventLine, event_lines
from services.cli.exits import not_found
from services.cli.flow import used_of
from services.cli.history import Step, steps
from services.cli.images import image_text
from services.cli.kinds import KindInfo
from services.cli.listing import TaskDetails, details, find_toolcall
from services.cli.render import as_yaml, plain_rows
from services.cli.text import age, money, one_line, safe, seconds_text, stamp
from services.cli.toolcalls import ToolCallView
from services.cli.transcript import model_call_rows, shortened, transcript
from services.cli.tree import family, tree_rows

LABEL_WIDTH = 14


async def describe(client: Client, info: KindInfo, namespace: str, name: str, now: datetime) -> str:
    """The text about one resource, task or tool call; the command ends when there is none."""
    match info.kind:
        case "Task":
            known = await details(client, namespace, name)
            said = await steps(client.log_of(known.task), known.state.window)
            lines = _task(known, said, now)
            if related := await family(client, known.state):
                lines += ["Related tasks:", *_indented("\n".join(tree_rows(related, known.state.task)))]
            if told := notifications(known.records):
                lines += ["Notifications:", *_indented("\n".join(notification_rows(told, now)))]
            return "\n".join(lines)
        case "ToolCall":
            return "\n".join(_toolcall(await find_toolcall(client, namespace, name), now))
        case _:
            declared = await client.resource(info.kind, namespace, name)
            if declared is None:
                raise not_found(info.kind, namespace, name)
            lines = _resource(declared, info, now)
            if used := await used_of(client, declared, now):
                lines += ["Used:", *_indented("\n".join(_fields(*used)))]
            return "\n".join(lines)


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


def _task(known: TaskDetails, said: Sequence[Step], now: datetime) -> list[str]:
    state = known.state
    view = describe_state(state)
    lines = _fields(
        ("Kind", "Task"),
        ("Name", state.task),
        ("Namespace", state.namespace),
        ("Labels", _pairs(state.labels)),
        ("Agent", state.agent),
        ("Thread", _thread(state)),
        ("Phase", view.phase),
        ("Ready", f"{'yes' if view.ready else 'no'} ({view.status})"),
        ("Detail", view.status_detail),
        ("Error", view.error if view.error != view.status_detail else ""),
        ("Parked", _parked(state, now)),
        ("Priority", "" if state.priority == "normal" else state.priority),
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
    if calls := model_call_rows(known.records):
        lines += ["Model calls:", *_indented("\n".join(calls))]
    if known.calls:
        lines += ["Tool calls:", *_indented("\n".join(toolcall_rows(known.calls)))]
    lines += ["Conversation:", *_indented("\n".join(transcript(state.task, said)) or "(not started)")]
    lines += ["Events:", *_indented("\n".join(event_rows(event_lines(state.task, state, known.records), now)))]
    return lines


def _thread(state: State) -> str:
    first = thread_of(state)
    begun = f"begun by task {first}" if first != state.task else "begun by this task"
    return f"{state.thread_id} ({begun})" if state.thread_id else begun if first else ""


def _turn(state: State) -> int:
    match state:
        case AwaitingModel(turn=turn) | RetryingModel(turn=turn) | AwaitingTools(turn=turn) | Waiting(turn=turn):
            return turn
        case Ended(turn=turn):
            return turn
        case _:
            return 0


def _parked(state: State, now: datetime) -> str:
    """Since when and until when a call waits for a limit of ours, and for which."""
    if not isinstance(state, RetryingModel) or not state.throttled:
        return ""
    since = state.tries.parked_since or state.updated_at
    times = f" (looked {state.tries.parks} times)" if state.tries.parks > 1 else ""
    return f"for {age(since, now)}{times}, looks again at {stamp(state.not_before)}: {state.error}"


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
        *((f"By {name}", _llm_spend(one)) for name, one in sorted(spend.by_llm.items())),
    )


def _llm_spend(spend: LLMSpend) -> str:
    calls = f"{spend.model_calls} call{'' if spend.model_calls == 1 else 's'}"
    cached = f" ({spend.cached_tokens} cached)" if spend.cached_tokens else ""
    reasoning = f" ({spend.reasoning_tokens} reasoning)" if spend.reasoning_tokens else ""
    tokens = f"{spend.input_tokens} in{cached}, {spend.output_tokens} out{reasoning}"
    return f"{calls}, {tokens}, {money(spend.cost_usd)}"


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
        lines += _indented("\n".join(map(image_text, finished.images)))
        if finished.whole:
            lines.append(f"  {shortened(call.name)}")
    return lines


def _fields(*pairs: tuple[str, str]) -> list[str]:
    return [f"{f'{label}: '.ljust(LABEL_WIDTH)}{one_line(value)}" for label, value in pairs if value]


def _indented(text: str) -> list[str]:
    return [f"  {line}".rstrip() for line in text.splitlines()]


def _pairs(labels: dict[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in sorted(labels.items()))
