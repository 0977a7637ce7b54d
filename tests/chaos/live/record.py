"""What is left after a crash, as plain data: the messages of the task stream and the tools' own record.

Read with the bare NATS client and `json`, and nothing of the services, so that one mistake cannot hide another.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError

TASK_STREAM = "KV_holdfast_0"
STREAMS = (TASK_STREAM, "HOLDFAST_REQUESTS", "HOLDFAST_TIMERS", "HOLDFAST_DEAD_LETTERS")
BATCH = 500
LOOK_S = 0.02
ANSWER_S = 2.0
UNAVAILABLE = "503"
"""Connections are taken, and streams are not served yet."""

Json = dict[str, Any]


class Stored(NamedTuple):
    """A message of a stream."""

    subject: str
    seq: int
    at: datetime
    body: Json


class Effect(NamedTuple):
    """What a tool did, in its own words."""

    tool: str
    key: str
    at: datetime


class Kill(NamedTuple):
    """What was killed, and when."""

    victim: str
    at: datetime


class Record(NamedTuple):
    """Everything that the checker judges."""

    accepted: dict[str, str]
    """The tasks that were accepted, and the phase in which each must end."""
    messages: Sequence[Stored]
    """All that is in the task stream, by sequence."""
    states: Sequence[Stored]
    """All states that were seen, by sequence, also those that were replaced."""
    effects: Sequence[Effect]
    kills: Sequence[Kill]
    letters: Sequence[Stored] = ()
    """Dead letters and failed attempts."""
    unsettled: dict[str, int] = {}
    """By consumer: messages that are not delivered or not acknowledged."""
    surprises: Sequence[str] = ()
    """Whatever else must not have happened: processes that ended by themselves, repairs."""


async def connect(url: str) -> Client:
    """A bare client that comes back after every restart."""
    client = Client()
    await client.connect(
        url, max_reconnect_attempts=-1, reconnect_time_wait=0, error_cb=_ignore, ping_interval=2, connect_timeout=1
    )
    return client


async def _ignore(error: Exception) -> None:
    """The client says that the server is away; that is what this is about."""


async def ask(client: Client, subject: str, body: Json) -> Json:
    """A question to the JetStream API; asked again while the server is away."""
    while True:
        if client.is_closed:
            raise AssertionError("the client is closed")
        try:
            answer = await client.request(f"$JS.API.{subject}", json.dumps(body).encode(), timeout=ANSWER_S)
        except NatsError:
            await asyncio.sleep(LOOK_S)
            continue
        found: Json = json.loads(answer.data)
        return found


async def read(client: Client, stream: str, since: int = 1) -> list[Stored]:
    """All messages of a stream from a sequence on."""
    found: list[Stored] = []
    while True:
        chunk = await _read_some(client, stream, found[-1].seq + 1 if found else since)
        if not chunk:
            return found
        found += chunk


async def _read_some(client: Client, stream: str, since: int) -> list[Stored]:
    """Up to `BATCH` messages by direct get, which needs no consumer; asked again while the server is away."""
    while not client.is_closed:
        with contextlib.suppress(NatsError):
            inbox = client.new_inbox()
            answers = await client.subscribe(inbox)  # pyright: ignore[reportUnknownMemberType]  # the client leaves a future's type open
            try:
                question = json.dumps({"seq": since, "batch": BATCH, "next_by_subj": ">"}).encode()
                await client.publish(f"$JS.API.DIRECT.GET.{stream}", question, reply=inbox)
                found: list[Stored] = []
                while True:
                    answer = await answers.next_msg(timeout=ANSWER_S)
                    headers = answer.headers or {}
                    if headers.get("Status") == UNAVAILABLE:  # it has the question's subject, like a message
                        raise NoRespondersError
                    if "Nats-Subject" not in headers:
                        return found
                    found.append(
                        Stored(
                            headers["Nats-Subject"],
                            int(headers["Nats-Sequence"]),
                            when(headers["Nats-Time-Stamp"]),
                            json.loads(answer.data) if answer.data else {},
                        )
                    )
            finally:
                with contextlib.suppress(NatsError):
                    await answers.unsubscribe()
        await asyncio.sleep(LOOK_S)
    return []


async def unsettled(client: Client) -> dict[str, int]:
    """Messages that the durable consumers have not seen or not settled."""
    left: dict[str, int] = {}
    for stream in STREAMS:
        listed = await ask(client, f"CONSUMER.LIST.{stream}", {})
        for consumer in listed.get("consumers") or ():
            if count := consumer["num_pending"] + consumer["num_ack_pending"]:
                left[consumer["name"]] = count
    return left


def effects_in(file: Path) -> list[Effect]:
    """The tools' own record."""
    if not file.exists():
        return []
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    return [Effect(line["tool"], line["key"], when(line["at"])) for line in lines]


def when(text: str) -> datetime:
    """A time with any number of digits after the point."""
    head, point, tail = text.replace("Z", "+00:00").partition(".")
    if not point:
        return datetime.fromisoformat(head)
    digits, sign, zone = tail.partition("+")
    return datetime.fromisoformat(f"{head}.{digits[:6]:0<6}{sign}{zone}")


class Witness:
    """Sees the states while they change: the stream keeps only the newest of each task."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.messages: list[Stored] = []
        """All that was seen, by sequence. A state that lived only for milliseconds may be missing."""

    async def run(self) -> None:
        """Look until the client is closed."""
        while not self._client.is_closed:
            since = self.messages[-1].seq + 1 if self.messages else 1
            self.messages += await _read_some(self._client, TASK_STREAM, since)
            await asyncio.sleep(LOOK_S)

    @property
    def last_seq(self) -> int:
        """The newest message that was seen."""
        return self.messages[-1].seq if self.messages else 0
