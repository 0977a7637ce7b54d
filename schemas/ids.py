"""Identifiers: what they may look like, and how the derived ones are made.

An identifier becomes part of a subject, so it is checked before it does: letters, digits,
`-` and `_`, bounded. Ids derive from what is already known, so a replay makes the same ids.
"""

from __future__ import annotations

import base64
import hashlib
import re
import zlib
from typing import NewType

Namespace = NewType("Namespace", str)
TaskName = NewType("TaskName", str)
RequestId = NewType("RequestId", str)

TOKEN_LENGTH_MAX = 63
"""Longest namespace, task name or toolcallrequest id (the limit of a Kubernetes label value)."""
RESOURCE_NAME_LENGTH_MAX = 253
"""Longest resource name (the limit of a Kubernetes object name)."""
MESSAGE_ID_LENGTH_MAX = 256
THREAD_ID_LENGTH_MAX = 256
DERIVED_LENGTH = 12
"""Base-32 characters of a derived task name: 60 bits."""

_TOKEN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_RESOURCE_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")


class InvalidId(ValueError):
    """An identifier that may not become part of a subject."""


def check_token(what: str, value: str) -> str:
    """`value`, if it may be one token of a subject; raises `InvalidId` naming `what` otherwise."""
    if not value:
        raise InvalidId(f"{what} is empty")
    if len(value) > TOKEN_LENGTH_MAX:
        raise InvalidId(f"{what} {value[:20]!r}... has {len(value)} characters; {TOKEN_LENGTH_MAX} at most")
    if not _TOKEN.fullmatch(value):
        raise InvalidId(
            f"{what} {value!r} may hold only letters, digits, '-' and '_', and starts with a letter or digit"
        )
    return value


def is_token(value: str) -> bool:
    """Whether a value may be one token of a subject."""
    return len(value) <= TOKEN_LENGTH_MAX and _TOKEN.fullmatch(value) is not None


def check_resource_name(what: str, value: str) -> str:
    """`value`, if it may name a resource: lower-case letters, digits, '-' and '.'."""
    if not value or len(value) > RESOURCE_NAME_LENGTH_MAX or not _RESOURCE_NAME.fullmatch(value):
        raise InvalidId(
            f"{what} {value[:60]!r} may hold only lower-case letters, digits, '-' and '.', "
            f"starts and ends with a letter or digit, and has {RESOURCE_NAME_LENGTH_MAX} characters at most"
        )
    return value


def check_thread_id(value: str) -> str:
    """`value`, if it may be a caller's own name for a thread: printable text, as it came from a ticket, mail or chat.

    It becomes no part of a subject. Raises `InvalidId`.
    """
    if len(value) > THREAD_ID_LENGTH_MAX:
        raise InvalidId(f"threadID {value[:20]!r}... has {len(value)} characters; {THREAD_ID_LENGTH_MAX} at most")
    if not value or value != value.strip() or not value.isprintable():
        raise InvalidId(f"threadID {value[:60]!r} must be printable text, with no blank at its beginning or end")
    return value


def digest(*parts: str | bytes) -> str:
    """A stable name for `parts`: SHA-256 in lower-case base 32, without padding."""
    state = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "big"))
        state.update(data)
    return base64.b32encode(state.digest()).decode().rstrip("=").lower()


def thread_key(thread_id: str) -> str:
    """What a caller's name for a thread is in a subject."""
    return digest("thread", thread_id)[:32]


def call_digest(tool: str, arguments: str) -> str:
    """What an approval is bound to: the tool's name and its arguments, exactly as they were shown."""
    return digest("call", tool, arguments)


def derived_task_name(namespace: str, agent: str, source: str) -> TaskName:
    """The name of a task that was not given one: `<agent>-task-<12 characters of the digest of its source>`.

    `source` is the request's message id, or the place of the request in its stream.
    """
    suffix = f"-task-{digest(namespace, source)[:DERIVED_LENGTH]}"
    stem = re.sub(r"[^A-Za-z0-9_-]", "-", agent)[: TOKEN_LENGTH_MAX - len(suffix)]
    return TaskName(f"{stem}{suffix}")


def request_id(turn: int) -> RequestId:
    """The toolcallrequest id of a turn: one batch of tool calls per model answer."""
    return RequestId(f"r{turn}")


def toolcall_name(task: str, request: str, n: int) -> str:
    """The readable name of call `n` (from 1) of a request, as the predecessor named it."""
    return f"{task}-{request}-tc-{n:02d}"


def child_task_name(namespace: str, parent: str, request: str, n: int, *, place: int, partitions: int) -> TaskName:
    """The name of the task that answers call `n` of a request of `parent`, which was submitted at sequence `place`.

    Derived, so that there is never a second one; not to be guessed from the parent's name alone; and such that the
    task belongs to its parent's partition.
    """
    stem = f"-{request}-{n}"
    return _in_partition_of(namespace, parent, stem, (str(place), request, str(n)), partitions)


def following_task_name(namespace: str, task: str, source: str, partitions: int) -> TaskName:
    """The name of the task that goes on after `task`, because of a message that came from `source`.

    Derived, and such that the task belongs to the same partition.
    """
    return _in_partition_of(namespace, task, "-next", (source,), partitions)


def _in_partition_of(namespace: str, task: str, stem: str, parts: tuple[str, ...], partitions: int) -> TaskName:
    """A name that derives from `parts` and belongs to the partition of `task`."""
    home = partition_of(namespace, task, partitions)
    number = 0
    while True:
        suffix = f"{stem}-{digest(namespace, task, *parts, str(number))[:8]}"
        name = f"{task[: TOKEN_LENGTH_MAX - len(suffix)]}{suffix}"
        if partition_of(namespace, name, partitions) == home:
            return TaskName(name)
        number += 1


def partition_of(namespace: str, task: str, partitions: int) -> int:
    """The partition that a task lives in for ever: CRC-32 of `namespace/task`, modulo their number."""
    return zlib.crc32(f"{namespace}/{task}".encode()) % partitions
