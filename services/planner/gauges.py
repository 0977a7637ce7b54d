"""What only the whole tells: live tasks by phase, open questions, streams, consumers.

Every planner tells it, and all tell the same: a query takes the maximum. What a planner cannot know now it does not
tell, so that one which is cut off does not go on with what it saw last.
"""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple, get_args

from schemas import subjects
from schemas.interactions import InteractionKind, InteractionRequested
from schemas.task import AwaitingTools, Live
from schemas.task_view import describe_state
from schemas.wire import Malformed, decode
from services.runtime.errors import RetryLater
from services.runtime.tasks import Tasks

if TYPE_CHECKING:
    from datetime import datetime

    from schemas.subjects import TaskSubjects
    from services.runtime.ports import Bus, Survey
    from services.runtime.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

FILTERS = 100
"""Calls whose questions are looked for at once."""
LIVE_PHASES = ("Initializing", "Pending", "ReadyForLLM", "ToolCallsPending")
NOT_OF_A_PARTITION = "-"
STREAMS = {
    subjects.REQUESTS_STREAM: "requests",
    subjects.TIMERS_STREAM: "timers",
    subjects.PEOPLE_TIMERS_STREAM: "people-timers",
    subjects.NOTIFY_TIMERS_STREAM: "notify-timers",
    subjects.DEAD_LETTERS_STREAM: "dead-letters",
    f"KV_{subjects.RESOURCES_BUCKET}": "resources",
    f"KV_{subjects.FLOW_BUCKET}": "flow",
    f"OBJ_{subjects.PAYLOADS_BUCKET}": "payloads",
}
"""Streams that are there once, by what they are called in metrics."""
LETTERS = f"{subjects.PREFIX}.dlq.letter.>"


class StreamLabels(NamedTuple):
    """A stream in metrics."""

    stream: str
    partition: str


def stream_labels(name: str) -> StreamLabels:
    """What a stream is called in metrics."""
    if name in STREAMS:
        return StreamLabels(STREAMS[name], NOT_OF_A_PARTITION)
    partition = name.removeprefix(subjects.task_stream(0).removesuffix("0"))
    return StreamLabels("tasks", partition) if partition.isdecimal() else StreamLabels(name, NOT_OF_A_PARTITION)


class Census:
    """Live tasks, counted during a walk."""

    def __init__(self) -> None:
        self.phases: Counter[str] = Counter()
        self.calls: dict[int, list[str]] = {}
        """By partition: where the questions are that calls which wait may have for people."""

    def add(self, task: TaskSubjects, state: Live) -> None:
        """One more."""
        self.phases[describe_state(state).phase] += 1
        if isinstance(state, AwaitingTools):
            asked = self.calls.setdefault(task.partition, [])
            asked += [task.interactions(state.request, call.n) for call in state.calls]


class Gauges:
    """Tells it."""

    def __init__(self, bus: Bus, metrics: Metrics, *, every_s: float) -> None:
        self._bus = bus
        self._metrics = metrics
        self._every_s = every_s
        self._tasks = Tasks()
        self._random = random.Random()  # noqa: S311 - spreads the looks of replicas

    def start(self) -> None:
        """Look at streams and consumers from now on."""
        self._tasks.spawn(self._run(), name="survey")

    async def stop(self) -> None:
        """Look no more."""
        await self._tasks.close()

    async def counted(self, census: Census) -> None:
        """A walk has seen all live tasks."""
        self._metrics.tasks.replace({(phase,): census.phases[phase] for phase in LIVE_PHASES})
        since: dict[str, list[datetime]] = {kind: [] for kind in get_args(InteractionKind)}
        for partition, filters in census.calls.items():
            for start in range(0, len(filters), FILTERS):
                for asked in await self._open(partition, filters[start : start + FILTERS]):
                    since[asked.kind].append(asked.at)
        now = self._bus.clock.now()
        ages: dict[tuple[str, ...], float] = {
            (kind,): max((now - min(found)).total_seconds(), 0.0) if found else 0.0 for kind, found in since.items()
        }
        self._metrics.interactions.replace({(kind,): len(found) for kind, found in since.items()})
        self._metrics.interaction_age.replace(ages)

    def not_counted(self) -> None:
        """A walk was broken off."""
        for gauge in (self._metrics.tasks, self._metrics.interactions, self._metrics.interaction_age):
            gauge.replace({})

    async def look(self) -> None:
        """Look at the streams and consumers once."""
        with self._metrics.survey_seconds.time():
            survey = await self._bus.survey()
            letters = len(await self._bus.dead_letters.subjects(LETTERS))
        self._tell(survey)
        self._metrics.letters.set(letters)

    async def _run(self) -> None:
        while True:
            try:
                await self.look()
            except RetryLater as later:
                logger.warning("the bus was not surveyed: %s", later, extra={"action": "survey.interrupted"})
                self._tell(None)
            await self._bus.clock.sleep(self._every_s * self._random.uniform(0.8, 1.2))

    async def _open(self, partition: int, filters: list[str]) -> list[InteractionRequested]:
        """Questions without an answer."""
        entries = {entry.subject: entry for entry in await self._bus.log(partition).last(filters)}
        found: list[InteractionRequested] = []
        for subject, entry in entries.items():
            question, _, what = subject.rpartition(".")
            if what != "asked" or f"{question}.answered" in entries:
                continue
            try:
                found.append(decode(entry.data, InteractionRequested))
            except Malformed as error:
                logger.warning("question %s is malformed: %s", subject, error, extra={"action": "survey"})
        return found

    def _tell(self, survey: Survey | None) -> None:
        metrics = self._metrics
        streams = [(stream_labels(one.name), one) for one in survey.streams] if survey else []
        metrics.stream_messages.replace({labels: one.messages for labels, one in streams})
        metrics.stream_bytes.replace({labels: one.bytes_ for labels, one in streams})
        metrics.stream_stored.replace({labels: one.last_seq for labels, one in streams})
        metrics.stream_missing.replace({labels: one.replicas_missing for labels, one in streams})
        consumers = (
            [((one.name, stream_labels(one.stream).partition), one) for one in survey.consumers] if survey else []
        )
        metrics.pending.replace({labels: one.pending for labels, one in consumers})
        metrics.ack_pending.replace({labels: one.in_hand for labels, one in consumers})
        metrics.redelivering.replace({labels: one.redelivering for labels, one in consumers})
        metrics.pending_age.replace(dict(self._ages(survey)))

    def _ages(self, survey: Survey | None) -> Iterator[tuple[tuple[str, str], float]]:
        now = self._bus.clock.now()
        for one in survey.consumers if survey else ():
            age_s = (now - one.oldest_pending).total_seconds() if one.oldest_pending is not None else 0.0
            yield (one.name, stream_labels(one.stream).partition), max(age_s, 0.0)
