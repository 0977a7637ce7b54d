"""The notifier under test: with the planner on one bus, and receivers to be told.

async with notifying({"HOLDFAST_SECRET_OPS_SIGNING": KEY}) as here:
    await here.subscribe("ops", webhook=hook(url))
    task = await here.finished(responseURL=url)
    await here.until_delivered(task)
"""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec
from opentelemetry.sdk.trace.export import SpanExporter

from schemas.dead_letters import DeadLetter
from schemas.notifications import (
    Notification,
    NotificationDelivered,
    NotificationFailed,
    NotificationPending,
    decode_notification,
)
from schemas.resources import (
    Metadata,
    SecretKeyRef,
    SecretSource,
    Subscription,
    SubscriptionSpec,
    WebhookSink,
)
from schemas.subjects import REDRIVE, TaskSubjects
from schemas.task import Failed, FinalAnswer, Spend
from schemas.wire import decode
from services.notifier import main as notifier
from services.notifier.core.words import Told
from services.planner import main as planner
from services.runtime.memory.bus import MemoryBus
from services.runtime.memory.clock import AlarmClock
from services.runtime.memory.server import MemoryServer
from services.runtime.ports import Bus
from services.runtime.replica import Replica
from services.runtime.settings import Settings
from services.runtime.telemetry.traces import make_traces
from tests.support.stage import Stage
from tests.support.waiting import until

N = TypeVar("N", NotificationPending, NotificationDelivered, NotificationFailed)

KEY_BYTES = bytes(range(32))
KEY = "whsec_" + base64.b64encode(KEY_BYTES).decode()
OLD_KEY_BYTES = bytes(range(32, 64))
OLD_KEY = "whsec_" + base64.b64encode(OLD_KEY_BYTES).decode()
SECRETS = {"HOLDFAST_SECRET_OPS_SIGNING": KEY, "HOLDFAST_SECRET_OPS_OLD": OLD_KEY}
WAIT_S = 10.0


def secret(key: str, name: str = "ops") -> SecretSource:
    """A reference to a secret of the tests."""
    return SecretSource(secret_key_ref=SecretKeyRef(name=name, key=key))


def hook(url: str, **fields: Any) -> WebhookSink:
    """A signed webhook."""
    return msgspec.structs.replace(WebhookSink(url=url, secret_from=(secret("signing"),)), **fields)


class Notifying(Stage):
    """A stage with a ready agent, and what the notifier makes of its tasks."""

    replica: Replica

    def counted(self, metric: str, **labels: str) -> float:
        """A metric's value."""
        return self.replica.metrics.registry.get_sample_value(metric, labels) or 0.0

    async def subscribe(self, name: str, **spec: Any) -> None:
        """Apply a Subscription, and wait until the planner and the notifier know it."""
        await self.apply(Subscription(metadata=Metadata(name=name), spec=SubscriptionSpec(**spec)))
        await until(lambda: self._said(name), f"a status of Subscription {name}")

    async def _said(self, name: str) -> bool:
        return await self.bus.resources.get(f"status.Subscription.default.{name}") is not None

    async def finished(self, text: str = "It is noon.", **fields: object) -> TaskSubjects:
        """A task that has ended with an answer."""
        task = await self.submit(**fields)
        await self.answer(task, 1, text=text)
        await self.until_state(task, FinalAnswer)
        return task

    async def failed(self, **fields: object) -> TaskSubjects:
        """A task that has failed."""
        task = await self.submit(**fields)
        await self.fail(task, 1, "refused", status=400)
        await self.until_state(task, Failed)
        return task

    async def notifications(self, task: TaskSubjects) -> list[Notification]:
        """Those of a task, in their order."""
        entries = await self.bus.log(task.partition).last([task.notifications])
        return sorted((decode_notification(entry.data) for entry in entries), key=lambda one: one.place)

    async def until_all(
        self, task: TaskSubjects, kind: type[N], count: int = 1, *, within_s: float = WAIT_S
    ) -> list[N]:
        """Wait until a task has so many notifications, all of this kind."""
        found: list[Notification] = []

        async def there() -> bool:
            found[:] = await self.notifications(task)
            return len(found) == count and all(isinstance(one, kind) for one in found)

        try:
            await until(there, f"{count} notifications, {kind.__name__}", within_s=within_s)
        except AssertionError as error:
            raise AssertionError(f"{error}; there are {found}") from None
        return [one for one in found if isinstance(one, kind)]

    async def until_tried(self, task: TaskSubjects, times: int, *, within_s: float = WAIT_S) -> NotificationPending:
        """Wait until the one notification of a task was tried so often and waits for the next time."""
        found: list[Notification] = []

        async def there() -> bool:
            found[:] = await self.notifications(task)
            return len(found) == 1 and isinstance(found[0], NotificationPending) and found[0].attempts == times

        await until(there, f"{times} attempts", within_s=within_s)
        assert isinstance(found[0], NotificationPending)
        return found[0]

    async def letters(self) -> list[DeadLetter]:
        """All dead letters."""
        return [decode(entry.data, DeadLetter) for entry in await self.bus.dead_letters.last(["hf.dlq.letter.>"])]

    async def redrive(self, letter: DeadLetter) -> None:
        """Send a letter again as the command line does."""
        headers = {key: value for key, value in letter.headers.items() if not key.lower().startswith("nats-")}
        await self.bus.signals.store(letter.subject, letter.payload.encode(), {**headers, REDRIVE: "1"})
        await self.bus.dead_letters.purge(f"hf.dlq.letter.{letter.stream}.{letter.seq}")


@asynccontextmanager
async def notifying(
    environ: Mapping[str, str] = SECRETS,
    *,
    clock: AlarmClock | None = None,
    bus: Bus | None = None,
    exporter: SpanExporter | None = None,
    **settings: Any,
) -> AsyncGenerator[Notifying]:
    """A planner and a notifier in this process. Receivers on 127.0.0.1 may be reached if nothing else is said."""
    own = msgspec.structs.replace(Settings(egress_allow="127.0.0.1"), **settings)
    memory = MemoryServer(clock=clock)
    replica = Replica(
        bus or MemoryBus(memory), own, {"planner": planner.build, "notifier": notifier.build}, dict(environ)
    )
    if exporter is not None:
        replica._traces = make_traces(replica.name, "test", exporter)
    await replica.start()
    try:
        here = Notifying(bus or MemoryBus(memory))
        here.replica = replica
        await here.with_agent()
        yield here
    finally:
        await replica.stop()
        assert not replica.failed, replica.failed


def told(**fields: Any) -> Told:
    """What is told of a task."""
    at = datetime(2026, 3, 1, 12, tzinfo=UTC)
    plain = Told(
        namespace="default",
        task="t1",
        agent="helper",
        event="task.finished",
        at=at,
        started_at=at,
        output="It is noon.",
        error="",
        labels={},
        spend=Spend(),
        preview="What time is it?",
        thread="t1",
        thread_id="",
    )
    return msgspec.structs.replace(plain, **fields)


def json_of(body: bytes) -> dict[str, Any]:
    """A body as JSON."""
    content: dict[str, Any] = msgspec.json.decode(body)
    return content
