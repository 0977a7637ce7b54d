"""Bugs planted in the services, each of which the simulation must find."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

import msgspec
import pytest

from schemas.interactions import InteractionRequested
from schemas.messages import ToolCall
from schemas.subjects import TaskSubjects
from schemas.task import AwaitingTools, Cancelled, FinalAnswer, State
from services.human_contact.core.outcomes import given_up
from services.notifier.core.outcomes import Taken
from services.notifier.records import Kept, Records
from services.planner.core.inputs import CancelAsked, Input, ToolsAnswered
from services.planner.core.machine import transition
from services.planner.core.outstanding import Outstanding, outstanding
from services.planner.steps import Steps
from services.runtime.errors import Unavailable
from services.runtime.ports import Entry, Outgoing
from services.tool_executor.core.ledger import Begin, Says
from services.tool_executor.ledger import Ledger, Place
from tests.chaos.simulated.faults import Rates
from tests.chaos.simulated.network import LaggingLog
from tests.chaos.simulated.simulate import simulate

SEEDS_MAX = 400
STEP = Steps.step
WAKE = Records.wake
NUMBERS = (f"number-{n}" for n in itertools.count())


async def _ensures_nothing(*_: object) -> int:
    return 0


async def _ignores_the_ledger(self: Ledger, place: Place, *_: object, **__: object) -> Begin:
    return Begin(1, (await self._read(place))[1])


async def _believes_that_nobody_has_begun(self: Ledger, *_: object) -> Says:
    return "unused"


async def _records_again(self: LaggingLog, message: Outgoing) -> int | None:
    entry = await self._log.get(message.subject)
    if entry is not None and ".tool." in message.subject and ".evt." in message.subject:
        return await self._log.write(message, expected=entry.seq)
    return await self._log.record(message)


async def _forgets_what_is_newest(self: LaggingLog, filters: Sequence[str], *, at_least: int = 0) -> list[Entry]:
    entries = await self._log.last(filters)
    seq = self._behind(0)
    return entries if seq is None else self._history.as_of(self._stream.name, seq, filters)


def _takes_results_as_they_come(state: State | None, happened: Input) -> State:
    if isinstance(happened, ToolsAnswered):
        happened = msgspec.structs.replace(happened, seqs=tuple(sorted(happened.seqs)))
    return transition(state, happened)


def _cancels_what_has_ended(state: State | None, happened: Input) -> State:
    if isinstance(state, FinalAnswer) and isinstance(happened, CancelAsked):
        header = {name: getattr(state, name) for name in FinalAnswer.__struct_fields__}
        return Cancelled(**header, reason="late", by="")
    return transition(state, happened)


def _goes_on_without_the_last_result(state: State | None, happened: Input) -> State:
    after = transition(state, happened)
    if isinstance(state, AwaitingTools) and isinstance(happened, ToolsAnswered) and len(happened.seqs) > 1:
        return msgspec.structs.replace(after, window=after.window[:-1])
    return after


def _closes_nothing(state: State) -> tuple[Outstanding, ...]:
    return () if isinstance(state, Cancelled) else outstanding(state)


async def _records_what_follows_again(self: LaggingLog, message: Outgoing) -> int | None:
    entry = await self._log.get(message.subject)
    if entry is not None and message.subject.endswith(".next"):
        return await self._log.write(message, expected=entry.seq)
    return await self._log.record(message)


async def _remembers_nothing(*_: object) -> tuple[int, ...]:
    return ()


def _another(*_: object) -> str:
    return next(NUMBERS)


def _nothing(*_: object) -> None:
    pass


async def _does_not_listen(*_: object) -> None:
    pass


async def _tells_nobody(*_: object) -> Taken:
    return Taken(status=200)


async def _wakes_nobody_later(self: Records, task: TaskSubjects, kept: Kept, headers: Mapping[str, str]) -> None:
    if kept.value.attempts == 0:
        await WAKE(self, task, kept, headers)


def _takes_silence_for_an_approval(asked: InteractionRequested, _: str, *more: Any, **named: Any) -> Any:
    return given_up(asked, "approve", *more, **named)


async def _as_the_model_wanted(self: object, command: object, call: ToolCall) -> ToolCall:
    return call


async def _swallows_that_the_bus_is_away(self: Any, task: Any, decide: Any, **options: Any) -> bool:
    try:
        return await STEP(self, task, decide, **options)
    except Unavailable:
        return False


CANARIES: dict[str, tuple[AbstractContextManager[Any], str]] = {
    "a planner that ensures no command after a crash": (
        patch("services.planner.table.TaskTable.ensure", _ensures_nothing),
        "has not ended",
    ),
    "a planner that acknowledges what it could not write": (
        patch("services.planner.steps.Steps.step", _swallows_that_the_bus_is_away),
        "has not ended",
    ),
    "a planner that joins with whatever a stale replica says": (
        patch("tests.chaos.simulated.network.LaggingLog.last", _forgets_what_is_newest),
        "has not ended",
    ),
    "a planner that takes results in the order in which they come": (
        patch("services.planner.steps.transition", _takes_results_as_they_come),
        "call order",
    ),
    "a planner that goes on without the last result": (
        patch("services.planner.steps.transition", _goes_on_without_the_last_result),
        "",
    ),
    "a planner that cancels what has ended": (
        patch("services.planner.steps.transition", _cancels_what_has_ended),
        "was not the end",
    ),
    "a planner that leaves calls of a cancelled task open": (
        patch("services.planner.table.outstanding", _closes_nothing),
        "have no result",
    ),
    "an executor that ignores the ledger": (
        patch("services.tool_executor.ledger.Ledger.judge", _ignores_the_ledger),
        "was paid",
    ),
    "an executor that believes of every holder that it has not begun": (
        patch("services.tool_executor.ledger.Ledger._says", _believes_that_nobody_has_begun),
        "was paid",
    ),
    "a planner that does not listen to what came too late": (
        patch("services.planner.events.Events._too_late_to_hear", _does_not_listen),
        "heard by nobody",
    ),
    "a planner that takes the same message for another one": (
        patch("services.planner.requests.message_id", _another),
        "heard by [",
    ),
    "a planner that goes on and has forgotten what was said": (
        patch("services.planner.steps.Steps._before", _remembers_nothing),
        "begins with",
    ),
    "a planner that goes on twice after one task": (
        patch("tests.chaos.simulated.network.LaggingLog.record", _records_what_follows_again),
        "is gone on from by",
    ),
    "a notifier that says it has told who was never told": (
        patch("services.notifier.attempts.Attempts._send", _tells_nobody),
        "nobody received it",
    ),
    "a notifier that keeps no order": (
        patch("services.notifier.core.machine.ahead", _nothing),
        "which goes first",
    ),
    "a notifier that does not come again": (
        patch("services.notifier.records.Records.wake", _wakes_nobody_later),
        "has not come to its end",
    ),
    "a notifier that tells the same under another id": (
        patch("services.notifier.core.machine.notification_id", _another),
        "and notifications are there for",
    ),
    "a planner that counts everybody as often as they answer": (
        patch("services.planner.interactions.digest", _another),
        "have to accept, and",
    ),
    "a planner that lets anybody answer": (
        patch("services.planner.interactions.refused", _nothing),
        "who did not or may not",
    ),
    "human-contact that looks at no question again": (
        patch("services.human_contact.desk.Desk._wake", _does_not_listen),
        "it has 0 answers",
    ),
    "human-contact that takes silence for an approval": (
        patch("services.human_contact.desk.given_up", _takes_silence_for_an_approval),
        "silence was taken for an approval",
    ),
    "an executor that does what the model wanted and not what people approved": (
        patch("services.tool_executor.handlers.ToolCommands._approved", _as_the_model_wanted),
        "approved by",
    ),
    "a bus that records again": (
        patch("tests.chaos.simulated.network.LaggingLog.record", _records_again),
        "was written twice",
    ),
}


WEATHER = {"a planner that joins with whatever a stale replica says": Rates(stale=0.6, delay=0.3)}
"""What some of them need to come out soon."""


FOUND_BY = {
    "a planner that ensures no command after a crash": 38,
    "a planner that acknowledges what it could not write": 23,
    "a planner that joins with whatever a stale replica says": 8,
    "a planner that takes results in the order in which they come": 3,
    "a planner that goes on without the last result": 3,
    "a planner that cancels what has ended": 8,
    "a planner that leaves calls of a cancelled task open": 10,
    "an executor that ignores the ledger": 66,
    "an executor that believes of every holder that it has not begun": 156,
    "a planner that does not listen to what came too late": 12,
    "a planner that goes on twice after one task": 10,
    "a notifier that keeps no order": 4,
    "a notifier that tells the same under another id": 4,
    "a planner that counts everybody as often as they answer": 6,
    "a planner that lets anybody answer": 4,
    "human-contact that looks at no question again": 4,
    "human-contact that takes silence for an approval": 4,
    "an executor that does what the model wanted and not what people approved": 4,
    "a bus that records again": 5,
}
"""The seeds that found them when they were last looked for. They are tried first: a change of the world moves them."""


@pytest.mark.parametrize("canary", CANARIES)
def test_a_planted_bug_is_found(canary: str) -> None:
    planted, said = CANARIES[canary]
    with planted:
        for seed in (FOUND_BY.get(canary, 1), *range(1, SEEDS_MAX + 1)):
            problems = simulate(seed, rates=WEATHER.get(canary)).problems
            if any(said in problem for problem in problems):
                return
    raise AssertionError(f"{canary} was not found in {SEEDS_MAX} seeds")
