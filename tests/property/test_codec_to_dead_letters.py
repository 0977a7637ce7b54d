"""Whatever is published wherever: every message ends as a dead letter, nobody stops, and the next task is done."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas import subjects
from schemas.dead_letters import DeadLetter
from schemas.resources import LLM, LLMSpec, Metadata, ScriptedOptions, ScriptedReply
from schemas.subjects import TaskSubjects
from schemas.task import FinalAnswer
from schemas.wire import decode, encode
from services.llm_gateway import main as llm_gateway
from services.planner import main as planner
from services.runtime.ports import Outgoing
from services.runtime.replica import Build
from services.tool_executor import main as tool_executor
from tests.support.stage import Stage, agent, on_stage, until
from tests.support.wire_examples import FULL

BUILDS: dict[str, Build] = {
    "planner": planner.build,
    "llm-gateway": llm_gateway.build,
    "tool-executor": tool_executor.build,
}
SCRIPTED = ScriptedOptions(transcript=(ScriptedReply(text="done"),))
HOSTILE = (
    b"",
    b"{",
    b"[]",
    b"null",
    b"\xff\xfe\x00",
    b"NaN",
    b"[" * 50_000,
    b'{"type":"task.unknown.v9"}',
    b'{"type":"model.call.v1","turn":1e999}',
    b'{"limits":{"maxCost":"NaN"},"agentName":"helper","userMessage":"x"}',
    b'{"limits":{"deadlineSeconds":1e300},"agentName":"helper","userMessage":"x"}',
)


async def publish_everywhere(stage: Stage, data: bytes, n: int) -> int:
    """Publish `data` once on each kind of subject that a consumer reads; how many those are."""
    for verb in (subjects.submit, subjects.cancel, subjects.delete):
        await stage.bus.signals.store(verb("default"), data)
    task = TaskSubjects(0, "default", f"task-{n}")
    places = (
        task.submitted,
        task.cancel,
        task.model_event(1, 1),
        task.tool_event("r1", 1),
        task.model_command(1, 1),
        task.tool_command("r1", 1),
        f"{task.root}.cmd.llm.nonsense",
        f"{task.root}.cmd.tool.nonsense",
        f"{task.root}.evt.nonsense",
    )
    for place in places:
        await stage.bus.log(0).record(Outgoing(place.replace("nonsense", f"nonsense-{n}"), data))
    past = stage.bus.clock.now() - timedelta(seconds=1)
    await stage.bus.timers.set(task.timer("deadline"), task.timer_fired("deadline"), past, data, {})
    return 3 + len(places) + 1


async def letters(stage: Stage) -> list[DeadLetter]:
    return [decode(entry.data, DeadLetter) for entry in await stage.bus.dead_letters.last(["hf.dlq.letter.>"])]


async def withstand(payloads: list[bytes]) -> None:
    async with on_stage(BUILDS) as (stage, _):
        sent = 0
        for n, data in enumerate(payloads):
            sent += await publish_everywhere(stage, data, n)

        async def all_buried() -> bool:
            return len(await letters(stage)) == sent

        await until(all_buried, f"{sent} dead letters", wait_s=20)
        assert {letter.reason for letter in await letters(stage)} <= {"malformed", "invalid_request"}
        await stage.apply(LLM(metadata=Metadata(name="model"), spec=LLMSpec(provider="scripted", scripted=SCRIPTED)))
        await stage.apply(agent())
        await stage.until_state(await stage.submit(), FinalAnswer, wait_s=20)


@pytest.mark.parametrize("data", HOSTILE, ids=range(len(HOSTILE)))
async def test_hostile_bytes_end_as_dead_letters(data: bytes) -> None:
    await withstand([data])


@given(payloads=st.lists(st.binary(max_size=60), min_size=1, max_size=4, unique=True))
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_bytes_end_as_dead_letters(payloads: list[bytes]) -> None:
    asyncio.run(withstand(payloads))


async def test_messages_in_the_wrong_places_stop_nobody() -> None:
    """Well-formed messages where they do not belong are refused, ignored or dead letters; the next task is done."""
    async with on_stage(BUILDS) as (stage, _):
        for n, value in enumerate(FULL):
            await publish_everywhere(stage, encode(value), n)
        await stage.apply(LLM(metadata=Metadata(name="model"), spec=LLMSpec(provider="scripted", scripted=SCRIPTED)))
        await stage.apply(agent())
        await stage.until_state(await stage.submit(name="the-good-one"), FinalAnswer, wait_s=20)
