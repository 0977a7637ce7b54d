"""The client library, with a short way in and a short way out.

A raw subscription's messages go from the read loop straight to their receiver: no message object, no queue, no task.
A command goes straight to the socket while there is one: no flusher's turn of the event loop. What nobody waits for
goes with it, or a millisecond later: a write wakes the server up, and costs more than all that is in it. All this rests
on private members of the client, which is why its version is pinned to one minor release and only this file knows them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any

from nats.aio.client import Client
from nats.errors import Error as NatsError

from services.runtime.errors import Unavailable
from services.runtime.nats.wire import Raw, Receiver
from services.runtime.tasks import spawn

if TYPE_CHECKING:
    from nats.aio.subscription import Subscription

logger = logging.getLogger(__name__)

OUTBOX_BYTES_MAX = 8 << 20
"""Written while disconnected and kept: acknowledgements, signals."""
POST_S = 0.001
"""How long what is posted waits for company."""
POSTED_BYTES_MAX = 64 << 10


class Interrupted(Unavailable):
    """The connection broke, or nobody answered in time: whether the message arrived is not known."""


class RawSubscription:
    """A subscription whose messages go to a receiver."""

    def __init__(self, subscription: Subscription, subject: str) -> None:
        self._subscription = subscription
        self.subject = subject

    async def close(self) -> None:
        """End it; messages under way are dropped."""
        with contextlib.suppress(NatsError, OSError):
            await self._subscription.unsubscribe()


class RawClient(Client):
    """The client, with raw subscriptions and commands."""

    def __init__(self) -> None:
        super().__init__()
        self._receivers: dict[int, Receiver] = {}
        self._finished = False
        self._posted: list[bytes] = []
        self._posted_size = 0
        self._posting: asyncio.TimerHandle | None = None

    def server_says(self, name: str) -> Any:
        """What the server that this connection ends at says of itself."""
        return self._server_info.get(name)

    async def listen(self, subject: str, queue: str, receiver: Receiver) -> RawSubscription:
        """Give every message on a subject to a receiver, from the read loop; raises `Unavailable`."""
        # The receiver must be there before the first message can be; the client counts before it awaits anything.
        sid = self._sid + 1
        self._receivers[sid] = receiver
        # With a future, which nobody uses, the client starts no task for the subscription.
        unused: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        try:
            subscription: Subscription = await self.subscribe(subject, queue, future=unused)  # pyright: ignore[reportUnknownMemberType]  # the client leaves the future's type open
        except (NatsError, OSError) as error:
            self._receivers.pop(sid, None)
            raise Unavailable(f"cannot subscribe to {subject}: {error}") from error
        return RawSubscription(subscription, subject)

    async def write(self, command: bytes) -> None:
        """Send a command now, or keep it while there is no connection; raises `Unavailable` when it is lost."""
        transport = self._transport
        if self.is_connected and transport is not None and not self._pending:
            try:
                transport.write(self._take_posted() + command if self._posted else command)
                await transport.drain()  # type: ignore[no-untyped-call]  # the client's transports are untyped
            except (OSError, RuntimeError) as error:  # uvloop's word for a connection that has just been closed
                raise Interrupted(f"the connection to NATS broke: {error}") from error
            return
        await self._keep(command)

    async def post(self, command: bytes) -> None:
        """Send a command soon, or keep it while there is no connection; raises `Unavailable` when it is lost."""
        if not self.is_connected or self._pending:
            await self._keep(command)
            return
        self._posted.append(command)
        self._posted_size += len(command)
        if self._posted_size > POSTED_BYTES_MAX:
            await self.write(b"")
        elif self._posting is None:
            self._posting = asyncio.get_running_loop().call_later(POST_S, self.send_posted)

    def send_posted(self) -> None:
        """Send what was posted. Without a connection it is lost, as if it had been on its way."""
        if self._posting is not None:
            self._posting.cancel()
            self._posting = None
        if self._posted and (commands := self._take_posted()) and self.is_connected and self._transport is not None:
            with contextlib.suppress(OSError, RuntimeError):  # it has just broken; who has to know is told elsewhere
                self._transport.write(commands)

    def _take_posted(self) -> bytes:
        commands = b"".join(self._posted)
        self._posted.clear()
        self._posted_size = 0
        return commands

    async def _keep(self, command: bytes) -> None:
        if self.is_closed:
            raise Unavailable("the connection to NATS is closed")
        if self._pending_data_size + len(command) > OUTBOX_BYTES_MAX:
            raise Unavailable("NATS is away and the buffer for it is full")
        await self._send_command(command)
        await self._flush_pending()

    async def finish(self, *, flushed: bool) -> None:
        """Close for good. What was not flushed is dropped: waiting for a server that is away could last for ever."""
        self._finished = True
        if not flushed:
            self._pending.clear()
            self._pending_data_size = 0
            self._abort()
        # On its own: a reconnection that it breaks off would cancel it, and so whoever waits for it.
        closing = spawn(self._close_quietly(), name="nats:close")
        await asyncio.wait((closing,))

    async def _close_quietly(self) -> None:
        with contextlib.suppress(NatsError, OSError):
            await self.close()

    def _abort(self) -> None:
        writer = getattr(self._transport, "_io_writer", None)
        if writer is not None:
            writer.transport.abort()

    async def _send_ping(self, future: asyncio.Future[Any] | None = None) -> None:
        # The client would send the ping ahead of what is pending, and its answer would prove nothing.
        if self._pending and self.is_connected and self._transport is not None:
            self._transport.writelines(self._pending)
            self._pending = []
            self._pending_data_size = 0
        await super()._send_ping(future)  # pyright: ignore[reportUnknownMemberType]  # open, as above

    async def _process_pong(self) -> None:
        # An answer that nobody waits for any more would end the client's read loop.
        if _nobody_waits(self._pongs):  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]  # as above
            self._pongs.pop(0)  # pyright: ignore[reportUnknownMemberType]
            self._pings_outstanding = 0
        else:
            await super()._process_pong()

    async def _attempt_reconnect(self) -> None:
        # The client would first wait until the old server has read all that is written; one that hangs never does.
        self._abort()
        await super()._attempt_reconnect()

    async def _connect_to_server(self, s: Any) -> None:
        # Closing cancels the client's reconnecting, which may miss it, and would then go on for ever.
        if self._finished:
            raise asyncio.CancelledError
        await super()._connect_to_server(s)

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        receiver = self._receivers.get(sid)
        if receiver is None:
            await super()._process_msg(sid, subject, reply, data, headers)
            return
        try:
            receiver(Raw(subject.decode(), reply.decode(), data, headers))
        except Exception:  # in the client's read loop it would end all reading, silently; the message comes again
            logger.exception("a receiver failed on %r", subject, extra={"action": "nats.receiver"})

    def _remove_sub(self, sid: int, max_msgs: int = 0) -> None:
        self._receivers.pop(sid, None)
        super()._remove_sub(sid, max_msgs)


def _nobody_waits(pongs: list[asyncio.Future[Any]]) -> bool:
    return bool(pongs) and pongs[0].done()
