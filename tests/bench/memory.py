"""Memory of processes that wait, and what ten thousand tasks cost that wait for an agent."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from schemas.resources import LLM, LLMParameters, LLMSpec, Metadata, SecretKeyRef, SecretSource
from tests.bench.system import System, until

SETTLE_S = 2.0
PARKING = 200
"""Requests under way at once."""
NOBODY = "nobody"
"""An agent that does not exist."""
DEAD_URL = "http://127.0.0.1:9/v1"
KEY_VARIABLE = "BENCH_API_KEY"


def commercial_llms() -> tuple[LLM, LLM]:
    """One LLM of each SDK, at an address where nobody answers: the SDKs are loaded all the same."""
    key = SecretSource(secret_key_ref=SecretKeyRef(name="bench", key=KEY_VARIABLE))
    parameters = LLMParameters(model="none", base_url=DEAD_URL)
    return (
        LLM(metadata=Metadata(name="o"), spec=LLMSpec(provider="openai", api_key_from=key, parameters=parameters)),
        LLM(metadata=Metadata(name="a"), spec=LLMSpec(provider="anthropic", api_key_from=key, parameters=parameters)),
    )


async def idle(system: System) -> dict[str, float]:
    """Resident megabytes of each service, once nothing has happened for a while."""
    await asyncio.sleep(SETTLE_S)
    return {process.service: process.rss_mb for process in system.processes}


class Parked(NamedTuple):
    """Many tasks that wait."""

    tasks: int
    consumers_added: int
    rss_mb_added: dict[str, float]


async def park(system: System, count: int) -> Parked:
    """Submit tasks of an agent that is not there, and wait until every one of them has a state."""
    before, consumers = await idle(system), await system.consumers()
    slots = asyncio.Semaphore(PARKING)

    async def one(n: int) -> None:
        async with slots:
            await system.submit(NOBODY, f"parked-{n}", turns=2)

    await asyncio.gather(*(one(n) for n in range(count)))

    async def all_there() -> bool:
        return len(await system.states("parked-")) == count

    await until(all_there, f"{count} waiting tasks", within_s=60 + count * 0.05, every_s=0.5)
    after = await idle(system)
    added = {service: after[service] - before[service] for service in before}
    return Parked(count, await system.consumers() - consumers, added)
