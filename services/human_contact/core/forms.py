"""From a form that somebody sent to an answer. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from schemas.events import ApprovalScope
from schemas.interactions import AnsweredVia, AnswerInteraction, InteractionAction, InteractionRequested
from services.human_contact.core.elicitations import JSON_FIELD, Field, Misfit, content_of, content_of_text, form_of
from services.human_contact.core.tokens import LinkAction

SCOPES: dict[str, ApprovalScope] = {"once": "once", "task": "task", "arguments": "arguments", "tool": "tool"}


class BadForm(ValueError):
    """A form that answers nothing. The text is for whoever filled it in."""


class Answerer(msgspec.Struct, frozen=True):
    """Who answers, and through what."""

    by: str
    via: AnsweredVia
    digest: str


def form_answer(
    asked: InteractionRequested, action: LinkAction, who: Answerer, fields: Mapping[str, str]
) -> AnswerInteraction:
    """The answer that a form gives; raises `BadForm`."""
    wanted = "accept" if "choice" in fields else fields.get("action", "")
    if wanted not in ("accept", "edit", "decline"):
        raise BadForm("Use one of the buttons.")
    if action and action != ("decline" if wanted == "decline" else "accept"):
        raise BadForm("This link is for another answer: use the other one.")
    if wanted == "decline":
        return answer(asked, who, "decline", comment=_plain(fields.get("comment", "")))
    if asked.kind == "uncertain":
        return answer(asked, who, "accept")
    if asked.kind == "elicitation":
        return answer(asked, who, "accept", content=_filled_in(asked, fields))
    if asked.kind != "approval":
        return answer(asked, who, "accept", content={"answer": _chosen(asked, fields)})
    scope = SCOPES.get(fields.get("scope", "once"))
    if scope is None:
        raise BadForm("Choose what the approval is for.")
    arguments = edited(asked, fields.get("arguments", "")) if wanted == "edit" else ""
    return answer(asked, who, "accept", scope=scope, arguments=arguments)


def answer(
    asked: InteractionRequested,
    who: Answerer,
    action: InteractionAction,
    *,
    content: dict[str, Any] | None = None,
    scope: ApprovalScope = "once",
    arguments: str = "",
    comment: str = "",
) -> AnswerInteraction:
    """An answer to what was asked."""
    return AnswerInteraction(
        task=asked.task,
        interaction=asked.interaction,
        action=action,
        content=content,
        by=who.by,
        via=who.via,
        scope=scope,
        arguments=arguments,
        comment=comment,
        digest=who.digest,
    )


def edited(asked: InteractionRequested, text: str) -> str:
    """Other arguments, checked; empty if they are those that were shown. Raises `BadForm`."""
    text = _plain(text)
    if text == asked.arguments.strip():
        return ""
    try:
        value: Any = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadForm(f"The arguments are not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise BadForm("The arguments must be a JSON object.")
    return text


def _filled_in(asked: InteractionRequested, fields: Mapping[str, str]) -> dict[str, Any] | None:
    """The content of a form; None where there is none to fill in."""
    if asked.schema is None:
        return None
    form = form_of(asked.schema)
    try:
        if form is None:
            return content_of_text(fields.get(JSON_FIELD, ""))
        return content_of(form, {n: _said(field, f"f{n}", fields) for n, field in enumerate(form)})
    except Misfit as misfit:
        raise BadForm(str(misfit)) from misfit


def _said(field: Field, name: str, fields: Mapping[str, str]) -> str | list[int]:
    if field.kind == "choices":
        return [n for n in range(len(field.choices)) if f"{name}.{n}" in fields]
    text = fields.get(name, "")
    if field.kind == "choice":
        return [int(text[:4])] if text.isdecimal() else []
    return _plain(text)


def _chosen(asked: InteractionRequested, fields: Mapping[str, str]) -> str:
    if not asked.choices:
        return _plain(fields.get("answer", ""))
    choice = fields.get("choice", "")
    if not choice.isdecimal() or int(choice[:4]) >= len(asked.choices):
        raise BadForm("Choose one of the answers.")
    return asked.choices[int(choice[:4])]


def _plain(text: str) -> str:
    return text.replace("\r\n", "\n").strip()
