"""Dead letters: what could not be processed, and sending it again."""

from __future__ import annotations

import base64
from datetime import datetime

from schemas import subjects
from schemas.dead_letters import DeadLetter
from schemas.subjects import PREFIX
from schemas.wire import Malformed, decode
from services.cli.client import Client
from services.cli.exits import ExitCode, Stop
from services.cli.text import age, one_line, safe, stamp

COLUMNS = ("ID", "REASON", "SUBJECT", "DELIVERIES", "AGE", "ERROR")
ERROR_WIDTH = 80


def letter_id(letter: DeadLetter) -> str:
    """How a letter is called on the command line: the stream and the place of its message there."""
    return f"{letter.stream}/{letter.seq}"


async def letters(client: Client) -> list[DeadLetter]:
    """All dead letters, the newest last."""
    found: list[DeadLetter] = []
    for entry in await client.bus.dead_letters.last([f"{PREFIX}.dlq.letter.>"]):
        try:
            found.append(decode(entry.data, DeadLetter))
        except Malformed:
            continue  # written by a newer version
    return found


async def letter(client: Client, name: str) -> DeadLetter:
    """One letter; the command ends when there is none."""
    stream, _, seq = name.rpartition("/")
    if not stream or not seq.isdigit():
        raise Stop(
            f"{name!r} is not a dead letter: `holdfast dlq list` shows their ids, <stream>/<number>", ExitCode.USAGE
        )
    entry = await client.bus.dead_letters.get(subjects.dead_letter(stream, int(seq)))
    if entry is None:
        raise Stop(f"no dead letter {name}: `holdfast dlq list` shows what there is", ExitCode.NOT_FOUND)
    return decode(entry.data, DeadLetter)


async def redrive(client: Client, found: DeadLetter) -> None:
    """Send a letter's message again, as it was, and take the letter out.

    The original message's own server headers (expected sequences, message id) are left out: they were about the first
    time. A crash between the two steps sends it twice, which every handler bears.
    """
    payload = base64.b64decode(found.payload) if found.payload_is_base64 else found.payload.encode()
    headers = {key: value for key, value in found.headers.items() if not key.lower().startswith("nats-")}
    if message_id := found.headers.get(subjects.MSG_ID):
        headers.setdefault(subjects.REQUEST_ID, message_id)
    times = found.headers.get(subjects.REDRIVE, "0")
    headers[subjects.REDRIVE] = str(int(times) + 1 if times.isdigit() else 1)
    await client.bus.signals.store(found.subject, payload, headers)
    await client.bus.dead_letters.purge(subjects.dead_letter(found.stream, found.seq))
    await client.bus.dead_letters.purge(f"{PREFIX}.dlq.attempt.{found.stream}.{found.seq}.*")


def row(found: DeadLetter, now: datetime) -> tuple[str, ...]:
    """A letter's cells."""
    return (
        letter_id(found),
        found.reason,
        found.subject,
        str(found.deliveries),
        age(found.at, now),
        one_line(found.error, ERROR_WIDTH),
    )


def text_of(found: DeadLetter, now: datetime) -> str:
    """Everything about a letter."""
    lines = [
        f"Id:          {letter_id(found)}",
        f"Subject:     {found.subject}",
        f"Reason:      {found.reason}",
        f"Error:       {one_line(found.error)}",
        f"Consumer:    {found.consumer}",
        f"Deliveries:  {found.deliveries}",
        f"At:          {stamp(found.at)} ({age(found.at, now)} ago)",
        "Headers:",
        *(f"  {key}: {one_line(value)}" for key, value in sorted(found.headers.items())),
        f"Payload{' (base 64)' if found.payload_is_base64 else ''}:",
        *(f"  {line}" for line in safe(found.payload).splitlines()),
    ]
    for attempt in found.attempts:
        lines.append(f"Attempt {attempt.delivery}: {stamp(attempt.at)} on {attempt.replica}: {one_line(attempt.error)}")
        lines += [f"  {line}" for line in safe(attempt.traceback).splitlines()]
    return "\n".join(lines)
