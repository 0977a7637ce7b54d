"""ContactChannels by the API that the predecessor's manifests expect: a contact request that wants no answer.

A project's key says where the message goes (`channel`); a channel's own key routes by itself, and says nothing.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from schemas.resources import ContactChannelSpec
from services.notifier.core.outcomes import NotTaken, Outcome, Taken, of_status
from services.notifier.core.words import message
from services.notifier.sinks.base import Letter
from services.notifier.sinks.http import Http, Post
from services.runtime.outbound import place_of, retry_after

PATH = "/humanlayer/v1/contact_requests"
IDS_LENGTH_MAX = 64
"""Of `run_id` and `call_id` together: the API takes no more."""
TIMEOUT_S = 15.0


class HumanLayer:
    """Asks the API to pass the message on."""

    kind: Literal["contactChannel"] = "contactChannel"

    def __init__(self, http: Http, base_url: str, channel: ContactChannelSpec, key: str) -> None:
        self._url = base_url.rstrip("/") + PATH
        self.endpoint = place_of(self._url)
        self._http = http
        self._channel = channel
        self._key = key

    async def send(self, letter: Letter) -> Outcome:
        """Post it."""
        spec: dict[str, Any] = {"msg": message(letter.told)}
        if self._channel.api_key_from is not None:
            spec["channel"] = _channel(self._channel)
        run = letter.told.agent[: IDS_LENGTH_MAX - len(letter.id)]
        body = msgspec.json.encode({"run_id": run, "call_id": letter.id, "spec": spec})
        headers = {"Content-Type": "application/json"}
        secret = {"Authorization": f"Bearer {self._key}"}
        answer = await self._http.post(Post(self._url, body, headers, secret, TIMEOUT_S))
        if isinstance(answer, NotTaken):
            return answer
        if answer.status == 409 and letter.again:
            return Taken(status=409)  # it has this id: the attempt before arrived
        wait_s = retry_after(answer.retry_after, letter.at)
        return of_status("HumanLayer", answer.status, said=answer.text, retry_after_s=wait_s)


def _channel(spec: ContactChannelSpec) -> dict[str, Any]:
    """The channel in the API's words."""
    if spec.type == "slack" and spec.slack is not None:
        slack: dict[str, Any] = {"channel_or_user_id": spec.slack.channel_or_user_id}
        if spec.slack.context_about_channel_or_user:
            slack["context_about_channel_or_user"] = spec.slack.context_about_channel_or_user
        if spec.slack.allowed_responder_ids:
            slack["allowed_responder_ids"] = spec.slack.allowed_responder_ids
        return {"slack": slack}
    if spec.email is not None:
        email: dict[str, Any] = {"address": spec.email.address}
        if spec.email.context_about_user:
            email["context_about_user"] = spec.email.context_about_user
        if spec.email.subject:
            email["experimental_subject_line"] = spec.email.subject
        return {"email": email}
    return {}
