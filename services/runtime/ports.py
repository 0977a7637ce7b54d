"""The ports: all that a service may ask of the bus. `nats/` and `memory/` implement them, one suite checks both.

A `Log` is one partition's stream: states, commands, events, ledger. Every call of every port raises `Unavailable`
when the bus does not answer in time; an outcome that is then unknown is resolved by asking again, because every write
is either written once (`record`) or fenced by a sequence (`write`, `commit`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Protocol

import msgspec


class Outgoing(msgspec.Struct, frozen=True):
    """A message to be stored."""

    subject: str
    data: bytes
    headers: Mapping[str, str] = {}


class Entry(msgspec.Struct, frozen=True):
    """A stored message. `seq` is its place in its stream, and its revision."""

    subject: str
    seq: int
    data: bytes
    headers: Mapping[str, str]
    at: datetime


class Change(msgspec.Struct, frozen=True):
    """A state to be written at an expected revision, and what must be under way for it."""

    state: Outgoing
    expected: int
    """The revision that the state was computed from; 0: there must be none yet."""
    ensure: tuple[Outgoing, ...] = ()


class Log(Protocol):
    """One partition's stream."""

    async def get(self, subject: str, *, at_least: int = 0) -> Entry | None:
        """The newest message of a subject, or None; as of a replica that knows the stream up to `at_least`."""
        ...

    async def read(self, seqs: Sequence[int]) -> list[Entry]:
        """The messages at these sequences, in this order. They must exist: a missing one raises `LookupError`."""
        ...

    async def last(self, filters: Sequence[str], *, at_least: int = 0) -> list[Entry]:
        """The newest message of each subject that matches a filter, by sequence; as of a replica that knows `at_least`.

        `at_least` is the sequence of the message that caused the question, so that a stale replica cannot hide it.
        """
        ...

    async def record(self, message: Outgoing) -> int | None:
        """Write a message on a subject that must not exist yet; its sequence, or None if it was there already."""
        ...

    async def write(self, message: Outgoing, *, expected: int) -> int:
        """Write a message on a subject whose newest sequence is `expected` (0: none); raises `Conflict` otherwise."""
        ...

    async def commit(self, change: Change) -> int:
        """Write a state at its expected revision and ensure what it needs; the new revision.

        Raises `Conflict` when the state is at another revision; then nothing of this change was written.
        """
        ...

    async def subjects(self, filter_: str) -> list[str]:
        """All subjects that match a filter."""
        ...

    async def purge(self, filter_: str) -> None:
        """Remove every message whose subject matches a filter. For retention only."""
        ...

    async def drop(self, entry: Entry) -> None:
        """Remove a message, and none that has taken its place on its subject meanwhile. For retention only."""
        ...


class Timers(Protocol):
    """Wake-ups by the server. At least once, never before `at`."""

    async def set(self, subject: str, fires_on: str, at: datetime, data: bytes, headers: Mapping[str, str]) -> None:
        """Set the timer of `subject`, replacing the one before; `data` arrives on `fires_on`."""
        ...

    async def cancel(self, filter_: str) -> None:
        """Cancel the timers whose subject matches a filter. One that is firing may still arrive."""
        ...


class Delivery(Protocol):
    """A message in a consumer's hands."""

    @property
    def subject(self) -> str:
        """Where it was published."""
        ...

    @property
    def data(self) -> bytes:
        """The payload."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers, by name."""
        ...

    @property
    def seq(self) -> int:
        """Place in its stream."""
        ...

    @property
    def delivered(self) -> int:
        """How many times it was delivered, this time included."""
        ...

    @property
    def at(self) -> datetime:
        """When it was stored."""
        ...

    async def ack(self) -> None:
        """Done with it."""
        ...

    async def nak(self, delay_s: float) -> None:
        """Hand it back; it comes again after `delay_s`."""
        ...

    async def term(self, reason: str) -> None:
        """Never deliver it again."""
        ...

    async def working(self) -> None:
        """Still at it: the acknowledgement wait starts again."""
        ...


class Queue(Protocol):
    """A durable consumer of a stream, shared by all replicas of a service."""

    @property
    def name(self) -> str:
        """The consumer."""
        ...

    @property
    def stream(self) -> str:
        """Its stream."""
        ...

    @property
    def ack_wait_s(self) -> float:
        """A message whose consumer is silent for this long is delivered again: the takeover time."""
        ...

    async def take(self, free: int) -> Sequence[Delivery]:
        """Wait for messages; at most `free`, which is how many the caller could start now.

        Never holds more undelivered messages than `free`, so none grows old in a buffer. Survives restarts of the
        server, lost connections and leader changes; it returns an empty sequence now and then, so that the caller
        can look around.
        """
        ...

    async def close(self) -> None:
        """Stop taking; what was buffered goes back to the stream."""
        ...


class StoreEntry(msgspec.Struct, frozen=True):
    """A key of a store. `data` is None when the key was deleted."""

    key: str
    revision: int
    data: bytes | None


class Store(Protocol):
    """A small key-value bucket with a history of one: resources and their statuses."""

    async def get(self, key: str) -> StoreEntry | None:
        """The value of a key, or None."""
        ...

    async def put(self, key: str, data: bytes, *, expected: int | None = None) -> int:
        """Write a key, at a revision if `expected` is given (0: it must not exist); raises `Conflict`."""
        ...

    async def delete(self, key: str, *, expected: int | None = None) -> None:
        """Remove a key, at a revision if `expected` is given; raises `Conflict`."""
        ...

    def watch(self) -> AsyncIterator[StoreEntry | None]:
        """All keys as they are now, then None once, then every change. Never ends; survives what `Queue` survives.

        After an interruption it says everything again, and None again; deletions missed meanwhile are said too.
        """
        ...


class Signal(msgspec.Struct, frozen=True):
    """A message that was not stored."""

    subject: str
    data: bytes
    headers: Mapping[str, str]
    reply: str = ""


SignalHandler = Callable[[Signal], Awaitable[None]]
Unsubscribe = Callable[[], Awaitable[None]]


class Signals(Protocol):
    """Ephemeral messages: streamed tokens, stop signals, requests and replies. At most once."""

    async def publish(self, subject: str, data: bytes, headers: Mapping[str, str] = ...) -> None:
        """Say it to whoever listens now."""
        ...

    async def subscribe(self, subject: str, handler: SignalHandler, *, queue: str = "") -> Unsubscribe:
        """Listen from now on; with `queue`, one of the listeners of that name gets each message."""
        ...

    async def request(
        self, subject: str, data: bytes, headers: Mapping[str, str] = ..., *, timeout_s: float = 5.0
    ) -> Signal:
        """Ask and wait for one answer; raises `Unavailable` when nobody answers, `Unheard` when nobody listens.

        Just after this connection was lost, others may be on their way back, too: then it is `Unavailable`.
        """
        ...

    async def store(self, subject: str, data: bytes, headers: Mapping[str, str] = ...) -> int:
        """Store a message in whatever stream captures the subject; its sequence.

        A repeated `Nats-Msg-Id` stores nothing and gives the sequence of the first.
        """
        ...


class Clock(Protocol):
    """Time, so that tests and simulations own it."""

    def now(self) -> datetime:
        """The time, in UTC."""
        ...

    async def sleep(self, delay_s: float) -> None:
        """Wait."""
        ...


class StreamState(msgspec.Struct, frozen=True, kw_only=True):
    """How full a stream is."""

    name: str
    messages: int
    bytes_: int
    last_seq: int
    replicas_missing: int
    """Copies that are away, or behind."""


class ConsumerState(msgspec.Struct, frozen=True, kw_only=True):
    """How far a durable consumer is."""

    name: str
    stream: str
    pending: int
    """Messages that nobody has taken yet."""
    oldest_pending: datetime | None
    """When the first of them was stored."""
    in_hand: int
    """Messages that were taken and are not settled."""
    redelivering: int
    """Those of them that were taken more than once."""


class Survey(msgspec.Struct, frozen=True):
    """The bus as it is now."""

    streams: Sequence[StreamState]
    consumers: Sequence[ConsumerState]


class Bus(Protocol):
    """Everything together, as a service's composition root gets it."""

    @property
    def partitions(self) -> int:
        """How many task streams there are."""
        ...

    @property
    def clock(self) -> Clock:
        """The time."""
        ...

    @property
    def timers(self) -> Timers:
        """Durable wake-ups."""
        ...

    @property
    def resources(self) -> Store:
        """The resources bucket."""
        ...

    @property
    def flow(self) -> Store:
        """The bucket of what is used of shared limits."""
        ...

    @property
    def signals(self) -> Signals:
        """Ephemeral messages."""
        ...

    @property
    def requests(self) -> Log:
        """The stream of requests: a message is there until it was handled."""
        ...

    @property
    def dead_letters(self) -> Log:
        """The stream of dead letters."""
        ...

    def log(self, partition: int) -> Log:
        """The stream of a partition."""
        ...

    async def queue(self, consumer: str, partition: int | None = None) -> Queue:
        """A durable consumer by its name in `schemas.subjects`; task-stream consumers are per partition."""
        ...

    async def survey(self) -> Survey:
        """All streams and durable consumers as they are."""
        ...
