"""Which contact channels can be used."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from schemas.contact_channels import problem_of
from schemas.resources import ContactChannel
from services.human_contact.channels.base import ChannelFailed
from services.human_contact.channels.registry import ChannelKey, Channels
from services.runtime.readiness import Readiness, Verdict, Watch

if TYPE_CHECKING:
    from services.runtime.ports import Clock
    from services.runtime.resources import Resources

CHECK_TIMEOUT_S = 15.0


class Judge:
    """Looks at contact channels."""

    def __init__(self, channels: Channels) -> None:
        self._channels = channels

    async def verdict(self, channel: ContactChannel, _revision: int) -> Verdict:
        """Whether a channel can be used now, in the words of its status."""
        if problem := problem_of(channel.spec):
            return Verdict(ready=False, detail=problem)
        key = key_of(channel)
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                return Verdict(ready=True, detail=await self._channels.get(key).check())
        except ChannelFailed as failed:
            return Verdict(ready=False, detail=str(failed), passing=failed.transient)
        except TimeoutError as error:
            detail = str(error) or f"no answer within {CHECK_TIMEOUT_S:g} s"
            return Verdict(ready=False, detail=detail, passing=True)


def key_of(channel: ContactChannel) -> ChannelKey:
    """A channel's place."""
    return ChannelKey(channel.metadata.namespace, channel.metadata.name)


def readiness(resources: Resources, channels: Channels, clock: Clock) -> Readiness[ContactChannel]:
    """Writes the status of every contact channel."""
    watch = Watch(
        kind=ContactChannel,
        version=lambda channel, _: channels.version(key_of(channel)),
        verdict=Judge(channels).verdict,
        forget=lambda name: channels.forget(ChannelKey(*name)),
    )
    return Readiness(resources, clock, watch)
