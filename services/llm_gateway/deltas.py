"""A model's text while it comes, for whoever watches: at once, and then a few messages a second.

The text of a call is kept while the call is under way, so that the replica that makes it can tell it to those who join
late or have lost a piece. Nothing of it is kept longer: the recorded answer has it all.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from schemas.live import TextAsked, TextDelta, TextSoFar
from schemas.streamed_text import TextCall, call_of
from schemas.subjects import TaskSubjects, is_inbox
from schemas.wire import Malformed, decode, encode
from services.llm_gateway.core.characters import mended, whole_part
from services.runtime.errors import RetryLater
from services.runtime.ports import Clock, Signal, Signals
from services.runtime.tasks import spawn

logger = logging.getLogger(__name__)

INTERVAL_S = 0.05
"""At most one message in this time: 20 a second for a task."""
PART_LENGTH_MAX = 1 << 16
"""Characters of one message: 384 KiB at most when each of them is escaped; servers take 1 MiB unless told otherwise."""


class Deltas:
    """Publishes the text of one call, in order. The first piece goes out at once, later ones are put together."""

    def __init__(self, signals: Signals, clock: Clock, task: TaskSubjects, *, turn: int, attempt: int) -> None:
        self._signals = signals
        self._clock = clock
        self._subject = task.live
        self._begun = clock.now()
        self.call = TextCall(turn, attempt, self._begun)
        self._pending: list[str] = []
        self._published: list[str] = []
        self.length = 0
        """Characters published."""
        self._publishing = asyncio.Lock()
        self._pacer: asyncio.Task[None] | None = None

    def add(self, text: str) -> None:
        """A piece has come."""
        self._pending.append(text)
        if self._pacer is None or self._pacer.done():
            self._pacer = spawn(self._pace(), name=f"deltas:{self._subject}")

    def so_far(self, asked: TextAsked) -> TextSoFar | None:
        """What was published from an offset on; None if another replica makes the call that is asked for."""
        about = call_of(asked)
        if about > self.call:
            return None
        about_this = about.place == self.call.place and asked.begun in (None, self._begun)
        offset = min(max(asked.offset, 0), self.length) if about_this else 0
        text = "".join(self._published)
        self._published[:] = [text]
        return TextSoFar(
            turn=self.call.turn,
            attempt=self.call.attempt,
            offset=offset,
            text=text[offset : offset + PART_LENGTH_MAX],
            begun=self._begun,
            length=self.length,
        )

    async def close(self, *, complete: bool) -> None:
        """Nothing more comes; all of a complete text is published."""
        async with self._publishing:
            if self._pacer is not None:
                self._pacer.cancel()
            if complete:
                await self._publish(last=True)

    async def _pace(self) -> None:
        while self._pending:
            async with self._publishing:
                await self._publish(last=False)
            await self._clock.sleep(INTERVAL_S)

    async def _publish(self, *, last: bool) -> None:
        text = "".join(self._pending)
        self._pending.clear()
        if not last:
            text, half = whole_part(text)
            if half:
                self._pending.append(half)
        text = mended(text)
        for start in range(0, len(text), PART_LENGTH_MAX):
            await self._say(text[start : start + PART_LENGTH_MAX])

    async def _say(self, text: str) -> None:
        turn, attempt, begun = self.call
        delta = TextDelta(turn=turn, attempt=attempt, offset=self.length, text=text, begun=begun)
        self._published.append(text)
        self.length += len(text)
        try:
            await self._signals.publish(self._subject, encode(delta))
        except RetryLater:
            logger.debug("a delta of %s was lost", self._subject, extra={"action": "model.delta"})


class Texts:
    """The texts of the calls that this replica makes now."""

    def __init__(self, signals: Signals, clock: Clock) -> None:
        self._signals = signals
        self._clock = clock
        self._under_way: dict[tuple[str, str], list[Deltas]] = {}

    @asynccontextmanager
    async def streaming(self, task: TaskSubjects, *, turn: int, attempt: int) -> AsyncGenerator[Deltas]:
        """The deltas of a call; all of them are published when the block ends without an error."""
        deltas = Deltas(self._signals, self._clock, task, turn=turn, attempt=attempt)
        calls = self._under_way.setdefault((task.namespace, task.task), [])
        calls.append(deltas)
        complete = False
        try:
            yield deltas
            complete = True
        finally:
            calls.remove(deltas)
            if not calls:
                self._under_way.pop((task.namespace, task.task), None)
            await deltas.close(complete=complete)

    async def answer(self, signal: Signal) -> None:
        """Somebody asks for the text so far: answer if the call is made here, and be silent otherwise."""
        _, _, namespace, task = signal.subject.split(".")
        calls = self._under_way.get((namespace, task))
        if not calls or not is_inbox(signal.reply):
            return
        try:
            asked = decode(signal.data, TextAsked)
        except Malformed as error:
            logger.debug("a question about the text of %s: %s", task, error, extra={"action": "model.text"})
            return
        said = max(calls, key=lambda deltas: deltas.call).so_far(asked)
        if said is None:
            return
        try:
            await self._signals.publish(signal.reply, encode(said))
        except RetryLater:
            logger.debug("nobody was told the text of %s", task, extra={"action": "model.text"})
