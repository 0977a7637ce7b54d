"""Tasks that wait for people: what ten thousand of them cost, and how soon one goes on when somebody has answered.

The times are the server's: from the stored answer to the stored command for the next model call. The same is measured
with few waiting tasks in the same run, and the two are compared.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, NamedTuple

from schemas import subjects
from schemas.interactions import AnswerInteraction, interaction_id
from schemas.resources import (
    LLM,
    Agent,
    AgentSpec,
    ContactChannel,
    ContactChannelSpec,
    LLMSpec,
    Metadata,
    Ref,
    ScriptedCall,
    ScriptedOptions,
    ScriptedReply,
)
from schemas.wire import encode
from tests.bench.report import Row, columns
from tests.bench.suite import quantile
from tests.bench.system import GATEWAY, NAMESPACE, PLANNER, System, running_system, until

HUMAN_CONTACT = "human-contact"
AT_ONCE = 100
"""Requests under way at once."""
ANSWERS_AT_ONCE = 4
SETTLE_S = 3.0
CALL = ScriptedCall(tool="people__human_contact_console", arguments={"message": "Shall I go on?"})


class Budget(NamedTuple):
    """How much is measured."""

    parked: int
    answers: int


FULL = Budget(parked=10_000, answers=400)
SMOKE = Budget(parked=20, answers=4)


async def measure_people(directory: Path, budget: Budget) -> dict[str, Any]:
    """Memory and times, beside few waiting tasks and beside many."""
    async with running_system(directory) as system:
        await system.start(PLANNER, GATEWAY, HUMAN_CONTACT)
        agent = await _declare(system)
        few = min(budget.answers, budget.parked)
        await _park(system, agent, "few", few)
        beside_few = await _answers(system, [f"few-{n}" for n in range(few)][: budget.answers])
        before, consumers = await _memory(system), await system.consumers()
        await _park(system, agent, "many", budget.parked)
        after, added = await _memory(system), await system.consumers() - consumers
        names = [f"many-{n}" for n in range(budget.parked)]
        step = max(budget.parked // budget.answers, 1)
        beside_many = await _answers(system, names[::step][: budget.answers])
        return {
            "parked": budget.parked,
            "answers": len(beside_many),
            "consumers_added": added,
            "rss_mb": {name: round(value, 1) for name, value in after.items()},
            "rss_mb_added": {name: round(after[name] - before[name], 1) for name in after},
            "few_ms": _quantiles(beside_few),
            "many_ms": _quantiles(beside_many),
            "ratio_p50": round(quantile(beside_many, 0.5) / quantile(beside_few, 0.5), 2),
        }


def people_table(found: dict[str, Any]) -> str:
    """For people."""
    return columns(
        [
            Row("tasks that wait for people", found["parked"]),
            Row("  consumers added by them", found["consumers_added"], most=0),
            *(Row(f"  memory of {name}", value, "MB") for name, value in found["rss_mb"].items()),
            *(Row(f"    added to {name} by them", value, "MB") for name, value in found["rss_mb_added"].items()),
            Row("answer to next model call, beside few: p50", found["few_ms"]["p50"], "ms"),
            Row("  p99", found["few_ms"]["p99"], "ms"),
            Row("answer to next model call, beside them all: p50", found["many_ms"]["p50"], "ms"),
            Row("  p99", found["many_ms"]["p99"], "ms", most=250),
            Row("  ratio of the medians", found["ratio_p50"]),
        ]
    )


async def _declare(system: System) -> str:
    options = ScriptedOptions(transcript=(ScriptedReply(calls=(CALL,)), ScriptedReply(text="done")))
    llm = LLM(metadata=Metadata(name="asker"), spec=LLMSpec(provider="scripted", scripted=options))
    people = ContactChannel(metadata=Metadata(name="people"), spec=ContactChannelSpec(type="console"))
    spec = AgentSpec(llm_ref=Ref(name="asker"), system="Ask.", human_contact_channels=(Ref(name="people"),))
    agent = Agent(metadata=Metadata(name="asker"), spec=spec)
    await system.apply(llm, people, agent)
    await system.until_ready(llm, people, agent)
    return agent.metadata.name


async def _park(system: System, agent: str, prefix: str, count: int) -> None:
    """Submit tasks, and wait until people are asked by every one of them."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(n: int) -> None:
        async with slots:
            await system.submit(agent, f"{prefix}-{n}", turns=5)

    await asyncio.gather(*(one(n) for n in range(count)))

    async def all_asked() -> bool:
        found = await system.bus.log(0).subjects(f"hf.0.{NAMESPACE}.int.*.r1.1.0.step.0")
        return sum(subject.split(".")[4].startswith(f"{prefix}-") for subject in found) == count

    await until(all_asked, f"{count} questions", within_s=60 + count * 0.1, every_s=0.5)
    await asyncio.sleep(SETTLE_S)


async def _answers(system: System, names: list[str]) -> list[float]:
    """Answer for some tasks, a few at once; milliseconds from each answer to the next model call."""
    slots = asyncio.Semaphore(ANSWERS_AT_ONCE)

    async def one(name: str) -> float:
        async with slots:
            return await _answer(system, name)

    return await asyncio.gather(*(one(name) for name in names))


async def _answer(system: System, name: str) -> float:
    task = system.task(name)
    said = {"answer": "yes"}
    request = AnswerInteraction(task=name, interaction=interaction_id("r1", 1, 0), content=said, by="bench")
    await system.bus.signals.request(subjects.ask(NAMESPACE, "answer"), encode(request), {}, timeout_s=30)
    await system.until_stored(task.model_command(2, 1), within_s=30)
    log = system.bus.log(0)
    answered, command = await log.get(task.interaction_answered("r1", 1, 0)), await log.get(task.model_command(2, 1))
    assert answered is not None
    assert command is not None
    return (command.at - answered.at).total_seconds() * 1000


async def _memory(system: System) -> dict[str, float]:
    await asyncio.sleep(SETTLE_S)
    return {process.service: process.rss_mb for process in system.processes}


def _quantiles(values: list[float]) -> dict[str, float]:
    return {"p50": round(quantile(values, 0.5), 2), "p99": round(quantile(values, 0.99), 2)}
