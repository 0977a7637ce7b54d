"""Who wants to know that a task has ended: the Subscriptions of its namespace, as they are at that moment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.notifications import ending_of, wants
from schemas.resources import Subscription

if TYPE_CHECKING:
    from schemas.task import Cancelled, Failed, FinalAnswer
    from services.runtime.resources import Resources


class Subscribers:
    """The Subscriptions that this replica knows."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources

    def of(self, state: FinalAnswer | Failed | Cancelled) -> tuple[str, ...]:
        """The names of those that want to know it."""
        event = ending_of(state)
        return tuple(
            sorted(
                one.metadata.name
                for one, _ in self._resources.all(Subscription)
                if one.metadata.namespace == state.namespace and wants(one.spec, event, state.agent, state.labels)
            )
        )
