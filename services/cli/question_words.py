"""What people are asked, and what became of it, in words for a terminal.

What is asked is a stranger's text. It is shown whole and exactly, but for the characters that are not seen or that
drive a terminal: those are written out. Each of its lines is indented, so that none can pass for one of ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from schemas.visible import visible
from services.cli.text import one_line, seconds_text, stamp

if TYPE_CHECKING:
    from datetime import datetime

    from schemas.interactions import InteractionAnswered, InteractionRequested, InteractionStep

NEVER_S = 5 * 365 * 86_400
"""A question of a task without a deadline waits for years; nobody needs to know for how many."""
ANSWER_WIDTH = 160


class Words(msgspec.Struct, frozen=True):
    """How people speak about a kind of question."""

    does: str
    """What its agent does, before the tool's name."""
    accept: str
    accepted: str
    decline: str
    declined: str


KINDS = {
    "approval": Words("wants to call", "approve this call", "approved", "reject it", "rejected"),
    "uncertain": Words(
        "called",
        "run the call again",
        "approved to run again",
        "leave it as it is",
        "left as it is",
    ),
    "question": Words("asks through", "answer", "answered", "say no", "declined"),
    "elicitation": Words("called", "answer", "answered", "say no", "declined"),
}
OTHER = Words("asks about", "accept", "accepted", "decline", "declined")
"""For a kind that this version does not know."""
FORMS = ("question", "elicitation")
"""The kinds whose answer is more than yes or no."""

SCOPES = {
    "task": "for the rest of the task",
    "arguments": "with these arguments, always",
    "tool": "always",
}
"""How far an approval goes beyond the call; each follows the tool's name."""


def words_of(asked: InteractionRequested) -> Words:
    """How people speak about this question."""
    return KINDS.get(asked.kind, OTHER)


def left_text(until: datetime, now: datetime) -> str:
    """How long somebody has to answer."""
    left_s = (until - now).total_seconds()
    return seconds_text(max(left_s, 0)) if left_s < NEVER_S else "(never)"


def name_of(asked: InteractionRequested) -> str:
    """A question in a few words: `r1.1.0 (box__remove)`."""
    return f"{asked.interaction} ({one_line(visible(asked.tool), ANSWER_WIDTH)})"


def text_of(asked: InteractionRequested, now: datetime, step: InteractionStep | None = None) -> str:
    """All of a question, and the commands that answer it; `step`: the channel that has it now."""
    lines = [
        f"{asked.task} {asked.interaction} ({asked.kind}){_until(asked, now, step)}",
        f"Agent {_line(asked.agent)} {words_of(asked).does} {_line(asked.tool)}{_asker(asked)}",
        *_indented(asked.message),
    ]
    if asked.url:
        lines += ["It wants you to go to this page; look at the address before you do:", *_indented(asked.url)]
    if asked.title:
        lines += [f"The task: {_line(asked.title)}"]
    if asked.arguments or asked.kind not in FORMS:
        lines += ["With these arguments:", *_indented(asked.arguments or "(none)")]
    if asked.choices:
        lines += [
            "Choose one of:",
            *(f"  {n}  {one_line(visible(choice))}" for n, choice in enumerate(asked.choices, start=1)),
        ]
    if asked.schema is not None:
        lines += _fields(asked.schema)
    if asked.allowed:
        lines += [f"Who may answer: {', '.join(map(_line, asked.allowed))}"]
    if asked.quorum > 1:
        lines += [f"{asked.quorum} different people have to accept; one who says no is enough"]
    return "\n".join([*lines, "Answer with one of:", *(f"  {command}" for command in commands_of(asked))])


def commands_of(asked: InteractionRequested) -> tuple[str, ...]:
    """The commands that answer a question, ready to be copied. No word of them is a stranger's."""
    where = f"{asked.task} {asked.interaction}{'' if asked.namespace == 'default' else f' -n {asked.namespace}'}"
    if asked.kind not in FORMS:
        return (f"holdfast approve {where}", f'holdfast reject {where} -m "why"')
    if asked.kind == "question":
        example = """'{"answer": "..."}'"""
    else:
        example = "'{...}'" if asked.schema is not None else "yes"
    return (f"holdfast answer {where} --accept {example}", f"holdfast answer {where} --decline")


def outcome_text(asked: InteractionRequested, answered: InteractionAnswered | None) -> str:
    """What became of a question, in a line; None: its task ended first."""
    what = name_of(asked)
    if answered is None:
        return f"{what} is over: its task has ended"
    words = words_of(asked)
    comment = f": {_line(answered.comment)}" if answered.comment else ""
    became = {"accept": words.accepted, "decline": words.declined, "cancel": "not answered"}[answered.action]
    if answered.via == "expired":
        return f"{what} had no answer in time and was {became}{comment}"
    if answered.via == "withdrawn":
        return f"{what} was withdrawn{comment or ': nobody waits for an answer any more'}"
    who = f" by {_line(answered.by)}" if answered.by else ""
    through = "on the bus" if answered.via == "request" else f"through {answered.via}"
    more = f", {SCOPES[answered.scope]}" if answered.scope in SCOPES else ""
    if answered.arguments:
        more += f", with other arguments: {_line(answered.arguments)}"
    if answered.content is not None:
        more += f", {_line(msgspec.json.encode(answered.content).decode())}"
    return f"{what} was {became}{who} {through}{more}{comment}"


def passed_text(asked: InteractionRequested, step: InteractionStep, now: datetime) -> str:
    """Which channel has a question now, in a line."""
    until = f", which has until {stamp(step.until)} ({left_text(step.until, now)})" if step.until is not None else ""
    return f"{name_of(asked)} is with {_line(step.channel)} now{until}"


def _until(asked: InteractionRequested, now: datetime, step: InteractionStep | None) -> str:
    channel = step.channel if step is not None else asked.channel
    until = step.until if step is not None and step.until is not None else asked.expires
    left = left_text(until, now)
    when = f" ({stamp(until)})" if left != "(never)" else ""
    return f"{f' through {_line(channel)}' if channel else ''}, expires in {left}{when}"


def _asker(asked: InteractionRequested) -> str:
    if asked.kind == "elicitation" and asked.server:
        return f"; MCP server {_line(asked.server)} asks:"
    if asked.kind == "approval" and asked.message:
        return ". In the model's words:"
    return ":" if asked.message else "."


def _line(text: str) -> str:
    return one_line(visible(text), ANSWER_WIDTH)


def _indented(text: str) -> list[str]:
    return [f"  {line}" for line in visible(text).split("\n")] if text else []


# --- forms ------------------------------------------------------------------------------


class Choice(msgspec.Struct):
    """One of the values that a field may have."""

    const: Any = None


class Field(msgspec.Struct, rename="camel"):
    """What is to be filled in."""

    type: str = "any"
    title: str = ""
    description: str = ""
    enum: list[Any] = []
    one_of: list[Choice] = []

    @property
    def values(self) -> list[Any]:
        """The values to choose from, if there are only some."""
        return self.enum or [choice.const for choice in self.one_of]


class Form(msgspec.Struct):
    """The fields of an object."""

    properties: dict[str, Field]
    required: list[str] = []


def form_of(schema: dict[str, Any]) -> Form | None:
    """The form that a schema describes, if its properties are as they should be."""
    try:
        return msgspec.convert(schema, Form)
    except msgspec.ValidationError:
        return None


def field_text(name: str, field: Field, *, needed: bool) -> str:
    """A field, what is wanted of it, and whether it must be filled in."""
    words = [_line(text) for text in (field.title, field.description) if text]
    if values := field.values:
        words.append(f"one of {one_line(visible(msgspec.json.encode(values).decode()), 300)}")
    head = f"{_line(name)} ({_line(field.type)}{', required' if needed else ''})"
    return f"{head}: {'; '.join(words)}" if words else head


def _fields(schema: dict[str, Any]) -> list[str]:
    form = form_of(schema)
    if form is None:
        text = visible(msgspec.json.encode(schema).decode())
        return [f"It wants a JSON object that fits {one_line(text, 500)}"]
    fields = form.properties.items()
    return ["It wants:", *(f"  {field_text(name, field, needed=name in form.required)}" for name, field in fields)]
