"""What a service is: some subscriptions, and what it needs to run them.

A service's `main.py` has one function, `build(runtime) -> Service`, which wires it up. `process.py` does the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec

if TYPE_CHECKING:
    from services.runtime.consumer import DeadHandler, Handler
    from services.runtime.ports import Bus
    from services.runtime.resources import Resources
    from services.runtime.secrets import Secrets
    from services.runtime.settings import Settings
    from services.runtime.telemetry.metrics import Metrics
    from services.runtime.telemetry.traces import Traces


class Runtime(msgspec.Struct, frozen=True, kw_only=True):
    """What every service is built from."""

    bus: Bus
    settings: Settings
    resources: Resources
    secrets: Secrets
    metrics: Metrics
    traces: Traces
    replica: str


class Subscription(NamedTuple):
    """One consumer of a service and what handles its messages."""

    consumer: str
    partition: int | None
    """For consumers of a task stream; None for others."""
    handler: Handler
    on_dead: DeadHandler


class Service(Protocol):
    """A service, built and not yet running."""

    def subscriptions(self) -> Sequence[Subscription]:
        """What it consumes."""
        ...

    async def start(self) -> None:
        """Begin what is not a subscription: watching, connecting, walking. Returns soon."""
        ...

    async def stop(self) -> None:
        """End it. Called after the consumers have drained."""
        ...
