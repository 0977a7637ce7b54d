"""The crash table of the notifier: killed before and after each of its steps, real process on a real server.

    pytest tests/chaos/live/test_notifier.py              a spread of the rows
    ROWS=all pytest -s tests/chaos/live/test_notifier.py  all of them

The rows are found first, by watching each scenario run without a kill. In each row two notifiers stand by: the one that
comes to the step dies, the other has to go on. Then every receiver has heard of its task, under one id and with one
body, at most once more than it would have; and what could not be delivered is one dead letter.
"""

# ruff: noqa: T201 - which rows were run, and what came of them, is what this prints
from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from schemas.notifications import Notification, NotificationPending
from schemas.subjects import TaskSubjects
from services.runtime.nats import api, topology
from services.runtime.nats.bus import NatsBus, connect
from services.runtime.settings import Settings
from tests.chaos.live.rows import BACKGROUND, Step
from tests.support.live_fleet import Fleet, fleet
from tests.support.notifying import Notifying
from tests.support.raw_http import Asked, RawServer, raw_server, response
from tests.support.waiting import until

ROWS_IN_CI = 8
END_S = 25.0
SETTLE_S = 10.0
WHENS = ("before", "after")
STATUSES: dict[str, tuple[str, ...]] = {
    "taken": ("200 OK",),
    "tried again": ("503 Down", "200 OK"),
    "refused": ("404 Not Found",),
}
"""What the receiver answers to the first post of a task, to the second, ...; the last answer is repeated."""


class Receiver:
    """Answers each task's posts in turn, and remembers them."""

    def __init__(self, server: RawServer) -> None:
        self.posts: dict[str, list[Asked]] = {}
        self._server = server

    def url(self, scenario: str, name: str) -> str:
        """An address of a task's own."""
        path = f"/{name}"
        self.posts[name] = []

        async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
            posts, statuses = self.posts[name], STATUSES[scenario]
            writer.write(response(status=statuses[min(len(posts), len(statuses) - 1)]))
            posts.append(asked)
            await writer.drain()

        self._server.paths[path] = answer
        return f"http://127.0.0.1:{self._server.port}{path}"


class Place:
    """A fleet with notifiers, and somebody who listens."""

    def __init__(self, running: Fleet, stage: Notifying, receiver: Receiver) -> None:
        self.fleet = running
        self.stage = stage
        self.receiver = receiver
        self._count = 0

    async def run(self, scenario: str) -> TaskSubjects:
        """One task to its end, and all that follows it."""
        self._count += 1
        name = f"n{self._count}"
        task = await self.stage.finished(name, name=name, responseURL=self.receiver.url(scenario, name))
        await until(lambda: self._is_over(task), f"the notification of {name} at its end", within_s=END_S)
        await until(self._is_quiet, "every message is settled", within_s=SETTLE_S)
        return task

    async def _is_over(self, task: TaskSubjects) -> bool:
        found = await self.stage.notifications(task)
        return len(found) == 1 and not isinstance(found[0], NotificationPending)

    async def _is_quiet(self) -> bool:
        bus = self.stage.bus
        assert isinstance(bus, NatsBus)
        for consumer, partition in (("notifier", 0), ("notifier-timers", None)):
            if await unfinished(bus, consumer, partition):
                return False
        return True

    def steps(self) -> list[Step]:
        """What notifiers did so far while handling messages, in order."""
        lines = [json.loads(line) for line in (self.fleet.directory / "steps").read_text().splitlines()]
        steps = [Step(*line[:3]) for line in lines]
        return [step for step in steps if step.service == "notifier" and step.handling != BACKGROUND]

    def plan(self, step: Step, when: str) -> None:
        """Have the next notifier that comes to this step die there."""
        draft = self.fleet.directory / "plan-draft"
        draft.write_text(json.dumps({"step": step, "when": when, "victim": 0}))
        (self.fleet.directory / "hit").unlink(missing_ok=True)
        draft.rename(self.fleet.directory / "plan")

    @property
    def was_hit(self) -> bool:
        """Whether the planned kill struck."""
        return (self.fleet.directory / "hit").exists()

    async def wrong(self, scenario: str, task: TaskSubjects) -> list[str]:
        """What is not as it must be after a task, and a kill."""
        posts = self.receiver.posts[task.task]
        found: list[str] = []
        (one,) = await self.stage.notifications(task)
        expected = "notification.failed.v1" if scenario == "refused" else "notification.delivered.v1"
        if kind_of(one) != expected:
            found.append(f"it is {kind_of(one)}")
        if {post.headers["webhook-id"] for post in posts} != {one.id}:
            found.append("another id was posted")
        if len({post.body for post in posts}) != 1:
            found.append("different bodies were posted")
        least = len(STATUSES[scenario])
        if not least <= len(posts) <= least + 1:
            found.append(f"it was posted {len(posts)} times")
        letters = [letter for letter in await self.stage.letters() if one.id in letter.error]
        if len(letters) != (scenario == "refused"):
            found.append(f"it has {len(letters)} dead letters")
        return found


def kind_of(one: Notification) -> str:
    return str(one.__struct_config__.tag)


async def unfinished(bus: NatsBus, consumer: str, partition: int | None) -> bool:
    """Whether a consumer has something to deliver, or in somebody's hands."""
    stream = topology.stream_of(consumer, partition)
    info = await api.ask(bus._connection, f"CONSUMER.INFO.{stream}.{consumer}")
    return bool(info["num_pending"] or info["num_ack_pending"])


@asynccontextmanager
async def place(directory: Path) -> AsyncGenerator[Place]:
    """Everything, with one planner and no notifier yet."""
    environ = {"HOLDFAST_EGRESS_ALLOW": "127.0.0.1"}
    async with fleet(directory, commit="two-step", environ=environ) as running, raw_server() as server:
        await running.start("planner")
        async with await connect(Settings(nats_url=running.server.url), service="test") as bus:
            stage = Notifying(bus)
            await stage.with_agent()
            yield Place(running, stage, Receiver(server))


async def keep_two(here: Place) -> None:
    """Two notifiers, whoever has died."""
    while len(here.fleet.replicas("notifier")) < 2:
        await here.fleet.start("notifier")


async def rows(here: Place) -> list[tuple[str, Step, str]]:
    """Every step of every scenario, before and after."""
    await here.fleet.start("notifier")
    found: dict[tuple[str, Step, str], None] = {}
    for scenario in STATUSES:
        before = len(here.steps())
        await here.run(scenario)
        for step in here.steps()[before:]:
            for when in WHENS:
                found[scenario, step, when] = None
    return list(found)


def chosen(all_rows: list[tuple[str, Step, str]]) -> list[tuple[str, Step, str]]:
    """All of them, or a spread."""
    wanted = os.environ.get("ROWS", str(ROWS_IN_CI))
    if wanted == "all":
        return all_rows
    count = min(int(wanted), len(all_rows))
    return [all_rows[n * len(all_rows) // count] for n in range(count)]


async def test_a_notifier_that_is_killed_at_any_step_loses_nothing_and_repeats_under_the_same_id(
    tmp_path: Path,
) -> None:
    async with place(tmp_path) as here:
        all_rows = await rows(here)
        names = {step.name.partition(".")[0] for _, step, _ in all_rows}
        assert {"post", "write-notification", "wake", "set-timer", "write-dead-letter", "ack"} <= names
        wrong: list[str] = []
        hits = 0
        for scenario, step, when in chosen(all_rows):
            await keep_two(here)
            here.plan(step, when)
            task = await here.run(scenario)
            problems = await here.wrong(scenario, task)
            hits += here.was_hit
            row = f"{scenario}/{step.handling}/{step.name}/{when}"
            print(f"{row}: {'hit' if here.was_hit else 'not reached'}; {', '.join(problems) or 'good'}")
            wrong += [f"{row}: {problem}" for problem in problems]
        assert not wrong, "\n".join(wrong)
        assert hits > 0
        print(f"{hits} kills, {len(all_rows)} rows in all")
