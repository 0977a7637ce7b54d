"""Slack: `chat.postMessage` of its Web API, with a thread for each task, or an incoming webhook.

Slack answers 200 to nearly everything, and says in the body whether it was done. The notification's id goes with the
message as its metadata.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from services.notifier.core.outcomes import NotTaken, Outcome, Taken, of_status
from services.notifier.core.words import announcement, shortened
from services.notifier.sinks.base import Letter
from services.notifier.sinks.http import Http, Post
from services.runtime.outbound import Answer, place_of, retry_after

TEXT_LENGTH_MAX = 39_000
"""Characters; Slack cuts at 40,000."""
PASSING = ("fatal_error", "internal_error", "ratelimited", "rate_limited", "request_timeout", "service_unavailable")
"""Slack's own troubles. What else it says will not change by itself."""


class _Said(msgspec.Struct):
    ok: bool
    error: str = ""
    ts: str = ""


class SlackMessage:
    """Posts to a channel as a bot."""

    kind: Literal["slack"] = "slack"

    def __init__(self, http: Http, api_url: str, channel: str, token: str, *, timeout_s: float) -> None:
        self._url = f"{api_url.rstrip('/')}/chat.postMessage"
        self.endpoint = f"{place_of(self._url)} {channel}"
        self._http = http
        self._channel = channel
        self._token = token
        self._timeout_s = timeout_s

    async def send(self, letter: Letter) -> Outcome:
        """Post it."""
        message: dict[str, Any] = {
            "channel": self._channel,
            "text": _text(letter),
            "unfurl_links": False,
            "metadata": {"event_type": "holdfast_task_ended", "event_payload": {"id": letter.id}},
        }
        if letter.thread:
            message["thread_ts"] = letter.thread
        headers = {"Content-Type": "application/json; charset=utf-8"}
        secret = {"Authorization": f"Bearer {self._token}"}
        post = Post(self._url, msgspec.json.encode(message), headers, secret, self._timeout_s)
        answer = await self._http.post(post)
        if isinstance(answer, NotTaken):
            return answer
        return _outcome(answer, letter)


class SlackHook:
    """Posts through an incoming webhook."""

    kind: Literal["slack"] = "slack"

    def __init__(self, http: Http, url: str, name: str, *, timeout_s: float) -> None:
        self.endpoint = f"incoming webhook of {name}"
        self._http = http
        self._url = url
        self._timeout_s = timeout_s

    async def send(self, letter: Letter) -> Outcome:
        """Post it."""
        body = msgspec.json.encode({"text": _text(letter)})
        post = Post(self._url, body, {"Content-Type": "application/json"}, {}, self._timeout_s)
        answer = await self._http.post(post)
        if isinstance(answer, NotTaken):
            return answer
        wait_s = retry_after(answer.retry_after, letter.at)
        return of_status("Slack", answer.status, said=answer.text, retry_after_s=wait_s)


def _text(letter: Letter) -> str:
    text = announcement(letter.told).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return shortened(text, TEXT_LENGTH_MAX)


def _outcome(answer: Answer, letter: Letter) -> Outcome:
    wait_s = retry_after(answer.retry_after, letter.at)
    if answer.status != 200:
        return of_status("Slack", answer.status, said=answer.text, retry_after_s=wait_s)
    try:
        said = msgspec.json.decode(answer.body, type=_Said)
    except msgspec.DecodeError:
        return NotTaken(error="Slack's answer is not what its API says", again=True, status=200, is_down=True)
    if said.ok:
        return Taken(status=200, thread=letter.thread or said.ts)
    again = said.error in PASSING
    return NotTaken(error=f"Slack says {said.error!r}", again=again, status=200, retry_after_s=wait_s, is_down=again)
