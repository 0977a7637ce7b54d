"""The calls that this process is at: never the same one twice at once, and stopped together when their task ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from schemas.subjects import TaskSubjects
from services.runtime.ports import Signal

logger = logging.getLogger(__name__)


class Stopped(Exception):
    """The task of the call has ended."""


class Running:
    """The calls in hand, by the subject of their result."""

    def __init__(self) -> None:
        self._calls: dict[str, asyncio.Event] = {}
        self._scopes: dict[tuple[str, str], set[asyncio.Timeout]] = {}

    @asynccontextmanager
    async def alone(self, result: str) -> AsyncGenerator[bool]:
        """Wait until nobody in this process is at the call any more; True if somebody was.

        The message of a call that takes long may be delivered again, to the same process too.
        """
        waited = False
        while (other := self._calls.get(result)) is not None:
            waited = True
            await other.wait()
        done = self._calls[result] = asyncio.Event()
        try:
            yield waited
        finally:
            del self._calls[result]
            done.set()

    @asynccontextmanager
    async def stoppable(self, subjects: TaskSubjects) -> AsyncGenerator[None]:
        """What runs inside is cancelled when the task is stopped; then `Stopped` is raised."""
        key = (subjects.namespace, subjects.task)
        scope = asyncio.timeout(None)
        scopes = self._scopes.setdefault(key, set())
        scopes.add(scope)
        try:
            async with scope:
                yield
        except TimeoutError as error:
            if not scope.expired():
                raise
            raise Stopped(f"task {subjects.namespace}/{subjects.task} was stopped") from error
        finally:
            scopes.discard(scope)
            if not scopes:
                self._scopes.pop(key, None)

    async def on_stop(self, signal: Signal) -> None:
        """Stop what works for the task that a stop signal names."""
        namespace, task = signal.subject.split(".")[-2:]
        scopes = self._scopes.get((namespace, task), ())
        if scopes:
            logger.info(
                "stopping %d calls of %s/%s", len(scopes), namespace, task, extra={"action": "tool.stop", "task": task}
            )
        for scope in tuple(scopes):
            with contextlib.suppress(RuntimeError):  # it has just ended by itself
                scope.reschedule(asyncio.get_running_loop().time())
