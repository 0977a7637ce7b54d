"""Questions and answers in the words of the HumanLayer API. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from schemas.ids import digest
from schemas.interactions import AnswerInteraction, InteractionRequested
from schemas.visible import visible
from services.human_contact.core.elicitations import (
    NO_SECRETS,
    Misfit,
    content_of_text,
    described,
    host_of,
    server_line,
)
from services.human_contact.core.questions import asking
from services.human_contact.core.words import buttons, facts

CALL_ID_LENGTH = 26
_IDS = ("id", "user_id", "slack_user_id", "slack_id", "email", "email_address")
"""Where the API says who answered; only what a person cannot choose at will."""
_NAMES = ("name", "display_name", "username")


class Decision(msgspec.Struct, frozen=True):
    """What the API says of an approval or a contact request; much of it may be missing."""

    approved: bool | None = None
    comment: str | None = None
    reject_option_name: str | None = None
    responded_at: str | None = None
    response: str | None = None
    response_option_name: str | None = None
    user_info: Any = None


class Call(msgspec.Struct, frozen=True):
    """An approval or a contact request, as the API gives it."""

    status: Decision | None = None


def call_id(asked: InteractionRequested, step: int) -> str:
    """The id of a question in the API: the same whenever it is sent."""
    place = (asked.namespace, asked.task, asked.interaction, str(step))
    return digest("humanlayer", *place, asking(asked))[:CALL_ID_LENGTH]


def spec_of(asked: InteractionRequested, channel: Mapping[str, Any] | None, subject: str) -> dict[str, Any]:
    """The `spec` of a question: an approval's, or a contact request's."""
    if asked.kind == "approval":
        spec: dict[str, Any] = {"fn": asked.tool, "kwargs": _kwargs(asked.arguments)}
    else:
        spec = {"msg": message_of(asked)}
        if subject:
            spec["subject"] = subject
        if names := options_of(asked):
            spec["response_options"] = [{"name": name} for name in names]
    if channel is not None:
        spec["channel"] = channel
    return spec


def options_of(asked: InteractionRequested) -> tuple[str, ...]:
    """The answers to choose from, if there are only some."""
    is_form = asked.kind == "elicitation" and asked.schema is not None
    return asked.choices if asked.kind == "question" or is_form else buttons(asked)


def message_of(asked: InteractionRequested) -> str:
    """A question as one text: the API has no forms, so what is to be filled in is described, and answered as JSON."""
    if asked.kind == "question":
        return asked.message
    parts = [f"{name}: {value}" for name, value in facts(asked)]
    if asked.kind == "uncertain":
        parts += ["", visible(asked.message), "", "Arguments:", visible(asked.arguments) or "(none)"]
        return "\n".join(parts)
    parts += ["", server_line(asked), visible(asked.message), ""]
    if asked.schema is None:
        parts += [f"It wants you to go to a page of {host_of(asked.url)}; look at the address:", visible(asked.url)]
    else:
        parts += [f"Answer with {described(asked)}", "Or answer with the one word: decline", NO_SECRETS]
    return "\n".join(parts)


def answer_of(asked: InteractionRequested, decision: Decision) -> AnswerInteraction | None:
    """What was answered; None if nobody has."""
    answer = AnswerInteraction(
        task=asked.task,
        interaction=asked.interaction,
        via="humanlayer",
        by=_who(asked, decision.user_info),
        digest=asked.digest,
        comment=decision.comment or "",
    )
    if asked.kind == "approval":
        if decision.approved is None:
            return None
        if decision.approved:
            return answer
        said = decision.comment or decision.reject_option_name or ""
        return msgspec.structs.replace(answer, action="decline", comment=said)
    if decision.responded_at is None:
        return None
    text = (decision.response or "").strip() or (decision.response_option_name or "").strip()
    if asked.kind == "elicitation" and asked.schema is not None:
        return _filled_in(answer, text)
    if asked.kind in ("elicitation", "uncertain"):
        return _decided(answer, asked, decision)
    chosen = _chosen(asked, decision, text)
    if chosen:
        return msgspec.structs.replace(answer, content={"answer": chosen}, comment="")
    return msgspec.structs.replace(answer, action="decline", comment=text)


def _decided(answer: AnswerInteraction, asked: InteractionRequested, decision: Decision) -> AnswerInteraction:
    """Yes, if that was chosen or said and nothing else; any other words are a no, with them as its comment."""
    yes, no = (name.casefold() for name in options_of(asked))
    option, text = (decision.response_option_name or "").strip(), (decision.response or "").strip()
    if (option or text).casefold() == yes:
        return msgspec.structs.replace(answer, comment=text if option and text.casefold() != yes else "")
    return msgspec.structs.replace(answer, action="decline", comment="" if text.casefold() == no else text)


def _filled_in(answer: AnswerInteraction, text: str) -> AnswerInteraction:
    """What was written as JSON; an answer that cannot be read is none, because the API takes no second one."""
    if text.casefold() == "decline":
        return msgspec.structs.replace(answer, action="decline", comment="")
    try:
        content = content_of_text(text)
    except Misfit as misfit:
        return msgspec.structs.replace(answer, action="cancel", comment=f"The answer could not be used: {misfit}")
    return msgspec.structs.replace(answer, content=content, comment="")


def _chosen(asked: InteractionRequested, decision: Decision, text: str) -> str:
    """The answer; empty if there is none, or it is none of those that were to choose from."""
    if not asked.choices:
        return text
    for said in (decision.response_option_name or "", text):
        for choice in asked.choices:
            if said.strip().casefold() == choice.strip().casefold():
                return choice
    return ""


def _kwargs(arguments: str) -> dict[str, Any]:
    try:
        value: Any = msgspec.json.decode(arguments or "{}")
    except (msgspec.DecodeError, RecursionError):
        return {"arguments": arguments}
    return value if isinstance(value, dict) else {"arguments": value}  # pyright: ignore[reportUnknownVariableType] - any JSON


def _who(asked: InteractionRequested, info: Any) -> str:
    """Who answered: the id of theirs that may answer, or any, or a name where anybody may."""
    ids = list(_found(info, _IDS))
    for one in ids:
        if one in asked.allowed:
            return one
    names = [] if asked.allowed else list(_found(info, _NAMES))
    return next(iter([*ids, *names]), "")


def _found(info: Any, keys: tuple[str, ...]) -> list[str]:
    """The texts under keys, here and one level down."""
    if not isinstance(info, dict):
        return []
    places: list[dict[str, Any]] = [info, *(value for value in info.values() if isinstance(value, dict))]  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] - any JSON
    values = (place.get(key) for key in keys for place in places)
    return [str(value) for value in values if isinstance(value, str | int) and str(value)]
