"""What planners tell of the whole: tasks, questions, streams and consumers; and nothing that they do not know."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from schemas.interactions import InteractionAnswered, InteractionKind, InteractionRequested
from schemas.subjects import TOOL_EXECUTOR, TaskSubjects
from schemas.task import AwaitingModel, AwaitingTools, Budget, CallRef, Waiting
from schemas.wire import encode
from services.planner.gauges import Census, Gauges
from services.runtime.errors import Unavailable
from services.runtime.memory.bus import MemoryBus, let_others_run
from services.runtime.ports import Outgoing
from services.runtime.telemetry.metrics import Metrics
from tests.support.waiting import until

NOW = datetime.now(UTC)


def task(name: str) -> TaskSubjects:
    return TaskSubjects(0, "default", name)


def header(name: str) -> dict[str, Any]:
    return {
        "namespace": "default",
        "task": name,
        "agent": "helper",
        "submitted_seq": 1,
        "created_at": NOW,
        "updated_at": NOW,
    }


def with_calls(name: str, count: int = 1) -> AwaitingTools:
    calls = tuple(CallRef(n=n, id=f"call-{n}", tool="a__x") for n in range(1, count + 1))
    return AwaitingTools(**header(name), budget=Budget(max_turns=9), turn=1, request="r1", answer_seq=1, calls=calls)


class Bench:
    """Gauges on a bus in memory that can be cut."""

    def __init__(self) -> None:
        self.is_cut = False

        async def pause(call: str, subject: str) -> None:
            if self.is_cut:
                raise Unavailable("cut")
            await let_others_run(call, subject)

        self.bus = MemoryBus(pause=pause)
        self.metrics = Metrics()
        self.gauges = Gauges(self.bus, self.metrics, every_s=0.01)

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)

    async def ask(self, name: str, kind: InteractionKind, age: timedelta, n: int = 1) -> None:
        asked = InteractionRequested(
            kind=kind,
            namespace="default",
            task=name,
            interaction=f"r1.{n}.0",
            message="may I?",
            agent="helper",
            tool="a__x",
            at=datetime.now(UTC) - age,
            expires=NOW + timedelta(days=1),
        )
        await self.bus.log(0).record(Outgoing(task(name).interaction_asked("r1", n, 0), encode(asked)))

    async def answer(self, name: str, n: int = 1) -> None:
        answered = InteractionAnswered(
            namespace="default", task=name, interaction=f"r1.{n}.0", action="accept", at=datetime.now(UTC)
        )
        await self.bus.log(0).record(Outgoing(task(name).interaction_answered("r1", n, 0), encode(answered)))


async def test_live_tasks_are_counted_by_phase() -> None:
    bench, census = Bench(), Census()
    for name in ("a", "b"):
        census.add(task(name), with_calls(name))
    census.add(task("c"), AwaitingModel(**header("c"), budget=Budget(max_turns=9), turn=1))
    await bench.gauges.counted(census)
    assert bench.value("holdfast_tasks", phase="ToolCallsPending") == 2
    assert bench.value("holdfast_tasks", phase="ReadyForLLM") == 1
    assert bench.value("holdfast_tasks", phase="Pending") == 0


async def test_a_question_is_open_until_it_is_answered_and_the_oldest_tells_the_age() -> None:
    bench, census = Bench(), Census()
    for name, count in (("a", 2), ("b", 1)):
        census.add(task(name), with_calls(name, count))
    await bench.ask("a", "approval", timedelta(hours=2), n=1)
    await bench.ask("a", "approval", timedelta(hours=3), n=2)
    await bench.ask("b", "question", timedelta(minutes=1))
    await bench.gauges.counted(census)
    assert bench.value("holdfast_interactions_open", kind="approval") == 2
    assert bench.value("holdfast_interactions_oldest_age_seconds", kind="approval") == pytest.approx(10_800, abs=5)
    assert bench.value("holdfast_interactions_open", kind="question") == 1
    assert bench.value("holdfast_interactions_oldest_age_seconds", kind="elicitation") == 0
    await bench.answer("a", n=2)
    await bench.gauges.counted(census)
    assert bench.value("holdfast_interactions_open", kind="approval") == 1
    assert bench.value("holdfast_interactions_oldest_age_seconds", kind="approval") == pytest.approx(7200, abs=5)


async def test_a_question_of_a_task_that_does_not_wait_for_it_is_not_open() -> None:
    bench, census = Bench(), Census()
    await bench.ask("a", "approval", timedelta(hours=2))
    census.add(task("a"), Waiting(**header("a"), reason="agent is gone", since=NOW))
    await bench.gauges.counted(census)
    assert bench.value("holdfast_interactions_open", kind="approval") == 0


async def test_a_question_that_cannot_be_read_hides_no_other() -> None:
    bench, census = Bench(), Census()
    census.add(task("a"), with_calls("a", 2))
    await bench.bus.log(0).record(Outgoing(task("a").interaction_asked("r1", 1, 0), b"{"))
    await bench.ask("a", "approval", timedelta(0), n=2)
    await bench.gauges.counted(census)
    assert bench.value("holdfast_interactions_open", kind="approval") == 1


async def test_streams_consumers_and_dead_letters_are_told() -> None:
    bench = Bench()
    await bench.bus.queue(TOOL_EXECUTOR, 0)
    await bench.bus.log(0).record(Outgoing(task("a").tool_command("r1", 1), b"{}"))
    await bench.bus.dead_letters.record(Outgoing("hf.dlq.letter.KV_holdfast_0.7", b"{}"))
    await bench.bus.dead_letters.record(Outgoing("hf.dlq.attempt.KV_holdfast_0.7.1", b"{}"))
    await bench.gauges.look()
    assert bench.value("holdfast_stream_messages", stream="tasks", partition="0") == 1
    assert bench.value("holdfast_stream_messages", stream="dead-letters", partition="-") == 2
    assert bench.value("holdfast_consumer_pending", consumer=TOOL_EXECUTOR, partition="0") == 1
    age_s = bench.value("holdfast_consumer_oldest_pending_age_seconds", consumer=TOOL_EXECUTOR, partition="0")
    assert age_s is not None
    assert 0 <= age_s < 5
    assert bench.value("holdfast_dead_letters_kept") == 1


async def test_a_planner_that_is_cut_off_tells_nothing_instead_of_what_it_saw_last() -> None:
    bench = Bench()

    def is_told() -> bool:
        return bench.value("holdfast_stream_messages", stream="tasks", partition="0") is not None

    bench.gauges.start()
    await until(is_told, "told")
    bench.is_cut = True
    await until(lambda: not is_told(), "not told any more")
    bench.is_cut = False
    await until(is_told, "told again")
    await bench.gauges.stop()


async def test_a_walk_that_was_broken_off_tells_nothing() -> None:
    bench, census = Bench(), Census()
    census.add(task("a"), with_calls("a"))
    await bench.gauges.counted(census)
    bench.gauges.not_counted()
    assert bench.value("holdfast_tasks", phase="ToolCallsPending") is None
    assert bench.value("holdfast_interactions_open", kind="approval") is None
