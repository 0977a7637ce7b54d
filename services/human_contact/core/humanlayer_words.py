"""Questions and answers in the words of the HumanLayer API. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from schemas.ids import digest
from schemas.interactions import AnswerInteraction, InteractionRequested
from services.human_contact.core.questions import asking

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
        spec = {"msg": asked.message}
        if subject:
            spec["subject"] = subject
        if asked.choices:
            spec["response_options"] = [{"name": choice} for choice in asked.choices]
    if channel is not None:
        spec["channel"] = channel
    return spec


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
    chosen = _chosen(asked, decision, text)
    if chosen:
        return msgspec.structs.replace(answer, content={"answer": chosen}, comment="")
    return msgspec.structs.replace(answer, action="decline", comment=text)


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
