"""Which LLM an agent has for a failure: the same to whoever asks a fallback and to whoever needs not try harder."""

from __future__ import annotations

from schemas.requests import FailureCause
from schemas.resources import AgentSpec


def next_llm(agent: AgentSpec, failed: str, cause: FailureCause) -> str:
    """The LLM to ask after `failed` had this failure: the first that comes later in the list and names it, or none.

    An LLM that is listed twice has its first place, so that the list is gone through once.
    """
    order = [agent.llm_ref.name, *(fallback.llm_ref.name for fallback in agent.fallbacks)]
    place = order.index(failed) if failed in order else 0
    names = (fallback.llm_ref.name for fallback in agent.fallbacks if cause in fallback.on)
    return next((name for name in names if order.index(name) > place), "")
