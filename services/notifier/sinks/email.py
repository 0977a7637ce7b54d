"""E-mail, by SMTP: the standard library's client in a few threads of its own, connected through the guard.

The message's id derives from the notification's, so that a mailbox can tell a repetition. A server that answers with a
4xx code, or not at all, is asked again; a 5xx code is final.
"""

from __future__ import annotations

import asyncio
import smtplib
import ssl
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime, parseaddr
from typing import Any, Literal

from msgspec.structs import replace

from schemas.resources import EmailSink, SMTPServer
from services.notifier.core.outcomes import NotTaken, Outcome, Taken
from services.notifier.core.words import announcement, headline, shortened
from services.notifier.sinks.base import Letter
from services.runtime.conversations import mail_thread
from services.runtime.egress import Egress, EgressRefused
from services.runtime.egress_http import default_trust
from services.runtime.smtp import MailServer, connected

POLICY = SMTP.clone(max_line_length=998)
"""Ids are longer than the usual line, and must not be broken."""
TEXT_LENGTH_MAX = 1_000_000
THREADS_MAX = 32
"""More than one receiver has attempts at once, so that a mail server that hangs does not hold the others up."""


class Postman:
    """Hands messages to mail servers."""

    def __init__(self, egress: Egress, *, trust: ssl.SSLContext | None = None) -> None:
        self._egress = egress
        self._trust = trust
        self._threads = ThreadPoolExecutor(max_workers=THREADS_MAX, thread_name_prefix="smtp")

    async def hand_over(self, smtp: SMTPServer, login: tuple[str, str] | None, message: EmailMessage) -> Outcome:
        """Send a message to all its receivers."""
        try:
            addresses = await self._egress.addresses(smtp.host, smtp.port)
        except EgressRefused as refused:
            return NotTaken(error=f"refused: {refused}", again=False)
        except OSError as error:
            return NotTaken(error=f"{smtp.host} was not found: {error}", again=True, is_down=True)
        loop = asyncio.get_running_loop()
        trust = self._trust or (default_trust() if smtp.security != "none" else None)
        return await loop.run_in_executor(self._threads, _hand_over, smtp, addresses, login, message, trust)

    def close(self) -> None:
        """Begin nothing more; what is under way ends by its time limit."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class Email:
    """One message to the addresses of a Subscription."""

    kind: Literal["email"] = "email"

    def __init__(self, postman: Postman, sink: EmailSink, login: tuple[str, str] | None, *, subject: str = "") -> None:
        self.endpoint = f"smtp://{sink.smtp.host}:{sink.smtp.port}"
        self._postman = postman
        self._sink = sink
        self._login = login
        self._subject = subject

    async def send(self, letter: Letter) -> Outcome:
        """Send it."""
        try:
            message = composed(self._sink, letter, self._subject)
        except ValueError as error:
            return NotTaken(error=f"no e-mail can be made of it: {error}", again=False)
        outcome = await self._postman.hand_over(self._sink.smtp, self._login, message)
        if isinstance(outcome, Taken):
            return replace(outcome, thread=str(message["References"] or message["Message-ID"]))
        return outcome


def composed(sink: EmailSink, letter: Letter, subject: str = "") -> EmailMessage:
    """The message; the same at every attempt. Raises `ValueError` for addresses that are none."""
    told = letter.told
    message = EmailMessage(policy=POLICY)
    message["Message-ID"] = f"<{letter.id}@{parseaddr(sink.from_)[1].rpartition('@')[2] or 'holdfast.invalid'}>"
    message["Date"] = format_datetime(told.at)
    message["From"] = sink.from_
    message["To"] = ", ".join(sink.to)
    message["Subject"] = subject or headline(told)
    if thread := mail_thread(letter.thread_id, letter.thread):
        message["In-Reply-To"] = thread
        message["References"] = thread
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(shortened(announcement(told), TEXT_LENGTH_MAX))
    return message


def _hand_over(
    smtp: SMTPServer,
    addresses: Sequence[str],
    login: tuple[str, str] | None,
    message: EmailMessage,
    trust: ssl.SSLContext | None,
) -> Outcome:
    """In a thread."""
    server = MailServer(host=smtp.host, port=smtp.port, security=smtp.security, timeout_s=smtp.timeout_s)
    try:
        with connected(server, addresses, trust) as client:
            if login is not None:
                client.login(*login)
            refused = client.send_message(message)
    except smtplib.SMTPRecipientsRefused as error:
        return _refused(error.recipients)
    except smtplib.SMTPResponseException as error:
        text = error.smtp_error.decode(errors="replace") if isinstance(error.smtp_error, bytes) else error.smtp_error
        again = error.smtp_code < 500
        return NotTaken(
            error=f"SMTP error {error.smtp_code}: {text}", again=again, status=error.smtp_code, is_down=again
        )
    except (smtplib.SMTPNotSupportedError, ssl.SSLCertVerificationError, UnicodeError) as error:
        return NotTaken(error=f"{smtp.host}: {error}", again=False)
    except (smtplib.SMTPException, OSError) as error:
        return NotTaken(error=f"{smtp.host}: {type(error).__name__}: {error}", again=True, is_down=True)
    if refused:
        # The others have it: asking again would send it to them twice.
        return NotTaken(error=f"not for {', '.join(refused)}; the other receivers have it", again=False)
    return Taken(status=250)


def _refused(recipients: dict[str, Any]) -> NotTaken:
    code, text = next(iter(recipients.values()))
    said = text.decode(errors="replace") if isinstance(text, bytes) else str(text)
    return NotTaken(error=f"SMTP error {code}: {said}", again=code < 500, status=code)
