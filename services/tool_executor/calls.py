"""One call of one tool, from a resolved name to an outcome: the ledger, the server, and what to do when it fails."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from schemas.messages import ImagePart, ToolOutcome
from services.runtime.errors import RetryLater
from services.runtime.ports import Clock
from services.tool_executor.core.doubts import MAYBE
from services.tool_executor.core.ledger import Begin, Unknown
from services.tool_executor.core.policy import CallPolicy
from services.tool_executor.core.results import Reply, Text, cap, show
from services.tool_executor.ledger import Answered, Begun, Ledger, Place
from services.tool_executor.mcp.errors import Lost, NotStarted, TimedOut

if TYPE_CHECKING:
    from services.tool_executor.mcp.connection import Progress

logger = logging.getLogger(__name__)

ATTEMPTS_MAX = 3
"""How often a call that may be repeated is made when its connection ends in the middle."""
AGAIN_S = 0.2
CONNECT_WAIT_S = 5.0
"""How long a call waits for its server's connection before the message is handed back."""
RECONNECT_WAIT_S = 30.0
"""The same for a call that was interrupted; long, because the attempts are counted only while it is in hand."""

INTERRUPTED = "Whoever ran this call was interrupted."


class ToolServer(Protocol):
    """A server of tools, as a call needs it."""

    @property
    def detail(self) -> str:
        """Why it cannot be called now, as far as is known."""
        ...

    @property
    def calls(self) -> int:
        """Calls that run or wait for a slot."""
        ...

    def slot(self) -> AbstractAsyncContextManager[None]:
        """One of the calls that may run at once."""
        ...

    async def ready(self, timeout_s: float) -> bool:
        """Wait until it can be called."""
        ...

    async def call(
        self,
        tool: str,
        arguments: Mapping[str, Any],
        *,
        timeout_s: float,
        meta: Mapping[str, Any],
        progress: Progress | None = None,
    ) -> Reply:
        """Call a tool. Raises `NotStarted`, `Lost` or `TimedOut`."""
        ...


class Doubts(Protocol):
    """Has people say what becomes of a call whose outcome nobody knows."""

    async def settle(self, begun: Begun, why: str) -> Begin | Outcome | None:
        """What becomes of it; None if they have not said yet."""
        ...


class NotNow(Exception):
    """The server cannot be called now, and nothing was started. The text says which one and why."""


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """A call that is ready to be made."""

    place: Place
    redelivered: bool
    server_name: str
    server: ToolServer
    tool: str
    """The server's own name of it."""
    arguments: Mapping[str, Any]
    policy: CallPolicy
    meta: Mapping[str, Any]
    progress: Progress | None
    doubts: Doubts | None = None
    """None: nobody is asked about the call."""


class Outcome(msgspec.Struct, frozen=True):
    """How a call ended."""

    outcome: ToolOutcome
    content: str
    attempt: int = 1
    images: tuple[ImagePart, ...] = ()
    whole: str = ""
    """All of the text, if `content` is only its head and tail."""


class Caller:
    """Makes calls."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock

    async def make(self, call: Call) -> Outcome | None:
        """Make a call; as often as its policy allows, if the connection ends. Raises `NotNow` and `RetryLater`.

        None if another replica was at it and has recorded its result, or people have to say first what becomes of it.
        """
        look_first = call.redelivered
        while True:
            claim: Begin | None = None
            if not call.policy.repeatable:
                judged = await self._ledger.judge(call.place, call.policy.on_uncertain, look_first=look_first)
                match judged:
                    case Answered():
                        return None
                    case Unknown(entry, revision):
                        settled = await self._settled(call, Begun(entry, revision), INTERRUPTED)
                        if not isinstance(settled, Begin):
                            return settled
                        claim = settled
                    case Begin():
                        claim = judged
            async with call.server.slot():
                if not await call.server.ready(CONNECT_WAIT_S):
                    raise NotNow(_not_connected(call))
                begun = await self._ledger.begin(call.place, claim) if claim else None
                if claim is None or begun is not None:
                    return await self._attempts(call, begun)
            look_first = True  # somebody else has begun it meanwhile

    async def _settled(self, call: Call, begun: Begun, why: str) -> Begin | Outcome | None:
        """What becomes of a call that was begun and must not be made again by itself."""
        if call.doubts is None:
            return Outcome("unknown", f"{why} {MAYBE}", begun.entry.attempt)
        return await call.doubts.settle(begun, why)

    async def _attempts(self, call: Call, begun: Begun | None) -> Outcome | None:
        lost = not_started = 0
        while True:
            attempt = begun.entry.attempt if begun else lost + 1
            try:
                return self._ended(call, await self._once(call), attempt)
            except TimedOut as error:
                shown = show(Reply(parts=(Text(_timed_out(call, error)),)))
                return Outcome("timed_out", shown.text, attempt, whole=shown.whole)
            except NotStarted as error:
                not_started += 1
                if begun:
                    self._ledger.not_used(call.place.entry, begun)
                if not_started == ATTEMPTS_MAX:
                    raise NotNow(f"MCP server {call.server_name!r} took no call: {error}") from error
                await self._clock.sleep(AGAIN_S * not_started)
            except Lost as error:
                lost += 1
                if begun and call.policy.on_uncertain != "retry":
                    settled = await self._settled(call, begun, _ended_in(call, error))
                    if not isinstance(settled, Begin):
                        return settled
                elif lost == ATTEMPTS_MAX:
                    return Outcome("failed", f"{_ended_in(call, error)} It was tried {lost} times.", attempt)
                await self._clock.sleep(AGAIN_S * lost)
                if begun:
                    begun = await self._ledger.again(call.place, begun)
                    if begun is None:
                        raise RetryLater(f"another replica took {call.tool!r} over") from error
            if not await call.server.ready(RECONNECT_WAIT_S):
                raise NotNow(_not_connected(call))

    async def _once(self, call: Call) -> Reply:
        self._ledger.used(call.place.entry)
        return await call.server.call(
            call.tool,
            call.arguments,
            timeout_s=call.policy.timeout_s,
            meta=call.meta,
            progress=call.progress,
        )

    def _ended(self, call: Call, reply: Reply, attempt: int) -> Outcome:
        shown = show(reply)
        logger.debug("%s of %s returned %d characters", call.tool, call.server_name, len(shown.whole or shown.text))
        ended: ToolOutcome = "failed" if reply.is_error else "succeeded"
        return Outcome(ended, shown.text, attempt, shown.images, shown.whole)


def _ended_in(call: Call, error: Lost) -> str:
    return f"The call of {call.tool!r} was interrupted: {error} ({call.server_name})."


def _timed_out(call: Call, error: TimedOut) -> str:
    text = f"{call.tool!r} of {call.server_name} gave {error}, and was told to stop."
    text = text if call.policy.repeatable else f"{text} {MAYBE}"
    return f"{text}\nUntil then it had said:\n{error.so_far}" if error.so_far else text


def _not_connected(call: Call) -> str:
    return cap(f"MCP server {call.server_name!r} is not connected: {call.server.detail or 'it is being started'}", 1000)
