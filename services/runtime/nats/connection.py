"""One connection: the client with safe options, and requests and raw subscriptions without its overhead.

What the client lacks or does badly, and what is done here instead:
  a request waits its whole timeout when the connection breaks  ->  it fails at once, with `Interrupted`
  a message above the limit, headers included, closes it        ->  refused here, before it is sent
  an `error_cb` that raises, or a slow one, stops its read loop ->  ours only logs
  it gives up after sixty attempts                              ->  never; CLOSED ends the process
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nats.errors import Error as NatsError

from services.runtime.errors import Refused, Unavailable
from services.runtime.nats.client import OUTBOX_BYTES_MAX, Interrupted, RawClient, RawSubscription
from services.runtime.nats.wire import Raw, Receiver, encode_headers
from services.runtime.settings import Settings
from services.runtime.tasks import spawn

logger = logging.getLogger(__name__)

CONNECT_S = 10.0
"""How long the first connection may take."""
FLUSH_S = 2
"""How long the server may take to say that it has everything."""
PING_S = 1
PINGS_LOST_MAX = 2
"""A server that hangs is left after three to four seconds."""
REQUEST_S = 2.0
"""How long an answer may take; a leader that is gone does not answer at all."""
SUBJECT_BYTES_MAX = 1500
"""The server closes connections that send a longer control line than 4096 bytes: subject, reply and sizes."""

_SUBJECT = re.compile(r"[!-~]+")
"""Printable ASCII without spaces; ids are narrower still (`schemas.ids`)."""


class NoResponders(Unavailable):
    """Nobody listens there, so nothing happened: no leader now, no such stream, or JetStream is off."""


class TooLarge(Refused):
    """Data and headers together are above what the server accepts."""

    def __init__(self, subject: str, size: int, limit: int) -> None:
        super().__init__(f"{subject}: {size} bytes are above the server's limit of {limit}", code="too_large")


class Connection:
    """A connection to the bus that is kept until `close`, through restarts of the server."""

    def __init__(self, settings: Settings, *, service: str, on_closed: Callable[[], None] | None = None) -> None:
        self._settings = settings
        self._service = service
        self._on_closed = on_closed
        self._client = RawClient()
        self._numbers = itertools.count(1)
        self._waiting: dict[str, Receiver] = {}
        self._interruptible: set[asyncio.Future[Any]] = set()
        self._connected = asyncio.Event()
        self._inbox = ""
        self._closing = False
        self._last_error = ""
        self._errors = 0
        self._opening: asyncio.Task[Any] | None = None
        self._reconnect_listeners: list[Callable[[], None]] = []

    # --- life ---------------------------------------------------------------------------

    async def open(self) -> None:
        """Connect; raises `Unavailable` with the reason if that takes too long or is refused."""
        check_files(self._settings)
        self._opening = spawn(self._client.connect(**self._options()), name="nats:connect")
        await asyncio.wait((self._opening,), timeout=CONNECT_S)
        if self._opening.done() and not self._opening.cancelled() and self._opening.exception() is None:
            self._opening = None
        else:
            await self._abandon(self._opening)
            raise Unavailable(
                f"cannot connect to NATS at {self._settings.nats_shown}: {self._last_error or 'no answer'}"
            )
        prefix = self._client.new_inbox() + "."
        await self.listen(prefix + "*", self._answer)
        self._inbox = prefix
        self._connected.set()

    async def close(self) -> None:
        """Send what is written and disconnect."""
        self._closing = True
        await self._client.finish(flushed=await self.flush())
        self._interrupt("the connection was closed")

    @property
    def is_connected(self) -> bool:
        """True while a server is there."""
        return self._client.is_connected

    @property
    def server_version(self) -> str:
        """The version of the server that this connection ends at."""
        return str(self._client.server_says("version") or "")

    @property
    def server_name(self) -> str:
        """The name of the server that this connection ends at."""
        return str(self._client.server_says("server_name") or "")

    @property
    def max_payload(self) -> int:
        """Bytes that one message may have, headers included."""
        return self._client.max_payload

    def on_reconnect(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` after each reconnection; returns how to stop that."""
        self._reconnect_listeners.append(listener)
        return lambda: self._reconnect_listeners.remove(listener)

    # --- messages -----------------------------------------------------------------------

    def new_inbox(self) -> str:
        """A subject of this service's own, for answers."""
        return self._client.new_inbox()

    async def listen(self, subject: str, receiver: Receiver, *, queue: str = "") -> RawSubscription:
        """Give every message on a subject to a receiver, from the read loop."""
        return await self._client.listen(subject, queue, receiver)

    async def flush(self) -> bool:
        """Wait until the server has all that was said to it: a publication, or an interest in a subject.

        False while it is away: what is kept is said when there is a server again.
        """
        if not self._client.is_connected:
            return False
        self._client.send_posted()
        try:
            await self._client.flush(FLUSH_S)
        except (NatsError, OSError):
            return False
        return True

    async def send(self, subject: str, data: bytes, headers: Mapping[str, str] | None = None, reply: str = "") -> None:
        """Publish, and do not wait. While disconnected it is kept; raises `Unavailable` when there is no more room."""
        await self._client.post(self._command(subject, reply, data, headers))

    async def request(
        self,
        subject: str,
        data: bytes,
        headers: Mapping[str, str] | None = None,
        *,
        timeout_s: float = REQUEST_S,
        before: tuple[bytes, ...] = (),
    ) -> Raw:
        """Ask and wait for one answer. `before`: commands that must reach the server first, in the same write.

        Raises `NoResponders` when nothing happened, `Interrupted` when that is not known.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        if not self._connected.is_set():
            await self._until_connected(timeout_s)
        token = str(next(self._numbers))
        future: asyncio.Future[Raw] = loop.create_future()

        def answer(raw: Raw) -> None:
            if not future.done():
                future.set_result(raw)

        command = self._command(subject, self._inbox + token, data, headers)
        self._waiting[token] = answer
        self._interruptible.add(future)
        timer = loop.call_at(deadline, self._time_out, future, subject, self._errors)
        try:
            await self._client.write(b"".join((*before, command)) if before else command)
            raw = await future
        finally:
            timer.cancel()
            self._interruptible.discard(future)
            del self._waiting[token]
        if raw.status == 503 and not raw.data:
            raise NoResponders(f"nobody answers on {subject}")
        return raw

    async def request_many(
        self,
        subject: str,
        data: bytes,
        *,
        is_last: Callable[[Raw], bool],
        timeout_s: float = REQUEST_S,
    ) -> list[Raw]:
        """Ask and collect answers until the last one, which is included."""
        loop = asyncio.get_running_loop()
        if not self._connected.is_set():
            await self._until_connected(timeout_s)
        token = str(next(self._numbers))
        future: asyncio.Future[None] = loop.create_future()
        found: list[Raw] = []

        def answer(raw: Raw) -> None:
            if not future.done():
                found.append(raw)
                if raw.status == 503 or is_last(raw):
                    future.set_result(None)

        command = self._command(subject, self._inbox + token, data, None)
        self._waiting[token] = answer
        self._interruptible.add(future)
        timer = loop.call_later(timeout_s, self._time_out, future, subject, self._errors)
        try:
            await self._client.write(command)
            await future
        finally:
            timer.cancel()
            self._interruptible.discard(future)
            del self._waiting[token]
        if found[-1].status == 503:
            raise NoResponders(f"nobody answers on {subject}")
        return found

    def command(self, subject: str, data: bytes, headers: Mapping[str, str]) -> bytes:
        """A publication as bytes, for `before`."""
        return self._command(subject, "", data, headers)

    # --- inside -------------------------------------------------------------------------

    def _answer(self, raw: Raw) -> None:
        waiting = self._waiting.get(raw.subject[len(self._inbox) :])
        if waiting is not None:
            waiting(raw)

    def _command(self, subject: str, reply: str, data: bytes, headers: Mapping[str, str] | None) -> bytes:
        if len(subject) > SUBJECT_BYTES_MAX or not _SUBJECT.fullmatch(subject):
            raise Refused(f"{subject[:80]!r} cannot be a subject", code="bad_subject")
        if not headers:
            if len(data) > self.max_payload:
                raise TooLarge(subject, len(data), self.max_payload)
            return b"PUB %b %b %d\r\n%b\r\n" % (subject.encode(), reply.encode(), len(data), data)
        block = encode_headers(headers)
        size = len(block) + len(data)
        if size > self.max_payload:
            raise TooLarge(subject, size, self.max_payload)
        return b"HPUB %b %b %d %d\r\n%b%b\r\n" % (subject.encode(), reply.encode(), len(block), size, block, data)

    async def _until_connected(self, timeout_s: float) -> None:
        if self._client.is_closed:
            raise Unavailable("the connection to NATS is closed")
        try:
            async with asyncio.timeout(timeout_s):
                await self._connected.wait()
        except TimeoutError:
            raise NoResponders(f"NATS at {self._settings.nats_shown} is away: {self._last_error}") from None

    def _time_out(self, future: asyncio.Future[Any], subject: str, errors: int) -> None:
        if not future.done():
            # A forbidden subject is not answered either: the server says it beside the point.
            why = f" ({self._last_error})" if self._errors != errors else ""
            future.set_exception(Interrupted(f"no answer on {subject} in time{why}"))

    def _interrupt(self, why: str) -> None:
        for future in list(self._interruptible):
            if not future.done():
                future.set_exception(Interrupted(why))

    async def _abandon(self, opening: asyncio.Task[Any]) -> None:
        self._closing = True
        opening.cancel()
        await asyncio.wait((opening,))
        if not opening.cancelled() and (error := opening.exception()) is not None:
            self._last_error = str(error)
        await self._client.finish(flushed=False)

    def _options(self) -> dict[str, Any]:
        settings = self._settings
        options: dict[str, Any] = {
            "servers": [url.strip() for url in settings.nats_url.split(",") if url.strip()],
            "name": f"holdfast {self._service} {settings.replica_name}",
            "inbox_prefix": f"_INBOX_{self._service.replace('-', '_')}",
            "max_reconnect_attempts": -1,
            "reconnect_time_wait": 0.2,
            "ping_interval": PING_S,
            "max_outstanding_pings": PINGS_LOST_MAX,
            "connect_timeout": 2,
            "pending_size": OUTBOX_BYTES_MAX,
            "error_cb": self._on_error,
            "disconnected_cb": self._on_disconnected,
            "reconnected_cb": self._on_reconnected,
            "closed_cb": self._on_client_closed,
        }
        if settings.nats_creds:
            options["user_credentials"] = settings.nats_creds
        if settings.nats_nkey_seed_file:
            options["nkeys_seed"] = settings.nats_nkey_seed_file
        if settings.nats_user:
            options["user"] = settings.nats_user
            options["password"] = settings.nats_password
        if settings.nats_token:
            options["token"] = settings.nats_token
        if tls := tls_context(settings):
            options["tls"] = tls
        return options

    async def _on_error(self, error: Exception) -> None:
        self._last_error = str(error) or type(error).__name__
        self._errors += 1
        if self._opening is not None and "authorization violation" in self._last_error.lower():
            self._opening.cancel()  # the same credentials would be refused again
            return
        if not self._closing:
            logger.warning("nats: %s", self._last_error, extra={"action": "nats.error"})

    async def _on_disconnected(self) -> None:
        self._connected.clear()
        self._interrupt("the connection to NATS broke")
        if not self._closing:
            logger.warning("disconnected from NATS", extra={"action": "nats.disconnected"})

    async def _on_reconnected(self) -> None:
        self._connected.set()
        logger.info("connected to NATS again", extra={"action": "nats.reconnected"})
        for listener in list(self._reconnect_listeners):
            listener()

    async def _on_client_closed(self) -> None:
        self._interrupt("the connection to NATS is closed")
        if not self._closing and self._on_closed is not None:
            self._on_closed()


def check_files(settings: Settings) -> None:
    """Refuse a file that cannot be read; the client would only look at it when a server asks for it."""
    for setting in ("nats_creds", "nats_nkey_seed_file", "nats_tls_ca", "nats_tls_cert", "nats_tls_key"):
        path: str = getattr(settings, setting)
        try:
            if path:
                Path(path).read_bytes()
        except OSError as error:
            raise Unavailable(f"HOLDFAST_{setting.upper()}: {error}") from error


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """TLS as the settings ask for it; None leaves it to the URL's scheme."""
    if not (settings.nats_tls_ca or settings.nats_tls_cert):
        return None
    context = ssl.create_default_context(cafile=settings.nats_tls_ca or None)
    if settings.nats_tls_cert:
        context.load_cert_chain(Path(settings.nats_tls_cert), Path(settings.nats_tls_key))
    return context
