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
from collections.abc import Callable, Mapping
from typing import Any

from nats.errors import Error as NatsError

from services.runtime.errors import Refused, Unavailable
from services.runtime.nats.client import Interrupted, RawClient, RawSubscription
from services.runtime.nats.options import connect_options
from services.runtime.nats.wire import Raw, Receiver, encode_headers
from services.runtime.settings import Settings
from services.runtime.tasks import spawn

logger = logging.getLogger(__name__)

CONNECT_S = 10.0
"""How long the first connection may take."""
FLUSH_S = 2
"""How long the server may take to say that it has everything."""
REQUEST_S = 2.0
"""How long an answer may take; a leader that is gone does not answer at all."""
REFUSALS_MAX = 3
"""Reconnections in a row that the server may refuse before we give up."""
SETTLE_S = 2.0
"""How long others may take to come back after this connection did: ten attempts."""
SAY_AGAIN_S = 10.0
"""The same error is logged once in this time, and not five times a second while the server is away."""
SUBJECT_BYTES_MAX = 1500
"""The server closes connections that send a longer control line than 4096 bytes: subject, reply and sizes."""

_SUBJECT = re.compile(r"[!-~]+")
"""Printable ASCII without spaces; ids are narrower still (`schemas.ids`)."""


class NoResponders(Unavailable):
    """Nobody listens there, so nothing happened: no leader now, no such stream, or JetStream is off."""


class Away(NoResponders):
    """There is no server to ask."""


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
        self._said_at = 0.0
        self._refusals = 0
        self._ending: asyncio.Task[Any] | None = None
        self._opening: asyncio.Task[Any] | None = None
        self._reconnect_listeners: list[Callable[[], None]] = []
        self._back_since: float | None = None

    # --- life ---------------------------------------------------------------------------

    async def open(self) -> None:
        """Connect; raises `Unavailable` with the reason if that takes too long or is refused."""
        options = connect_options(self._settings, self._service)
        self._opening = spawn(self._client.connect(**options, **self._callbacks()), name="nats:connect")
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
    def api_prefix(self) -> str:
        """What the subjects of the JetStream API begin with in our account."""
        return self._settings.nats_api_prefix

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

    @property
    def is_settled(self) -> bool:
        """True unless this connection was lost a moment ago: then others may still be on their way back."""
        return self._back_since is None or asyncio.get_running_loop().time() - self._back_since > SETTLE_S

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
            self._settle(token, future)
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
            self._settle(token, future)
        if found[-1].status == 503:
            raise NoResponders(f"nobody answers on {subject}")
        return found

    def command(self, subject: str, data: bytes, headers: Mapping[str, str]) -> bytes:
        """A publication as bytes, for `before`."""
        return self._command(subject, "", data, headers)

    # --- inside -------------------------------------------------------------------------

    def _settle(self, token: str, future: asyncio.Future[Any]) -> None:
        self._interruptible.discard(future)
        del self._waiting[token]
        if future.done() and not future.cancelled():
            future.exception()  # a write that failed leaves one that nobody asks for

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
            raise Away(f"NATS at {self._settings.nats_shown} is away: {self._last_error}") from None

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

    def _callbacks(self) -> dict[str, Any]:
        return {
            "error_cb": self._on_error,
            "disconnected_cb": self._on_disconnected,
            "reconnected_cb": self._on_reconnected,
            "closed_cb": self._on_client_closed,
        }

    async def _on_error(self, error: Exception) -> None:
        before, self._last_error = self._last_error, str(error) or type(error).__name__
        self._errors += 1
        if "authorization violation" in self._last_error.lower():
            self._on_refused()
        now = asyncio.get_running_loop().time()
        if not self._closing and (self._last_error != before or now - self._said_at > SAY_AGAIN_S):
            self._said_at = now
            logger.warning("nats: %s", self._last_error, extra={"action": "nats.error"})

    def _on_refused(self) -> None:
        """Credentials that are refused will be refused again: the client would go on asking for ever."""
        self._refusals += 1
        if self._opening is not None:
            self._opening.cancel()
        elif self._refusals == REFUSALS_MAX:
            self._ending = spawn(self._client.finish(flushed=False), name="nats:refused")

    async def _on_disconnected(self) -> None:
        self._connected.clear()
        self._interrupt("the connection to NATS broke")
        if not self._closing:
            logger.warning("disconnected from NATS", extra={"action": "nats.disconnected"})

    async def _on_reconnected(self) -> None:
        self._connected.set()
        self._refusals = 0
        self._last_error = ""
        self._back_since = asyncio.get_running_loop().time()
        logger.info("connected to NATS again", extra={"action": "nats.reconnected"})
        for listener in list(self._reconnect_listeners):
            listener()

    async def _on_client_closed(self) -> None:
        self._interrupt("the connection to NATS is closed")
        if not self._closing and self._on_closed is not None:
            self._on_closed()
