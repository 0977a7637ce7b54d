"""Agents: their readiness, which this service owns, and what a task's conversation starts with."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from schemas.messages import Message, SystemMessage, ToolCall, UserMessage
from schemas.requests import TaskSpec
from schemas.resources import Agent, ResourceStatus
from schemas.subjects import ResourceKey
from schemas.task import AwaitingModel
from schemas.tools import OfferedTool, agent_tools
from services.planner.core.approvals import gates_of
from services.planner.core.inputs import Gate
from services.planner.core.readiness import READY, Verdict, evaluate
from services.runtime.errors import RetryLater
from services.runtime.resources import approver_of, is_approved_for_good, tools_of
from services.runtime.tasks import Tasks

if TYPE_CHECKING:
    from services.runtime.ports import Clock
    from services.runtime.resources import Resources

logger = logging.getLogger(__name__)

Woken = Callable[[set[tuple[str, str]]], Awaitable[None]]


class Agents:
    """The agents that this replica knows, and a loop that says how they are."""

    def __init__(self, resources: Resources, clock: Clock) -> None:
        self._resources = resources
        self._clock = clock
        self._changed = asyncio.Event()
        self._tasks = Tasks()
        self._ready: set[tuple[str, str]] = set()

    def get(self, namespace: str, name: str) -> Agent | None:
        """An agent as it was applied, or None."""
        return self._resources.get(Agent, namespace, name)

    def problem(self, namespace: str, name: str) -> str:
        """Why a task of this agent has to wait, in the predecessor's words; empty if it has not."""
        agent = self.get(namespace, name)
        if agent is None:
            return "Waiting for Agent to exist"
        verdict = self._evaluate(agent)
        return "" if verdict == READY else f'Waiting for agent "{name}" to become ready: {verdict.detail}'

    def delegates(self, namespace: str, name: str) -> Mapping[str, str]:
        """The agents that an agent may delegate to, by the names of the tools that do it."""
        agent = self.get(namespace, name)
        if agent is None or not agent.spec.sub_agents:
            return {}
        tools = agent_tools(agent.spec, partial(tools_of, self._resources, namespace))
        return {offered: tool.info.name for offered, tool in tools.items() if tool.via == "Agent"}

    def gates(self, state: AwaitingModel, calls: Sequence[ToolCall]) -> dict[int, Gate]:
        """What people are asked about the calls of an answer, by their places."""
        agent = self.get(state.namespace, state.agent)
        if agent is None:
            return {}
        tools: Mapping[str, OfferedTool] | None = None

        def offered(name: str) -> OfferedTool | None:
            nonlocal tools
            if tools is None:
                tools = agent_tools(agent.spec, partial(tools_of, self._resources, state.namespace))
            return tools.get(name)

        def approver(tool: OfferedTool) -> str:
            return approver_of(self._resources, agent, tool)

        def granted(call: ToolCall) -> bool:
            by_task = call.name in state.approved
            return by_task or is_approved_for_good(self._resources, agent, call.name, call.arguments)

        return gates_of(calls, offered=offered, approver=approver, granted=granted)

    def start(self, woken: Woken) -> None:
        """Keep statuses true from now on; call `woken` with the agents that became ready, by namespace and name."""
        self._resources.on_change(self._on_change)
        self._tasks.spawn(self._run(woken), name="agent-readiness")

    async def stop(self) -> None:
        """Stop keeping them."""
        await self._tasks.close()

    def _on_change(self, _key: ResourceKey) -> None:
        self._changed.set()

    async def _run(self, woken: Woken) -> None:
        await self._resources.loaded()
        while True:
            self._changed.clear()
            try:
                await self._say(woken)
            except RetryLater as later:
                logger.warning("could not write agent statuses: %s", later, extra={"action": "agent.status"})
                await self._clock.sleep(later.after_s)
                continue
            await self._changed.wait()

    async def _say(self, woken: Woken) -> None:
        ready: set[tuple[str, str]] = set()
        for agent, _ in self._resources.all(Agent):
            name = (agent.metadata.namespace, agent.metadata.name)
            verdict = self._evaluate(agent)
            if verdict == READY:
                ready.add(name)
            await self._resources.set_status("Agent", *name, status=verdict.status, detail=verdict.detail)
        if news := ready - self._ready:
            self._ready &= ready
            await woken(news)
        self._ready = ready

    def _evaluate(self, agent: Agent) -> Verdict:
        namespace = agent.metadata.namespace

        def look(kind: str, name: str) -> tuple[bool, ResourceStatus | None]:
            exists = self._resources.known(kind, namespace, name) is not None
            return exists, self._resources.status(kind, namespace, name)

        def sub_agents(name: str) -> tuple[str, ...]:
            known = self.get(namespace, name)
            return tuple(ref.name for ref in known.spec.sub_agents) if known is not None else ()

        return evaluate(agent, look, sub_agents)


def first_messages(agent: Agent, spec: TaskSpec) -> tuple[Message, ...]:
    """What a conversation starts with: the agent's instructions and the message, or the window as it was given.

    The agent's instructions come before a given window only if that has none of its own.
    """
    system = SystemMessage(content=agent.spec.system)
    if spec.context_window is None:
        return (system, UserMessage(content=spec.user_message or ""))
    if any(isinstance(message, SystemMessage) for message in spec.context_window):
        return spec.context_window
    return (system, *spec.context_window)
