"""What an agent calls its model with: the LLM it names, and the tools of its MCP servers."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import NamedTuple

from schemas.fallbacks import next_llm
from schemas.resources import LLM, Agent, ResourceStatus
from schemas.subjects import ResourceKey
from schemas.tools import OfferedTool, Source, agent_sources, offer
from services.llm_gateway.core.tokens import tools_weight
from services.llm_gateway.limits import time_limit
from services.runtime.ports import Clock
from services.runtime.resources import Resources, tools_of

SETTLE_S = 1.0
"""How long a command waits for a resource that another service saw ready a moment ago."""


class NotReady(Exception):
    """An agent or what it needs cannot be used now. The text says which and why."""

    def __init__(self, message: str, *, llm: str = "") -> None:
        super().__init__(message)
        self.llm = llm
        """The LLM that is not ready; empty: something else is not."""


class Equipped(NamedTuple):
    """An agent's model and tools, as they are now."""

    llm: LLM
    revision: int
    """The revision of the LLM."""
    tools: tuple[OfferedTool, ...]
    tools_weight: int
    agent: Agent


class _Offered(NamedTuple):
    sources: tuple[Source, ...]
    tools: tuple[OfferedTool, ...]
    weight: int


class Agents:
    """Looks agents up. The tools of an agent are put together again only when one of its servers changes."""

    def __init__(self, resources: Resources, clock: Clock) -> None:
        self._resources = resources
        self._clock = clock
        self._changed = asyncio.Event()
        self._tools: dict[tuple[str, str], _Offered] = {}
        resources.on_change(self._on_change)

    async def equip(self, namespace: str, name: str, llm: str = "") -> Equipped:
        """What the agent calls its model with, or the LLM that stands in for its own.

        Raises `NotReady`, after a short wait for what is just changing unless another LLM stands in for it.
        """
        try:
            return self._look(namespace, name, llm)
        except NotReady as problem:
            if self._has_fallback(namespace, name, problem):
                raise
        try:
            async with time_limit(self._clock, SETTLE_S):
                return await self._wait(namespace, name, llm)
        except TimeoutError:
            return self._look(namespace, name, llm)

    def _has_fallback(self, namespace: str, name: str, problem: NotReady) -> bool:
        agent = self._resources.get(Agent, namespace, name)
        return bool(problem.llm and agent is not None and next_llm(agent.spec, problem.llm, "notReady"))

    async def _wait(self, namespace: str, name: str, llm: str) -> Equipped:
        while True:
            self._changed.clear()
            try:
                return self._look(namespace, name, llm)
            except NotReady:
                await self._changed.wait()

    def _on_change(self, key: ResourceKey) -> None:
        self._changed.set()
        if key.part == "spec" and key.kind == "Agent":
            self._tools.pop((key.namespace, key.name), None)

    def _look(self, namespace: str, name: str, llm: str) -> Equipped:
        agent = self._resources.get(Agent, namespace, name)
        if agent is None:
            raise NotReady(f'Agent "{name}" not found')
        self._ready("Agent", namespace, name)
        offered = self._offered(agent)
        llm_name = llm or agent.spec.llm_ref.name
        known = self._resources.known("LLM", namespace, llm_name)
        if known is None or not isinstance(known.resource, LLM):
            raise NotReady(f'LLM "{llm_name}" not found', llm=llm_name)
        self._ready("LLM", namespace, llm_name)
        return Equipped(known.resource, known.revision, offered.tools, offered.weight, agent)

    def _offered(self, agent: Agent) -> _Offered:
        namespace = agent.metadata.namespace
        for ref in agent.spec.mcp_servers:
            self._ready("MCPServer", namespace, ref.name)
        sources = agent_sources(agent.spec, partial(tools_of, self._resources, namespace))
        key = (namespace, agent.metadata.name)
        made = self._tools.get(key)
        if made is not None and made.sources == sources:
            return made
        tools = tuple(offer(sources).values())
        made = self._tools[key] = _Offered(sources, tools, tools_weight(tools))
        return made

    def _ready(self, kind: str, namespace: str, name: str) -> ResourceStatus:
        status = self._resources.status(kind, namespace, name)
        llm = name if kind == "LLM" else ""
        if status is None:
            raise NotReady(f'{kind} "{name}" has no status yet', llm=llm)
        if not status.ready:
            raise NotReady(f'{kind} "{name}" is not ready: {status.status_detail}', llm=llm)
        return status
