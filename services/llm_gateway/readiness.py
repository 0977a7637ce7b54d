"""Which LLMs can be called.

A look costs no generation: the secret must be there, and the provider must accept it for a list of its models.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.resources import LLM, GoogleOptions, LLMLimits, LLMSpec
from services.llm_gateway.core.calls import CallFailed
from services.llm_gateway.core.endpoints import BadSpec, endpoint_of, parameters_of, unsent
from services.llm_gateway.flow.pools import Pools
from services.llm_gateway.limits import time_limit
from services.llm_gateway.models import ModelKey, Models, secret_version
from services.llm_gateway.providers.base import Checked
from services.runtime.readiness import Readiness, Verdict, Watch
from services.runtime.secrets import SecretMissing

if TYPE_CHECKING:
    from services.runtime.ports import Clock
    from services.runtime.resources import Resources
    from services.runtime.secrets import Secrets

CHECK_TIMEOUT_S = 15.0


class Judge:
    """Looks at LLMs."""

    def __init__(self, models: Models, secrets: Secrets, clock: Clock) -> None:
        self._models = models
        self._pools = Pools(secrets)
        self._clock = clock

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


def readiness(resources: Resources, models: Models, secrets: Secrets, clock: Clock) -> Readiness[LLM]:
    """Writes the status of every LLM."""
    watch = Watch(
        kind=LLM,
        version=lambda llm, revision: (revision, secret_version(llm.spec, secrets)),
        verdict=Judge(models, secrets, clock).verdict,
        forget=lambda name: models.forget(ModelKey(*name)),
    )
    return Readiness(resources, clock, watch)


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
