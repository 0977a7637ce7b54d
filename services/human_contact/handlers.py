"""Handlers of human-contact's consumers: questions to ask, answers, wake-ups."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from schemas.commands import AskPerson, WithdrawQuestion
from schemas.dead_letters import DeadReason
from schemas.interactions import InteractionAnswered, InteractionRequested, PeopleDue
from schemas.subjects import (
    HUMAN_CONTACT,
    HUMAN_CONTACT_ANSWERS,
    HUMAN_CONTACT_TIMERS,
    TRACEPARENT,
    TaskSubjects,
    task_of,
)
from schemas.tracing import derived, task_context
from schemas.wire import Malformed, decode
from services.human_contact.desk import Place, place_of
from services.runtime.errors import Refused
from services.runtime.telemetry.logs import log_ids
from services.runtime.telemetry.traces import trace_id

if TYPE_CHECKING:
    from services.human_contact.desk import Desk
    from services.runtime.consumer import Inbound
    from services.runtime.service import Runtime

logger = logging.getLogger(__name__)


class People:
    """What comes in."""

    def __init__(self, runtime: Runtime, desk: Desk) -> None:
        self._resources = runtime.resources
        self._traces = runtime.traces
        self._metrics = runtime.metrics
        self._desk = desk

    async def on_ask(self, inbound: Inbound) -> None:
        """People are to be asked about a call, or not any more, or a question of its tool is recorded."""
        await self._resources.loaded()
        task = task_of(inbound.subject)
        with self._span(inbound, task, HUMAN_CONTACT):
            if inbound.subject.endswith(".withdraw"):
                withdrawal = decode(inbound.data, WithdrawQuestion)
                place = Place(task, withdrawal.request, withdrawal.n)
                _check(inbound, task.withdraw_command(withdrawal.request, withdrawal.n))
                await self._desk.withdraw(place, withdrawal.reason, inbound.seq)
                return
            if inbound.subject.endswith(".look"):
                look = decode(inbound.data, PeopleDue)
                place = _place(task, look.interaction)
                _check(inbound, task.look_command(place.request, place.n, place.k))
                await self._desk.wake(place, look.due, inbound.delivered)
                return
            command = decode(inbound.data, AskPerson)
            _check(inbound, task.ask_command(command.request, command.n))
            await self._desk.ask(Place(task, command.request, command.n), command, inbound.seq)

    async def on_answered(self, inbound: Inbound) -> None:
        """A question has its answer."""
        await self._resources.loaded()
        task = task_of(inbound.subject)
        with self._span(inbound, task, HUMAN_CONTACT_ANSWERS):
            answered = decode(inbound.data, InteractionAnswered)
            place = _place(task, answered.interaction)
            _check(inbound, place.answered)
            asked = await self._desk.answered(place, answered, inbound.seq, inbound.delivered)
        self._metrics.answers.labels(answered.via, answered.action).inc()
        if asked is not None:
            waited_s = (answered.at - asked.at).total_seconds()
            self._metrics.answer_seconds.labels(asked.kind).observe(max(waited_s, 0.0))
            self._waited(inbound, task, asked, answered)

    def _waited(
        self, inbound: Inbound, task: TaskSubjects, asked: InteractionRequested, answered: InteractionAnswered
    ) -> None:
        """Record the span of a wait that is over: nobody has held one open, and nobody who saw it begin need live."""
        within = inbound.headers.get(TRACEPARENT, "")
        attributes = {
            "holdfast.namespace": task.namespace,
            "holdfast.task": task.task,
            "holdfast.question": asked.kind,
            "holdfast.interaction": asked.interaction,
            "holdfast.answer": answered.action,
            "holdfast.via": answered.via,
            "gen_ai.tool.name": asked.tool,
            "gen_ai.agent.name": asked.agent,
        }
        self._traces.finished(
            f"wait_for_person {asked.kind}",
            derived(within, task.namespace, task.task, asked.interaction),
            parent=task_context(within, task.namespace, task.task),
            start=asked.at,
            end=answered.at,
            attributes=attributes | ({"gen_ai.tool.call.id": asked.tool_call_id} if asked.tool_call_id else {}),
        )

    async def on_timer(self, inbound: Inbound) -> None:
        """A wake-up about a question."""
        await self._resources.loaded()
        task = task_of(inbound.subject)
        with self._span(inbound, task, HUMAN_CONTACT_TIMERS):
            wake_up = decode(inbound.data, PeopleDue)
            place = _place(task, wake_up.interaction)
            await self._desk.wake(place, wake_up.due, inbound.delivered, wake_up.look_at)

    async def on_dead_ask(self, inbound: Inbound, reason: DeadReason, error: str) -> None:
        """People cannot be asked: the call has that as its result, so that its task goes on."""
        if inbound.subject.endswith(".look"):
            await self.on_dead_timer(inbound, reason, error)
            return
        try:
            task, command = task_of(inbound.subject), decode(inbound.data, AskPerson)
        except (ValueError, Malformed):
            return
        place = Place(task, command.request, command.n)
        await self._desk.fail(place, command, f"People could not be asked ({reason}): {error[:500]}")

    async def on_dead_timer(self, inbound: Inbound, reason: DeadReason, error: str) -> None:
        """A wake-up that could not be handled: without another one its question would wait for good."""
        await self.on_dead(inbound, reason, error)
        try:
            place = _place(task_of(inbound.subject), decode(inbound.data, PeopleDue).interaction)
        except (ValueError, Malformed):
            return
        await self._desk.wake_later(place)

    async def on_dead(self, inbound: Inbound, reason: DeadReason, error: str) -> None:
        """An answer that could not be handled: the dead letter is all there is to it."""
        logger.error("%s: %s (%s)", inbound.subject, error, reason, extra={"action": "interaction.dead"})

    @contextmanager
    def _span(self, inbound: Inbound, task: TaskSubjects, group: str) -> Generator[None]:
        parent = inbound.headers.get(TRACEPARENT, "")
        with (
            log_ids(namespace=task.namespace, task=task.task, trace=trace_id(parent)),
            self._traces.process(inbound, task, group),
        ):
            yield


def _check(inbound: Inbound, where: str) -> None:
    if inbound.subject != where:
        raise Refused(f"the message on {inbound.subject!r} belongs on {where!r}")


def _place(task: TaskSubjects, interaction: str) -> Place:
    try:
        return place_of(task, interaction)
    except ValueError as error:
        raise Malformed(str(error)) from error
