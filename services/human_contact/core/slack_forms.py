"""A server's form as a window of Slack's, one input for each field, and what was filled in. Pure.

Blocks are named by the number of their field, and choices by theirs: nothing that a stranger chose comes back as a
name.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any, Protocol

from schemas.interactions import InteractionRequested
from schemas.visible import visible
from services.human_contact.core.elicitations import (
    NO_SECRETS,
    Field,
    content_of,
    content_of_text,
    described,
    form_of,
    server_line,
)
from services.human_contact.core.words import line

LABEL_MAX = 1_900
OPTION_MAX = 75
TEXT_MAX = 3_000
NO_FORM = "text"
"""The block and action of the one input where there is no form."""
INPUTS = {"email": "email_text_input", "uri": "url_text_input", "date": "datepicker"}
"""Inputs of Slack's for formats that it knows."""

Block = dict[str, Any]


class Input(Protocol):
    """What was filled in, of one input: which of these there is depends on its kind."""

    @property
    def text(self) -> str:
        """What was typed, or the date that was picked."""
        ...

    @property
    def options(self) -> list[str]:
        """The values of what was chosen."""
        ...


def form_blocks(asked: InteractionRequested) -> list[Block]:
    """The inputs of a form, below what people should know before they fill it in."""
    fields = form_of(asked.schema or {})
    notes = [_section(server_line(asked)), _section(visible(asked.message)[:TEXT_MAX]), _section(NO_SECRETS)]
    if fields is not None:
        return [*notes, *(_block(n, field) for n, field in enumerate(fields))]
    box = {"type": "plain_text_input", "action_id": NO_FORM, "multiline": True, "max_length": TEXT_MAX}
    return [*notes, _input(NO_FORM, "A JSON object", described(asked), box, optional=False)]


def filled_in(asked: InteractionRequested, values: Mapping[str, Input]) -> dict[str, Any]:
    """The content that was filled in, by the names of the blocks; raises `Misfit`."""
    fields = form_of(asked.schema or {})
    if fields is None:
        return content_of_text(values[NO_FORM].text if NO_FORM in values else "")
    given = {n: _said(field, values[name]) for n, field in enumerate(fields) if (name := f"f{n}") in values}
    return content_of(fields, given)


def block_names(asked: InteractionRequested) -> list[str]:
    """The names of a form's inputs, in their order."""
    fields = form_of(asked.schema or {})
    return [NO_FORM] if fields is None else [f"f{n}" for n in range(len(fields))]


def has_window(asked: InteractionRequested) -> bool:
    """Whether there is anything to fill in."""
    return asked.schema is not None and bool(block_names(asked))


def _said(field: Field, given: Input) -> str | list[int]:
    return [int(one[:4]) for one in given.options if one.isdecimal()] if field.choices else given.text


def _block(n: int, field: Field) -> Block:
    return _input(f"f{n}", field.label, field.help, _element(f"f{n}", field), optional=not field.required)


def _element(name: str, field: Field) -> Block:
    if field.choices:
        options = [
            {"text": {"type": "plain_text", "text": line(choice.label, OPTION_MAX) or "-"}, "value": str(at)}
            for at, choice in enumerate(field.choices)
        ]
        return _select(name, field, options)
    text = visible(field.default_text())
    start = {"initial_value": text} if 0 < len(text) <= TEXT_MAX else {}
    if field.kind != "text":
        decimal = {"is_decimal_allowed": field.kind == "number"}
        return {"type": "number_input", "action_id": name, **decimal, **(start if _is_number(text) else {})}
    kind = INPUTS.get(field.format, "plain_text_input")
    if kind == "datepicker":
        return {"type": kind, "action_id": name, **({"initial_date": text} if _is_date(text) else {})}
    return {
        "type": kind,
        "action_id": name,
        **start,
        **({"max_length": TEXT_MAX} if kind == "plain_text_input" else {}),
    }


def _select(name: str, field: Field, options: list[Block]) -> Block:
    chosen: Any = field.default
    if field.kind == "choices":
        defaults: list[Any] = chosen if isinstance(chosen, list) else []  # pyright: ignore[reportUnknownVariableType] - any JSON
        on = [one for choice, one in zip(field.choices, options, strict=True) if choice.value in defaults]
        start: Block = {"initial_options": on} if on else {}
        return {"type": "multi_static_select", "action_id": name, "options": options, **start}
    on = [
        one for choice, one in zip(field.choices, options, strict=True) if chosen is not None and choice.value == chosen
    ]
    start = {"initial_option": on[0]} if on else {}
    return {"type": "static_select", "action_id": name, "options": options, **start}


def _input(name: str, label: str, hint: str, element: Block, *, optional: bool) -> Block:
    block: Block = {
        "type": "input",
        "block_id": name,
        "optional": optional,
        "label": {"type": "plain_text", "text": line(label, LABEL_MAX) or "-", "emoji": False},
        "element": element,
    }
    if hint:
        block["hint"] = {"type": "plain_text", "text": line(hint, LABEL_MAX) or "-", "emoji": False}
    return block


def _section(text: str) -> Block:
    return {"type": "section", "text": {"type": "plain_text", "text": text[:TEXT_MAX] or "-", "emoji": False}}


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_date(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True
