"""From what a task waits for to what is recorded of it: one model call.

    equip     the LLM and tools of the task's agent
    window    the conversation so far
    call      the provider, by the one way that there is (`Caller.ask`)

Whatever goes wrong in a way that is understood is an outcome as well; nothing is tried twice here.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from schemas.commands import CallModel
from schemas.events import ModelFailed
from schemas.resources import LLM
from schemas.task import AwaitingModel
from services.llm_gateway.agents import Agents, Equipped, NotReady
from services.llm_gateway.caller import Attempt, Caller
from services.llm_gateway.core import outcomes, tokens
from services.llm_gateway.core.calls import CallFailed, ModelRequest
from services.llm_gateway.core.endpoints import BadSpec
from services.llm_gateway.core.moments import Place
from services.llm_gateway.core.outcomes import Outcome
from services.llm_gateway.core.window import BadWindow, Window
from services.llm_gateway.models import Models
from services.llm_gateway.windows import Windows
from services.runtime.errors import Broken
from services.runtime.ports import Log
from services.runtime.secrets import SecretMissing

if TYPE_CHECKING:
    from services.runtime.ports import Bus


class Pipeline:
    """Makes the call that a task waits for."""

    def __init__(self, bus: Bus, *, agents: Agents, models: Models, windows: Windows, caller: Caller) -> None:
        self._bus = bus
        self._agents = agents
        self._models = models
        self._windows = windows
        self._caller = caller

    async def outcome(self, place: Place, command: CallModel, state: AwaitingModel) -> Outcome:
        """What is to be recorded."""
        try:
            equipped = await self._agents.equip(command.namespace, command.agent, command.llm)
            window = await self._window(self._bus.log(place.task.partition), place, state)
            return await self._called(place, state, equipped, window)
        except (NotReady, BadSpec, SecretMissing) as problem:
            return ModelFailed(
                turn=place.turn,
                attempt=place.attempt,
                failure="transient",
                error=str(problem),
                at=self._bus.clock.now(),
                llm=command.llm,
                cause="notReady",
            )

    async def _called(self, place: Place, state: AwaitingModel, equipped: Equipped, window: Window) -> Outcome:
        request = ModelRequest(
            messages=window.messages,
            tools=equipped.tools,
            turn=place.turn,
            attempt=place.attempt,
            size=window.size,
            response_format=window.response_format,
        )
        weight = window.weight + equipped.tools_weight + tokens.format_weight(window.response_format)
        llm = equipped.llm
        async with self._models.use(llm, equipped.revision) as model:
            attempt = Attempt(place, state, llm, model, request, tokens=tokens.tokens_of(weight), room=room_of(llm))
            try:
                asked = await self._caller.ask(attempt)
            except CallFailed as failed:
                return outcomes.failed(place, llm, failed.failure, at=self._now())
        return outcomes.answered(place, llm, asked.reply, at=self._now(), latency_s=asked.latency_s)

    async def _window(self, log: Log, place: Place, state: AwaitingModel) -> Window:
        try:
            window = await self._windows.get(log, place.task.state, state.window)
        except (BadWindow, LookupError) as error:
            self._windows.forget(place.task.state)
            raise Broken(f"the conversation of task {place.task.task} cannot be read: {error}") from error
        if window.unanswered:
            raise Broken(f"tool call {window.unanswered[0]!r} of task {place.task.task} has no result")
        return window

    def _now(self) -> datetime:
        return self._bus.clock.now()


def room_of(llm: LLM) -> int:
    """Tokens that an LLM's answer may have."""
    return llm.spec.parameters.max_tokens or tokens.ROOM_DEFAULT
