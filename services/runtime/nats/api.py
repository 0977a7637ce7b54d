"""Questions to the JetStream API: streams and consumers as they are, made, and purged."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from services.runtime.errors import Unavailable
from services.runtime.nats.client import Interrupted
from services.runtime.nats.connection import Connection, NoResponders
from services.runtime.nats.wire import ApiError

API_S = 5.0
"""How long the API may take: creating a replicated stream needs an election."""
BUDGET_S = 20.0
"""How long transient answers are retried: a cluster that just started has no leader yet."""
RETRY_S = 0.2

STREAM_NOT_FOUND = 10059
CONSUMER_NOT_FOUND = 10014
STREAM_EXISTS = 10058
CONSUMER_EXISTS = 10148

TRANSIENT = frozenset({10005, 10008, 10023, 10039, 10074, 10118, 10167})
"""No peers, not available, no resources now, raft timeout, stream offline, overload: it may work in a moment."""


class ApiRefused(Exception):
    """The API said no, for good."""

    def __init__(self, subject: str, error: ApiError) -> None:
        super().__init__(f"{error.description} (JetStream error {error.err_code} on {subject})")
        self.err_code = error.err_code


class _Answer(msgspec.Struct):
    error: ApiError | None = None


Json = dict[str, Any]


async def ask(connection: Connection, subject: str, body: Json | None = None, *, budget_s: float | None = None) -> Json:
    """Ask the API; transient failures are retried. Raises `ApiRefused`, or `Unavailable` at the end."""
    data = msgspec.json.encode(body) if body is not None else b""
    loop = asyncio.get_running_loop()
    budget_s = BUDGET_S if budget_s is None else budget_s
    deadline = loop.time() + budget_s
    while True:
        try:
            raw = await connection.request(f"{connection.api_prefix}.{subject}", data, timeout_s=min(API_S, budget_s))
            error = msgspec.json.decode(raw.data, type=_Answer).error
            if error is None:
                answer: Json = msgspec.json.decode(raw.data)
                return answer
            if error.code != 503 and error.err_code not in TRANSIENT:
                raise ApiRefused(subject, error)
            why = error.description
        except (NoResponders, Interrupted) as failure:
            why = str(failure)
        if loop.time() > deadline:
            raise Unavailable(f"the JetStream API does not do {subject}: {why}")
        await asyncio.sleep(RETRY_S)
