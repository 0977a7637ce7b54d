"""Final answers that have to fit a response format, on the memory bus with scripted models."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from schemas.messages import UserMessage
from schemas.requests import ResponseFormat
from schemas.resources import LLMSpec, ScriptedCall, ScriptedOptions, ScriptedReply, ToolInfo
from schemas.task import Tries
from services.runtime.memory.bus import MemoryBus
from tests.support.gateway import (
    START,
    Faults,
    GatewayRig,
    TaskRig,
    apply_agent,
    apply_llm,
    apply_server,
    running_gateway,
)

WEATHER = ResponseFormat(
    name="weather",
    schema={"type": "object", "properties": {"degrees": {"type": "number"}}, "required": ["degrees"]},
)
MENDING = ScriptedReply(text="{user}")


@pytest.fixture
async def gateway() -> AsyncGenerator[GatewayRig]:
    async with running_gateway(MemoryBus()) as rig:
        yield rig


async def asked(
    gateway: GatewayRig, *replies: ScriptedReply, response_format: ResponseFormat | None = WEATHER
) -> TaskRig:
    options = ScriptedOptions(transcript=replies)
    await apply_server(gateway.store, "clock", ToolInfo(name="now"))
    await apply_llm(gateway.store, LLMSpec(provider="scripted", scripted=options))
    await apply_agent(gateway.store, "clock")
    task = TaskRig(gateway.bus, "job")
    await task.begin(START, response_format)
    await task.ask()
    return task


@pytest.mark.parametrize("text", ['{"degrees": 21}', '```json\n{"degrees": 21}\n```'])
async def test_an_answer_that_fits_is_recorded_as_the_model_wrote_it(gateway: GatewayRig, text: str) -> None:
    task = await asked(gateway, ScriptedReply(text=text))
    answer = await task.answered()
    assert (answer.message.content, answer.invalid) == (text, "")


@pytest.mark.parametrize(
    ("text", "word"),
    [("It is warm.", "not valid JSON"), ('{"degrees": "warm"}', "$.degrees"), ('{"wind": 1}', "required")],
)
async def test_an_answer_that_does_not_fit_says_what_is_wrong(gateway: GatewayRig, text: str, word: str) -> None:
    task = await asked(gateway, ScriptedReply(text=text))
    answer = await task.answered()
    assert answer.message.content == text
    assert word in answer.invalid


async def test_the_model_is_told_what_is_wrong_and_may_mend_it(gateway: GatewayRig) -> None:
    task = await asked(gateway, ScriptedReply(text="{user}"))
    await task.answered()
    await task.write(task.awaiting(1, 2, Tries(repairs=1)))
    await task.command(1, 2)
    told = (await task.answered(1, 2)).message.content
    assert told.startswith("Your answer does not fit the required format:")
    assert "not valid JSON" in told


async def test_a_wrong_answer_joins_the_conversation_without_being_read_back() -> None:
    faults = Faults()
    async with running_gateway(MemoryBus(pause=faults)) as gateway:
        task = await asked(gateway, ScriptedReply(text="warm"))
        await task.answered()
        read = faults.seen["log.read"]
        await task.write(task.awaiting(1, 2, Tries(repairs=1)))
        await task.command(1, 2)
        await task.answered(1, 2)
        assert faults.seen["log.read"] == read


async def test_an_answer_with_calls_or_without_text_is_not_checked(gateway: GatewayRig) -> None:
    calls = ScriptedReply(text="Looking.", calls=(ScriptedCall(tool="clock__now"),))
    task = await asked(gateway, calls, ScriptedReply(text=" "))
    assert (await task.answered()).invalid == ""
    await task.tool_result("r1", 1, "call_1_1", "noon")
    await task.ask(2)
    assert (await task.answered(2)).invalid == ""


@pytest.mark.parametrize("schema", [{"type": "objekt"}, {"properties": 3}, {"$ref": "https://elsewhere.example/s"}])
async def test_a_schema_that_cannot_be_used_costs_nothing(gateway: GatewayRig, schema: dict[str, Any]) -> None:
    task = await asked(gateway, ScriptedReply(text="{}"), response_format=ResponseFormat(name="odd", schema=schema))
    failed = await task.failed()
    assert (failed.failure, failed.cause) == ("refused", "invalidRequest")
    assert "the response format 'odd' cannot be used" in failed.error
    assert gateway.calls() == 0


async def test_without_a_format_any_answer_fits(gateway: GatewayRig) -> None:
    task = TaskRig(gateway.bus, "job")
    await apply_llm(gateway.store, LLMSpec(provider="scripted", scripted=ScriptedOptions(transcript=(MENDING,))))
    await apply_agent(gateway.store)
    await task.begin((UserMessage(content="not JSON"),))
    await task.ask()
    assert (await task.answered()).invalid == ""


def test_the_validator_is_loaded_only_when_a_format_asks_for_it() -> None:
    script = "import sys, services.llm_gateway.main, services.planner.main; print('jsonschema' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "False"
