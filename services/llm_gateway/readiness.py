"""Which LLMs can be called: looked at when the resource or its secret changes, and again while it fails.

A look costs no generation: the secret must be there, and the provider must accept it for a list of its models.
What the network got in the way of is looked at again, ever more slowly; what the provider refused waits for a change.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import msgspec

from schemas.resources import LLM, GoogleOptions, LLMLimits, LLMSpec, Status
from schemas.subjects import ResourceKey
from services.llm_gateway.core.calls import CallFailed
from services.llm_gateway.core.endpoints import BadSpec, endpoint_of, parameters_of, unsent
from services.llm_gateway.flow.pools import Pools
from services.llm_gateway.limits import time_limit
from services.llm_gateway.models import ModelKey, Models, secret_version
from services.llm_gateway.providers.base import Checked
from services.runtime.errors import Unavailable
from services.runtime.secrets import SecretMissing
from services.runtime.tasks import Tasks

if TYPE_CHECKING:
    from services.runtime.ports import Clock
    from services.runtime.resources import Resources
    from services.runtime.secrets import Secrets

logger = logging.getLogger(__name__)

POLL_S = 3.0
"""How often secrets are compared."""
CHECK_TIMEOUT_S = 15.0
RETRY_MIN_S = 5.0
RETRY_MAX_S = 300.0
LOOKS_MAX = 8
"""Looks at once."""


class Verdict(msgspec.Struct, frozen=True):
    """What a look showed."""

    ready: bool
    detail: str
    passing: bool = False
    """Whether it may pass by itself."""
    pool: str = ""
    """Of an LLM with limits."""


class _Watched(msgspec.Struct):
    """An LLM as it was looked at last."""

    version: tuple[int, str] = (0, "")
    again_at: float = 0.0
    """Seconds on the watch of this class; infinite: only after a change."""
    delay_s: float = 0.0
    looking: bool = False


class Readiness:
    """Writes the status of every LLM."""

    def __init__(self, resources: Resources, models: Models, secrets: Secrets, clock: Clock) -> None:
        self._resources = resources
        self._models = models
        self._secrets = secrets
        self._pools = Pools(secrets)
        self._clock = clock
        self._watched: dict[ModelKey, _Watched] = {}
        self._changed = asyncio.Event()
        self._looks = asyncio.Semaphore(LOOKS_MAX)
        self._tasks = Tasks()
        self._started = clock.now()
        resources.on_change(self._on_change)

    def start(self) -> None:
        """Look at everything that is there, and go on."""
        self._tasks.spawn(self._run(), name="llm:readiness")
        self._tasks.spawn(self._poll(), name="llm:poll")

    async def stop(self) -> None:
        """Look no more."""
        await self._tasks.close()

    def _on_change(self, key: ResourceKey) -> None:
        if key.part == "spec" and key.kind == "LLM":
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
            ModelKey(llm.metadata.namespace, llm.metadata.name): (llm, rev) for llm, rev in self._resources.all(LLM)
        }
        for gone in self._watched.keys() - known.keys():
            del self._watched[gone]
            self._models.forget(gone)
            await self._forget_status(gone)
        for key, (llm, revision) in known.items():
            if self._is_due(key, llm, revision):
                self._watched[key].looking = True
                self._tasks.spawn(self._look(key, llm, revision), name=f"llm:{key.name}")

    def _is_due(self, key: ModelKey, llm: LLM, revision: int) -> bool:
        watched = self._watched.setdefault(key, _Watched())
        if watched.looking:
            return False
        version = (revision, secret_version(llm.spec, self._secrets))
        if watched.version != version:
            watched.version, watched.delay_s = version, RETRY_MIN_S
            return True
        return self._elapsed_s() >= watched.again_at

    async def _look(self, key: ModelKey, llm: LLM, revision: int) -> None:
        """Look and say it; what changed meanwhile is found when this is over."""
        watched = self._watched[key]
        watched.again_at = self._elapsed_s() + RETRY_MAX_S
        try:
            async with self._looks:
                passing = await self._say(key, await self.verdict(llm, revision))
            watched.again_at = self._elapsed_s() + watched.delay_s if passing else float("inf")
            watched.delay_s = min(watched.delay_s * 2, RETRY_MAX_S)
        finally:
            watched.looking = False
            self._changed.set()

    async def _say(self, key: ModelKey, verdict: Verdict) -> bool:
        """Write the status; whether it should be looked at again although nothing changes."""
        status: Status = "Ready" if verdict.ready else "Error"
        try:
            await self._resources.set_status("LLM", *key, status=status, detail=verdict.detail, pool=verdict.pool)
        except Unavailable as error:
            logger.warning("cannot write the status of LLM %s: %s", key.name, error, extra={"action": "llm.status"})
            return True
        return verdict.passing

    async def verdict(self, llm: LLM, revision: int) -> Verdict:
        """Whether an LLM can be called now, in the words of its status."""
        provider = llm.spec.provider
        try:
            async with self._models.use(llm, revision) as model, time_limit(self._clock, CHECK_TIMEOUT_S):
                checked = await model.provider.check()
                pool = await self._pools.account(llm, model) if llm.spec.limits != LLMLimits() else ""
        except (BadSpec, SecretMissing) as problem:
            return Verdict(ready=False, detail=str(problem))
        except CallFailed as failed:
            words = f"{provider} API validation failed: {failed.failure.error}"
            return Verdict(ready=False, detail=words, passing=failed.failure.transient)
        except TimeoutError:
            words = f"{provider} API validation failed: no answer within {CHECK_TIMEOUT_S:g} s"
            return Verdict(ready=False, detail=words, passing=True)
        return Verdict(ready=True, detail=_ready_detail(llm.spec, checked), pool=pool)

    async def _forget_status(self, key: ModelKey) -> None:
        try:
            await self._resources.forget_status("LLM", *key)
        except Unavailable as error:
            logger.warning("cannot remove the status of LLM %s: %s", key.name, error, extra={"action": "llm.status"})

    def _elapsed_s(self) -> float:
        return (self._clock.now() - self._started).total_seconds()


def _ready_detail(spec: LLMSpec, checked: Checked) -> str:
    notes: list[str] = []
    if spec.provider == "scripted":
        notes.append("it follows a script and is no model")
    elif checked.unverified:
        notes.append(f"not verified: {checked.unverified}")
    elif checked.models and spec.parameters.model not in checked.models:
        notes.append(f"its list of models does not name {spec.parameters.model!r}")
    if names := unsent(endpoint_of(spec), parameters_of(spec)):
        notes.append(f"{', '.join(names)} not sent: the provider has no such parameter")
    if spec.google not in (None, GoogleOptions()):
        notes.append("google.cloudProject and cloudLocation not sent: they are Vertex's")
    if spec.tool_calling == "text" and spec.provider != "scripted":
        notes.append("tools are called in its text")
    detail = f"{spec.provider} provider validated successfully"
    return f"{detail} ({'; '.join(notes)})" if notes else detail
