"""Requests over HTTP to others, through the guard: to addresses that somebody else chose, and to where they redirect.

Only redirects that keep the method are followed (307, 308), each through the guard again. What is secret is sent to
the origin that was named, and not to where it redirects; and what comes back is told without it, because some quote in
a refusal what they were sent.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, NamedTuple

import httpx2

from services.runtime.egress import Egress, EgressRefused
from services.runtime.egress_http import GuardedTransport
from services.runtime.redaction import redact

if TYPE_CHECKING:
    from schemas.resources import EnvVar
    from services.runtime.secrets import Secrets

REDIRECTS_MAX = 3
BODY_MAX = 64 * 1024
"""Bytes of an answer that are read, if no more are wanted."""
USER_AGENT = "Holdfast"
RESERVED = ("host", "content-length", "content-type", "transfer-encoding", "connection", "user-agent")
PASSING = (408, 425, 429)
"""Statuses below 500 that mean: later."""


class NoAnswer(Exception):
    """No whole answer came: the request may have been taken, or not. The text says why."""


class NotSent(Exception):
    """The request cannot be made, now or later. The text says why."""


class Answer(NamedTuple):
    """What came back."""

    status: int
    body: bytes
    retry_after: str | None

    @property
    def text(self) -> str:
        """The body, whatever it is."""
        return self.body.decode(errors="replace")


class Call(NamedTuple):
    """A request."""

    method: str
    url: str
    body: bytes
    headers: Mapping[str, str]
    secret_headers: Mapping[str, str]
    timeout_s: float
    body_max: int = BODY_MAX
    """Bytes of the answer that are read."""


class Client:
    """A client without cookies, proxies or kept connections."""

    def __init__(self, egress: Egress) -> None:
        self._egress = egress
        self._client: httpx2.AsyncClient | None = None

    async def send(self, call: Call) -> Answer:
        """Make a request; what comes back. Raises `NoAnswer` and `NotSent`."""
        if self._client is None:
            self._client = httpx2.AsyncClient(
                transport=GuardedTransport(self._egress), follow_redirects=False, trust_env=False, timeout=None
            )
        try:
            async with asyncio.timeout(call.timeout_s):
                return await self._follow(self._client, call)
        except TimeoutError as error:
            raise NoAnswer(f"no answer within {call.timeout_s:g} s") from error
        except EgressRefused as refused:
            raise NotSent(f"refused: {refused}") from refused
        except httpx2.TransportError as error:
            raise NoAnswer(f"{type(error).__name__}: {error}".rstrip(": ")) from error
        except (httpx2.InvalidURL, httpx2.HTTPError, ValueError) as error:
            raise NotSent(f"cannot be sent: {error}") from error

    async def close(self) -> None:
        """Close what is open."""
        if self._client is not None:
            await self._client.aclose()

    async def _follow(self, client: httpx2.AsyncClient, call: Call) -> Answer:
        url, secret = httpx2.URL(call.url), dict(call.secret_headers)
        unsaid = _unsaid(secret)
        for _ in range(REDIRECTS_MAX + 1):
            headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity", **secret, **call.headers}
            async with client.stream(call.method, url, content=call.body or None, headers=headers) as response:
                if response.status_code not in (307, 308):
                    answer = await _answer(response, call.body_max)
                    told = redact(answer.text, unsaid)
                    return answer if told == answer.text else answer._replace(body=told.encode())
                location = response.headers.get("location", "")
            there = url.join(location)
            if not location or (url.scheme == "https" and there.scheme != "https"):
                raise NotSent(f"redirected to {redact(location, unsaid)[:80]!r}: not followed")
            if _origin(there) != _origin(url):
                secret = {}
            url = there
        raise NotSent(f"redirected more than {REDIRECTS_MAX} times")


def _unsaid(secret: Mapping[str, str]) -> set[str]:
    """What must not be repeated of secret headers: each value, without its scheme too, and as JSON would have it."""
    values = {part for value in secret.values() for part in (value, value.partition(" ")[2]) if part}
    return values | {json.dumps(value)[1:-1] for value in values}


async def _answer(response: httpx2.Response, body_max: int) -> Answer:
    body = b""
    try:
        # As it comes: what is packed grows a thousandfold before its length can be seen.
        async for piece in response.aiter_raw():
            body += piece
            if len(body) >= body_max:
                break
    except httpx2.TransportError:
        if not response.is_success:
            raise
        # It has said that it took it; the rest of its words was lost.
    return Answer(response.status_code, body[:body_max], response.headers.get("retry-after"))


def _origin(url: httpx2.URL) -> tuple[str, str, int | None]:
    return (url.scheme, url.host, url.port)


def place_of(url: str) -> str:
    """Host and path of an address: which receiver it is. No user, password or query, which may be secret."""
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL:
        return "an unreadable address"
    port = f":{parsed.port}" if parsed.port else ""
    return f"{parsed.scheme}://{parsed.host}{port}{parsed.path}"


def retry_after(value: str | None, now: datetime) -> float | None:
    """The header `Retry-After`: seconds, or a date; None if it says neither."""
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        at = parsedate_to_datetime(value)
    except (TypeError, ValueError):
        return None
    at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    return max((at - now).total_seconds(), 0.0)


def passes(status: int) -> bool:
    """Whether the same request may work later."""
    return status in PASSING or status >= 500


def declared_headers(declared: Iterable[EnvVar], secrets: Secrets) -> dict[str, str]:
    """The headers that a manifest wants to be sent along. Raises `ValueError` and `SecretMissing`."""
    headers: dict[str, str] = {}
    for one in declared:
        if one.name.lower() in RESERVED or one.name.lower().startswith("webhook-"):
            raise ValueError(f"header {one.name!r} cannot be set: we send our own")
        source = one.value_from
        headers[one.name] = one.value or (secrets.get(source.secret_key_ref) if source else "")
    return headers
