"""Who is asked about a call, and how those are woken who ask them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from schemas.contact_channels import allowed_of
from schemas.interactions import InteractionRequested, PeopleDue, parse_interaction_id
from schemas.resources import ContactChannel
from schemas.wire import encode
from services.runtime.ports import Outgoing
from services.runtime.telemetry.traces import trace_headers

if TYPE_CHECKING:
    from schemas.resources import Status
    from schemas.subjects import TaskSubjects
    from services.runtime.ports import Bus
    from services.runtime.resources import Resources


class Through(NamedTuple):
    """Who is asked."""

    channel: str = ""
    """Empty: whoever looks into the inbox."""
    allowed: tuple[str, ...] = ()
    quorum: int = 1


def through(resources: Resources, namespace: str, channel: str) -> Through | None:
    """Whom a channel reaches; None if it is not there, and so nobody can say who may answer."""
    if not channel:
        return Through()
    declared = resources.get(ContactChannel, namespace, channel)
    return Through(channel, allowed_of(declared.spec), max(declared.spec.quorum, 1)) if declared is not None else None


def channel_trouble(resources: Resources, namespace: str, channel: str) -> tuple[Status, str] | None:
    """What is said of whoever needs a channel that is not there, or not ready; None if it is."""
    if resources.known("ContactChannel", namespace, channel) is None:
        return "Error", f'Validation failed: ContactChannel "{channel}" not found'
    status = resources.status("ContactChannel", namespace, channel)
    return None if status is not None and status.ready else ("Pending", f'ContactChannel "{channel}" is not ready')


async def wake(bus: Bus, task: TaskSubjects, asked: InteractionRequested) -> None:
    """Have human-contact look at a question now. Once more does no harm. Raises `Unavailable`."""
    if not asked.channel:
        return
    which = parse_interaction_id(asked.interaction)
    due = PeopleDue(interaction=asked.interaction, due=asked.at)
    await bus.log(task.partition).record(Outgoing(task.look_command(*which), encode(due), trace_headers()))
