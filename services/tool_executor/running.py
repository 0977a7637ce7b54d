"""The calls that this process is at: never the same one twice at once, and stopped together when their task ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

from schemas.subjects import TaskSubjects
from services.runtime.in_hand import InHand
from services.runtime.ports import Signal
from services.runtime.stops import Stops
from services.runtime.tasks import spawn

logger = logging.getLogger(__name__)

STOPS_REMEMBERED_S = 5.0
"""A command that is older when it arrives is looked at for a result anyway, before it is carried out."""

LOOK_EVERY_S = 5.0
"""How often a call that takes long is looked up: a stop signal may be lost, and then nobody wants the result."""


class Stopped(Exception):
    """The task of the call has ended."""


class Running:
    """The calls in hand, and how they are stopped."""

    def __init__(self) -> None:
        self.in_hand = InHand()
        """The calls, by the subject of their result."""
        self._scopes: dict[tuple[str, str], set[asyncio.Timeout]] = {}
        self._stops = Stops(STOPS_REMEMBERED_S)

    @asynccontextmanager
    async def stoppable(self, subjects: TaskSubjects, is_over: Callable[[], Awaitable[bool]]) -> AsyncGenerator[None]:
        """What runs inside is cancelled when the task is stopped; then `Stopped` is raised.

        So it is when `is_over`, which is asked every few seconds, and not at all for a call that is quick.
        """
        key = (subjects.namespace, subjects.task)
        scope = asyncio.timeout(None)
        scopes = self._scopes.setdefault(key, set())
        scopes.add(scope)
        watch = _Watch(scope, is_over)
        try:
            async with scope:
                yield
        except TimeoutError as error:
            if not scope.expired():
                raise
            raise Stopped(f"task {subjects.namespace}/{subjects.task} was stopped") from error
        finally:
            watch.close()
            scopes.discard(scope)
            if not scopes:
                self._scopes.pop(key, None)

    def was_stopped(self, subjects: TaskSubjects) -> bool:
        """Whether a task of this name was stopped a moment ago, perhaps before its call was begun."""
        return self._stops.at(subjects.namespace, subjects.task) is not None

    async def on_stop(self, signal: Signal) -> None:
        """Stop what works for the task that a stop signal names."""
        namespace, task = signal.subject.split(".")[-2:]
        self._stops.remember(namespace, task)
        scopes = self._scopes.get((namespace, task), ())
        if scopes:
            logger.info(
                "stopping %d calls of %s/%s", len(scopes), namespace, task, extra={"action": "tool.stop", "task": task}
            )
        for scope in tuple(scopes):
            _end(scope)


def _end(scope: asyncio.Timeout) -> None:
    with contextlib.suppress(RuntimeError):  # it has just ended by itself
        scope.reschedule(asyncio.get_running_loop().time())


class _Watch:
    """Ends a scope when it is over, and costs a quick call one timer."""

    def __init__(self, scope: asyncio.Timeout, is_over: Callable[[], Awaitable[bool]]) -> None:
        self._scope = scope
        self._is_over = is_over
        self._timer = asyncio.get_running_loop().call_later(LOOK_EVERY_S, self._begin)
        self._looking: asyncio.Task[None] | None = None

    def close(self) -> None:
        """Look no more."""
        self._timer.cancel()
        if self._looking is not None:
            self._looking.cancel()

    def _begin(self) -> None:
        self._looking = spawn(self._look(), name="tool:watch")

    async def _look(self) -> None:
        if not await self._is_over():
            self._timer = asyncio.get_running_loop().call_later(LOOK_EVERY_S, self._begin)
            return
        logger.info("stopping a call that has a result already", extra={"action": "tool.stop"})
        _end(self._scope)
