"""Mailboxes that replies arrive in: looked into now and then, each by one replica at a time.

Two at once would do no harm, as an answer is taken once; the lease only saves the mail server the visits. So it is
hardly longer than the time between two looks: whoever finds it over, because its holder has died or hangs, goes on at
once. Each mailbox is looked into by itself, so one that hangs holds no other up.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from schemas.flow import MailboxLease
from schemas.subjects import flow_mailbox
from schemas.wire import Malformed, decode, encode
from services.human_contact.channels.base import ChannelFailed
from services.human_contact.core.mail_replies import Mail, mail_of
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

TICK_S = 5.0
"""How often leases are looked at."""
POLL_S = 15.0
"""How often a mailbox is looked into."""
LEASE_S = 20.0
MAILS_MAX = 50
"""Messages that are fetched in one visit, the newest."""
SKIPPED_MAX = 10_000
"""Messages that are remembered as nobody's."""


class Mailboxes:
    """Looks into the mailboxes of all channels."""

    def __init__(self, bus: Bus, channels: Channels, door: FrontDoor, replica: str) -> None:
        self._bus = bus
        self._channels = channels
        self._replies = Replies(door)
        self._replica = replica
        self._skipped: dict[tuple[ChannelKey, str, str], None] = {}
        self._looked: dict[ChannelKey, datetime] = {}
        self._looking: set[ChannelKey] = set()
        self._tasks = Tasks()

    def start(self) -> None:
        """Begin."""
        self._tasks.spawn(self._run(), name="mailboxes")

    async def stop(self) -> None:
        """End."""
        await self._tasks.close()

    async def _run(self) -> None:
        while True:
            await self._bus.clock.sleep(TICK_S)
            keys = self._channels.of_family("email")
            self._looked = {key: at for key, at in self._looked.items() if key in keys}
            for key in keys:
                if key not in self._looking and self._is_due(key):
                    self._looking.add(key)
                    self._tasks.spawn(self._look_once(key), name=f"mailbox:{key.namespace}/{key.name}")

    def _is_due(self, key: ChannelKey) -> bool:
        looked = self._looked.get(key)
        return looked is None or self._bus.clock.now() - looked >= timedelta(seconds=POLL_S)

    async def _look_once(self, key: ChannelKey) -> None:
        try:
            await self.look(key)
        except (ChannelFailed, RetryLater) as error:
            extra = {"action": "email.mailbox"}
            logger.warning("the mailbox of %s was not looked into: %s", key.name, error, extra=extra)
        finally:
            self._looking.discard(key)

    async def look(self, key: ChannelKey) -> None:
        """Look into the mailbox of a channel, if it has one and nobody else is at it."""
        spec = self._channels.spec(key)
        if spec is None or spec.email is None or spec.email.imap is None or not await self._leased(key):
            return
        from services.human_contact.channels.email import EmailChannel  # noqa: PLC0415 - where there is e-mail

        self._looked[key] = self._bus.clock.now()
        channel = self._channels.get(key)
        if isinstance(channel, EmailChannel):
            await self._look(key, channel)

    async def _look(self, key: ChannelKey, channel: EmailChannel) -> None:
        def fetch(visit: Visit) -> list[tuple[str, Mail]]:
            # What is skipped does not count, and what is new comes first: what strangers send holds up nothing.
            found = sorted(visit.replies(channel.address), key=int, reverse=True)
            new = [uid for uid in found if (key, visit.validity, uid) not in self._skipped][:MAILS_MAX]
            validity.append(visit.validity)
            return [(uid, mail_of(data)) for uid in new if (data := visit.fetch(uid)) is not None]

        validity: list[str] = []
        done: list[str] = []
        try:
            for uid, mail in await channel.visited(fetch):
                if channel.replied_to(mail) is None:
                    # Another channel's, or nobody's: whose it is will know it.
                    logger.info("a message in the mailbox of %s answers none of its own", key.name)
                    self._skip(key, validity[0], uid)
                    continue
                said = await self._replies.take(channel, mail)
                logger.info("a reply to %s: %s", key.name, said, extra={"action": "email.reply"})
                done.append(uid)
        finally:
            if done:
                await channel.visited(lambda visit: visit.seen(done))

    def _skip(self, key: ChannelKey, validity: str, uid: str) -> None:
        self._skipped[key, validity, uid] = None
        if len(self._skipped) > SKIPPED_MAX:
            del self._skipped[next(iter(self._skipped))]

    async def _leased(self, key: ChannelKey) -> bool:
        """Whether it is this replica's turn."""
        name = flow_mailbox(key.namespace, key.name)
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
