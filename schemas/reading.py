"""Reading what is stored of one namespace by asking a planner: for those whose credentials are for nothing else.

Ordinary credentials read the streams themselves. The namespace is a part of the subject that is asked on
(`subjects.read`), so an account's imports say which one it may read.
"""

from __future__ import annotations

from typing import Literal

from schemas.wire import Instant, Strict, Wire

ReadWhat = Literal["settings", "entries", "subjects", "resources", "flow"]
"""The last part of the subject. `settings`: of the installation; `entries` and `subjects`: of a partition's stream;
`resources`: the keys of the resources bucket; `flow`: what the namespace has used of its quota."""
ANSWER_BYTES_MAX = 512 * 1024
"""Of the data in one answer. Servers take messages of 1 MiB unless told otherwise, and base64 adds a third."""


class ReadStored(Strict, frozen=True, kw_only=True):
    """Which messages of a partition's stream, or of a bucket."""

    partition: int = 0
    filters: tuple[str, ...] = ()
    """The newest of each subject that matches one of them, or, for buckets, of each key."""
    seqs: tuple[int, ...] = ()
    """Or these, in this order."""
    at_least: int = 0
    """As of a replica that knows the stream up to there."""
    offset: int = 0
    """Of the first message: leave out so many bytes, which the asker has."""


class ReadSettings(Wire, frozen=True, kw_only=True, tag="read.settings.v1"):
    """What a reader has to know of the installation."""

    partitions: int


class ReadEntry(Wire, frozen=True, kw_only=True):
    """A stored message."""

    subject: str
    """Or the key."""
    seq: int
    at: Instant | None = None
    headers: dict[str, str] = {}
    data: bytes
    """From `offset` on; in JSON as base64."""
    size: int
    """Of all of its data, in bytes."""


class ReadEntries(Wire, frozen=True, kw_only=True, tag="read.entries.v1"):
    """What was asked for, as far as it fits into one answer."""

    entries: tuple[ReadEntry, ...]
    rest: tuple[int, ...] = ()
    """The sequences of those that did not fit."""


class ReadSubjects(Wire, frozen=True, kw_only=True, tag="read.subjects.v1"):
    """All subjects that match."""

    subjects: tuple[str, ...]
