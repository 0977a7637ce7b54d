"""Who wants to know that a task has ended: the Subscriptions of its namespace, as they are at that moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from schemas.notifications import ending_of, wants
from schemas.resources import Subscription

if TYPE_CHECKING:
    from schemas.subjects import ResourceKey
    from schemas.task import Cancelled, Failed, FinalAnswer
    from services.runtime.resources import Resources


class Subscribers:
    """The Subscriptions that this replica knows."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._by_namespace: dict[str, list[Subscription]] | None = None
        resources.on_change(self._on_change)

    def _on_change(self, key: ResourceKey) -> None:
        if key.kind == "Subscription" and key.part == "spec":
            self._by_namespace = None

    def of(self, state: FinalAnswer | Failed | Cancelled) -> tuple[str, ...]:
        """The names of those that want to know it."""
        event = ending_of(state)
        here = self._known().get(state.namespace, ())
        return tuple(one.metadata.name for one in here if wants(one.spec, event, state.agent, state.labels))

    def _known(self) -> Mapping[str, Sequence[Subscription]]:
        """All Subscriptions by namespace, in the order of their names: made anew when one has changed."""
        if self._by_namespace is None:
            self._by_namespace = {}
            for one, _ in sorted(self._resources.all(Subscription), key=lambda known: known[0].metadata.name):
                self._by_namespace.setdefault(one.metadata.namespace, []).append(one)
        return self._by_namespace
