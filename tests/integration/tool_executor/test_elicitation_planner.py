"""A tool's server asks in a real task on a real bus, and somebody answers from the command line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from schemas.resources import Agent, AgentSpec, Metadata, Ref, ServerRef
from schemas.subjects import TaskSubjects
from schemas.task import AwaitingModel, Cancelled
from services.cli.client import Client
from services.cli.exits import Stop
from services.cli.inbox import answer_of, interaction, open_interactions
from services.planner.main import build as build_planner
from services.runtime.nats.bus import connect
from services.runtime.replica import Replica
from services.runtime.settings import Settings
from services.tool_executor.main import build as build_executor
from tests.support.mcp_servers.bench import Bench, module, stdio_server, until
from tests.support.nats_server import NatsServer, nats_server
from tests.support.stage import Stage, scripted_llm


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with nats_server(tmp_path_factory.mktemp("nats")) as running:
        yield running


async def until_asked(client: Client, task: TaskSubjects) -> str:
    """Wait until a task's tool asks; which question."""
    found: list[str] = []

    async def there() -> bool:
        found[:] = [one.interaction for one in await open_interactions(client, None) if one.task == task.task]
        return bool(found)

    await until(there, f"a question of {task.task}")
    return found[0]


async def test_a_task_waits_for_a_person_and_goes_on_with_the_answer(server: NatsServer, record: Path) -> None:
    settings = Settings(nats_url=server.url, http_port=-1)
    builds = {"planner": build_planner, "tool-executor": build_executor}
    async with await connect(settings, service="test") as bus, await connect(settings, service="all") as served:
        replica = Replica(served, settings, builds, {})
        await replica.start()
        try:
            await _ask_and_answer(Stage(bus), Client(bus), Bench(bus), record)
        finally:
            await replica.stop()


async def _ask_and_answer(stage: Stage, client: Client, bench: Bench, record: Path) -> None:
    await stage.apply(stdio_server("travel", module("asker"), env={"RECORD": str(record)}))
    await stage.apply_ready(scripted_llm())
    spec = AgentSpec(llm_ref=Ref(name="model"), system="s", mcp_servers=(ServerRef(name="travel"),))
    await stage.apply(Agent(metadata=Metadata(name="helper"), spec=spec))
    await bench.until_ready("travel")

    task = await stage.submit()
    await stage.answer(task, 1, calls=("travel__book",))
    which = await until_asked(client, task)
    asked = await interaction(client, "default", task.task, which)
    wrong = answer_of(asked, accept='{"city": "Oslo", "nights": 99}', comment="", by="ann")
    with pytest.raises(Stop, match="is greater than the maximum"):
        await client.answer("default", wrong)
    right = answer_of(asked, accept='{"city": "Oslo", "nights": 2}', comment="", by="ann")
    assert (await client.answer("default", right)).created

    async def second_turn() -> bool:
        state = await stage.state(task)
        return isinstance(state, AwaitingModel) and state.turn == 2

    await until(second_turn, "the task goes on")
    finished = await stage.stored(task, task.tool_event("r1", 1))
    assert b"Oslo" in finished
    assert await open_interactions(client, "default") == []

    other = await stage.submit(name="other")
    await stage.answer(other, 1, calls=("travel__book",))
    await until_asked(client, other)
    await stage.ask("cancel", {"task": "other"})
    await stage.until_state(other, Cancelled, wait_s=20)
    assert await open_interactions(client, "default") == []
    late = await interaction(client, "default", "other", "r1.1.1")
    with pytest.raises(Stop, match="cannot be answered"):
        await client.answer("default", answer_of(late, accept=None, comment="", by="ann"))
