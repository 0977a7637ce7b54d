"""Replies by e-mail, however they came in: believed if they answer a message of ours, and sent by whom it went to."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from schemas.requests import Accepted
from services.human_contact.channels.base import ChannelFailed
from services.human_contact.core.forms import Answerer
from services.human_contact.core.mail_replies import BadReply, Mail, reply_answer
from services.human_contact.core.questions import asking
from services.human_contact.door import sentence

if TYPE_CHECKING:
    from services.human_contact.channels.email import EmailChannel
    from services.human_contact.door import FrontDoor

logger = logging.getLogger(__name__)


class Replies:
    """Takes replies."""

    def __init__(self, door: FrontDoor) -> None:
        self._door = door

    async def take(self, channel: EmailChannel, mail: Mail) -> str:
        """Hand a reply in; what became of it, in a sentence. Raises `RetryLater` while the bus does not answer."""
        if mail.automatic:
            return "No person has written this."
        named = channel.replied_to(mail)
        if named is None:
            logger.warning(
                "a message to %s from %s answers nothing that it was sent",
                channel.key.name,
                mail.sender[:100],
                extra={"action": "email.unknown"},
            )
            return "This answers no message that its sender was sent."
        found = await self._door.find(named.namespace, named.task, named.interaction)
        if found is None or named.channel not in found.channels or named.asking != asking(found.asked):
            return await self._tell(channel, mail, "The task of this question is not there any more.")
        who = Answerer(by=channel.responder(found.asked), via="email", digest=found.asked.digest)
        try:
            request = reply_answer(found.asked, who, mail.text)
        except BadReply as error:
            return await self._tell(channel, mail, f"Your answer was not taken. {error}")
        reply = await self._door.answer(named.namespace, request, named.channel)
        text = sentence(reply)
        if isinstance(reply, Accepted) and not reply.note:
            return text
        return await self._tell(channel, mail, text)

    async def _tell(self, channel: EmailChannel, mail: Mail, text: str) -> str:
        try:
            await channel.tell(mail, text)
        except ChannelFailed as failed:
            logger.warning("somebody was not told %r: %s", text, failed, extra={"action": "email.tell"})
        return text
