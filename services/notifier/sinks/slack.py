"""Slack: `chat.postMessage` of its Web API, with a thread for each task, or an incoming webhook.

Slack answers 200 to nearly everything, and says in the body whether it was done. The notification's id goes with the
message as its metadata.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import msgspec

from schemas.slack_messages import SlackRef, slack_metadata
from services.notifier.core.outcomes import NotTaken, Outcome, Taken, of_status
from services.notifier.core.words import announcement, shortened
from services.notifier.sinks.base import Letter
from services.notifier.sinks.http import Http, Post
from services.runtime.conversations import slack_thread
from services.runtime.outbound import Answer, place_of, retry_after

TEXT_LENGTH_MAX = 39_000
"""Characters; Slack cuts at 40,000."""
PASSING = ("fatal_error", "internal_error", "ratelimited", "rate_limited", "request_timeout", "service_unavailable")
"""Slack's own troubles. What else it says will not change by itself."""


def _refusal(error: str) -> str:
    return f"Slack says {error!r}"


NO_THREAD = tuple(
    map(_refusal, ("thread_not_found", "message_not_found", "invalid_thread_ts", "cannot_reply_to_message"))
)
"""The thread is not there any more, or is another channel's: the message is posted without it."""


class _Said(msgspec.Struct):
    ok: bool
    error: str = ""
    ts: str = ""


class Signer(NamedTuple):
    """Shows that a message was ours, to people's replies to it."""

    secret: str
    """The channel's signing secret."""
    channel: str
    """The ContactChannel."""


class SlackMessage:
    """Posts to a channel as a bot."""

    kind: Literal["slack"] = "slack"

    def __init__(
        self, http: Http, api_url: str, channel: str, token: str, *, timeout_s: float, signer: Signer | None = None
    ) -> None:
        self._url = f"{api_url.rstrip('/')}/chat.postMessage"
        self.endpoint = f"{place_of(self._url)} {channel}"
        self._http = http
        self._channel = channel
        self._token = token
        self._timeout_s = timeout_s
        self._signer = signer

    async def send(self, letter: Letter) -> Outcome:
        """Post it, in the conversation that there is about the thread."""
        message: dict[str, Any] = {
            "channel": self._channel,
            "text": _text(letter),
            "unfurl_links": False,
            "metadata": self._metadata(letter),
        }
        thread = slack_thread(letter.thread_id, letter.thread)
        outcome = await self._post({**message, "thread_ts": thread} if thread else message, letter)
        if thread and isinstance(outcome, NotTaken) and outcome.error in NO_THREAD:
            return await self._post(message, letter)
        return outcome

    def _metadata(self, letter: Letter) -> dict[str, Any]:
        payload: dict[str, Any] = {}
        if self._signer is not None:
            secret, name = self._signer
            ref = SlackRef(letter.told.namespace, name, letter.told.task, asking=letter.id)
            payload = slack_metadata("holdfast_task_ended", secret, ref)["event_payload"]
        return {"event_type": "holdfast_task_ended", "event_payload": {"id": letter.id, **payload}}

    async def _post(self, message: dict[str, Any], letter: Letter) -> Outcome:
        headers = {"Content-Type": "application/json; charset=utf-8"}
        secret = {"Authorization": f"Bearer {self._token}"}
        post = Post(self._url, msgspec.json.encode(message), headers, secret, self._timeout_s)
        answer = await self._http.post(post)
        if isinstance(answer, NotTaken):
            return answer
        return _outcome(answer, letter, message.get("thread_ts", ""))


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


def _outcome(answer: Answer, letter: Letter, thread: str) -> Outcome:
    wait_s = retry_after(answer.retry_after, letter.at)
    if answer.status != 200:
        return of_status("Slack", answer.status, said=answer.text, retry_after_s=wait_s)
    try:
        said = msgspec.json.decode(answer.body, type=_Said)
    except msgspec.DecodeError:
        return NotTaken(error="Slack's answer is not what its API says", again=True, status=200, is_down=True)
    if said.ok:
        return Taken(status=200, thread=thread or said.ts)
    again = said.error in PASSING
    return NotTaken(error=_refusal(said.error), again=again, status=200, retry_after_s=wait_s, is_down=again)
