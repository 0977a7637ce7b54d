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
from services.runtime.humanlayer import ROOT, channel_of, run_id
from services.runtime.outbound import place_of, retry_after

PATH = f"{ROOT}/contact_requests"
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
        if (channel := channel_of(self._channel, letter.thread_id)) is not None:
            spec["channel"] = channel
        run = run_id(letter.told.agent, letter.id)
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
