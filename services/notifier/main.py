"""The notifier: tells others what became of tasks, until they have heard it or cannot be reached."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from schemas import subjects
from services.notifier.handlers import Notifications
from services.notifier.readiness import Readiness
from services.notifier.receivers import Receivers
from services.runtime.service import Service, Subscription

if TYPE_CHECKING:
    from services.runtime.service import Runtime


class Notifier:
    """The service."""

    def __init__(self, runtime: Runtime) -> None:
        self._bus = runtime.bus
        self._receivers = Receivers(runtime)
        self._notifications = Notifications(runtime, self._receivers)
        self._readiness = Readiness(runtime, self._receivers)

    def subscriptions(self) -> Sequence[Subscription]:
        """The commands of every partition, and the wake-ups."""
        here = self._notifications
        return [
            *(
                Subscription(subjects.NOTIFIER, partition, here.on_command, here.on_dead_command)
                for partition in range(self._bus.partitions)
            ),
            Subscription(subjects.NOTIFIER_TIMERS, None, here.on_wake, here.on_dead_wake),
        ]

    async def start(self) -> None:
        """Say how Subscriptions are."""
        self._readiness.start()

    async def stop(self) -> None:
        """End all that."""
        await self._readiness.stop()
        await self._receivers.close()


def build(runtime: Runtime) -> Service:
    """The service, wired up."""
    return Notifier(runtime)
