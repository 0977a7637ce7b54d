"""The one who kills: waits for the right moment, sends SIGKILL, and measures how long it takes until work goes on.

First the tool-executor that is in the middle of a call which must not run twice (it has said so in the ledger); then
the llm-gateway and the planner at once, while the model answers.
"""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import TYPE_CHECKING, cast

import msgspec

from schemas.events import ToolFinished, ToolStarted
from schemas.live import LiveEvent, TextDelta
from schemas.subjects import TaskSubjects
from schemas.wire import Malformed, decode
from services.cli.demo.stage import Stage
from services.cli.demo.teller import Teller
from services.cli.history import decoded

if TYPE_CHECKING:
    from services.cli.client import Client
    from services.cli.supervisor import Supervisor
    from services.runtime.ports import Signal

POLL_S = 0.02
SCRIPTED_WORDS_LENGTH = 30
"""Characters that the scripted model may say before it is killed; a real one may be too quick for that."""
INTO_THE_CALL_S = 0.25
"""How far into a call the kill comes."""


class Strike(msgspec.Struct, frozen=True, kw_only=True):
    """A kill, and how long it took until the work went on."""

    what: str
    victims: tuple[str, ...]
    took_over_s: float
    by: str


class Striker:
    """Kills at the right moments, once each."""

    def __init__(self, client: Client, supervisor: Supervisor, stage: Stage, teller: Teller) -> None:
        self._client = client
        self._supervisor = supervisor
        self._stage = stage
        self._teller = teller
        self.strikes: list[Strike] = []

    async def run(self, task: TaskSubjects) -> None:
        """Watch a task and strike twice."""
        if self._stage.repository is not None:
            turn = await self._strike_tool(task)
        else:
            turn = 0
        await self._strike_model(task, after_turn=turn)

    async def _strike_tool(self, task: TaskSubjects) -> int:
        """Kill the executor that is in the middle of a call; the turn of that call."""
        subject, started = await self._started(task)
        await self._until_in_the_middle()
        *_, request, n = subject.split(".")
        self._teller.act(f"SIGKILL {started.replica}, which is in the middle of the commit: its hook is running")
        clock = self._client.bus.clock
        killed_at = clock.now()
        self._supervisor.kill(started.replica)
        result, recorded_at = await self._result(task, request, int(n))
        took_s = (recorded_at - killed_at).total_seconds()
        if result.outcome == "unknown":
            self._teller.explain(f"another tool-executor took the call over after {took_s:.1f} s. A commit must not")
            self._teller.explain("run twice, so it did not: the model is told that nobody knows how it ended.")
        self.strikes.append(
            Strike(what="tool call", victims=(started.replica,), took_over_s=took_s, by="the other tool-executor")
        )
        return int(request.removeprefix("r"))

    async def _result(self, task: TaskSubjects, request: str, n: int) -> tuple[ToolFinished, datetime]:
        """The result of a call, once it is recorded, and when that was."""
        log = self._client.log_of(task)
        while True:
            entry = await log.get(task.tool_event(request, n))
            for record in decoded([entry] if entry else []):
                if isinstance(record.fact, ToolFinished):
                    return record.fact, record.at
            await self._client.bus.clock.sleep(POLL_S)

    async def _strike_model(self, task: TaskSubjects, *, after_turn: int) -> None:
        """Kill the gateway and the planner while the model answers in a later turn."""
        deltas: asyncio.Queue[TextDelta] = asyncio.Queue()

        async def on_live(signal: Signal) -> None:
            try:
                event = decode(signal.data, cast("type[LiveEvent]", LiveEvent))
            except Malformed:
                return
            if isinstance(event, TextDelta):
                deltas.put_nowait(event)

        clock = self._client.bus.clock
        said = SCRIPTED_WORDS_LENGTH if self._stage.provider == "scripted" else 1
        stop = await self._client.bus.signals.subscribe(task.live, on_live)
        try:
            delta = await deltas.get()
            while delta.turn <= after_turn or delta.offset + len(delta.text) < said:
                delta = await deltas.get()
            victims = self._victims()
            self._teller.act(
                f"SIGKILL {' and '.join(victims)}, while the model is answering: now nobody moves the task"
            )
            revision = await self._revision(task)
            killed_at = clock.now()
            for victim in victims:
                self._supervisor.kill(victim)
            await self._goes_on(task, deltas, delta.turn, revision)
            took_s = (clock.now() - killed_at).total_seconds()
        finally:
            await stop()
        self._teller.explain(f"they were started again, and the model answers again after {took_s:.1f} s")
        by = "the processes started anew"
        self.strikes.append(Strike(what="model call", victims=victims, took_over_s=took_s, by=by))

    async def _goes_on(self, task: TaskSubjects, deltas: asyncio.Queue[TextDelta], turn: int, revision: int) -> None:
        """Wait until the same answer begins anew, or the task has moved."""
        while await self._revision(task) == revision:
            while not deltas.empty():
                delta = deltas.get_nowait()
                if delta.turn == turn and delta.offset == 0:
                    return
            await self._client.bus.clock.sleep(POLL_S)

    async def _revision(self, task: TaskSubjects) -> int:
        stored = await self._client.task(task.namespace, task.task)
        return stored.revision if stored else 0

    def _victims(self) -> tuple[str, ...]:
        names = ["llm-gateway", "planner"]
        if self._stage.repository is None:
            names.append("tool-executor-1")
        return tuple(names)

    async def _started(self, task: TaskSubjects) -> tuple[str, ToolStarted]:
        """The first entry of the effects ledger."""
        log = self._client.log_of(task)
        while True:
            entries = await log.last([f"{task.root}.led.{task.task}.>"])
            for record in decoded(entries):
                if isinstance(record.fact, ToolStarted):
                    return record.subject, record.fact
            await self._client.bus.clock.sleep(POLL_S)

    async def _until_in_the_middle(self) -> None:
        clock = self._client.bus.clock
        while not self._stage.hook_started.exists():
            await clock.sleep(POLL_S)
        await clock.sleep(INTO_THE_CALL_S)
