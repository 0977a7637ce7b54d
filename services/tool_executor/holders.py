"""Answers other replicas that ask whether this process is still at a call that it has begun."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from schemas import subjects
from schemas.live import HolderAsked, HolderSaid
from schemas.wire import Malformed, decode, encode
from services.runtime.errors import Unavailable
from services.runtime.ports import Signal, Unsubscribe

if TYPE_CHECKING:
    from services.runtime.ports import Signals
    from services.tool_executor.ledger import Ledger
    from services.tool_executor.running import Running

logger = logging.getLogger(__name__)


class Holder:
    """This process, as the holder of calls."""

    def __init__(self, signals: Signals, running: Running, ledger: Ledger) -> None:
        self._signals = signals
        self._running = running
        self._ledger = ledger

    async def listen(self) -> Unsubscribe:
        """Answer from now on. When this process is gone, the bus says so in its place, at once."""
        return await self._signals.subscribe(subjects.holder(self._ledger.holder), self.on_asked)

    async def on_asked(self, signal: Signal) -> None:
        """Answer one question."""
        if not subjects.is_inbox(signal.reply):
            logger.warning("not answering on %r: not an inbox", signal.reply[:80], extra={"action": "tool.holder"})
            return
        try:
            asked = decode(signal.data, HolderAsked)
        except Malformed as error:
            logger.warning("cannot read a question: %s", error, extra={"action": "tool.holder"})
            return
        try:
            await self._signals.publish(signal.reply, encode(self.says(asked)))
        except Unavailable as failure:
            logger.info("could not answer about a call: %s", failure, extra={"action": "tool.holder"})

    def says(self, asked: HolderAsked) -> HolderSaid:
        """What there is to say of a call."""
        if asked.result in self._running.in_hand:
            return HolderSaid(holds="running")
        return HolderSaid(holds="unused" if self._ledger.give_up(asked.ledger, asked.attempt) else "ended")
