"""Which contact channels can be used: looked at when one or its secrets change, and again while it fails."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import msgspec

from schemas.contact_channels import problem_of
from schemas.resources import ContactChannel, Status
from schemas.subjects import ResourceKey
from services.human_contact.channels.base import ChannelFailed
from services.human_contact.channels.registry import ChannelKey, Channels
from services.runtime.errors import Unavailable
from services.runtime.tasks import Tasks

if TYPE_CHECKING:
    from services.runtime.ports import Clock
    from services.runtime.resources import Resources

logger = logging.getLogger(__name__)

KIND = "ContactChannel"
POLL_S = 3.0
"""How often secrets are compared."""
CHECK_TIMEOUT_S = 15.0
RETRY_MIN_S = 5.0
RETRY_MAX_S = 300.0


class _Looked(msgspec.Struct):
    version: tuple[int, str] = (0, "")
    again_s: float = 0.0
    """Since the start of this process; infinite: only after a change."""
    delay_s: float = 0.0


class Readiness:
    """Writes the status of every contact channel."""

    def __init__(self, resources: Resources, channels: Channels, clock: Clock) -> None:
        self._resources = resources
        self._channels = channels
        self._clock = clock
        self._looked: dict[ChannelKey, _Looked] = {}
        self._changed = asyncio.Event()
        self._tasks = Tasks()
        self._started = clock.now()
        resources.on_change(self._on_change)

    def start(self) -> None:
        """Look at everything that is there, and go on."""
        self._tasks.spawn(self._run(), name="channels:readiness")
        self._tasks.spawn(self._poll(), name="channels:poll")

    async def stop(self) -> None:
        """Look no more."""
        await self._tasks.close()

    def _on_change(self, key: ResourceKey) -> None:
        if key.kind == KIND and key.part == "spec":
            self._changed.set()

    async def _poll(self) -> None:
        while True:
            await self._clock.sleep(POLL_S)
            self._changed.set()

    async def _run(self) -> None:
        await self._resources.loaded()
        while True:
            self._changed.clear()
            try:
                await self._look_at_all()
            except Unavailable as error:
                logger.warning("could not write channel statuses: %s", error, extra={"action": "resource.unavailable"})
                await self._clock.sleep(error.after_s)
                continue
            await self._changed.wait()

    async def _look_at_all(self) -> None:
        declared = {
            ChannelKey(channel.metadata.namespace, channel.metadata.name): channel
            for channel, _ in self._resources.all(ContactChannel)
        }
        for gone in self._looked.keys() - declared.keys():
            del self._looked[gone]
            self._channels.forget(gone)
            await self._resources.forget_status(KIND, *gone)
        for key, channel in declared.items():
            looked = self._looked.setdefault(key, _Looked())
            version = self._channels.version(key)
            if version != looked.version or self._now_s() >= looked.again_s:
                await self._look(key, channel, looked, version)

    async def _look(self, key: ChannelKey, channel: ContactChannel, looked: _Looked, version: tuple[int, str]) -> None:
        status: Status = "Error"
        looked.again_s = float("inf")
        if detail := problem_of(channel.spec):
            pass
        else:
            try:
                async with asyncio.timeout(CHECK_TIMEOUT_S):
                    detail = await self._channels.get(key).check()
                status, looked.delay_s = "Ready", 0.0
            except (ChannelFailed, TimeoutError) as error:
                detail = str(error) or f"no answer within {CHECK_TIMEOUT_S:g} s"
                if isinstance(error, TimeoutError) or error.transient:
                    looked.delay_s = min(max(2 * looked.delay_s, RETRY_MIN_S), RETRY_MAX_S)
                    looked.again_s = self._now_s() + looked.delay_s
        await self._resources.set_status(KIND, *key, status=status, detail=detail)
        looked.version = version

    def _now_s(self) -> float:
        return (self._clock.now() - self._started).total_seconds()
