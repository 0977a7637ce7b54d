"""E-mail, without anybody in between: sent by SMTP, with signed links. Replies come in by IMAP, or by a signed post."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from email.message import EmailMessage
from email.utils import parseaddr
from typing import TypeVar

from schemas.interactions import InteractionAnswered, InteractionRequested
from services.human_contact.channels.base import ChannelFailed, Question
from services.human_contact.channels.mail_servers import Outgoing, Visit, check_password_is_safe, visit
from services.human_contact.channels.registry import Setup
from services.human_contact.core.mail_replies import Mail
from services.human_contact.core.mails import Envelope, MailLinks, question_mail, sentence_mail
from services.human_contact.core.questions import asking
from services.human_contact.core.tokens import Link, LinkAction, ReplyTo, is_reply, link_token, named_in_reply, reply_id
from services.human_contact.core.words import line
from services.human_contact.links import NoLinks
from services.runtime.conversations import mail_thread
from services.runtime.egress import BadRule, Egress, EgressRefused, Rules

LINK_DAYS = 30
"""How long a link works at most; a question may wait longer, and its reminders bring new ones."""
THREADS_MAX = 4
"""Of each channel: mail servers that hang keep no other channel's."""

T = TypeVar("T")


class EmailChannel:
    """The `Channel` of type `email`. A place is the id of the message."""

    def __init__(self, setup: Setup) -> None:
        options = setup.spec.email
        if options is None or options.smtp is None:
            raise ChannelFailed("email.smtp is required to send mail", transient=False)
        self.key = setup.key
        self.address = parseaddr(options.address)[1].strip().lower()
        self.takes_replies = options.imap is not None or options.inbound_secret_from is not None
        self._options = options
        self._setup = setup
        self._smtp = options.smtp
        self._domain = parseaddr(self._smtp.sender)[1].rpartition("@")[2] or "holdfast.invalid"
        self._egress = _guard(setup.settings.egress_allow)
        self._threads = ThreadPoolExecutor(THREADS_MAX, thread_name_prefix=f"mail:{setup.key.name}")

    # --- the port ---

    async def deliver(self, question: Question) -> str:
        """Send it."""
        thread = mail_thread(question.thread_id, question.thread)
        return await self._ask(question.asked, thread=thread, n=0)

    async def remind(self, question: Question, place: str) -> None:
        """Send it again, with new links, as a reply to the first."""
        waited_s = (self._setup.clock.now() - question.asked.at).total_seconds()
        await self._ask(question.asked, thread=place, n=max(int(waited_s), 1))

    async def close(self, question: Question, place: str, answered: InteractionAnswered) -> None:
        """Nothing is sent: the links show what became of it."""

    async def check(self) -> str:
        """Sign in to the servers, and send nothing."""
        self._keys()
        await self._send(None)
        if self._options.imap is not None:
            await self.visited(lambda _: None)
        return "email channel validated successfully"

    async def end(self) -> None:
        """No connection is kept."""

    # --- for replies ---

    @property
    def has_mailbox(self) -> bool:
        """Whether there is a mailbox to look into."""
        return self._options.imap is not None

    def responder(self, asked: InteractionRequested) -> str:
        """Who answers by this channel: its address, as it is written where it says who may."""
        return next((one for one in asked.allowed if one.strip().lower() == self.address), self.address)

    def inbound_secret(self) -> str:
        """What signs posted replies; raises `ChannelFailed`."""
        return self._setup.secret(self._options.inbound_secret_from, "email.inboundSecretFrom")

    def replied_to(self, mail_: Mail) -> ReplyTo | None:
        """The question that a message answers, if it can be believed: its sender got a message of ours with that id."""
        if mail_.sender != self.address:
            return None
        keys = self._keys()
        for id_ in mail_.replies_to:
            named = named_in_reply(id_)
            if named is not None and (named.namespace, named.channel) == self.key and is_reply(keys, id_, self.address):
                return named
        return None

    async def tell(self, mail_: Mail, text: str) -> None:
        """Tell somebody who has replied what came of it. Raises `ChannelFailed`."""
        now = self._setup.clock.now()
        envelope = Envelope(
            sender=self._smtp.sender,
            to=self.address,
            subject=line(f"Re: {mail_.subject}", 180),
            message_id=f"<answer.{int(now.timestamp() * 1000)}@{self._domain}>",
            thread=mail_.message_id,
            at=now,
        )
        await self._send(lambda: sentence_mail(envelope, text))

    async def visited(self, look: Callable[[Visit], T]) -> T:
        """Look into the mailbox, in a thread. Raises `ChannelFailed`."""
        options = self._options.imap
        if options is None:
            raise ChannelFailed("email.imap is required to look for replies", transient=False)
        password = self._setup.secret(options.password_from, "email.imap.passwordFrom")
        addresses = await self._addresses(options.host, options.port)
        check_password_is_safe(options.host, options.security, addresses)
        trust = _trust() if options.security != "none" else None

        def go() -> T:
            with visit(options, password, addresses, trust) as visiting:
                return look(visiting)

        return await self._in_thread(go)

    # --- sending ---

    async def _ask(self, asked: InteractionRequested, *, thread: str, n: int) -> str:
        keys, now = self._keys(), self._setup.clock.now()
        reply = ReplyTo(asked.namespace, asked.task, asked.interaction, self.key.name, n, asking(asked))
        message_id = reply_id(keys, reply, self.address, self._domain)
        envelope = Envelope(
            sender=self._smtp.sender,
            to=self.address,
            subject=self._options.subject,
            message_id=message_id,
            thread=thread,
            at=now if n else asked.at,
        )
        links = MailLinks(
            page=self._link(keys, asked, "", now),
            accept=self._link(keys, asked, "accept", now),
            decline=self._link(keys, asked, "decline", now),
        )
        await self._send(lambda: question_mail(asked, envelope, links, replies=self.takes_replies, reminder=n > 0))
        return message_id

    def _link(self, keys: tuple[bytes, ...], asked: InteractionRequested, action: LinkAction, now: datetime) -> str:
        expires = min(asked.expires, now + timedelta(days=LINK_DAYS))
        link = Link(
            namespace=asked.namespace,
            task=asked.task,
            interaction=asked.interaction,
            asking=asking(asked),
            action=action,
            channel=self.key.name,
            to=self.responder(asked),
            expires=int(expires.timestamp()),
        )
        return self._setup.links.url(link_token(keys, link))

    async def _send(self, compose: Callable[[], EmailMessage] | None) -> None:
        """Send a message, or only sign in."""
        try:
            message = compose() if compose is not None else None
        except (ValueError, IndexError) as error:
            raise ChannelFailed(f"no message can be made of it: {error}", transient=False) from error
        smtp = self._smtp
        password = self._setup.secret(smtp.password_from, "email.smtp.passwordFrom") if smtp.username else ""
        addresses = await self._addresses(smtp.host, smtp.port)
        if password:
            check_password_is_safe(smtp.host, smtp.security, addresses)
        outgoing = Outgoing(smtp, password, _trust() if smtp.security != "none" else None)
        await self._in_thread(lambda: outgoing.send(addresses, message))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def _addresses(self, host: str, port: int) -> list[str]:
        try:
            return await self._egress.addresses(host, port)
        except EgressRefused as refused:
            raise ChannelFailed(f"{refused} (HOLDFAST_EGRESS_ALLOW)", transient=False) from refused
        except (OSError, TimeoutError) as error:
            raise ChannelFailed(f"{host} was not found: {error}", transient=True) from error

    def _keys(self) -> tuple[bytes, ...]:
        links = self._setup.links
        try:
            return links.keys if links.base else ()
        except NoLinks as error:
            raise ChannelFailed(str(error), transient=True) from error


def make(setup: Setup) -> EmailChannel:
    """The channel of a ContactChannel resource."""
    return EmailChannel(setup)


def _guard(allow: str) -> Egress:
    try:
        return Egress(Rules.of(entry for entry in allow.split(",") if entry.strip()))
    except BadRule as error:
        raise ChannelFailed(f"HOLDFAST_EGRESS_ALLOW: {error}", transient=False) from error


def _trust() -> ssl.SSLContext:
    from services.runtime.egress_http import default_trust  # noqa: PLC0415 - an HTTP client comes with it

    return default_trust()
