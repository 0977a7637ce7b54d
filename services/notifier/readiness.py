"""What is said of Subscriptions: whether they can be used as they are declared, now.

Looked at when one changes, and again every minute: secrets and addresses change without a word. All replicas say the
same, and a status is written only if it is news.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from schemas.notifications import sink_of
from schemas.resources import EmailSink, SlackSink, Subscription, SubscriptionSpec, WebhookSink
from services.notifier.receivers import BadSink
from services.runtime.egress import EgressRefused
from services.runtime.errors import RetryLater
from services.runtime.secrets import SecretMissing
from services.runtime.tasks import Tasks

if TYPE_CHECKING:
    from schemas.resources import Status
    from schemas.subjects import ResourceKey
    from services.notifier.receivers import Receivers
    from services.runtime.service import Runtime

logger = logging.getLogger(__name__)

KIND = "Subscription"
LOOK_EVERY_S = 60.0

Name = tuple[str, str]
"""Namespace and name."""


class Readiness:
    """Writes the statuses of Subscriptions."""

    def __init__(self, runtime: Runtime, receivers: Receivers) -> None:
        self._resources = runtime.resources
        self._secrets = runtime.secrets
        self._clock = runtime.bus.clock
        self._receivers = receivers
        self._wake = asyncio.Event()
        self._due: set[Name] = set()
        self._tasks = Tasks()

    def start(self) -> None:
        """Say what is true from now on."""
        self._resources.on_change(self._on_change)
        self._tasks.spawn(self._run(), name="subscription-readiness")
        self._tasks.spawn(self._look_again(), name="subscription-clock")

    async def stop(self) -> None:
        """Say no more."""
        await self._tasks.close()

    def _on_change(self, key: ResourceKey) -> None:
        if key.kind == KIND and key.part == "spec":
            self._look((key.namespace, key.name))

    def _look(self, *names: Name) -> None:
        self._due.update(names)
        self._wake.set()

    async def _look_again(self) -> None:
        await self._resources.loaded()
        while True:
            every = self._resources.all(Subscription)
            self._look(*((one.metadata.namespace, one.metadata.name) for one, _ in every))
            await self._clock.sleep(LOOK_EVERY_S)

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._due:
                name = self._due.pop()
                try:
                    await self._say(name)
                except RetryLater as later:
                    logger.warning("could not write a status: %s", later, extra={"action": "subscription.status"})
                    self._look(name)
                    await self._clock.sleep(later.after_s)

    async def _say(self, name: Name) -> None:
        subscription = self._resources.get(Subscription, *name)
        if subscription is None:
            await self._resources.forget_status(KIND, *name)
            return
        status, detail = await self._verdict(name[1], subscription.spec)
        await self._resources.set_status(KIND, *name, status=status, detail=detail)

    async def _verdict(self, name: str, spec: SubscriptionSpec) -> tuple[Status, str]:
        try:
            sink = self._receivers.of(name, spec)
            await self._reachable(spec)
        except (BadSink, SecretMissing) as error:
            return "Error", str(error)
        except EgressRefused as refused:
            return "Error", f"{refused}; HOLDFAST_EGRESS_ALLOW opens it, if it is meant"
        except (OSError, ValueError) as error:
            return "Error", f"the address cannot be used: {error}"
        return "Ready", f"{sink.kind} to {sink.endpoint}"

    async def _reachable(self, spec: SubscriptionSpec) -> None:
        """Look the receiver's address up, and at it; raises what is wrong with it."""
        match sink_of(spec):
            case WebhookSink(url=url):
                await self._look_up(url)
            case SlackSink(webhook_from=hook) if hook is not None:
                await self._look_up(self._secrets.get(hook.secret_key_ref))
            case SlackSink(api_url=url):
                await self._look_up(url)
            case EmailSink(smtp=smtp):
                await self._receivers.egress.addresses(smtp.host, smtp.port)
            case None:
                pass

    async def _look_up(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise BadSink("the address is not an http or https address")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        await self._receivers.egress.addresses(parts.hostname, port)
