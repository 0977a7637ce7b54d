"""SMTP, by the standard library, to addresses that the guard has judged. It blocks: it runs in threads.

Certificates are checked for the name of the server. Each answer of a server has a time limit, and all of them together.
"""

from __future__ import annotations

import contextlib
import smtplib
import socket
import ssl
from collections.abc import Generator, Sequence
from typing import Literal

import msgspec

from services.runtime.egress import dialling

LIMIT_S = 180.0
"""How long one message may take altogether: a server that says a letter now and then keeps no thread."""


class MailServer(msgspec.Struct, frozen=True, kw_only=True):
    """Where mail is handed over."""

    host: str
    port: int
    security: Literal["starttls", "tls", "none"]
    timeout_s: float
    """For each answer."""


@contextlib.contextmanager
def connected(server: MailServer, addresses: Sequence[str], trust: ssl.SSLContext | None) -> Generator[smtplib.SMTP]:
    """A connection, encrypted as the server has it. Raises what `smtplib` raises, and `OSError`.

    `addresses`: those of the server that were judged. `trust`: needed unless its security is `none`.
    """
    with dialling(addresses, server.port, server.timeout_s, LIMIT_S) as dial:

        class Plain(smtplib.SMTP):
            def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:  # noqa: ARG002 - judged before
                return dial()

        class Wrapped(smtplib.SMTP):
            def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:  # noqa: ARG002 - judged before
                assert trust is not None
                return trust.wrap_socket(dial(), server_hostname=host)

        kind = Wrapped if server.security == "tls" else Plain
        client = kind(server.host, server.port, timeout=server.timeout_s)
        if server.security == "starttls":
            with contextlib.ExitStack() as on_failure:
                on_failure.callback(client.close)
                client.starttls(context=trust)
                on_failure.pop_all()
        with client:
            yield client
