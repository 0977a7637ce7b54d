"""A fleet at work, somebody who watches, and the judgement at the end: what every live test is made of."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from nats.aio.client import Client

from services.runtime.tasks import spawn
from tests.chaos.live import record
from tests.chaos.live.checker import TERMINAL, check
from tests.chaos.live.record import Kill, Record, Stored, Witness
from tests.chaos.live.rows import Row, Step
from tests.chaos.live.workload import NAMESPACE, Workload
from tests.support.live_fleet import SERVICES, Fleet, fleet, until

END_S = 40.0
SETTLE_S = 8.0
QUESTIONS = f"hf.0.{NAMESPACE}.int."
LOST_STOP_S = 15.0
"""A signal to stop that dies with the server is not said again: its call goes on until the executor looks."""


class Hit(NamedTuple):
    """Where a planned kill struck."""

    pid: int
    at: datetime
    subject: str
    """The message that was being handled."""


class Arena:
    """One server, its services, and what they work on."""

    def __init__(self, running: Fleet, client: Client, witness: Witness, workload: type[Workload] = Workload) -> None:
        self.fleet = running
        self.client = client
        self.witness = witness
        self.effects = running.directory / "effects"
        self.workload = workload(client, witness, self.effects)

    # --- planned kills ---

    def plan(self, row: Row) -> None:
        """Have the next process that comes to the row's step die there, or kill the server."""
        victim = self.fleet.server.pid if row.victim == "server" else 0
        plan = json.dumps({"step": row.step, "when": row.when, "victim": victim})
        draft = self.fleet.directory / "plan-draft"
        draft.write_text(plan)
        (self.fleet.directory / "hit").unlink(missing_ok=True)
        draft.rename(self.fleet.directory / "plan")

    def unplan(self) -> None:
        """Nobody is to die any more."""
        (self.fleet.directory / "plan").unlink(missing_ok=True)

    def hit(self) -> Hit | None:
        """Where the planned kill struck, once it has."""
        file = self.fleet.directory / "hit"
        if not file.exists():
            return None
        found = json.loads(file.read_text())
        return Hit(found["pid"], datetime.fromisoformat(found["at"]), found["subject"])

    def steps(self) -> list[tuple[Step, str]]:
        """All steps that any process has taken so far, and the message that was being handled."""
        lines = [json.loads(line) for line in (self.fleet.directory / "steps").read_text().splitlines()]
        return [(Step(*line[:3]), line[3]) for line in lines]

    # --- looking ---

    def phase(self, name: str) -> str:
        """The phase that a task has ended in, or what is known of it."""
        for message in reversed(self.witness.messages):
            if message.subject.startswith("$KV.") and message.subject.endswith(f".{name}"):
                kind = str(message.body["type"])
                return TERMINAL.get(kind, kind)
        return "nothing"

    async def until_ended(self, names: Iterable[str], wait_s: float = END_S) -> list[str]:
        """Wait for tasks to end; those that have not, with what they are in."""
        waiting = set(names)

        def ended() -> bool:
            waiting.difference_update([name for name in waiting if self.phase(name) in TERMINAL.values()])
            return not waiting

        try:
            await until(ended, "all tasks have ended", wait_s)
        except AssertionError:
            return [f"{name} is stuck in {self.phase(name)} after {wait_s:g} s" for name in sorted(waiting)]
        return []

    async def judge(self, settle_s: float = SETTLE_S) -> list[str]:
        """What is wrong with all that has happened so far."""
        unsettled: dict[str, int] = {}

        async def settled() -> bool:
            unsettled.clear()
            unsettled.update(await record.unsettled(self.client))
            return not unsettled

        with contextlib.suppress(AssertionError):  # what is left is judged
            await until(settled, "every message is settled", settle_s)
        return check(
            Record(
                accepted=dict(self.workload.accepted),
                messages=await record.read(self.client, record.TASK_STREAM),
                states=[
                    message for message in self.witness.messages if message.subject.startswith(("$KV.", QUESTIONS))
                ],
                effects=record.effects_in(self.effects),
                kills=[Kill(death.service, death.at) for death in self.fleet.deaths],
                letters=await record.read(self.client, "HOLDFAST_DEAD_LETTERS"),
                unsettled=unsettled,
                surprises=[
                    *self._ended_by_themselves(),
                    *self.logged("reconcile.repair"),
                    *self.logged("reconcile.broken"),
                ],
            )
        )

    def _ended_by_themselves(self) -> list[str]:
        return [
            f"a {death.service} (process {death.pid}) ended by itself with {death.code}"
            for death in self.fleet.deaths
            if death.code != -9
        ]

    def logged(self, action: str) -> list[str]:
        """Lines of the services' logs with this action."""
        return [
            f"{replica.log.stem}: {line}"
            for replica in self.fleet.started
            if replica.log.exists()
            for line in replica.log.read_text(errors="replace").splitlines()
            if f'"{action}"' in line
        ]


@asynccontextmanager
async def arena(
    directory: Path,
    *,
    commit: str,
    replicas: int = 2,
    services: Sequence[str] = SERVICES,
    workload: type[Workload] = Workload,
) -> AsyncGenerator[Arena]:
    """Services that take tasks, `replicas` of each."""
    async with fleet(directory, commit=commit, environ={"HOLDFAST_PEOPLE_HTTP_PORT": "-1"}) as running:
        client = await record.connect(running.server.url)
        witness = Witness(client)
        watching: asyncio.Task[None] | None = None
        try:
            await running.start("planner")
            watching = spawn(witness.run(), name="witness")
            others = (name for name in services if name != "planner")
            await running.start(*others, *(tuple(services) * (replicas - 1)))
            place = Arena(running, client, witness, workload)
            await place.workload.prepare()
            yield place
        finally:
            await client.close()
            if watching is not None:
                watching.cancel()
                await asyncio.wait({watching})


def recovered(hit: Hit, service: str, messages: Iterable[Stored]) -> float | None:
    """Seconds from a kill to the next thing that a survivor recorded for what was being handled; None if nothing."""
    tokens = hit.subject.split(".")
    for message in messages:
        if message.at > hit.at and _continues(service, tokens, message.subject.split(".")):
            return (message.at - hit.at).total_seconds()
    return None


def _continues(service: str, handled: list[str], stored: list[str]) -> bool:
    match service, handled, stored:
        case "tool-executor", [*_, task, request, n], ["hf", _, _, "evt" | "led", other, *_, request2, n2]:
            return (task, request, n) == (other, request2, n2)
        case "llm-gateway", [*_, task, turn, _], ["hf", _, _, "evt", other, "llm", turn2, _]:
            return (task, turn) == (other, turn2)
        case "human-contact", ["hf", _, _, "cmd", "ask", task, *_], ["hf", _, _, "int", other, *_]:
            return task == other
        case "human-contact", ["hf", "timer", "people", _, _, _, task, _], ["hf", _, _, "int", other, *_]:
            return task == other
        case "human-contact", ["hf", _, _, "int", task, *_], ["hf", _, _, "evt", other, *_]:
            return task == other
        case "planner", ["hf", _, _, "evt", task, *_], ["$KV", _, _, other]:
            return task == other
        case "planner", ["hf", _, _, "evt", task, *_], ["hf", _, _, "cmd", _, other, *_]:
            return task == other
        case "planner", ["hf", _, _, "evt", task, *_], ["hf", _, _, "msg", other, _]:
            return task == other
        case _:
            return False
