"""Full examples of what has a thread's id, and of channels through which people go on in threads."""

from __future__ import annotations

from typing import Any

import msgspec

from schemas.events import TaskFollowed, TaskRemoving, TaskSubmitted, ThreadBegun
from schemas.requests import SendMessage, SubmitTask
from schemas.resources import ContactChannel
from schemas.task import TaskHeader
from tests.support.wire_first import FIRST
from tests.support.wire_notifications import NOTIFICATIONS
from tests.support.wire_people import PEOPLE
from tests.support.wire_second import SECOND

_ID = "1700000000.000100"
_NEWEST: dict[type[msgspec.Struct], Any] = {
    type(value): value for release in (FIRST, SECOND, NOTIFICATIONS, PEOPLE) for value in release
}
_SUBMITTED: TaskSubmitted = msgspec.structs.replace(
    _NEWEST[TaskSubmitted], spec=msgspec.structs.replace(_NEWEST[TaskSubmitted].spec, thread_id=_ID)
)
_CHANNEL: ContactChannel = _NEWEST[ContactChannel]

THREADS: tuple[msgspec.Struct, ...] = (
    _SUBMITTED,
    TaskFollowed(submitted=_SUBMITTED),
    ThreadBegun(submitted=_SUBMITTED),
    TaskRemoving(),
    *(
        msgspec.structs.replace(value, thread_id=_ID)
        for value in _NEWEST.values()
        if isinstance(value, TaskHeader | SubmitTask)
    ),
    SendMessage(task="helper-task-abc", thread=_ID, message="And in UTC?", by="ada"),
    msgspec.structs.replace(_CHANNEL, spec=msgspec.structs.replace(_CHANNEL.spec, continue_threads=True)),
)
"""What the messages look like with the ids of threads."""
