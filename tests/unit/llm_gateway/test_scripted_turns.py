from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from schemas.live import TextDelta
from schemas.resources import (
    LLMSpec,
    ScriptedCall,
    ScriptedFailure,
    ScriptedOptions,
    ScriptedReply,
    ScriptedRule,
    ToolInfo,
)
from schemas.wire import decode
from services.runtime.memory.bus import MemoryBus
from services.runtime.ports import Signal
from tests.support.gateway import GatewayRig, apply_agent, apply_llm, apply_server, running_gateway

CLOCK = ToolInfo(name="now", description="The time.", input_schema={"type": "object"})


@pytest.fixture
async def gateway() -> AsyncGenerator[GatewayRig]:
    async with running_gateway(MemoryBus()) as rig:
        yield rig


async def equip(gateway: GatewayRig, *transcript: ScriptedReply, rules: tuple[ScriptedRule, ...] = ()) -> None:
    options = ScriptedOptions(transcript=transcript, rules=rules)
    await apply_server(gateway.store, "clock", CLOCK)
    await apply_llm(gateway.store, LLMSpec(provider="scripted", scripted=options))
    await apply_agent(gateway.store, "clock")


async def test_a_scripted_model_answers_and_says_what_it_is(gateway: GatewayRig) -> None:
    await equip(gateway, ScriptedReply(text="You asked: {user}"))
    task = await gateway.task()
    await task.ask()
    answer = await task.answered()
    assert answer.message.content == "You asked: What time is it?"
    assert (answer.model, answer.llm, answer.turn, answer.attempt) == ("scripted", "model", 1, 1)
    assert answer.usage.input_tokens > 0
    assert answer.usage.output_tokens > 0
    assert "no model" in (await gateway.llm_status()).status_detail


async def test_parallel_calls_and_their_results_go_round(gateway: GatewayRig) -> None:
    calls = (ScriptedCall(tool="clock__now", arguments={"zone": "{user}"}), ScriptedCall(tool="clock__now"))
    await equip(
        gateway, ScriptedReply(text="Looking.", calls=calls), ScriptedReply(text="{results} / {result} / {turn}")
    )
    task = await gateway.task()
    await task.ask()
    answer = await task.answered()
    assert answer.message.content == "Looking."
    assert [(c.id, c.name, c.arguments) for c in answer.message.tool_calls] == [
        ("call_1_1", "clock__now", '{"zone": "What time is it?"}'),
        ("call_1_2", "clock__now", "{}"),
    ]
    await task.tool_result("r1", 1, "call_1_1", "noon")
    await task.tool_result("r1", 2, "call_1_2", "midnight")
    await task.ask(turn=2)
    assert (await task.answered(turn=2)).message.content == "noon\nmidnight / midnight / 2"


async def test_rules_come_before_the_transcript(gateway: GatewayRig) -> None:
    rules = (
        ScriptedRule(user_contains="TIME", turn=1, reply=ScriptedReply(text="by rule")),
        ScriptedRule(result_contains="noon", reply=ScriptedReply(text="not reached")),
    )
    await equip(gateway, ScriptedReply(text="by transcript"), rules=rules)
    task = await gateway.task()
    await task.ask()
    assert (await task.answered()).message.content == "by rule"


async def test_a_scripted_failure_fails_as_often_as_it_says(gateway: GatewayRig) -> None:
    fail = ScriptedFailure(status=429, message="slow down", times=1, retry_after_s=2)
    await equip(gateway, ScriptedReply(text="done", fail=fail))
    task = await gateway.task()
    await task.ask()
    failed = await task.failed()
    assert (failed.failure, failed.status, failed.retry_after_s) == ("transient", 429, 2.0)
    assert "slow down" in failed.error
    await task.ask(attempt=2)
    assert (await task.answered(attempt=2)).message.content == "done"


async def test_a_script_without_an_answer_is_refused(gateway: GatewayRig) -> None:
    await equip(gateway, rules=(ScriptedRule(turn=9, reply=ScriptedReply(text="never")),))
    task = await gateway.task()
    await task.ask()
    failed = await task.failed()
    assert failed.failure == "refused"
    assert "no rule" in failed.error


async def test_text_is_streamed_in_order_and_whole(gateway: GatewayRig) -> None:
    heard: list[TextDelta] = []

    async def hear(signal: Signal) -> None:
        heard.append(decode(signal.data, TextDelta))

    text = "one two three four five six"
    await equip(gateway, ScriptedReply(text=text, delay_s=0.2))
    task = await gateway.task()
    await gateway.bus.signals.subscribe(task.subjects.live, hear)
    await task.ask()
    await task.answered()
    assert "".join(delta.text for delta in heard) == text
    assert [delta.offset for delta in heard] == [len("".join(d.text for d in heard[:n])) for n in range(len(heard))]
    assert 1 < len(heard) <= 5


async def test_a_failed_tool_call_is_seen_by_the_model(gateway: GatewayRig) -> None:
    await equip(gateway, ScriptedReply(calls=(ScriptedCall(tool="clock__now"),)), ScriptedReply(text="saw: {result}"))
    task = await gateway.task()
    await task.ask()
    await task.answered()
    await task.tool_result("r1", 1, "call_1_1", "it exploded", failed=True)
    await task.ask(turn=2)
    assert (await task.answered(turn=2)).message.content == "saw: it exploded"
