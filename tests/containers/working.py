"""Work for a stack, and its judgement: the workloads and the checker of the live crash tests, on containers.

async with site(stack, "kills") as place:
    async with place.load():
        ...                       # whatever happens to the stack
    assert not await place.judge()
"""

# ruff: noqa: T201 - the seed and the numbers are what this prints
from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import asynccontextmanager

from nats.aio.client import Client

from services.runtime.tasks import Tasks, spawn
from tests.chaos.live import record
from tests.chaos.live.checker import TERMINAL, check
from tests.chaos.live.crew import CREW, CrewWorkload
from tests.chaos.live.record import Record, Stored, Witness
from tests.chaos.live.workload import NAMESPACE, SCENARIOS, Job, Scenario, Workload
from tests.containers.stack import Stack
from tests.support.waiting import until

LANES = 5
"""Tasks of users under way at once."""
END_S = 120.0
"""How long tasks may take after the last blow: they end one after another on a small machine."""
SETTLE_S = 20.0
KEPT = (f"$KV.holdfast_0.{NAMESPACE}.", f"hf.0.{NAMESPACE}.int.")
WORKLOAD: Mapping[str, Scenario] = {
    **CREW,
    **{name: scenario for name, scenario in SCENARIOS.items() if not scenario.own_agent},
}


class ContainerWorkload(CrewWorkload):
    """Both workloads; the tools run in the tool-executor's container."""

    scenarios = dict(WORKLOAD)

    async def _apply_tools(self, name: str) -> None:
        server = {
            "transport": "stdio",
            "command": "python",
            "args": ["/effects/tools.py", "/effects/record"],
            "concurrency": 64,
        }
        await self._apply("MCPServer", name, server)

    async def run(self, scenario: Scenario, name: str) -> Job:
        """Submit a task and do what people do to it."""
        if scenario.name in CREW:
            return await super().run(scenario, name)
        return await Workload.run(self, scenario, name)


class Site:
    """A stack at work, and somebody who watches."""

    def __init__(self, name: str, stack: Stack, client: Client, witness: Witness) -> None:
        self.stack = stack
        self.client = client
        self._name = name
        self._witness = witness
        self.workload = ContainerWorkload(client, witness, stack.record)
        self._names = itertools.count(1)
        self._working = True
        self.stuck: list[str] = []

    @asynccontextmanager
    async def load(self, lanes: int = LANES) -> AsyncGenerator[None]:
        """So many tasks are under way for as long as the block lasts; at its end, all have ended."""
        seed = random.SystemRandom().randrange(1_000_000)
        choices = random.Random(seed)
        self._working = True
        tasks = Tasks()
        running = [tasks.spawn(self._lane(choices), name="load") for _ in range(lanes)]
        try:
            yield
            self._working = False
            await asyncio.gather(*running)
        finally:
            await tasks.close()
        self.stuck = await self._until_ended(self.workload.accepted)
        results = Counter(
            str(message.body["outcome"])
            for message in self._witness.messages
            if ".tool." in message.subject and message.body.get("type") == "tool.finished.v1"
        )
        print(f"\n{self._name}: seed {seed}, {len(self.workload.accepted)} tasks, {dict(results)}")

    async def _lane(self, choices: random.Random) -> None:
        """One task after another."""
        while self._working:
            name = f"{self._name}-{next(self._names)}"
            await self.workload.run(choices.choice(list(WORKLOAD.values())), name)
            await self._until_ended([name])

    async def until_more(self, count: int) -> None:
        """Wait until so many more tasks have been accepted: what happens next, happens in the middle of work."""
        wanted = len(self.workload.accepted) + count
        await until(lambda: len(self.workload.accepted) >= wanted, f"{count} more tasks", within_s=END_S)

    def _phase(self, name: str) -> str:
        for message in reversed(self._witness.messages):
            if message.subject.startswith("$KV.") and message.subject.endswith(f".{name}"):
                kind = str(message.body["type"])
                return TERMINAL.get(kind, kind)
        return "nothing"

    async def _until_ended(self, names: Iterable[str]) -> list[str]:
        """Wait for tasks to end; those that have not, with what they are in."""
        waiting = set(names)

        def ended() -> bool:
            waiting.difference_update([name for name in waiting if self._phase(name) in TERMINAL.values()])
            return not waiting

        with contextlib.suppress(AssertionError):  # who is left is judged
            await until(ended, "all tasks have ended", within_s=END_S)
        return [f"{name} is stuck in {self._phase(name)}" for name in sorted(waiting)]

    async def judge(self) -> list[str]:
        """What is wrong with all that has happened on this stack so far."""
        unsettled: dict[str, int] = {}

        async def settled() -> bool:
            unsettled.clear()
            unsettled.update(await record.unsettled(self.client))
            return not unsettled

        with contextlib.suppress(AssertionError):  # what is left is judged
            await until(settled, "every message is settled", within_s=SETTLE_S)
        return self.stuck + check(
            Record(
                accepted=dict(self.workload.accepted),
                messages=await record.read(self.client, record.TASK_STREAM),
                states=[message for message in self._witness.messages if message.subject.startswith(KEPT)],
                effects=record.effects_in(self.stack.record),
                kills=self.stack.kills,
                letters=await record.read(self.client, "HOLDFAST_DEAD_LETTERS"),
                unsettled=unsettled,
                surprises=await asyncio.to_thread(self.stack.surprises),
            )
        )

    def outcomes(self, kind: str) -> list[Stored]:
        """The results of tool calls of this site's tasks that ended so."""
        return [
            message
            for message in self._witness.messages
            if f".evt.{self._name}-" in message.subject and message.body.get("outcome") == kind
        ]


@asynccontextmanager
async def site(stack: Stack, name: str) -> AsyncGenerator[Site]:
    """A stack with agents that are ready. Names of tasks begin with `name`, once for each stack."""
    client = await record.connect(stack.url)
    witness = Witness(client)
    watching = spawn(witness.run(), name="witness")
    try:
        place = Site(name, stack, client, witness)
        await place.workload.prepare()
        yield place
    finally:
        await client.close()
        watching.cancel()
        await asyncio.wait({watching})
