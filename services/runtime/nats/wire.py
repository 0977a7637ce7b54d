"""Raw messages: headers as bytes, and the few shapes of JetStream's answers that the adapter reads.

The client's own message objects cost more than the server takes to answer; the hot paths use these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from schemas.subjects import MSG_ID, PAYLOAD_REF, SEALED

HEADER_LINE = b"NATS/1.0"
STATUS_AT = len(HEADER_LINE) + 1

JS_SEQUENCE = "Nats-Sequence"
JS_SUBJECT = "Nats-Subject"
JS_TIME = "Nats-Time-Stamp"
JS_UP_TO = "Nats-UpTo-Sequence"
JS_PENDING = "Nats-Num-Pending"
JS_PULL_PENDING = "Nats-Pending-Messages"


class Raw(NamedTuple):
    """A message as it came off the wire."""

    subject: str
    reply: str
    data: bytes
    headers: bytes | None

    @property
    def status(self) -> int:
        """The status of a message that is one (100, 404, 503...), else 0."""
        return status_of(self.headers)


Receiver = Callable[[Raw], None]
"""Called for each message of a raw subscription, in the read loop: it must be quick and must not raise."""


def status_of(headers: bytes | None) -> int:
    """The inline status of a header block, or 0."""
    if headers is None or len(headers) < STATUS_AT + 3 or headers[STATUS_AT - 1] != 0x20:
        return 0
    code = headers[STATUS_AT : STATUS_AT + 3]
    return int(code) if code.isdigit() else 0


def description_of(headers: bytes) -> str:
    """What the server says beside the status."""
    return headers.split(b"\r\n", 1)[0][STATUS_AT + 4 :].decode("utf-8", "replace").strip()


def encode_headers(headers: Mapping[str, str]) -> bytes:
    """A header block. Line breaks in a value would be new headers, so they become spaces."""
    text = "".join([f"{key}: {value}\r\n" for key, value in headers.items()])
    if text.count("\n") != len(headers) or text.count("\r") != len(headers):
        text = "".join([f"{_one_line(key)}: {_one_line(value)}\r\n" for key, value in headers.items()])
    return f"NATS/1.0\r\n{text}\r\n".encode()


def _one_line(text: str) -> str:
    return text.replace("\r", " ").replace("\n", " ")


def decode_headers(block: bytes | None) -> dict[str, str]:
    """All headers of a block; a status line is skipped."""
    found: dict[str, str] = {}
    if block is None:
        return found
    for line in block.decode("utf-8", "replace").split("\r\n")[1:]:
        key, colon, value = line.partition(":")
        if colon:
            found[key.strip()] = value.strip()
    return found


def own_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers that the sender gave; the server's and the adapter's are not for callers."""
    return {
        key: value
        for key, value in headers.items()
        if (not key.startswith("Nats-") or key == MSG_ID) and key not in (PAYLOAD_REF, SEALED)
    }


def parse_time(text: str) -> datetime:
    """A time as the server writes it, with nanoseconds."""
    return datetime.fromisoformat(text).astimezone(UTC)


def time_of_ns(nanoseconds: int) -> datetime:
    """A time from an acknowledgement subject, cut to microseconds as `parse_time` cuts it."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest // 1000)


class ApiError(msgspec.Struct):
    """An error in an answer of the JetStream API."""

    code: int = 0
    err_code: int = 0
    description: str = ""


class PubAck(msgspec.Struct):
    """The answer to a message that was published to a stream."""

    error: ApiError | None = None
    stream: str = ""
    seq: int = 0
    duplicate: bool = False


decode_pub_ack = msgspec.json.Decoder(PubAck).decode
