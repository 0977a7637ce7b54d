"""Whether what is declared can be used: looked at when a resource or its secrets change, and again while that may pass.

What the network got in the way of is looked at again, ever more slowly; what was refused waits for a change. Each
resource is looked at by itself, a few at once, so one that hangs, or that nobody foresaw, holds up no other.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

import msgspec

from schemas.resources import LLM, ContactChannel, Status
from services.runtime.errors import Unavailable
from services.runtime.tasks import Tasks

if TYPE_CHECKING:
    from schemas.subjects import ResourceKey
    from services.runtime.ports import Clock
    from services.runtime.resources import Resources

logger = logging.getLogger(__name__)

POLL_S = 3.0
"""How often secrets are compared."""
RETRY_MIN_S = 5.0
RETRY_MAX_S = 300.0
LOOKS_MAX = 8
"""Looks at once."""

R = TypeVar("R", LLM, ContactChannel)


class Name(NamedTuple):
    """A resource of the kind that is watched."""

    namespace: str
    name: str


class Verdict(msgspec.Struct, frozen=True):
    """What a look showed."""

    ready: bool
    detail: str
    passing: bool = False
    """Whether it may pass by itself."""
    pool: str = ""
    """Of an LLM with limits."""


class Watch(msgspec.Struct, Generic[R], frozen=True):
    """What is watched, and how."""

    kind: type[R]
    version: Callable[[R, int], object]
    """Of a resource and its revision: something else whenever its secrets are others."""
    verdict: Callable[[R, int], Awaitable[Verdict]]
    """Looks at a resource."""
    forget: Callable[[Name], None]
    """Called when a resource is gone."""


class _Watched(msgspec.Struct):
    """A resource as it was looked at last."""

    version: object = None
    again_at: float = 0.0
    """Seconds on the watch of this class; infinite: only after a change."""
    delay_s: float = 0.0
    looking: bool = False


class Readiness(Generic[R]):
    """Writes the status of every resource of a kind."""

    def __init__(self, resources: Resources, clock: Clock, watch: Watch[R]) -> None:
        self._resources = resources
        self._clock = clock
        self._watch: Watch[R] = watch
        self._kind: str = watch.kind.__name__
        self._watched: dict[Name, _Watched] = {}
        self._changed = asyncio.Event()
        self._looks = asyncio.Semaphore(LOOKS_MAX)
        self._tasks = Tasks()
        self._started = clock.now()
        resources.on_change(self._on_change)

    def start(self) -> None:
        """Look at everything that is there, and go on."""
        self._tasks.spawn(self._run(), name=f"{self._kind}:readiness")
        self._tasks.spawn(self._poll(), name=f"{self._kind}:poll")

    async def stop(self) -> None:
        """Look no more."""
        await self._tasks.close()

    def _on_change(self, key: ResourceKey) -> None:
        if key.part == "spec" and key.kind == self._kind:
            self._changed.set()

    async def _poll(self) -> None:
        while True:
            await self._clock.sleep(POLL_S)
            self._changed.set()

    async def _run(self) -> None:
        await self._resources.loaded()
        while True:
            self._changed.clear()
            await self._look_at_all()
            await self._changed.wait()

    async def _look_at_all(self) -> None:
        known = {
            Name(one.metadata.namespace, one.metadata.name): (one, revision)
            for one, revision in self._resources.all(self._watch.kind)
        }
        for gone in self._watched.keys() - known.keys():
            del self._watched[gone]
            self._watch.forget(gone)
            await self._forget_status(gone)
        for name, (one, revision) in known.items():
            if self._is_due(name, one, revision):
                self._watched[name].looking = True
                self._tasks.spawn(self._look(name, one, revision), name=f"{self._kind}:{name.name}")

    def _is_due(self, name: Name, one: R, revision: int) -> bool:
        watched = self._watched.setdefault(name, _Watched())
        if watched.looking:
            return False
        version = self._watch.version(one, revision)
        if watched.version != version:
            watched.version, watched.delay_s = version, RETRY_MIN_S
            return True
        return self._elapsed_s() >= watched.again_at

    async def _look(self, name: Name, one: R, revision: int) -> None:
        """Look and say it; what changed meanwhile is found when this is over."""
        watched = self._watched[name]
        watched.again_at = self._elapsed_s() + RETRY_MAX_S
        try:
            async with self._looks:
                passing = await self._say(name, await self._watch.verdict(one, revision))
            watched.again_at = self._elapsed_s() + watched.delay_s if passing else float("inf")
            watched.delay_s = min(watched.delay_s * 2, RETRY_MAX_S)
        finally:
            watched.looking = False
            self._changed.set()

    async def _say(self, name: Name, verdict: Verdict) -> bool:
        """Write the status; whether it should be looked at again although nothing changes."""
        status: Status = "Ready" if verdict.ready else "Error"
        try:
            await self._resources.set_status(self._kind, *name, status=status, detail=verdict.detail, pool=verdict.pool)
        except Unavailable as error:
            self._log("cannot write", name, error)
            return True
        return verdict.passing

    async def _forget_status(self, name: Name) -> None:
        try:
            await self._resources.forget_status(self._kind, *name)
        except Unavailable as error:
            self._log("cannot remove", name, error)

    def _log(self, what: str, name: Name, error: Unavailable) -> None:
        extra = {"action": "resource.unavailable"}
        logger.warning("%s the status of %s %s: %s", what, self._kind, name.name, error, extra=extra)

    def _elapsed_s(self) -> float:
        return (self._clock.now() - self._started).total_seconds()
