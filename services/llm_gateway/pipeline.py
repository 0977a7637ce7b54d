"""From what a task waits for to what is recorded of it: one model call.

    equip     the LLM and tools of the task's agent
    window    the conversation so far
    fit       is it too long for the model: shorten it, which is recorded instead of an answer
    call      the provider, by the one way that there is (`Caller.ask`)
    check     the answer against the response format

Whatever goes wrong in a way that is understood is an outcome as well; nothing is tried twice here.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from schemas.commands import CallModel
from schemas.events import ModelFailed
from schemas.fallbacks import next_llm
from schemas.messages import Usage
from schemas.requests import FailureCause
from schemas.resources import LLM
from schemas.task import AwaitingModel
from services.llm_gateway.agents import Agents, Equipped, NotReady
from services.llm_gateway.caller import Attempt, Caller
from services.llm_gateway.compactor import Compactor
from services.llm_gateway.core import outcomes
from services.llm_gateway.core.calls import CallFailed, Failure, ModelRequest
from services.llm_gateway.core.compaction import Goal
from services.llm_gateway.core.endpoints import BadSpec
from services.llm_gateway.core.moments import Place
from services.llm_gateway.core.outcomes import Outcome
from services.llm_gateway.core.response import flaw_of, problem_of
from services.llm_gateway.core.size import Size, size_of
from services.llm_gateway.core.tokens import Scales, format_weight
from services.llm_gateway.core.window import BadWindow, Window
from services.llm_gateway.models import Models
from services.llm_gateway.windows import Windows
from services.runtime.errors import Broken
from services.runtime.secrets import SecretMissing

if TYPE_CHECKING:
    from services.runtime.ports import Bus

logger = logging.getLogger(__name__)


class Gone(Exception):
    """An entry of the conversation is not there any more."""


class Call(NamedTuple):
    """A call in all its parts."""

    attempt: Attempt
    equipped: Equipped
    window: Window
    size: Size

    @property
    def llm(self) -> LLM:
        """What is called."""
        return self.equipped.llm

    @property
    def was_shortened(self) -> bool:
        """Whether the conversation was fitted into this LLM's context in this turn: another replica estimated less."""
        step = self.window.shortened
        return (step.turn, step.llm) == (self.attempt.place.turn, self.llm.metadata.name)


class Pipeline:
    """Makes the call that a task waits for."""

    def __init__(self, bus: Bus, *, agents: Agents, models: Models, windows: Windows, caller: Caller) -> None:
        self._bus = bus
        self._agents = agents
        self._models = models
        self._windows = windows
        self._caller = caller
        self._compactor = Compactor(caller)
        self._scales = Scales()

    async def outcome(self, place: Place, command: CallModel, state: AwaitingModel, began: float) -> Outcome:
        """What is to be recorded. `began` is when the state was looked at, on the event loop's clock.

        Raises `Gone` if the conversation is not there, and `RetryLater` if the task was stopped meanwhile.
        """
        llm = ""
        try:
            equipped = await self._agents.equip(command.namespace, command.agent, command.llm)
            llm = equipped.llm.metadata.name
            window = await self._window(place, state)
            async with self._models.use(equipped.llm, equipped.revision) as model:
                size = self._size(equipped, window)
                request = ModelRequest(
                    messages=window.messages,
                    tools=equipped.tools,
                    turn=place.turn,
                    attempt=place.attempt,
                    size=window.size,
                    response_format=window.response_format,
                )
                attempt = Attempt(place, state, equipped.llm, model, request, size.tokens, size.room, began)
                return await self._called(Call(attempt, equipped, window, size))
        except NotReady as problem:
            return self._not_ready(place, str(problem), problem.llm)
        except (BadSpec, SecretMissing) as problem:
            return self._not_ready(place, str(problem), llm)

    def _not_ready(self, place: Place, problem: str, llm: str) -> ModelFailed:
        """What an LLM lacks may be another's to stand in for; what else an agent lacks is not."""
        return ModelFailed(
            turn=place.turn,
            attempt=place.attempt,
            failure="transient",
            error=problem,
            at=self._bus.clock.now(),
            llm=llm,
            cause="notReady" if llm else "other",
        )

    async def _window(self, place: Place, state: AwaitingModel) -> Window:
        task = place.task
        try:
            window = await self._windows.get(self._bus.log(task.partition), task.state, state.window)
        except LookupError as error:
            self._windows.forget(task.state)
            raise Gone(f"the conversation of task {task.task} cannot be read: {error}") from error
        except BadWindow as error:
            self._windows.forget(task.state)
            raise Broken(f"the conversation of task {task.task} cannot be read: {error}") from error
        if window.unanswered:
            raise Broken(f"tool call {window.unanswered[0]!r} of task {task.task} has no result")
        return window

    def _size(self, equipped: Equipped, window: Window) -> Size:
        """How large the request is, by what the LLM's provider counted before, if it did."""
        return size_of(
            equipped.llm,
            equipped.agent.spec.context,
            conversation=window.weight,
            beside=equipped.tools_weight + format_weight(window.response_format),
            scale=self._scales.get(_scale_key(equipped)),
            counted=window.counted,
        )

    # --- the call ---

    async def _called(self, call: Call) -> Outcome:
        response_format = call.window.response_format
        if response_format is not None and (flaw := flaw_of(response_format)):
            error = f"the response format {response_format.name!r} cannot be used: {flaw}"
            return self._refused(call, error, "invalidRequest")
        if call.size.is_too_large and not call.was_shortened:
            return await self._too_large(call)
        try:
            asked = await self._caller.ask(call.attempt)
        except CallFailed as failed:
            if failed.failure.cause == "contextTooLong" and not call.attempt.state.tries.compactions:
                return await self._refused_as_too_long(call, failed.failure)
            return self._failed(call, failed.failure)
        reply = asked.reply
        self._scales.learn(
            _scale_key(call.equipped), reply.usage.input_tokens, call.size.conversation + call.size.beside
        )
        return outcomes.answered(
            call.attempt.place,
            call.llm,
            reply,
            at=self._bus.clock.now(),
            latency_s=asked.latency_s,
            invalid=problem_of(reply.message, response_format),
        )

    async def _too_large(self, call: Call) -> Outcome:
        """The estimate says that the conversation does not fit."""
        policy = call.equipped.agent.spec.context.when_full
        error = f"the conversation is too long for LLM {call.llm.metadata.name!r}: {call.size.words}"
        if policy == "fail" or self._has_fallback(call):
            return self._refused(call, f"{error} (the agent's context.whenFull is {policy})", "contextTooLong")
        return await self._shortened(call, call.size.goal(), error, Failure(error=error, transient=False))

    async def _refused_as_too_long(self, call: Call, failure: Failure) -> Outcome:
        """The provider says so. Once in a turn, the conversation is made shorter for that."""
        if call.equipped.agent.spec.context.when_full == "fail" or self._has_fallback(call):
            return self._failed(call, failure)
        return await self._shortened(call, call.size.goal_when_refused(), failure.error, failure)

    async def _shortened(self, call: Call, goal: Goal, reason: str, failure: Failure) -> Outcome:
        """A step that makes the conversation shorter; or `failure`, if that is not enough."""
        policy = call.equipped.agent.spec.context.when_full
        assert policy != "fail"
        try:
            done = await self._compactor.shorten(call.attempt, call.window, call.size, goal, policy)
        except CallFailed as failed:
            return self._failed(call, failed.failure)
        if done.result is None:
            error = f"{failure.error}; without its tool results it would be too long as well"
            usage = done.usage if done.usage != Usage() else failure.usage
            return self._failed(
                call, msgspec.structs.replace(failure, error=error, cause="contextTooLong", usage=usage)
            )
        before, after = call.size.in_tokens(call.window.weight), call.size.in_tokens(done.result.weight)
        logger.info(
            "a conversation of about %d tokens becomes one of %d (%s)",
            before,
            after,
            done.policy,
            extra={"action": "model.compacted"},
        )
        return outcomes.compacted(
            call.attempt.place,
            call.llm,
            done.result,
            policy=done.policy,
            at=self._bus.clock.now(),
            tokens=(before, after),
            reason=reason,
            usage=done.usage,
            response_format=call.window.response_format,
        )

    def _has_fallback(self, call: Call) -> bool:
        """Whether the agent would rather ask another LLM than make the conversation shorter."""
        return bool(next_llm(call.equipped.agent.spec, call.llm.metadata.name, "contextTooLong"))

    def _refused(self, call: Call, error: str, cause: FailureCause) -> ModelFailed:
        return self._failed(call, Failure(error=error, transient=False, cause=cause))

    def _failed(self, call: Call, failure: Failure) -> ModelFailed:
        return outcomes.failed(call.attempt.place, call.llm, failure, at=self._bus.clock.now())


def _scale_key(equipped: Equipped) -> tuple[str, str, int]:
    meta = equipped.llm.metadata
    return meta.namespace, meta.name, equipped.revision
