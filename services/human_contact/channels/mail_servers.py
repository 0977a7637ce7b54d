"""Mail servers, by the standard library: SMTP to send, IMAP to look for replies. All of it blocks: it runs in threads.

Connections go to addresses that the guard has judged; certificates are checked for the name in the manifest.
"""

from __future__ import annotations

import contextlib
import imaplib
import re
import smtplib
import socket
import ssl
from collections.abc import Callable, Generator, Sequence
from email.message import EmailMessage
from ipaddress import ip_address

from schemas.resources import IMAPOptions, SMTPOptions
from services.human_contact.channels.base import ChannelFailed
from services.runtime.egress import dialling
from services.runtime.smtp import MailServer, connected

TIMEOUT_S = 20.0
VISIT_S = 120.0
"""How long a look into a mailbox may take altogether."""
LITERAL_BYTES_MAX = 1024 * 1024
"""Of what a server sends in one piece, whatever it was asked for."""
MAIL_BYTES_MAX = 256 * 1024
"""Of a message; what is behind that is not fetched."""
UID_LENGTH_MAX = 10
OURS = '"holdfast."'
"""In `In-Reply-To` or `References` of replies to us."""


def check_password_is_safe(host: str, security: str, addresses: Sequence[str]) -> None:
    """A password goes in the clear to this machine only; raises `ChannelFailed`."""
    if security == "none" and not all(ip_address(address).is_loopback for address in addresses):
        raise ChannelFailed(f"security: none would send the password to {host} in the clear", transient=False)


# --- SMTP -------------------------------------------------------------------------------


class Outgoing:
    """Where mail is handed over."""

    def __init__(self, options: SMTPOptions, password: str, trust: ssl.SSLContext | None) -> None:
        self._options = options
        self._password = password
        self._trust = trust

    def send(self, addresses: Sequence[str], message: EmailMessage | None) -> None:
        """Hand a message over, or only sign in if there is none. Raises `ChannelFailed`."""
        options, host = self._options, self._options.host
        server = MailServer(host=host, port=options.port, security=options.security, timeout_s=TIMEOUT_S)
        try:
            with connected(server, addresses, self._trust) as client:
                if options.username:
                    client.login(options.username, self._password)
                if message is None:
                    client.noop()
                else:
                    client.send_message(message)
        except smtplib.SMTPRecipientsRefused as error:
            code, text = next(iter(error.recipients.values()))
            raise ChannelFailed(
                f"{host} does not take the address: {code} {_said(text)}", transient=code < 500
            ) from error
        except smtplib.SMTPResponseException as error:
            said = f"{host} answered {error.smtp_code} {_said(error.smtp_error)}"
            raise ChannelFailed(said, transient=error.smtp_code < 500) from error
        except (smtplib.SMTPNotSupportedError, ssl.SSLCertVerificationError, UnicodeError) as error:
            raise ChannelFailed(f"{host}: {error}", transient=False) from error
        except (smtplib.SMTPException, OSError) as error:
            raise ChannelFailed(f"{host} was not reached: {error}", transient=True) from error


def _said(text: object) -> str:
    return (text.decode(errors="replace") if isinstance(text, bytes) else str(text))[:300]


# --- IMAP -------------------------------------------------------------------------------


class Visit:
    """One signed-in look into a mailbox."""

    def __init__(self, client: imaplib.IMAP4) -> None:
        self._client = client

    @property
    def validity(self) -> str:
        """Ids of messages are those of others when this has changed."""
        _, data = self._client.response("UIDVALIDITY")
        return data[0].decode("ascii", "replace") if data and isinstance(data[0], bytes) else ""

    def replies(self, sender: str) -> list[str]:
        """The ids of unseen messages that answer messages of ours, and say that they are from there."""
        found: list[str] = []
        for field in ("IN-REPLY-TO", "REFERENCES"):
            words = ["UNSEEN", *(["FROM", _quoted(sender)] if sender.isascii() else []), "HEADER", field, OURS]
            _, data = self._client.uid("SEARCH", *words)
            if data and isinstance(data[0], bytes):
                found += data[0].decode("ascii", "replace").split()
        return list(dict.fromkeys(uid for uid in found if uid.isdigit() and len(uid) <= UID_LENGTH_MAX))

    def fetch(self, uid: str) -> bytes | None:
        """A message; None if it is not there any more. It stays unseen."""
        _, data = self._client.uid("FETCH", uid, f"(BODY.PEEK[]<0.{MAIL_BYTES_MAX}>)")
        return next((item[1] for item in data if isinstance(item, tuple) and isinstance(item[1], bytes)), None)

    def seen(self, uids: Sequence[str]) -> None:
        """Do not look at them again."""
        self._client.uid("STORE", ",".join(uids), "+FLAGS", r"(\Seen)")


@contextlib.contextmanager
def visit(
    options: IMAPOptions, password: str, addresses: Sequence[str], trust: ssl.SSLContext | None
) -> Generator[Visit]:
    """Sign in, and out. Raises `ChannelFailed`."""
    try:
        with dialling(addresses, options.port, TIMEOUT_S, VISIT_S) as dial:
            client = _signed_in(options, password, dial, trust)
            try:
                state, _ = client.select(_quoted(options.mailbox))
                if state != "OK":
                    raise ChannelFailed(f"{options.host} has no mailbox {options.mailbox!r}", transient=True)
                yield Visit(client)
            finally:
                with contextlib.suppress(imaplib.IMAP4.error, OSError):
                    client.logout()
    except imaplib.IMAP4.abort as error:
        raise ChannelFailed(f"{options.host} hung up: {str(error)[:200]}", transient=True) from error
    except imaplib.IMAP4.error as error:
        # It may be that the server is busy: the protocol does not tell.
        raise ChannelFailed(f"{options.host} refused: {str(error)[:200]}", transient=True) from error
    except OSError as error:
        raise ChannelFailed(f"{options.host} was not reached: {error}", transient=True) from error
    except UnicodeEncodeError as error:
        raise ChannelFailed(f"{options.host}: user and password must be ASCII for IMAP", transient=False) from error
    except (ValueError, LookupError, TypeError, AssertionError) as error:
        # What the library makes of a server that does not keep to the protocol.
        raise ChannelFailed(f"{options.host} does not speak IMAP: {type(error).__name__}", transient=True) from error


def _signed_in(
    options: IMAPOptions, password: str, dial: Callable[[], socket.socket], trust: ssl.SSLContext | None
) -> imaplib.IMAP4:
    class Plain(imaplib.IMAP4):
        def read(self, size: int) -> bytes:
            if size > LITERAL_BYTES_MAX:
                raise self.abort(f"a literal of {size} bytes")
            return super().read(size)

        def _create_socket(self, timeout: float | None) -> socket.socket:  # noqa: ARG002 - the dialler has its own
            plain = dial()
            if options.security != "tls":
                return plain
            assert trust is not None
            return trust.wrap_socket(plain, server_hostname=options.host)

    client = Plain(options.host, options.port, TIMEOUT_S)
    with contextlib.ExitStack() as on_failure:
        on_failure.callback(client.shutdown)
        if options.security == "starttls":
            client.starttls(trust)
        client.login(_quoted(options.username), password)
        on_failure.pop_all()
    return client


def _quoted(text: str) -> str:
    """A string of IMAP's; the library takes the user's name and the mailbox as they are."""
    if re.search(r"[\x00-\x1f\x7f]", text):
        raise ChannelFailed(f"{text!r} has control characters", transient=False)
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
