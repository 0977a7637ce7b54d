"""Flow control in real processes: a planner, two gateways, a server, and a provider that limits our rate."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from schemas import subjects
from schemas.ids import partition_of
from schemas.requests import SubmitTask
from schemas.resources import LLM, Agent, AgentSpec, LLMLimits, LLMParameters, LLMSpec, Metadata, Ref, Resource
from schemas.subjects import TaskSubjects
from schemas.task import Failed, FinalAnswer, decode_state
from schemas.wire import encode
from services.runtime.nats.bus import NatsBus, connect
from services.runtime.settings import Settings
from tests.bench.suite import quantile
from tests.support.limited_provider import LimitedProvider
from tests.support.live_fleet import fleet
from tests.support.provider_server import ProviderServer, provider_server
from tests.support.waiting import until

TOKENS_PER_MINUTE = 60_000
"""About ten calls a second."""
BURST_S = 14.0
VICTIM_EVERY_S = 0.5
SETTLE_S = 4.0
"""Until those who must wait do so, and the planner has taken them all up."""
WARM_S = 8.0
NAMESPACES = ("noisy", "victim")


async def real(directory: Path, *, noisy: int, victims: int) -> dict[str, Any]:
    """Time to the answer of a victim's tasks, alone and beside waiting tasks, and what the provider refused."""
    async with provider_server() as server, fleet(directory, commit="two-step") as running:
        await running.start("planner", "llm-gateway", "llm-gateway")
        async with await connect(Settings(nats_url=running.server.url), service="bench") as bus:
            for resource in _resources(server):
                kind, meta = type(resource).__name__, resource.metadata
                await bus.resources.put(subjects.spec_key(kind, meta.namespace, meta.name), encode(resource))
            provider = LimitedProvider(server, tokens_per_minute=TOKENS_PER_MINUTE, burst_s=BURST_S)
            await _task(bus, "victim", "warm")
            alone = await _victims(bus, "alone", victims)
            loop = asyncio.get_running_loop()
            began = loop.time()
            waiting = [f"noisy-{n}" for n in range(noisy)]
            await asyncio.gather(*(_submit(bus, "noisy", name) for name in waiting))
            await asyncio.sleep(SETTLE_S)
            beside = await _victims(bus, "beside", victims)
            await asyncio.gather(*(_ended(bus, "noisy", name) for name in waiting))
            last = max(at for at, _ in provider.answered)
            return {
                "noisy": noisy,
                "victims": victims,
                "refused": provider.refused,
                "used_share": round(provider.used_share(min(began + WARM_S, last - 1), last), 3),
                "alone_s_p99": round(quantile(alone, 0.99), 3),
                "beside_s_p99": round(quantile(beside, 0.99), 3),
                "alone_s_p50": round(quantile(alone, 0.5), 3),
                "beside_s_p50": round(quantile(beside, 0.5), 3),
                "ratio_p99": round(quantile(beside, 0.99) / quantile(alone, 0.99), 3),
            }


def _resources(server: ProviderServer) -> list[Resource]:
    parameters = LLMParameters(model="gpt-test", base_url=server.openai_url, max_tokens=100)
    spec = LLMSpec(provider="openai", parameters=parameters, limits=LLMLimits(tokens_per_minute=TOKENS_PER_MINUTE))
    found: list[Resource] = []
    for namespace in NAMESPACES:
        found.append(LLM(metadata=Metadata(name="model", namespace=namespace), spec=spec))
        agent = AgentSpec(llm_ref=Ref(name="model"), system="Be brief.")
        found.append(Agent(metadata=Metadata(name="helper", namespace=namespace), spec=agent))
    return found


async def _victims(bus: NatsBus, run: str, count: int) -> list[float]:
    """Tasks that come one after another, whether or not those before have ended."""
    running: list[asyncio.Task[float]] = []
    async with asyncio.TaskGroup() as group:
        for n in range(count):
            running.append(group.create_task(_task(bus, "victim", f"{run}-{n}")))
            await asyncio.sleep(VICTIM_EVERY_S)
    return [task.result() for task in running]


async def _task(bus: NatsBus, namespace: str, name: str) -> float:
    """Run a task; how long it took."""
    began = time.perf_counter()
    await _submit(bus, namespace, name)
    await _ended(bus, namespace, name)
    return time.perf_counter() - began


async def _submit(bus: NatsBus, namespace: str, name: str) -> None:
    request = SubmitTask(agent_name="helper", user_message=name, name=name)
    await bus.signals.store(subjects.submit(namespace), encode(request), {subjects.MSG_ID: f"{namespace}/{name}"})


async def _ended(bus: NatsBus, namespace: str, name: str) -> None:
    task = TaskSubjects(partition_of(namespace, name, bus.partitions), namespace, name)

    async def done() -> bool:
        entry = await bus.log(task.partition).get(task.state)
        state = decode_state(entry.data) if entry is not None else None
        assert not isinstance(state, Failed), state
        return isinstance(state, FinalAnswer)

    await until(done, f"the end of {namespace}/{name}", within_s=300)
