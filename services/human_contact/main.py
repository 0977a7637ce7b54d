"""human-contact, put together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from schemas import subjects
from services.human_contact.channels.registry import Channels
from services.human_contact.desk import Desk
from services.human_contact.entrance import Entrance
from services.human_contact.handlers import People
from services.human_contact.links import Links
from services.human_contact.readiness import readiness
from services.runtime.service import Subscription

if TYPE_CHECKING:
    from services.runtime.service import Runtime


class HumanContact:
    """The service."""

    def __init__(self, runtime: Runtime) -> None:
        self._bus = runtime.bus
        links = Links(runtime.settings)
        self._channels = Channels(runtime.resources, runtime.secrets, runtime.settings, runtime.bus.clock, links)
        looks_per_s = runtime.settings.people_looks_per_s
        self._people = People(runtime, Desk(runtime.bus, self._channels, looks_per_s=looks_per_s))
        self._readiness = readiness(runtime.resources, self._channels, runtime.bus.clock)
        self._entrance = Entrance(runtime, self._channels, links)

    def subscriptions(self) -> Sequence[Subscription]:
        """Questions and answers by partition, wake-ups."""
        people = self._people
        found: list[Subscription] = []
        for partition in range(self._bus.partitions):
            found += [
                Subscription(subjects.HUMAN_CONTACT, partition, people.on_ask, people.on_dead_ask),
                Subscription(subjects.HUMAN_CONTACT_ANSWERS, partition, people.on_answered, people.on_dead),
            ]
        return [*found, Subscription(subjects.HUMAN_CONTACT_TIMERS, None, people.on_timer, people.on_dead_timer)]

    async def start(self) -> None:
        """Keep the channels' statuses, and let answers in."""
        await self._entrance.start()
        self._readiness.start()

    async def stop(self) -> None:
        """End that, and let go of all channels."""
        await self._entrance.stop()
        await self._readiness.stop()
        await self._channels.close()


def build(runtime: Runtime) -> HumanContact:
    """human-contact on a runtime."""
    return HumanContact(runtime)
