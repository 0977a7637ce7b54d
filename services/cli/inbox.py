"""What people are asked and have not answered yet: found on the bus, and told in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, assert_never

import msgspec

from schemas import subjects
from schemas.interactions import AnswerInteraction, InteractionRequested, parse_interaction_id
from schemas.task import Terminal
from schemas.wire import Malformed, decode
from services.cli.exits import ExitCode, Stop
from services.cli.text import one_line, safe, seconds_text

if TYPE_CHECKING:
    from datetime import datetime

    from services.cli.client import Client

COLUMNS = ("TASK", "INTERACTION", "KIND", "FROM", "EXPIRES IN", "MESSAGE")
NEVER_S = 5 * 365 * 86_400
YES = ("yes", "y")
"""What accepts where nothing is to be filled in."""


async def open_interactions(client: Client, namespace: str | None) -> list[InteractionRequested]:
    """What can still be answered, what expires first before the others; of every namespace when none is given."""
    now = client.bus.clock.now()
    found: list[InteractionRequested] = []
    for partition in range(client.bus.partitions):
        entries = await client.bus.log(partition).last([subjects.all_interactions(partition, namespace or "*")])
        answered = {entry.subject for entry in entries if entry.subject.endswith(".answered")}
        for entry in entries:
            place, _, what = entry.subject.rpartition(".")
            if what == "asked" and f"{place}.answered" not in answered:
                try:
                    found.append(decode(entry.data, InteractionRequested))
                except Malformed:
                    continue  # written by a newer version
    found = [one for one in found if one.expires > now]
    if found:
        ended = {
            (stored.state.namespace, stored.state.task)
            for stored in await client.tasks(namespace)
            if isinstance(stored.state, Terminal)
        }
        found = [one for one in found if (one.namespace, one.task) not in ended]
    return sorted(found, key=lambda one: (one.expires, one.task, one.interaction))


async def interaction(client: Client, namespace: str, task: str, id_: str) -> InteractionRequested:
    """An interaction, whether or not it is open; the command ends when there is none."""
    place = client.subjects_of(namespace, task)
    try:
        which = parse_interaction_id(id_)
    except ValueError as error:
        raise Stop(str(error), ExitCode.USAGE) from error
    entry = await client.log_of(place).get(place.interaction_asked(*which))
    if entry is None:
        raise Stop(f"task {task!r} has no interaction {id_}; `holdfast inbox` lists them", ExitCode.NOT_FOUND)
    return decode(entry.data, InteractionRequested)


def row(asked: InteractionRequested, now: datetime) -> tuple[str, ...]:
    """Its line in the list."""
    left = _left(asked, now)
    who = asked.server or asked.agent
    message = asked.message if asked.kind != "approval" else f"{asked.tool} {asked.arguments}"
    return (asked.task, asked.interaction, asked.kind, safe(who), left, one_line(message))


def text_of(asked: InteractionRequested, now: datetime) -> str:
    """All of it, for whoever wants to answer."""
    left = _left(asked, now)
    lines = [
        f"{asked.task} {asked.interaction} ({asked.kind}), expires in {left}",
        f"Agent {safe(asked.agent)} called {safe(asked.tool)}"
        + (f"; MCP server {safe(asked.server)} asks:" if asked.server else ":"),
        *(f"  {safe(line)}" for line in asked.message.splitlines()),
    ]
    if asked.url:
        lines += ["It wants you to go to this page; look at the address before you do:", f"  {safe(asked.url)}"]
    if asked.title:
        lines += [f"The task: {safe(asked.title)}"]
    if asked.arguments:
        lines += ["With these arguments:", f"  {safe(asked.arguments)}"]
    if asked.choices:
        lines += [f"Choose one of: {', '.join(map(safe, asked.choices))}"]
    if asked.schema is not None:
        lines += _fields(asked.schema)
    return "\n".join([*lines, f"Answer: {_how(asked)}"])


def _how(asked: InteractionRequested) -> str:
    where = f"{asked.task} {asked.interaction}"
    match asked.kind:
        case "approval":
            return f"holdfast approve {where} | holdfast reject {where} -m 'why'"
        case "question":
            return f'holdfast answer {where} --accept \'{{"answer": "..."}}\' | --decline'
        case "elicitation":
            example = "--accept '{...}'" if asked.schema is not None else "--accept yes"
            return f"holdfast answer {where} {example} | --decline"
        case _:
            assert_never(asked.kind)


def _left(asked: InteractionRequested, now: datetime) -> str:
    """How long somebody has to answer; a question of a task without a deadline waits for years."""
    left_s = (asked.expires - now).total_seconds()
    return seconds_text(left_s) if left_s < NEVER_S else "(never)"


def answer_of(asked: InteractionRequested, *, accept: str | None, comment: str, by: str) -> AnswerInteraction:
    """The request that answers, with no if there is no `accept`; the command ends if that is no JSON object."""
    content: dict[str, Any] | None = None
    if accept is not None and not (accept.lower() in YES and asked.schema is None):
        try:
            content = msgspec.json.decode(accept, type=dict[str, Any])
        except msgspec.DecodeError as error:
            wanted = "a JSON object" if asked.schema is not None else "`yes`, or a JSON object"
            raise Stop(f"--accept must be {wanted}: {error}", ExitCode.USAGE) from error
    return AnswerInteraction(
        task=asked.task,
        interaction=asked.interaction,
        action="accept" if accept is not None else "decline",
        content=content,
        comment=comment,
        by=by,
        digest=asked.digest,
    )


class _Choice(msgspec.Struct):
    const: Any = None


class _Field(msgspec.Struct, rename="camel"):
    type: str = "any"
    title: str = ""
    description: str = ""
    enum: list[Any] = []
    one_of: list[_Choice] = []


class _Form(msgspec.Struct):
    properties: dict[str, _Field]
    required: list[str] = []


def _fields(schema: dict[str, Any]) -> list[str]:
    """What is to be filled in, by the schema's properties if they are as they should be."""
    try:
        form = msgspec.convert(schema, _Form)
    except msgspec.ValidationError:
        return [f"It wants a JSON object that fits {one_line(msgspec.json.encode(schema).decode(), 500)}"]
    return ["It wants:", *(f"  {_field(name, one, name in form.required)}" for name, one in form.properties.items())]


def _field(name: str, field: _Field, needed: bool) -> str:
    words = [safe(text) for text in (field.title, field.description) if text]
    if values := field.enum or [choice.const for choice in field.one_of]:
        words.append(f"one of {one_line(msgspec.json.encode(values).decode(), 300)}")
    head = f"{safe(name)} ({safe(field.type)}{', required' if needed else ''})"
    return f"{head}: {'; '.join(words)}" if words else head
