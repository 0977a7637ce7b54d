"""What must hold of notifications: whoever wants to know is told at least once, under one id, and in order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING

from schemas.dead_letters import DeadLetter
from schemas.notifications import (
    Notification,
    NotificationDelivered,
    NotificationFailed,
    NotificationPending,
    decode_notification,
)
from schemas.subjects import TaskSubjects
from schemas.task import Cancelled, Failed, FinalAnswer, decode_state
from schemas.wire import decode

if TYPE_CHECKING:
    from services.runtime.ports import Entry
    from tests.chaos.simulated.history import Told
    from tests.chaos.simulated.world import World

Records = list[tuple["Entry", Notification]]


def check_notifications(world: World) -> Iterator[str]:
    """What is wrong with the notifications of a world."""
    letters = _letters(world)
    told: dict[str, list[Told]] = defaultdict(list)
    for one in world.history.told:
        told[one.id].append(one)
    for task in list(world.history.by_task):
        records = _records(world, task)
        yield from _wanted(world, task, records)
        for id_, versions in records.items():
            yield from _came_to_its_end(world, id_, versions, told.pop(id_, []), letters)
        yield from _in_order(world, records)
    for id_, surplus in told.items():
        yield f"nobody wanted notification {id_}, and {surplus[0].url} was told {len(surplus)} times"


def is_about_a_notification(entry: Entry) -> bool:
    """Whether a dead letter is what is left of a notification that nobody could be told."""
    if ".letter." not in entry.subject:
        return False
    letter = decode(entry.data, DeadLetter)
    return ".timer.notify.fire." in letter.subject and letter.reason == "undelivered"


def _wanted(world: World, task: TaskSubjects, records: dict[str, Records]) -> Iterator[str]:
    """One notification for each receiver that an end has."""
    states = [decode_state(entry.data) for entry in world.history.of(task, task.state)]
    ended = next((one for one in states if isinstance(one, FinalAnswer | Failed | Cancelled)), None)
    wanted = [("Subscription", name) for name in ended.subscriptions] if ended is not None else []
    if ended is not None and ended.response_url:
        wanted.append(("responseURL", ""))
    found = sorted((versions[0][1].receiver, versions[0][1].name) for versions in records.values())
    if found != sorted(wanted):
        yield f"{task.task}: to be told were {sorted(wanted)}, and notifications are there for {found}"


def _came_to_its_end(
    world: World, id_: str, versions: Records, told: list[Told], letters: dict[int, DeadLetter]
) -> Iterator[str]:
    last = versions[-1][1]
    what = f"notification {id_} of {last.task} to {last.receiver} {last.name}"
    if len({one.body for one in told}) > 1:
        yield f"{what} says something else when it is said again"
    if any(not isinstance(one, NotificationPending) for _, one in versions[:-1]):
        yield f"{what} went on after its end"
    if isinstance(last, NotificationPending):
        if last.task not in world.removed:
            yield f"{what} has not come to its end: {last}"
    elif isinstance(last, NotificationDelivered) and not any(one.taken for one in told):
        yield f"{what} is delivered, and nobody received it"
    elif isinstance(last, NotificationFailed) and last.letter_seq and last.letter_seq not in letters:
        yield f"{what} failed without a dead letter: {last}"
    elif isinstance(last, NotificationFailed) and not last.letter_seq and "was removed" not in last.error:
        yield f"{what} was not wanted any more: {last}"


def _in_order(world: World, records: dict[str, Records]) -> Iterator[str]:
    """On one way, each is tried when those before it are at their end, or when its own time is over."""
    for id_, versions in records.items():
        own = versions[0][1]
        assert isinstance(own, NotificationPending)
        before = [
            others for others in records.values() if others[0][1].lane == own.lane and others[0][1].place < own.place
        ]
        in_time = own.give_up_at - timedelta(seconds=2 * world.scenario.skew_s)
        for tried in (one for one in world.history.told if one.id == id_ and one.at < in_time):
            for others in before:
                entry, last = others[-1]
                if isinstance(last, NotificationPending) or entry.at > tried.at:
                    yield f"notification {id_} of {own.task} was sent at {tried.at}, before {last.id}, which goes first"
                    break


def _records(world: World, task: TaskSubjects) -> dict[str, Records]:
    found: dict[str, Records] = defaultdict(list)
    for entry in world.history.of(task, task.notifications):
        found[entry.subject.rpartition(".")[2]].append((entry, decode_notification(entry.data)))
    return found


def _letters(world: World) -> dict[int, DeadLetter]:
    found: dict[int, DeadLetter] = {}
    for stream, entry in world.history.stored:
        if stream == world.server.dead_letters.name and is_about_a_notification(entry):
            letter = decode(entry.data, DeadLetter)
            found[letter.seq] = letter
    return found
