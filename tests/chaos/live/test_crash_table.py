"""The crash table: every service is killed before and after each of its steps, and the server in the middle of them.

    make chaos                 all rows
    make chaos ROW=...         one of them, as it is printed
    pytest tests/chaos/live    a spread of them; ROWS=30 for more

There are two tables: of tasks that models and tools work on, and of tasks that wait for people and for other agents.

The rows are found first, by watching every scenario run without a kill. Each row then has two replicas of every
service: the one that comes to the step dies, the other has to go on, and the record is judged.
"""

# ruff: noqa: T201 - which rows were run, and what came of them, is what this prints
from __future__ import annotations

import asyncio
import os
import statistics
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from services.runtime.tasks import spawn
from tests.chaos.live.arena import LOST_STOP_S, SETTLE_S, Arena, Hit, arena, recovered
from tests.chaos.live.crew import CREW, CREW_SERVICES, CrewWorkload
from tests.chaos.live.rows import BACKGROUND, Commit, Row, Step, Victim, When
from tests.chaos.live.workload import SCENARIOS, Workload
from tests.support.live_fleet import SERVICES, until

ROWS_IN_CI = 18
CREW_ROWS_IN_CI = 16
CREW_TABLE = ("planner", "human-contact")
TRIES = 5
"""A step that depends on which replica comes first may need more than one task until somebody takes it."""
HIT_S = 30.0
QUIET_S = 0.4
"""Time after the end of a task in which the last steps are taken."""
RECOVERY_MAX_S = 10.0
LANES = 2
"""Fleets that share the rows of one form of commit. LANES=4 for a machine with more than two cores."""
BEFORE_ONLY: tuple[tuple[When, Victim], ...] = (("before", "self"),)
EVERY_WAY: tuple[tuple[When, Victim], ...] = (
    *BEFORE_ONLY,
    ("after", "self"),
    ("during", "server"),
    ("after", "server"),
)
STRIDE = 11
"""The whole table is run in so many passes, so that one that is broken off has been everywhere."""
STOPPED = Step("tool-executor", "tool-command-effects__endless", "call-tool.1")
"""A step that is always broken off: there is nothing after it."""
SHOWN_BY = {"still-working.1": "slow"}
BACKGROUND_SHOWN_BY = "waiting"
SAME_STEPS_MAX = 2
"""Of the same step many times over (the reads of a long conversation), the first ones."""


class Outcome(NamedTuple):
    """What came of a row."""

    row: Row
    reached: bool
    wrong: list[str]
    recovery_s: float | None


Choose = Callable[[Arena, Commit], Awaitable[list[Row]]]


# --- finding the rows -------------------------------------------------------------------


async def find_steps(place: Arena) -> list[tuple[str, Step]]:
    """All steps of all services, each with a scenario that shows it."""
    scenarios = place.workload.scenarios
    await asyncio.gather(*(place.workload.run(scenario, f"found-{name}") for name, scenario in scenarios.items()))
    stuck = await place.until_ended(place.workload.accepted)
    assert not stuck, stuck
    await asyncio.sleep(QUIET_S)
    found: dict[Step, str] = {}
    for step, subject in place.steps():
        shown_by = _shown_by_crew if scenarios is CREW else _shown_by
        found.setdefault(step, shown_by(step, subject))
    return sorted((scenario, step) for step, scenario in found.items() if scenario)


def _shown_by_crew(step: Step, subject: str) -> str:
    """Of human-contact and the planner, as the other services do nothing else than for other tasks."""
    if step.service not in CREW_TABLE or step.handling == BACKGROUND:
        return ""
    if subject.startswith("hf.tasks."):
        answered = "council" if step.name.startswith("record-vote") else "asked"
        return {"answer-request": answered, "cancel-request": "left"}.get(step.handling, "")
    return next((name for name in CREW if f".found-{name}" in subject), "")


def _shown_by(step: Step, subject: str) -> str:
    if step.handling == BACKGROUND:
        return SHOWN_BY.get(step.name, BACKGROUND_SHOWN_BY)
    if subject.startswith("hf.tasks."):
        return "cancelled"
    return next((name for name in SCENARIOS if f".found-{name}" in subject), "")


def rows_of(steps: Sequence[tuple[str, Step]], commit: Commit) -> list[Row]:
    """The table. A read changes nothing, so being killed after it is being killed before what follows."""
    rows: list[Row] = []
    for scenario, step in steps:
        reads = step.name.startswith(("read-", "list-"))
        if reads and (step.handling == BACKGROUND or int(step.name.rpartition(".")[2]) > SAME_STEPS_MAX):
            continue
        kinds = BEFORE_ONLY if reads else EVERY_WAY
        if commit == "batch" and (step.service != "planner" or reads):
            continue  # the other services do nothing else than with the other form of commit
        if step == STOPPED:
            kinds = tuple(kind for kind in kinds if kind[0] != "after")
        rows += (Row(commit, scenario, step, when, victim) for when, victim in kinds)
    return rows


def spread(rows: Sequence[Row], count: int) -> list[Row]:
    """`count` rows, evenly over the table; one in four kills the server."""
    selves = [row for row in rows if row.victim == "self" and not row.step.name.startswith(("read-", "list-"))]
    servers = [row for row in rows if row.victim == "server"]
    return _evenly(selves, count - count // 4) + _evenly(servers, count // 4)


def _evenly(rows: Sequence[Row], count: int) -> list[Row]:
    count = min(count, len(rows))
    return [rows[index * len(rows) // count] for index in range(count)]


# --- running one ------------------------------------------------------------------------


async def run_row(place: Arena, row: Row, name: str, known: set[str]) -> Outcome:
    """Run tasks until somebody dies at the row's step, replace the victim, and judge what has become of it all."""
    for attempt in range(TRIES):
        task = f"{name}-{attempt}"
        place.plan(row)
        scenario = place.workload.scenarios[row.scenario]
        job = spawn(place.workload.run(scenario, task), name=task)
        hit = await _strike(place, task)
        if hit is None:
            await job
            await place.workload.clear_away(scenario, task)
            continue
        await _replace(place, row, hit)
        await job
        stuck = await place.until_ended([task])
        await place.workload.clear_away(scenario, task)
        lost_stop = row.victim == "server" and scenario.ends_as != "FinalAnswer"
        judged = await place.judge(LOST_STOP_S if lost_stop else SETTLE_S)
        wrong = [what for what in stuck + judged if what not in known]
        known.update(wrong)
        measured = row.victim == "self" and row.when == "before" and not row.step.name.startswith(("ack", "tell"))
        measured = measured and not (row.scenario == "slow" and row.step.service == "tool-executor")
        recovery_s = recovered(hit, row.step.service, place.witness.messages) if measured else None
        if recovery_s is not None and recovery_s > RECOVERY_MAX_S:
            wrong.append(f"{task} was taken up again only after {recovery_s:.1f} s")
        return Outcome(row, reached=True, wrong=wrong, recovery_s=recovery_s)
    return Outcome(row, reached=False, wrong=[], recovery_s=None)


async def _strike(place: Arena, task: str) -> Hit | None:
    """Wait for the kill; None if the task has ended without it."""
    loop = asyncio.get_running_loop()
    ended_at: list[float] = []

    def over() -> bool:
        if place.hit() is not None:
            return True
        if not ended_at and place.phase(task) in ("FinalAnswer", "Failed", "Cancelled"):
            ended_at.append(loop.time())
        return bool(ended_at) and loop.time() - ended_at[0] > QUIET_S

    await until(over, f"task {task} has ended, or its kill has struck", HIT_S)
    place.unplan()
    return place.hit()


async def _replace(place: Arena, row: Row, hit: Hit) -> None:
    if row.victim == "server":
        await place.fleet.restart_server(killed_at=hit.at)
    else:
        death = await place.fleet.until_dead(hit.pid)
        assert death.service == row.step.service, death
        await place.fleet.start(death.service)


class Lanes:
    """Services of their own for every lane, and one list of rows from which all take."""

    def __init__(
        self, commit: Commit, *, services: Sequence[str] = SERVICES, workload: type[Workload] = Workload
    ) -> None:
        self.commit: Commit = commit
        self._services = services
        self._workload = workload
        self.outcomes: list[Outcome] = []
        self._rows: deque[Row] = deque()
        self._found = asyncio.Event()

    async def run(self, directory: Path, choose: Choose, lanes: int) -> None:
        """Find the table, choose from it, and run the rows."""
        directories = [directory / f"{self.commit}-{lane}" for lane in range(lanes)]
        async with asyncio.TaskGroup() as group:
            for lane in directories:
                lane.mkdir()
                group.create_task(self._lane(lane, choose if lane == directories[0] else None))

    async def _lane(self, directory: Path, choose: Choose | None) -> None:
        known: set[str] = set()
        async with arena(directory, commit=self.commit, services=self._services, workload=self._workload) as place:
            if choose is not None:
                self._rows.extend(await choose(place, self.commit))
                self._found.set()
            await self._found.wait()
            while self._rows:
                row = self._rows.popleft()
                outcome = await run_row(place, row, f"row-{len(self._rows)}", known)
                self.outcomes.append(outcome)
                _say(outcome)


def _say(outcome: Outcome) -> None:
    after = f"  went on after {outcome.recovery_s:.2f} s" if outcome.recovery_s is not None else ""
    word = "not reached" if not outcome.reached else "WRONG" if outcome.wrong else "ok"
    print(f"{word:<12}{outcome.row}{after}", *outcome.wrong, sep="\n    ", flush=True)


# --- the tests --------------------------------------------------------------------------


async def _named(place: Arena, commit: Commit) -> list[Row]:
    row = Row.parse(os.environ["ROW"])
    return [row] if row.commit == commit and row.scenario in place.workload.scenarios else []


async def _found(place: Arena, commit: Commit) -> list[Row]:
    steps = await find_steps(place)
    wrong = await place.judge()
    assert not wrong, wrong
    rows = rows_of(steps, commit)
    crew = place.workload.scenarios is CREW
    wanted = os.environ.get("ROWS") or str(CREW_ROWS_IN_CI if crew else ROWS_IN_CI)
    if wanted == "all":
        rows = [row for first in range(STRIDE) for row in rows[first::STRIDE]]
    elif crew:
        shares = ([row for row in rows if row.step.service == service] for service in CREW_TABLE)
        rows = [row for share in shares for row in spread(share, int(wanted) // len(CREW_TABLE))]
    else:
        share = int(wanted) // 4 if commit == "batch" else int(wanted) - int(wanted) // 4
        rows = spread(rows, share)
    print(f"\n{commit}: {len(rows)} rows of {len(rows_of(steps, commit))}; one of them again: make chaos ROW=...")
    return rows


async def test_no_kill_at_any_step_loses_or_repeats_anything(tmp_path: Path) -> None:
    await _run(tmp_path, Lanes("two-step"), Lanes("batch"))


async def test_no_kill_while_people_or_other_agents_are_waited_for_loses_or_repeats_anything(tmp_path: Path) -> None:
    tables = [Lanes("two-step", services=CREW_SERVICES, workload=CrewWorkload)]
    if os.environ.get("ROW") or os.environ.get("ROWS") == "all":
        tables.append(Lanes("batch", services=CREW_SERVICES, workload=CrewWorkload))
    await _run(tmp_path, *tables)


async def _run(directory: Path, *tables: Lanes) -> None:
    choose, lanes = (_named, 1) if os.environ.get("ROW") else (_found, int(os.environ.get("LANES") or LANES))
    async with asyncio.TaskGroup() as group:
        for table in tables:
            shared = lanes if table.commit == "two-step" else max(lanes // 2, 1)
            group.create_task(table.run(directory, choose, shared))
    outcomes = [outcome for table in tables for outcome in table.outcomes]
    _summarise(outcomes)
    wrong = [f"make chaos ROW={outcome.row}\n    {what}" for outcome in outcomes for what in outcome.wrong]
    assert not wrong, "\n".join(wrong)
    missed = [str(outcome.row) for outcome in outcomes if not outcome.reached]
    assert len(missed) <= len(outcomes) // 10, f"too many rows were not reached: {missed}"


def _summarise(outcomes: Sequence[Outcome]) -> None:
    reached = [outcome for outcome in outcomes if outcome.reached]
    print(f"{len(reached)} of {len(outcomes)} rows reached, {sum(bool(each.wrong) for each in reached)} wrong")
    times = sorted(each.recovery_s for each in reached if each.recovery_s is not None)
    if times:
        worst = times[min(len(times) - 1, int(len(times) * 0.99))]
        print(f"went on after a kill: p50 {statistics.median(times):.2f} s, p99 {worst:.2f} s of {len(times)}")
