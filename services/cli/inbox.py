"""What people are asked and have not answered yet, and the requests that answer it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from schemas import subjects
from schemas.interactions import AnswerInteraction, InteractionRequested, parse_interaction_id
from schemas.task import Terminal
from schemas.visible import visible
from schemas.wire import Malformed, decode
from services.cli.exits import ExitCode, Stop
from services.cli.question_words import FORMS, left_text
from services.cli.text import one_line

if TYPE_CHECKING:
    from datetime import datetime

    from services.cli.client import Client

COLUMNS = ("TASK", "INTERACTION", "KIND", "FROM", "EXPIRES IN", "MESSAGE")
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
    left = left_text(asked.expires, now)
    who = asked.server or asked.agent
    message = asked.message if asked.kind in FORMS else f"{asked.tool} {asked.arguments}"
    return (asked.task, asked.interaction, asked.kind, one_line(visible(who)), left, one_line(visible(message)))


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
