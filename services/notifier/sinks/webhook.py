"""Webhooks: a `responseURL`, a Subscription's and a contact channel's, signed as Standard Webhooks has it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from services.notifier.core import words
from services.notifier.core.outcomes import NotTaken, Outcome, of_status
from services.notifier.core.words import Told
from services.notifier.sinks.base import Letter
from services.notifier.sinks.http import Http, Post
from services.runtime.outbound import place_of, retry_after
from services.runtime.signing import signed_headers


class Webhook:
    """Posts a body to an address."""

    def __init__(
        self,
        http: Http,
        url: str,
        *,
        kind: Literal["responseURL", "contactChannel", "webhook"],
        body: Callable[[Told, str], bytes],
        keys: Sequence[bytes],
        headers: Mapping[str, str],
        timeout_s: float,
    ) -> None:
        self.kind: Literal["responseURL", "contactChannel", "webhook"] = kind
        self.endpoint = place_of(url)
        self._http = http
        self._url = url
        self._body = body
        self._keys = keys
        self._headers = headers
        self._timeout_s = timeout_s

    async def send(self, letter: Letter) -> Outcome:
        """Post it."""
        body = self._body(letter.told, letter.id)
        signed = signed_headers(self._keys, letter.id, letter.at, body)
        headers = {"Content-Type": "application/json", **signed}
        answer = await self._http.post(Post(self._url, body, headers, self._headers, self._timeout_s))
        if isinstance(answer, NotTaken):
            return answer
        wait_s = retry_after(answer.retry_after, letter.at)
        return of_status(self.kind, answer.status, said=answer.text, retry_after_s=wait_s)


def event_body(told: Told, _id: str) -> bytes:
    """What a Subscription's webhook is sent; the id is in the headers."""
    return words.event(told)
