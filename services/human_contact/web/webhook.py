"""Answers that are posted to `/webhook/<namespace>/<channel>`, signed with the channel's secret.

Whoever has the secret answers what that channel was asked, and nothing else. The same message again is harmless: an
answer counts once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from schemas.requests import Accepted
from services.human_contact.channels.base import ChannelFailed
from services.human_contact.channels.registry import ChannelKey
from services.human_contact.channels.webhook import WebhookChannel
from services.human_contact.core.webhook_words import Posted
from services.human_contact.door import sentence
from services.human_contact.web.base import Handler, Received, Reply, Unfit, said
from services.human_contact.web.link_pages import STATUSES
from services.runtime.signing import BadSignature, check

if TYPE_CHECKING:
    from services.human_contact.web.reception import Reception

UNSIGNED = "This was not signed with the secret of this channel just now: {why}."
_PARTS = 3
"""Of the path: `webhook`, namespace, channel."""


class WebhookAnswers:
    """Takes answers."""

    def __init__(self, reception: Reception) -> None:
        self._reception = reception

    async def handle(self, received: Received) -> Reply:
        """An answer; the front door's sentence comes back."""
        if received.method != "POST":
            raise Unfit(405, "An answer is posted.")
        parts = received.path.strip("/").split("/")
        if len(parts) != _PARTS:
            raise Unfit(404, "There is nothing here.")
        key = ChannelKey(parts[1], parts[2])
        self._check(key, received)
        try:
            posted = msgspec.json.decode(received.body, type=Posted)
        except (msgspec.DecodeError, RecursionError) as error:
            raise Unfit(400, f"This is no answer: {error}.") from error
        door = self._reception.door
        found = await door.find(key.namespace, posted.task, posted.interaction)
        if found is None or key.name not in found.channels:
            raise Unfit(404, f"Task {posted.task[:80]!r} has asked nothing {posted.interaction[:80]!r} here.")
        if found.asked.digest and posted.action == "accept" and not posted.digest:
            raise Unfit(422, "digest is required: it is that of the question, and says what was shown.")
        reply = await door.answer(key.namespace, posted.answer(), key.name)
        status = 200 if isinstance(reply, Accepted) else STATUSES.get(reply.code, 409)
        return said(status, sentence(reply))

    def _check(self, key: ChannelKey, received: Received) -> None:
        """Raise `Unfit` unless the channel's secret has signed it. A channel that is not there is as good as closed."""
        keys: list[bytes] = []
        try:
            channel = self._reception.channels.get(key)
            if isinstance(channel, WebhookChannel):
                keys.append(channel.key)
        except ChannelFailed:
            pass
        try:
            check(keys, received.headers, received.body, self._reception.clock.now())
        except BadSignature as error:
            raise Unfit(401, UNSIGNED.format(why=error)) from error


def inbound(reception: Reception) -> Handler:
    """The handler of requests below `/webhook/`."""
    return WebhookAnswers(reception).handle
