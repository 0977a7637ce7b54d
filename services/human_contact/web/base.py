"""A request as handlers get it, and their answers. Whoever serves them looks after sizes, rates and time limits."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import parse_qs

import msgspec

FIELDS_MAX = 200


class Received(msgspec.Struct, frozen=True, kw_only=True):
    """A request."""

    method: str
    path: str
    """Decoded, without the query."""
    query: str = ""
    headers: Mapping[str, str] = {}
    """By their names in lower case; the first of each name."""
    body: bytes = b""
    remote: str = ""
    """The address that it came from."""

    def form(self) -> dict[str, str]:
        """The fields of an HTML form; raises `Unfit`."""
        try:
            fields = parse_qs(self.body.decode(), keep_blank_values=True, max_num_fields=FIELDS_MAX)
        except ValueError as error:
            raise Unfit(400, "This is not a form that was filled in.") from error
        return {name: values[0] for name, values in fields.items()}


class Reply(msgspec.Struct, frozen=True):
    """What is answered."""

    status: int
    body: bytes = b""
    kind: str = "text/plain; charset=utf-8"
    headers: Mapping[str, str] = {}


class Unfit(Exception):
    """A request that is not taken: the status, and a sentence for whoever sent it."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


Handler = Callable[[Received], Awaitable[Reply]]
"""Answers the requests below one path; raises `Unfit`, or `RetryLater` while the bus does not answer."""


def said(status: int, text: str) -> Reply:
    """A sentence."""
    return Reply(status, f"{text}\n".encode())


def json_reply(value: Any, status: int = 200) -> Reply:
    """A JSON document."""
    return Reply(status, msgspec.json.encode(value), "application/json")
