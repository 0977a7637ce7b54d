"""Mailboxes that replies arrive in: looked into now and then, each by one replica at a time.

Two at once would do no harm, as an answer is taken once; the lease only saves the mail server the visits.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from schemas.wire import Instant, Malformed, Wire, decode, encode
from services.human_contact.channels.base import ChannelFailed
from services.human_contact.core.mail_replies import mail_of
from services.human_contact.replies import Replies
from services.runtime.errors import Conflict, RetryLater
from services.runtime.tasks import Tasks

if TYPE_CHECKING:
    from services.human_contact.channels.email import EmailChannel
    from services.human_contact.channels.mail_servers import Visit
    from services.human_contact.channels.registry import ChannelKey, Channels
    from services.human_contact.door import FrontDoor
    from services.runtime.ports import Bus

logger = logging.getLogger(__name__)

POLL_S = 15.0
LEASE_S = 45.0
SKIPPED_MAX = 1000
"""Messages that are remembered as nobody's."""


class MailboxLease(Wire, frozen=True, kw_only=True):
    """Who looks into a mailbox, and until when."""

    by: str
    until: Instant


class Mailboxes:
    """Looks into the mailboxes of all channels."""

    def __init__(self, bus: Bus, channels: Channels, door: FrontDoor, replica: str) -> None:
        self._bus = bus
        self._channels = channels
        self._replies = Replies(door)
        self._replica = replica
        self._skipped: dict[tuple[ChannelKey, str], None] = {}
        self._tasks = Tasks()

    def start(self) -> None:
        """Begin."""
        self._tasks.spawn(self._run(), name="mailboxes")

    async def stop(self) -> None:
        """End."""
        await self._tasks.close()

    async def _run(self) -> None:
        while True:
            await self._bus.clock.sleep(POLL_S)
            for key in self._channels.of_family("email"):
                try:
                    await self.look(key)
                except (ChannelFailed, RetryLater) as error:
                    extra = {"action": "email.mailbox"}
                    logger.warning("the mailbox of %s was not looked into: %s", key.name, error, extra=extra)

    async def look(self, key: ChannelKey) -> None:
        """Look into the mailbox of a channel, if it has one and nobody else is at it."""
        spec = self._channels.spec(key)
        if spec is None or spec.email is None or spec.email.imap is None or not await self._leased(key):
            return
        from services.human_contact.channels.email import EmailChannel  # noqa: PLC0415 - where there is e-mail

        channel = self._channels.get(key)
        if isinstance(channel, EmailChannel):
            await self._look(key, channel)

    async def _look(self, key: ChannelKey, channel: EmailChannel) -> None:
        def fetch(visit: Visit) -> list[tuple[str, bytes]]:
            new = [uid for uid in visit.replies() if (key, uid) not in self._skipped]
            return [(uid, data) for uid in new if (data := visit.fetch(uid)) is not None]

        done: list[str] = []
        try:
            for uid, data in await channel.visited(fetch):
                mail = mail_of(data)
                if channel.replied_to(mail) is None:
                    # Another channel's, or nobody's: whose it is will know it.
                    logger.info("a message in the mailbox of %s answers none of its own", key.name)
                    self._skip(key, uid)
                    continue
                said = await self._replies.take(channel, mail)
                logger.info("a reply to %s: %s", key.name, said, extra={"action": "email.reply"})
                done.append(uid)
        finally:
            if done:
                await channel.visited(lambda visit: visit.seen(done))

    def _skip(self, key: ChannelKey, uid: str) -> None:
        self._skipped[key, uid] = None
        if len(self._skipped) > SKIPPED_MAX:
            del self._skipped[next(iter(self._skipped))]

    async def _leased(self, key: ChannelKey) -> bool:
        """Whether it is this replica's turn."""
        name = f"mailbox.{key.namespace}.{key.name}"
        entry = await self._bus.flow.get(name)
        now = self._bus.clock.now()
        if entry is not None and entry.data is not None and not self._free(entry.data, now):
            return False
        lease = MailboxLease(by=self._replica, until=now + timedelta(seconds=LEASE_S))
        try:
            await self._bus.flow.put(name, encode(lease), expected=entry.revision if entry is not None else 0)
        except Conflict:
            return False
        return True

    def _free(self, data: bytes, now: datetime) -> bool:
        try:
            lease = decode(data, MailboxLease)
        except Malformed:
            return True
        return lease.by == self._replica or lease.until <= now
