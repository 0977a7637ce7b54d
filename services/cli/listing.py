"""What `get` shows: one item per resource, task or tool call, with a cell for each column and the whole document."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec

from schemas.events import ModelAnswered, TaskSubmitted, ToolOutput
from schemas.resources import (
    LLM,
    Agent,
    ContactChannel,
    Grant,
    MCPServer,
    Quota,
    Subscription,
    SubscriptionSpec,
    Toolset,
    ToolsetSpec,
)
from schemas.subjects import PREFIX, TaskSubjects, task_of
from schemas.task import AwaitingTools, Ended, FinalAnswer, State
from schemas.task_view import describe_state
from schemas.toolsets import toolset_tools
from schemas.wire import decode
from services.cli.client import Client, Declared, StoredTask
from services.cli.documents import Document, resource_document, status_text, task_document, toolcall_document
from services.cli.exits import ExitCode, Stop, not_found
from services.cli.history import Recorded, decoded, history, messages_of, steps
from services.cli.kinds import KindInfo
from services.cli.text import age, money, one_line, stamp, yes
from services.cli.toolcalls import ToolCallView, parse_name, toolcalls

READ_AT_ONCE = 256
CELL_WIDTH = 50
"""Characters of free text in a table's cell."""


class Shown(msgspec.Struct, frozen=True):
    """One line of a table, or one document."""

    kind: str
    namespace: str
    name: str
    cells: tuple[str, ...]
    """After the name, one for each column of the kind."""
    document: Document


async def list_kind(
    client: Client, info: KindInfo, namespace: str | None, now: datetime, *, thread: str = ""
) -> list[Shown]:
    """Everything of a kind; in every namespace when none is given. `thread`: of tasks, only those of this thread."""
    match info.kind:
        case "Task":
            tasks = [one for one in await client.tasks(namespace) if not thread or _is_in(one.state, thread)]
            outputs = await _outputs(client, tasks)
            return [
                _task(task, output, now, task_document(task.state, task.revision, output))
                for task, output in zip(tasks, outputs, strict=True)
            ]
        case "ToolCall":
            return [_toolcall(call, now) for call in await all_toolcalls(client, namespace)]
        case _:
            return [_resource(declared, info) for declared in await client.resources(info.kind, namespace)]


def _is_in(state: State, thread: str) -> bool:
    """Whether a task is in a thread, by its id or its first task."""
    return thread in (state.thread_id, state.thread or state.task)


async def find(client: Client, info: KindInfo, namespace: str, name: str, now: datetime) -> Shown:
    """One resource, task or tool call by name, as fully as it is known; the command ends when there is none."""
    match info.kind:
        case "Task":
            return await _find_task(client, namespace, name, now)
        case "ToolCall":
            return _toolcall(await find_toolcall(client, namespace, name), now)
        case _:
            declared = await client.resource(info.kind, namespace, name)
            if declared is None:
                raise not_found(info.kind, namespace, name)
            return _resource(declared, info)


class TaskDetails(msgspec.Struct, frozen=True):
    """Everything that is known about a task."""

    task: TaskSubjects
    stored: StoredTask
    records: tuple[Recorded, ...]
    spec: TaskSubmitted | None
    calls: tuple[ToolCallView, ...]
    output: str | None

    @property
    def state(self) -> State:
        """The state."""
        return self.stored.state


async def details(client: Client, namespace: str, name: str) -> TaskDetails:
    """Everything about a task; the command ends when there is none."""
    task = client.subjects_of(namespace, name)
    stored = await client.existing_task(namespace, name)
    records = await history(client.log_of(task), task)
    spec = next((record.fact for record in records if isinstance(record.fact, TaskSubmitted)), None)
    calls = toolcalls(namespace, name, stored.state.window, records)
    return TaskDetails(task, stored, tuple(records), spec, tuple(calls), output_of(stored.state, records))


def output_of(state: State, records: Sequence[Recorded]) -> str | None:
    """The final answer, if there is one."""
    if not isinstance(state, FinalAnswer):
        return None
    return next(
        (r.fact.message.content for r in records if r.seq == state.window[-1] and isinstance(r.fact, ModelAnswered)),
        None,
    )


async def find_toolcall(client: Client, namespace: str, name: str) -> ToolCallView:
    """A tool call by its name; the command ends when there is none."""
    parts = parse_name(name)
    if parts is None:
        raise Stop(f"{name!r} is not a tool call: its name is <task>-r<turn>-tc-<number>", ExitCode.NOT_FOUND)
    stored = await client.task(namespace, parts.task)
    if stored is not None:
        for call in (await details(client, namespace, parts.task)).calls:
            if call.name == name:
                return call
    raise not_found("ToolCall", namespace, name)


async def whole_output(client: Client, namespace: str, name: str) -> str:
    """The result of a tool call before it was shortened for the model; the command ends when there is none yet."""
    call = await find_toolcall(client, namespace, name)
    if call.finished is None:
        raise Stop(f"tool call {name} has no result yet; it is {call.phase}", ExitCode.NOT_FOUND)
    if not call.finished.whole:
        return call.finished.content
    task = client.subjects_of(namespace, call.task)
    entry = await client.log_of(task).get(task.tool_output(call.request, call.n))
    if entry is None:
        raise Stop(f"the whole output of {name} is not stored any more; `get` shows what is left", ExitCode.NOT_FOUND)
    return decode(entry.data, ToolOutput).content


async def all_toolcalls(client: Client, namespace: str | None) -> list[ToolCallView]:
    """The tool calls of all tasks: those of the newest task first."""
    records: dict[TaskSubjects, list[Recorded]] = {}
    for partition in range(client.bus.partitions):
        root = f"{PREFIX}.{partition}.{namespace or '*'}"
        events = [f"{root}.evt.*.{what}.>" for what in ("llm", "tool", "approval")]
        filters = [*events, f"{root}.cmd.ask.>", f"{root}.led.>"]
        for recorded in decoded(await client.bus.log(partition).last(filters)):
            records.setdefault(task_of(recorded.subject), []).append(recorded)
    found: list[ToolCallView] = []
    for stored in await client.tasks(namespace):
        task = client.subjects_of(stored.state.namespace, stored.state.task)
        found += toolcalls(task.namespace, task.task, stored.state.window, records.get(task, []))
    return found


async def _outputs(client: Client, tasks: Sequence[StoredTask]) -> list[str | None]:
    """The final answers of tasks, read together."""
    seqs: dict[int, list[int]] = {}
    for stored in tasks:
        if isinstance(stored.state, FinalAnswer):
            partition = client.subjects_of(stored.state.namespace, stored.state.task).partition
            seqs.setdefault(partition, []).append(stored.state.window[-1])
    answers: dict[tuple[str, int], str] = {}
    for partition, wanted in seqs.items():
        for start in range(0, len(wanted), READ_AT_ONCE):
            try:
                records = decoded(await client.bus.log(partition).read(wanted[start : start + READ_AT_ONCE]))
            except LookupError:
                continue  # a task was removed meanwhile
            for record in records:
                if isinstance(record.fact, ModelAnswered):
                    answers[task_of(record.subject).task, record.seq] = record.fact.message.content
    return [
        answers.get((task.state.task, task.state.window[-1])) if isinstance(task.state, FinalAnswer) else None
        for task in tasks
    ]


async def _find_task(client: Client, namespace: str, name: str, now: datetime) -> Shown:
    known = await details(client, namespace, name)
    messages = messages_of(await steps(client.log_of(known.task), known.state.window))
    document = task_document(
        known.state,
        known.stored.revision,
        known.output,
        spec=known.spec.spec if known.spec else None,
        messages=messages,
        calls=known.calls,
    )
    return _task(known.stored, known.output, now, document)


def _resource(declared: Declared, info: KindInfo) -> Shown:
    ready, status, detail = status_text(declared, info)
    resource = declared.resource
    cells: tuple[str, ...]
    match resource:
        case LLM(spec=spec):
            cells = (spec.provider, spec.parameters.model or "", yes(ready), status, detail)
        case MCPServer(spec=spec):
            tools = "" if declared.status is None else str(len(declared.status.tools))
            cells = (yes(ready), status, tools, spec.transport, detail)
        case ContactChannel(spec=spec):
            cells = (spec.type, yes(ready), status, detail)
        case Toolset(spec=spec):
            cells = (yes(ready), status, toolset_type(spec), str(len(toolset_tools(spec))), detail)
        case Quota(spec=spec):
            cost = "" if spec.max_cost_per_day is None else money(spec.max_cost_per_day)
            counts = (spec.requests_per_minute, spec.tokens_per_minute, spec.max_tokens_per_day)
            cells = (*("" if one is None else str(one) for one in counts), cost, spec.when_spent, str(spec.weight))
        case Grant(spec=spec):
            arguments = one_line(spec.arguments or "any", CELL_WIDTH)
            cells = (spec.agent, spec.tool, arguments, spec.by, spec.via, spec.task)
        case Subscription(spec=spec):
            cells = (sink_type(spec), ", ".join(spec.events), yes(ready), status, detail)
        case Agent(spec=spec):
            cells = (yes(ready), status, spec.llm_ref.name, detail)
    metadata = resource.metadata
    return Shown(info.kind, metadata.namespace, metadata.name, cells, resource_document(declared, info))


def sink_type(spec: SubscriptionSpec) -> str:
    """How a subscription tells somebody."""
    sinks = (("webhook", spec.webhook), ("slack", spec.slack), ("email", spec.email))
    return next(name for name, given in sinks if given is not None)


def toolset_type(spec: ToolsetSpec) -> str:
    """What kind of tools a toolset has."""
    options = (("shell", spec.shell), ("http", spec.http), ("files", spec.files), ("commands", spec.commands or None))
    return ",".join(name for name, given in options if given is not None)


def _task(stored: StoredTask, output: str | None, now: datetime, document: Document) -> Shown:
    state = stored.state
    view = describe_state(state)
    detail = view.status_detail
    if isinstance(state, AwaitingTools):
        detail = f"{detail}: {', '.join(call.tool for call in state.calls)}"
    cells = (
        state.agent,
        yes(view.ready),
        view.status,
        one_line(detail),
        view.phase,
        one_line(state.preview, CELL_WIDTH),
        one_line(output or "", CELL_WIDTH),
        one_line(view.error),
        one_line(state.thread_id or state.thread, CELL_WIDTH),
        stamp(state.created_at),
        stamp(state.ended_at) if isinstance(state, Ended) else "",
        age(state.created_at, now),
    )
    return Shown("Task", state.namespace, state.task, cells, document)


def _toolcall(call: ToolCallView, now: datetime) -> Shown:
    finished = call.finished
    failed = finished is not None and finished.outcome != "succeeded"
    cells = (
        call.phase,
        call.task,
        call.tool,
        one_line(call.arguments, CELL_WIDTH),
        stamp(call.started_at),
        stamp(finished.at) if finished else "",
        one_line(finished.content, CELL_WIDTH) if finished and failed else "",
        age(call.started_at, now),
    )
    return Shown("ToolCall", call.namespace, call.name, cells, toolcall_document(call))
