"""Wake-ups that could be lost: timers that come before their state or by another clock, agents that become ready."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from schemas.events import TaskSubmitted, TimerFired, TimerKind
from schemas.requests import TaskSpec
from schemas.subjects import TaskSubjects
from schemas.task import AwaitingModel, Budget, Failed, Initializing, RetryingModel, State, Waiting
from schemas.wire import encode
from services.planner.main import Planner
from services.runtime.consumer import Inbound
from services.runtime.errors import RetryLater, Unavailable
from services.runtime.memory.bus import MemoryBus
from services.runtime.memory.clock import ManualClock
from services.runtime.memory.server import MemoryServer
from services.runtime.ports import Entry, Log, Outgoing
from services.runtime.resources import Resources
from services.runtime.secrets import Secrets
from services.runtime.service import Runtime
from services.runtime.settings import Settings
from services.runtime.tasks import Tasks
from services.runtime.telemetry.metrics import Metrics
from services.runtime.telemetry.traces import Traces
from tests.support.stage import Stage, agent, scripted_llm

TASK = TaskSubjects(0, "default", "job")
BUDGET = Budget(max_turns=20)


class Bench:
    """A planner whose messages and time come from the test."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.away = ""
        """The call that the bus does not answer."""
        server = MemoryServer(clock=self.clock)
        self.bus = MemoryBus(server, pause=self._pause)
        self.stage = Stage(MemoryBus(server))
        self.tasks = Tasks()
        resources = Resources(self.bus.resources, self.clock, service="planner")
        self.planner = Planner(
            Runtime(
                bus=self.bus,
                settings=Settings(),
                resources=resources,
                secrets=Secrets("", {}),
                metrics=Metrics(),
                traces=Traces(),
                replica="test",
            )
        )
        self.tasks.spawn(resources.run(), name="resources")

    async def _pause(self, call: str, subject: str) -> None:
        if self.away and call.startswith(self.away):
            raise Unavailable("the bus is away", after_s=0.01)

    def header(self) -> dict[str, Any]:
        return {
            "namespace": "default",
            "task": "job",
            "agent": "helper",
            "submitted_seq": 1,
            "created_at": self.clock.now(),
            "updated_at": self.clock.now(),
        }

    async def put(self, state: State, *, expected: int = 0) -> int:
        return await self.stage.bus.log(0).write(Outgoing(TASK.state, encode(state)), expected=expected)

    async def fire(self, kind: TimerKind, due_in_s: float, *, delivered: int = 1) -> None:
        """A retry timer is for attempt 2 of turn 1."""
        turn, attempt = (1, 2) if kind == "retry" else (0, 0)
        due = self.clock.now() + timedelta(seconds=due_in_s)
        fired = TimerFired(timer=kind, due=due, turn=turn, attempt=attempt)
        inbound = Inbound(TASK.timer_fired(kind), encode(fired), {}, 1, delivered, self.clock.now())
        await self.planner._events.on_timer(inbound)

    def retrying(self, due_in_s: float) -> RetryingModel:
        due = self.clock.now() + timedelta(seconds=due_in_s)
        return RetryingModel(**self.header(), budget=BUDGET, turn=1, attempt=2, not_before=due, error="why")


async def test_a_retry_goes_on_though_this_machines_clock_says_that_it_is_early() -> None:
    bench = Bench()
    await bench.put(bench.retrying(0.8))
    await bench.fire("retry", 0.8)
    assert not isinstance(await bench.stage.state(TASK), RetryingModel)


async def test_a_deadline_ends_a_task_though_this_machines_clock_says_that_it_is_early() -> None:
    bench = Bench()
    deadline = bench.clock.now() + timedelta(seconds=0.8)
    await bench.put(AwaitingModel(**bench.header(), deadline=deadline, budget=BUDGET, turn=1))
    await bench.fire("deadline", 0.8)
    assert isinstance(await bench.stage.state(TASK), Failed)


async def test_a_timer_that_was_replaced_decides_nothing() -> None:
    bench = Bench()
    await bench.put(bench.retrying(30))
    with pytest.raises(RetryLater):
        await bench.fire("retry", 0)
    assert isinstance(await bench.stage.state(TASK), RetryingModel)


async def test_a_retry_that_fires_before_its_state_is_written_is_handed_back() -> None:
    bench = Bench()
    revision = await bench.put(AwaitingModel(**bench.header(), budget=BUDGET, turn=1))
    with pytest.raises(RetryLater):
        await bench.fire("retry", -0.1)
    await bench.put(bench.retrying(-0.1), expected=revision)
    await bench.fire("retry", -0.1, delivered=2)
    assert not isinstance(await bench.stage.state(TASK), RetryingModel)


async def test_a_deadline_that_fires_before_its_state_is_written_is_handed_back() -> None:
    bench = Bench()
    with pytest.raises(RetryLater):
        await bench.fire("deadline", -0.1)
    await bench.put(Initializing(**bench.header(), deadline=bench.clock.now() - timedelta(seconds=0.1)))
    await bench.fire("deadline", -0.1, delivered=2)
    assert isinstance(await bench.stage.state(TASK), Failed)


async def test_a_timer_of_a_task_that_is_not_seen_yet_is_handed_back() -> None:
    bench = Bench()
    with pytest.raises(RetryLater):
        await bench.fire("retry", 0)
    await bench.fire("retry", 0, delivered=7)


async def test_a_timer_that_nobody_needs_is_forgotten_in_the_end() -> None:
    bench = Bench()
    await bench.put(AwaitingModel(**bench.header(), budget=BUDGET, turn=1))
    await bench.fire("retry", 0, delivered=7)


@pytest.mark.parametrize(("turn", "attempt"), [(1, 2), (1, 3), (2, 1)])
async def test_a_timer_that_comes_late_is_done_with(turn: int, attempt: int) -> None:
    bench = Bench()
    await bench.put(AwaitingModel(**bench.header(), budget=BUDGET, turn=turn, attempt=attempt))
    await bench.fire("retry", -5)


async def test_a_task_that_waits_for_another_reason_is_still_looked_at_again() -> None:
    bench = Bench()
    await bench.stage.apply(agent())
    await bench.clock.advance(0)
    await bench.put(Waiting(**bench.header(), reason="Waiting for Agent to exist", since=bench.clock.now()))
    await bench.fire("recheck", 0)
    state = await bench.stage.state(TASK)
    assert isinstance(state, Waiting)
    assert state.reason != "Waiting for Agent to exist"
    assert bench.bus.server.timers_of(TASK.timers).newest(TASK.timer("recheck")) is not None
    await bench.tasks.close()


async def test_an_agent_that_became_ready_while_the_bus_was_away_wakes_its_tasks_later() -> None:
    bench = Bench()
    submitted = TaskSubmitted(
        namespace="default", task="job", spec=TaskSpec(agent="helper", user_message="hello"), at=bench.clock.now()
    )
    await bench.stage.bus.log(0).record(Outgoing(TASK.submitted, encode(submitted)))
    await bench.put(Waiting(**bench.header(), reason="Waiting for Agent to exist", since=bench.clock.now()))
    woken = 0

    async def wake(agents: set[tuple[str, str]]) -> None:
        nonlocal woken
        woken += 1
        await bench.planner.reconciler.wake(agents)

    bench.away = "log.commit"
    bench.planner._agents.start(wake)
    await bench.stage.apply(agent())
    await bench.stage.apply_ready(scripted_llm())
    await bench.clock.advance(0)
    assert woken == 1
    assert isinstance(await bench.stage.state(TASK), Waiting)
    bench.away = ""
    await bench.clock.advance(1)
    await bench.stage.until_state(TASK, AwaitingModel)
    await bench.planner.stop()
    await bench.tasks.close()


class Behind:
    """A log that answers from replicas which are behind, as far as it is allowed to."""

    def __init__(self, log: Log, answers: list[Entry]) -> None:
        self._log = log
        self._answers = answers

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    async def get(self, subject: str, *, at_least: int = 0) -> Entry | None:
        while self._answers:
            answer = self._answers.pop(0)
            if answer.seq >= at_least:
                return answer
        return await self._log.get(subject, at_least=at_least)


async def test_after_a_lost_race_nothing_older_is_believed() -> None:
    bench = Bench()
    await bench.stage.apply(agent())
    await bench.stage.apply_ready(scripted_llm())
    await bench.clock.advance(0)
    log = bench.stage.bus.log(0)
    states = (
        AwaitingModel(**bench.header(), budget=BUDGET, turn=1),
        bench.retrying(-1),
        AwaitingModel(**bench.header(), budget=BUDGET, turn=1, attempt=2),
    )
    entries: list[Entry] = []
    for state in states:
        await bench.put(state, expected=entries[-1].seq if entries else 0)
        entry = await log.get(TASK.state)
        assert entry is not None
        entries.append(entry)
    oldest, older, _ = entries
    bench.bus._logs = (Behind(bench.bus.log(0), [older, oldest]),)  # type: ignore[assignment]  # the rest is passed on
    await bench.fire("retry", -1, delivered=2)
    assert await log.get(TASK.model_command(1, 2)) is not None
    await bench.tasks.close()
