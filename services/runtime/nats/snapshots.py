"""Streams saved and brought back by the server's own snapshots, sequences and all.

A snapshot is of the stream as it was when it began, but for what is removed while it is taken: that is missing, though
it was there. A state that is replaced meanwhile is one that is removed. So a snapshot counts only if nothing was, which
the sequences tell; and so that this comes true while services run, their consumers stand still for it.
Consumers are not saved: one may know as handled what the snapshot has no outcome of (ADR 0038).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import NamedTuple

import msgspec

from schemas import subjects
from services.runtime.errors import Unavailable
from services.runtime.nats import api, topology
from services.runtime.nats.client import Interrupted
from services.runtime.nats.connection import Connection, NoResponders
from services.runtime.nats.topology import ConsumerPlan
from services.runtime.nats.wire import ApiError, Raw, description_of
from services.runtime.tasks import spawn

PIECE_BYTES = 128 << 10
BEGIN_S = 30.0
"""How long the server may take to begin a snapshot, or to finish a restoration: it reads the whole stream."""
STALLED_S = 15.0
"""How long the next piece may take."""
HEARD_S = 5.0
HEARD_LOOK_S = 0.05
"""How long the servers of a cluster may take to hear of each other's subjects."""
END_OF_SNAPSHOT = (0, 204)
"""What the empty piece that ends a snapshot is marked with, if all went well."""
PAUSE_S = 60.0
"""When consumers go on by themselves if whoever paused them has died."""
RENEW_S = 15.0
TRIES_MAX = 40
TRY_AGAIN_S = 0.5


class Unsettled(Unavailable):
    """Something was removed from a stream every time that it was saved."""


class StreamState(msgspec.Struct, frozen=True):
    """What a stream holds."""

    messages: int = 0
    bytes: int = 0
    first_seq: int = 0
    last_seq: int = 0

    def lost_until(self, later: StreamState) -> int:
        """How many messages were removed from now until `later`."""
        return (later.last_seq - self.last_seq) - (later.messages - self.messages)


class Snapshot(NamedTuple):
    """What was saved of a stream."""

    config: api.Json
    state: StreamState
    exact: bool
    """All of that state is in it. Else something that was removed meanwhile may be missing."""


class _Answer(msgspec.Struct):
    error: ApiError | None = None
    config: api.Json = {}
    state: StreamState = StreamState()
    deliver_subject: str = ""


class _Consumer(msgspec.Struct):
    name: str
    num_waiting: int = 0


class _Consumers(msgspec.Struct):
    consumers: list[_Consumer] | None = None


def streams(partitions: int) -> list[str]:
    """All streams, in the order in which they are saved.

    What moves from one stream to another is saved at its source first, so it is in one of them at least: requests,
    tasks, timers, dead letters. What others refer to is saved after them, so it is there: resources, payloads.
    """
    return [
        subjects.REQUESTS_STREAM,
        *map(subjects.task_stream, range(partitions)),
        *subjects.TIMER_STREAMS,
        subjects.DEAD_LETTERS_STREAM,
        topology.resources_stream(),
        topology.flow_stream(),
        topology.payloads_stream(),
    ]


def is_made_anew(stream: str) -> bool:
    """Whether what is missing in a stream is made again: wake-ups by those who wait, and counts of use."""
    return stream in subjects.TIMER_STREAMS or stream == topology.flow_stream()


# --- saving -----------------------------------------------------------------------------


async def save(connection: Connection, stream: str, begin: Callable[[], Callable[[bytes], object]]) -> Snapshot:
    """Save a stream. `begin` is called for each try, and what it returns with each piece.

    Raises `Unsettled`, `Unavailable`, or `api.ApiRefused`.
    """
    tries = 0
    while True:
        begun = await _save_once(connection, stream, begin())
        found = await api.ask(connection, f"STREAM.INFO.{stream}")
        exact = not begun.state.lost_until(msgspec.convert(found["state"], StreamState))
        tries += 1
        if exact or (tries == TRIES_MAX and is_made_anew(stream)):
            return Snapshot(begun.config, begun.state, exact)
        if tries == TRIES_MAX:
            raise Unsettled(f"something was removed from {stream} each of the {tries} times that it was saved")
        await asyncio.sleep(TRY_AGAIN_S)


async def _save_once(connection: Connection, stream: str, write: Callable[[bytes], object]) -> _Answer:
    pieces: asyncio.Queue[Raw] = asyncio.Queue()
    inbox = connection.new_inbox()
    subscription = await connection.listen(inbox, pieces.put_nowait)
    wanted = {"deliver_subject": inbox, "no_consumers": True, "chunk_size": PIECE_BYTES}
    try:
        begun = await _ask_once(connection, f"STREAM.SNAPSHOT.{stream}", wanted)
        while (piece := await _next(pieces, stream)).data:
            write(piece.data)
            if piece.reply:
                await connection.send(piece.reply, b"")
    finally:
        await subscription.close()
    if piece.status not in END_OF_SNAPSHOT:
        raise Unavailable(f"the snapshot of {stream} broke off: {description_of(piece.headers or b'')}")
    return begun


async def _next(pieces: asyncio.Queue[Raw], stream: str) -> Raw:
    try:
        async with asyncio.timeout(STALLED_S):
            return await pieces.get()
    except TimeoutError:
        raise Interrupted(f"the snapshot of {stream} stopped coming") from None


async def _ask_once(connection: Connection, subject: str, body: api.Json) -> _Answer:
    """Ask the API, and never twice: two snapshots would arrive as one."""
    data = msgspec.json.encode(body)
    raw = await connection.request(f"{connection.api_prefix}.{subject}", data, timeout_s=BEGIN_S)
    return _checked(raw, subject)


def _checked(raw: Raw, subject: str) -> _Answer:
    answer = msgspec.json.decode(raw.data, type=_Answer)
    if answer.error is not None:
        raise api.ApiRefused(subject, answer.error)
    return answer


# --- standing still ---------------------------------------------------------------------


@asynccontextmanager
async def standing_still(
    connection: Connection, consumers: Sequence[ConsumerPlan], now: Callable[[], datetime]
) -> AsyncGenerator[None]:
    """Nothing is given out by these consumers within this block. What is in somebody's hands is gone on with.

    If this process dies, or the server is away at the end, they go on after `PAUSE_S`.
    """
    renewing = None
    try:
        await _pause(connection, consumers, now)
        renewing = spawn(_renew(connection, consumers, now), name="snapshots:pause")
        yield
    finally:
        if renewing is not None:
            renewing.cancel()
            await asyncio.wait((renewing,))
        with contextlib.suppress(Unavailable):
            for consumer in consumers:
                await _set_pause(connection, consumer, {})


async def _renew(connection: Connection, consumers: Sequence[ConsumerPlan], now: Callable[[], datetime]) -> None:
    while True:
        await asyncio.sleep(RENEW_S)
        await _pause(connection, consumers, now)


async def _pause(connection: Connection, consumers: Sequence[ConsumerPlan], now: Callable[[], datetime]) -> None:
    until = now() + timedelta(seconds=PAUSE_S)
    for consumer in consumers:
        answer = await _set_pause(connection, consumer, {"pause_until": until.isoformat()})
        if answer is not None and not answer.get("paused"):
            raise Unavailable(f"the server's clock is more than {PAUSE_S:g} s ahead of this machine's")


async def _set_pause(connection: Connection, consumer: ConsumerPlan, body: api.Json) -> api.Json | None:
    """Pause a consumer, or let it go on; None if there is no such consumer."""
    try:
        return await api.ask(connection, f"CONSUMER.PAUSE.{consumer.stream}.{consumer.name}", body)
    except api.ApiRefused as refusal:
        if refusal.err_code in (api.CONSUMER_NOT_FOUND, api.STREAM_NOT_FOUND):
            return None
        raise


# --- bringing back ----------------------------------------------------------------------


async def there(connection: Connection) -> dict[str, StreamState]:
    """The streams of ours that the server has."""
    names: list[str] = (await api.ask(connection, "STREAM.NAMES")).get("streams") or []
    found: dict[str, StreamState] = {}
    for name in names:
        if name.startswith(("HOLDFAST_", "KV_holdfast_", "OBJ_holdfast_")):
            info = await api.ask(connection, f"STREAM.INFO.{name}")
            found[name] = msgspec.convert(info["state"], StreamState)
    return found


async def at_work(connection: Connection, stream: str) -> list[str]:
    """The consumers of a stream that somebody waits at for messages."""
    found = msgspec.convert(await api.ask(connection, f"CONSUMER.LIST.{stream}"), _Consumers)
    return [one.name for one in found.consumers or () if one.num_waiting]


async def remove(connection: Connection, stream: str) -> None:
    """Remove a stream with all that is in it."""
    await api.ask(connection, f"STREAM.DELETE.{stream}")


async def bring_back(connection: Connection, saved: Snapshot, pieces: Iterable[bytes]) -> StreamState:
    """Make a stream from its snapshot; what it holds then. Raises `Unavailable`, or `api.ApiRefused`."""
    name = saved.config["name"]
    subject = f"STREAM.RESTORE.{name}"
    begun = await _ask_once(connection, subject, {"config": saved.config, "state": msgspec.to_builtins(saved.state)})
    for piece in pieces:
        answer = await _hand_in(connection, begun.deliver_subject, piece, STALLED_S)
        if answer.data:
            _checked(answer, subject)
    return _checked(await _hand_in(connection, begun.deliver_subject, b"", BEGIN_S), subject).state


async def _hand_in(connection: Connection, subject: str, piece: bytes, timeout_s: float) -> Raw:
    """Give the restoring server a piece. In a cluster, ours may not have heard yet that it listens: nothing is done."""
    give_up = asyncio.get_running_loop().time() + HEARD_S
    while True:
        try:
            return await connection.request(subject, piece, timeout_s=timeout_s)
        except NoResponders:
            if asyncio.get_running_loop().time() > give_up:
                raise
            await asyncio.sleep(HEARD_LOOK_S)
