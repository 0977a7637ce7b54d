"""Two gateways, each a process of its own, on a real server: one limit, never exceeded, whoever is killed."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from schemas import subjects
from schemas.flow import PoolFlow
from schemas.ids import partition_of
from schemas.requests import SubmitTask
from schemas.resources import LLM, Agent, AgentSpec, LLMLimits, LLMParameters, LLMSpec, Metadata, Ref, Resource
from schemas.subjects import TaskSubjects
from schemas.task import FinalAnswer, State, decode_state
from schemas.wire import decode, encode
from services.runtime.nats.bus import NatsBus, connect
from services.runtime.settings import Settings
from tests.support.limited_provider import LimitedProvider
from tests.support.live_fleet import Fleet, fleet
from tests.support.provider_server import ProviderServer, provider_server
from tests.support.waiting import until

TOKENS_PER_MINUTE = 60_000
"""About ten calls a second."""
BURST_S = 14.0
"""What the gateways let through at once: a namespace's burst, and its answers' rooms before they are known."""
TASKS = 150


class Scene(NamedTuple):
    fleet: Fleet
    bus: NatsBus
    server: ProviderServer

    async def submit(self, names: list[str]) -> None:
        """Ask for tasks; they are kept until the planner takes them up."""
        for name in names:
            request = SubmitTask(agent_name="helper", user_message=name, name=name)
            await self.bus.signals.store(subjects.submit("default"), encode(request), {subjects.MSG_ID: name})

    async def states(self, names: list[str]) -> dict[str, State]:
        """The states of the tasks that have one."""
        found: dict[str, State] = {}
        for name in names:
            entry = await self.bus.log(0).get(TaskSubjects(0, "default", name).state)
            if entry is not None:
                found[name] = decode_state(entry.data)
        return found

    async def until_done(self, names: list[str], within_s: float) -> None:
        """Wait until each of the tasks has its answer."""
        assert {partition_of("default", name, self.bus.partitions) for name in names} == {0}
        left = list(names)

        async def done() -> bool:
            nonlocal left
            states = await self.states(left)
            left = [name for name in left if not isinstance(states.get(name), FinalAnswer)]
            return not left

        await until(done, f"the answers of {len(names)} tasks", within_s=within_s)

    async def pool(self) -> PoolFlow:
        """The only pool that is known."""
        found: list[PoolFlow] = []
        async for entry in self.bus.flow.watch():
            if entry is None:
                break
            if entry.key.startswith("pool.") and entry.data is not None:
                found.append(decode(entry.data, PoolFlow))
        (pool,) = found
        return pool


def resources(server: ProviderServer, limits: LLMLimits) -> list[Resource]:
    parameters = LLMParameters(model="gpt-test", base_url=server.openai_url, max_tokens=100)
    llm = LLMSpec(provider="openai", parameters=parameters, limits=limits)
    return [
        LLM(metadata=Metadata(name="model"), spec=llm),
        Agent(metadata=Metadata(name="helper"), spec=AgentSpec(llm_ref=Ref(name="model"), system="Be brief.")),
    ]


@asynccontextmanager
async def scene(directory: Path, limits: LLMLimits) -> AsyncGenerator[Scene]:
    async with provider_server() as server, fleet(directory, commit="two-step") as running:
        await running.start("planner", "llm-gateway", "llm-gateway")
        async with await connect(Settings(nats_url=running.server.url), service="test") as bus:
            for resource in resources(server, limits):
                kind, meta = type(resource).__name__, resource.metadata
                await bus.resources.put(subjects.spec_key(kind, meta.namespace, meta.name), encode(resource))
            yield Scene(running, bus, server)


async def test_two_processes_never_exceed_a_limit_though_one_is_killed(tmp_path: Path) -> None:
    async with scene(tmp_path, LLMLimits(tokens_per_minute=TOKENS_PER_MINUTE)) as stage:
        provider = LimitedProvider(stage.server, tokens_per_minute=TOKENS_PER_MINUTE, burst_s=BURST_S)
        names = [f"job-{n}" for n in range(TASKS)]
        await stage.submit(names)
        await until(lambda: len(provider.answered) > TASKS // 2, "half of the calls", within_s=60)
        stage.fleet.kill(stage.fleet.replicas("llm-gateway")[0])
        await stage.until_done(names, within_s=60)
        assert provider.refused == 0
        assert set(provider.by_text) == set(names)
        # Only what the killed one had in hand was asked again.
        assert sum(provider.by_text.values()) <= TASKS + 64

        async def settled() -> bool:
            under_way = (await stage.pool()).under_way
            return len(under_way) <= 64 and not any(name.startswith("default/job-149") for name in under_way)

        await until(settled, "what has ended is settled")


async def test_two_processes_never_make_more_calls_at_once_than_allowed(tmp_path: Path) -> None:
    async with scene(tmp_path, LLMLimits(concurrency=3)) as stage:
        names = [f"job-{n}" for n in range(30)]
        await stage.submit(names)
        most = 0

        async def done() -> bool:
            nonlocal most
            most = max(most, len((await stage.pool()).under_way) if stage.server.generations() else 0)
            return len(stage.server.generations()) >= len(names)

        await until(done, "all calls", within_s=60)
        await stage.until_done(names, within_s=30)
        assert 1 <= most <= 3
