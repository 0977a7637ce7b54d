"""Slack's Web API: one method at a time, and what its refusals mean."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import msgspec

from services.human_contact.channels.base import ChannelFailed

TIMEOUT_S = 10.0
ANSWER_BYTES_MAX = 1024 * 1024
PASSING = frozenset(
    (
        *("accesslimited", "fatal_error", "internal_error", "ratelimited", "rate_limited", "request_timeout"),
        *("service_unavailable", "team_added_to_org"),
    )
)
"""Errors that pass. What else Slack says will not change by itself."""
AFTER_MAX_S = 600.0


class SlackApi:
    """The methods of one bot."""

    def __init__(self, base: str, token: str) -> None:
        self._base = base.rstrip("/")
        self._token = token
        self._client = httpx2.AsyncClient(timeout=TIMEOUT_S, follow_redirects=False, trust_env=False)

    async def call(self, method: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Call a method; its answer. Raises `ChannelFailed`."""
        headers = {
            "Authorization": f"Bearer {self._token}",
            "Content-Type": "application/json; charset=utf-8",
            "User-Agent": "Holdfast",
        }
        return await self._send("POST", method, headers, content=msgspec.json.encode(arguments))

    async def look(self, method: str, arguments: dict[str, str]) -> dict[str, Any]:
        """Call a method that only reads: those take no JSON."""
        return await self._send("GET", method, {"Authorization": f"Bearer {self._token}"}, params=arguments)

    async def close(self) -> None:
        """Close connections."""
        await self._client.aclose()

    async def _send(self, verb: str, method: str, headers: dict[str, str], **more: Any) -> dict[str, Any]:
        headers = {**headers, "Accept-Encoding": "identity"}
        try:
            async with (
                asyncio.timeout(TIMEOUT_S),
                self._client.stream(verb, f"{self._base}/{method}", headers=headers, **more) as response,
            ):
                body = await _body(response)
        except UnicodeEncodeError as error:
            raise ChannelFailed("Slack's token has characters that no header may have", transient=False) from error
        except (httpx2.HTTPError, httpx2.InvalidURL, TimeoutError) as error:
            raise ChannelFailed(f"Slack was not reached: {type(error).__name__}", transient=True) from error
        after_s = _seconds(response.headers.get("retry-after", ""))
        if response.status_code != 200:
            transient = response.status_code in (408, 425, 429) or response.status_code >= 500
            raise ChannelFailed(
                f"Slack answered {method} with status {response.status_code}", transient=transient, after_s=after_s
            )
        try:
            answer: Any = msgspec.json.decode(body)
        except (msgspec.DecodeError, RecursionError) as error:
            raise ChannelFailed(f"Slack's answer to {method} is no JSON", transient=True) from error
        if not isinstance(answer, dict) or answer.get("ok") is not True:  # pyright: ignore[reportUnknownMemberType] - any JSON
            said = str(answer.get("error", "")) if isinstance(answer, dict) else ""  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType] - any JSON
            detail = _detail(answer)
            raise ChannelFailed(
                f"Slack says {said[:80]!r} to {method}{detail}", transient=said in PASSING, after_s=after_s, said=said
            )
        return answer  # pyright: ignore[reportUnknownVariableType] - any JSON


async def _body(response: httpx2.Response) -> bytes:
    """What was said, as it comes, and no more of it than an answer has."""
    body = bytearray()
    async for piece in response.aiter_raw():
        body += piece
        if len(body) > ANSWER_BYTES_MAX:
            break
    return bytes(body[:ANSWER_BYTES_MAX])


def _detail(answer: Any) -> str:
    """What Slack says beyond the code of an error."""
    messages = answer.get("response_metadata", {}).get("messages", []) if isinstance(answer, dict) else []  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] - any JSON
    return f" ({str(messages[0])[:200]})" if isinstance(messages, list) and messages else ""  # pyright: ignore[reportUnknownArgumentType] - any JSON


def _seconds(text: str) -> float:
    return min(float(text), AFTER_MAX_S) if text.isascii() and text.isdigit() else 0.0
