"""Replies that a mail provider posts: `/email/inbound`, signed as Standard Webhooks has it."""

from __future__ import annotations

import msgspec

from services.human_contact.channels.base import ChannelFailed
from services.human_contact.channels.email import EmailChannel
from services.human_contact.channels.registry import ChannelKey
from services.human_contact.core.mail_replies import TEXT_LENGTH_MAX, Mail, ids_in, sender_of
from services.human_contact.core.tokens import named_in_reply
from services.human_contact.replies import Replies
from services.human_contact.web.base import Handler, Received, Reply, Unfit, json_reply
from services.human_contact.web.reception import Reception
from services.runtime.signing import BadKey, BadSignature, check, key_of

NOBODY = "The signature is not that of this reply's channel."


class PostedMail(msgspec.Struct, frozen=True, kw_only=True):
    """The body of a post."""

    sender: str = msgspec.field(name="from")
    to: str = ""
    subject: str = ""
    text: str
    message_id: str = ""
    in_reply_to: str = ""
    references: str = ""
    auto_submitted: str = "no"


class PostedReplies:
    """Answers what is below `/email/`."""

    def __init__(self, reception: Reception) -> None:
        self._channels = reception.channels
        self._clock = reception.clock
        self._replies = Replies(reception.door)

    async def handle(self, received: Received) -> Reply:
        """Take a post."""
        if received.path.rstrip("/") != "/email/inbound":
            raise Unfit(404, "There is /email/inbound.")
        if received.method != "POST":
            raise Unfit(405, "Replies are posted here.")
        try:
            posted = msgspec.json.decode(received.body, type=PostedMail)
        except (msgspec.DecodeError, RecursionError) as error:
            raise Unfit(400, "The body is not {from, to, subject, text, message_id, in_reply_to}.") from error
        ids = tuple(ids_in(posted.in_reply_to) + ids_in(posted.references))
        channel = self._channel(ids)
        try:
            keys = [key_of(line) for line in channel.inbound_secret().split()]
            check(keys, received.headers, received.body, self._clock.now())
        except (BadKey, BadSignature, ChannelFailed) as error:
            raise Unfit(401, NOBODY) from error
        mail = Mail(
            sender=sender_of([posted.sender]),
            subject=posted.subject[:500],
            text=posted.text[:TEXT_LENGTH_MAX],
            message_id="".join(ids_in(posted.message_id)[:1]),
            replies_to=ids,
            automatic=posted.auto_submitted.strip().lower() not in ("", "no"),
        )
        return json_reply({"said": await self._replies.take(channel, mail)})

    def _channel(self, ids: tuple[str, ...]) -> EmailChannel:
        """The channel that a reply names. Nothing it says is believed yet."""
        for named in filter(None, map(named_in_reply, ids)):
            try:
                channel = self._channels.get(ChannelKey(named.namespace, named.channel))
            except ChannelFailed:
                continue
            if isinstance(channel, EmailChannel):
                return channel
        raise Unfit(401, NOBODY)


def inbound(reception: Reception) -> Handler:
    """The handler of posted replies."""
    return PostedReplies(reception).handle
