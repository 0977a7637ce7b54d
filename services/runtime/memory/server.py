"""What the server is to `nats/`: the streams, the durable consumers, the pending timers and the listeners.

Several buses may be opened on one server: each is then a process of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from schemas import subjects
from services.runtime.memory.clock import Alarm, AlarmClock, LoopClock
from services.runtime.memory.consumers import DurableConsumer
from services.runtime.memory.signals import Listeners
from services.runtime.memory.stream import Stream, matches
from services.runtime.ports import Entry, Outgoing, Signal, Survey

TASK_FILTERS = {
    subjects.PLANNER: subjects.planner_filter,
    subjects.LLM_GATEWAY: subjects.llm_filter,
    subjects.TOOL_EXECUTOR: subjects.tool_filter,
    subjects.TOOL_EXECUTOR_ANSWERS: subjects.answered_filter,
    subjects.NOTIFIER: subjects.notify_filter,
    subjects.HUMAN_CONTACT: subjects.ask_filter,
    subjects.HUMAN_CONTACT_ANSWERS: subjects.answered_filter,
}
"""What the consumers of a partition's stream take."""


class MemoryServer:
    """Everything that outlives a connection."""

    def __init__(self, *, clock: AlarmClock | None = None, partitions: int = 1, ack_wait_s: float = 1.5) -> None:
        self.clock = clock or LoopClock()
        self.partitions = partitions
        self.ack_wait_s = ack_wait_s
        self.listeners = Listeners()
        self.tasks = tuple(
            self._stream(subjects.task_stream(partition), subjects.task_stream_subjects(partition), history=1)
            for partition in range(partitions)
        )
        self.requests = self._stream(
            subjects.REQUESTS_STREAM, subjects.REQUESTS_SUBJECTS, history=None, work_queue=True
        )
        self.timers = tuple(
            self._stream(name, captured, history=1, work_queue=True)
            for name, captured in subjects.TIMER_STREAMS.items()
        )
        self.dead_letters = self._stream(subjects.DEAD_LETTERS_STREAM, subjects.DEAD_LETTERS_SUBJECTS, history=1)
        bucket = subjects.RESOURCES_BUCKET
        self.resources = self._stream(f"KV_{bucket}", (f"$KV.{bucket}.>",), history=1)
        flow = subjects.FLOW_BUCKET
        self.flow = self._stream(f"KV_{flow}", (f"$KV.{flow}.>",), history=1)
        self._alarms: dict[str, Alarm] = {}
        self._consumers: dict[tuple[str, str], DurableConsumer] = {}

    @property
    def streams(self) -> Sequence[Stream]:
        """All streams."""
        return (*self.tasks, self.requests, *self.timers, self.dead_letters, self.resources, self.flow)

    def capturing(self, subject: str) -> Stream | None:
        """The stream that stores a subject, or None."""
        return next((stream for stream in self.streams if stream.captures(subject)), None)

    def consumer(self, name: str, partition: int | None) -> DurableConsumer:
        """A durable consumer by its name in `schemas.subjects`; made when it is first asked for."""
        stream, filters = self._source(name, partition)
        key = (name, stream.name)
        if key not in self._consumers:
            self._consumers[key] = DurableConsumer(name, stream, filters, self.clock, ack_wait_s=self.ack_wait_s)
        return self._consumers[key]

    def survey(self) -> Survey:
        """All streams, and the consumers that were asked for."""
        return Survey(
            [stream.state for stream in self.streams], [consumer.state for consumer in self._consumers.values()]
        )

    def set_timer(self, message: Outgoing, fires_on: str, at: datetime) -> None:
        """Store `message` under its own subject until `at`, and then on `fires_on`."""
        self.cancel_timers(message.subject)
        self.timers_of(message.subject).append(message)
        delay_s = max((at - self.clock.now()).total_seconds(), 0.0)
        self._alarms[message.subject] = self.clock.call_later(delay_s, lambda: self._fire(message, fires_on))

    def cancel_timers(self, filter_: str) -> None:
        """Forget the timers whose subject matches."""
        for subject in [subject for subject in self._alarms if matches(filter_, subject)]:
            self._alarms.pop(subject).cancel()
        self.timers_of(filter_).purge(filter_)

    def _fire(self, message: Outgoing, fires_on: str) -> None:
        self.cancel_timers(message.subject)
        self.timers_of(fires_on).append(Outgoing(fires_on, message.data, message.headers))

    def timers_of(self, subject: str) -> Stream:
        """The stream of a timer, or of what it fires on; the subject may be a filter."""
        name = subjects.timer_stream(subject)
        return next(stream for stream in self.timers if stream.name == name)

    def _source(self, consumer: str, partition: int | None) -> tuple[Stream, Sequence[str]]:
        match consumer:
            case subjects.PLANNER_REQUESTS:
                return self.requests, subjects.REQUESTS_SUBJECTS
            case subjects.PLANNER_TIMERS:
                return self.timers_of(subjects.PLANNER_TIMERS_FIRED), (subjects.PLANNER_TIMERS_FIRED,)
            case subjects.NOTIFIER_TIMERS:
                return self.timers_of(subjects.NOTIFIER_TIMERS_FILTER), (subjects.NOTIFIER_TIMERS_FILTER,)
            case subjects.HUMAN_CONTACT_TIMERS:
                return self.timers_of(subjects.PEOPLE_TIMERS_FIRED), (subjects.PEOPLE_TIMERS_FIRED,)
            case _ if consumer in TASK_FILTERS:
                if partition is None:
                    raise ValueError(f"consumer {consumer} is per partition")
                return self.tasks[partition], (TASK_FILTERS[consumer](partition),)
            case _:
                raise ValueError(f"{consumer!r} is not a consumer")

    def _stream(self, name: str, captures: Sequence[str], *, history: int | None, work_queue: bool = False) -> Stream:
        stream = Stream(name, captures, self.clock, history=history, work_queue=work_queue)
        stream.observe(self._tell)
        return stream

    def _tell(self, entry: Entry) -> None:
        self.listeners.tell(Signal(entry.subject, entry.data, entry.headers))
