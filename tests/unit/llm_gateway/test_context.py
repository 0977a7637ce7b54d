"""What is recorded of conversations that do not fit into their model's context, on the memory bus."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from decimal import Decimal

import msgspec
import pytest

from schemas.events import WindowCompacted
from schemas.messages import Message, SystemMessage, ToolMessage, Usage, UserMessage
from schemas.requests import ResponseFormat
from schemas.resources import (
    ContextPolicy,
    Fallback,
    LLMParameters,
    LLMSpec,
    Pricing,
    Ref,
    ScriptedCall,
    ScriptedFailure,
    ScriptedOptions,
    ScriptedReply,
    ScriptedRule,
    ToolInfo,
)
from schemas.task import Budget, Tries
from services.llm_gateway.core.calls import CallFailed, Failure, ModelReply, ModelRequest
from services.llm_gateway.providers.base import OnText
from services.llm_gateway.providers.scripted import ScriptedModel
from services.runtime.memory.bus import MemoryBus
from services.runtime.memory.server import MemoryServer
from tests.support.gateway import (
    START,
    Faults,
    GatewayRig,
    TaskRig,
    apply_agent,
    apply_llm,
    apply_server,
    running_gateway,
    until,
)

READ = ToolInfo(name="read")
CALL = ScriptedCall(tool="files__read")
SUMMARY = ScriptedRule(user_contains="Summarize this beginning", reply=ScriptedReply(text="They hold letters."))
TRUNCATE = ContextPolicy(when_full="truncateToolResults")
SUMMARIZE = ContextPolicy(when_full="summarize")
FAIL = ContextPolicy(when_full="fail")


@pytest.fixture
async def gateway() -> AsyncGenerator[GatewayRig]:
    async with running_gateway(MemoryBus()) as rig:
        yield rig


def reader(
    *rules: ScriptedRule, context_tokens: int | None = 8_000, max_tokens: int | None = 500, turns: int = 4
) -> LLMSpec:
    """A model that reads two files in each turn, and then says what it has seen last."""
    replies = (*(ScriptedReply(calls=(CALL, CALL)) for _ in range(turns)), ScriptedReply(text="done: {result}"))
    return LLMSpec(
        provider="scripted",
        scripted=ScriptedOptions(transcript=replies, rules=rules),
        parameters=LLMParameters(context_tokens=context_tokens, max_tokens=max_tokens),
    )


async def equip(gateway: GatewayRig, spec: LLMSpec, policy: ContextPolicy, *fallbacks: Fallback) -> None:
    await apply_server(gateway.store, "files", READ)
    await apply_llm(gateway.store, spec)
    await apply_agent(gateway.store, "files", context=policy, fallbacks=fallbacks)
    await gateway.llm_status(status="Ready")


async def played(task: TaskRig, *results: str) -> int:
    """Turns whose calls have these results, and a short one each; the next turn."""
    for turn, content in enumerate(results, start=1):
        await task.ask(turn)
        await task.answered(turn)
        await task.tool_result(f"r{turn}", 1, f"call_{turn}_1", content)
        await task.tool_result(f"r{turn}", 2, f"call_{turn}_2", "newest")
    return len(results) + 1


def long(letter: str, length: int = 14_000) -> str:
    return letter * length


class TooLong:
    """Makes a scripted model refuse what has more than so many characters, as a provider would."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, characters_max: int) -> None:
        self.sent: list[ModelRequest] = []
        asked = ScriptedModel.call

        async def call(model: ScriptedModel, request: ModelRequest, on_text: OnText) -> ModelReply:
            self.sent.append(request)
            characters = sum(len(str(message.content)) for message in request.messages)
            if characters > characters_max:
                error = f"scripted refused the call: {characters} characters are too long"
                raise CallFailed(Failure(error=error, transient=False, cause="contextTooLong", status=400))
            return await asked(model, request, on_text)

        monkeypatch.setattr(ScriptedModel, "call", call)


# --- before the call --------------------------------------------------------------------


async def test_a_conversation_that_fits_is_left_alone(gateway: GatewayRig) -> None:
    await equip(gateway, reader(turns=1), TRUNCATE)
    task = await gateway.task()
    turn = await played(task, "short")
    await task.ask(turn)
    assert (await task.answered(turn)).message.content == "done: newest"


async def test_old_results_are_shortened_in_a_recorded_step_and_the_call_follows(gateway: GatewayRig) -> None:
    await equip(gateway, reader(turns=2), TRUNCATE)
    task = await gateway.task()
    turn = await played(task, long("a"), long("b"))
    made = gateway.calls()
    await task.ask(turn)
    step = await task.compacted(turn)
    assert gateway.calls() == made
    assert (step.policy, step.llm, step.usage) == ("truncateToolResults", "model", Usage())
    assert step.tokens_after < 8_000 < step.tokens_before + 1_500
    assert "too long for LLM 'model'" in step.reason
    assert "8,000" in step.reason
    await task.ask(turn, 2)
    assert (await task.answered(turn, 2)).message.content == "done: newest"


async def test_a_conversation_too_long_for_a_policy_that_fails_is_refused_with_the_numbers(gateway: GatewayRig) -> None:
    await equip(gateway, reader(turns=2), FAIL)
    task = await gateway.task()
    turn = await played(task, long("a"), long("b"))
    made = gateway.calls()
    await task.ask(turn)
    failed = await task.failed(turn)
    assert (failed.failure, failed.cause, failed.llm) == ("refused", "contextTooLong", "model")
    for words in ("8,000", "500 more for the answer", "whenFull is fail"):
        assert words in failed.error
    assert gateway.calls() == made


async def test_what_no_shortening_helps_is_refused(gateway: GatewayRig) -> None:
    await equip(gateway, reader(), TRUNCATE)
    task = await gateway.task(messages=(SystemMessage(content="s"), UserMessage(content=long("u", 60_000))))
    await task.ask()
    failed = await task.failed()
    assert (failed.failure, failed.cause) == ("refused", "contextTooLong")
    assert "without its tool results" in failed.error
    assert gateway.calls() == 0


async def test_the_beginning_is_summarized_by_the_model_and_its_cost_is_recorded(gateway: GatewayRig) -> None:
    await equip(gateway, reader(SUMMARY, turns=2), SUMMARIZE)
    task = await gateway.task()
    turn = await played(task, long("a"), long("b"))
    await task.ask(turn)
    step = await task.compacted(turn)
    assert step.policy == "summarize"
    assert step.usage.input_tokens > 0
    assert step.messages[:2] == START
    said = step.messages[2]
    assert isinstance(said, UserMessage)
    assert "They hold letters." in str(said.content)
    assert step.tokens_after < step.tokens_before
    await task.ask(turn, 2)
    assert (await task.answered(turn, 2)).message.content == "done: newest"


async def test_a_summary_is_asked_for_without_tools_and_with_a_limit(
    gateway: GatewayRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = TooLong(monkeypatch, 10**9)
    await equip(gateway, reader(SUMMARY, turns=2), SUMMARIZE)
    task = await gateway.task()
    turn = await played(task, long("a"), long("b"))
    await task.ask(turn)
    await task.compacted(turn)
    asked = spy.sent[-1]
    assert asked.tools == ()
    assert asked.response_format is None
    assert asked.output_tokens_max == 1_000
    assert sum(len(str(message.content)) for message in asked.messages) < 24_000


async def test_a_summary_is_not_shown_to_those_who_watch_the_task(gateway: GatewayRig) -> None:
    heard: list[bytes] = []

    async def hear(signal: object) -> None:
        heard.append(getattr(signal, "data", b""))

    await equip(gateway, reader(SUMMARY, turns=2), SUMMARIZE)
    task = await gateway.task()
    await gateway.bus.signals.subscribe(task.subjects.live, hear)
    turn = await played(task, long("a"), long("b"))
    await task.ask(turn)
    await task.compacted(turn)
    assert not any(b"letters" in data for data in heard)


async def test_a_summary_is_held_to_the_tasks_budget_like_any_call(gateway: GatewayRig) -> None:
    await equip(gateway, reader(SUMMARY, turns=2), SUMMARIZE)
    task = await gateway.task()
    turn = await played(task, long("a"), long("b"))
    made = gateway.calls()
    budget = Budget(max_turns=20, max_tokens=500)
    await task.write(msgspec.structs.replace(task.awaiting(turn), budget=budget))
    await task.command(turn)
    failed = await task.failed(turn)
    assert (failed.failure, failed.cause) == ("refused", "maxTokens")
    assert gateway.calls() == made


async def test_a_summary_that_fails_for_now_is_a_failure_that_passes(gateway: GatewayRig) -> None:
    fail = ScriptedFailure(status=503, times=1)
    rule = ScriptedRule(user_contains="Summarize this beginning", reply=ScriptedReply(text="S.", fail=fail))
    await equip(gateway, reader(rule, turns=2), SUMMARIZE)
    task = await gateway.task()
    turn = await played(task, long("a"), long("b"))
    await task.ask(turn)
    failed = await task.failed(turn)
    assert (failed.failure, failed.status) == ("transient", 503)
    await task.ask(turn, 2)
    assert (await task.compacted(turn, 2)).policy == "summarize"


async def test_a_summary_that_is_refused_gives_way_to_shorter_results_and_is_booked(
    gateway: GatewayRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ScriptedModel.call

    async def call(model: ScriptedModel, request: ModelRequest, on_text: OnText) -> ModelReply:
        if not request.tools:
            used = Usage(input_tokens=1_000, output_tokens=10)
            raise CallFailed(Failure(error="filtered", transient=False, cause="contentFiltered", usage=used))
        return await asked(model, request, on_text)

    monkeypatch.setattr(ScriptedModel, "call", call)
    prices = Pricing(input=Decimal(2), output=Decimal(8))
    await equip(gateway, msgspec.structs.replace(reader(turns=2), pricing=prices), SUMMARIZE)
    task = await gateway.task()
    turn = await played(task, long("a"), long("b"))
    await task.ask(turn)
    step = await task.compacted(turn)
    assert step.policy == "truncateToolResults"
    assert (step.usage.input_tokens, step.usage.cost_usd) == (1_000, Decimal("0.002080"))


async def test_results_are_shortened_where_the_model_writes_no_summary(gateway: GatewayRig) -> None:
    empty = ScriptedRule(user_contains="Summarize this beginning", reply=ScriptedReply(text=" ", input_tokens=77))
    await equip(gateway, reader(empty, turns=2), SUMMARIZE)
    task = await gateway.task()
    turn = await played(task, long("a"), long("b"))
    await task.ask(turn)
    step = await task.compacted(turn)
    assert (step.policy, step.usage.input_tokens) == ("truncateToolResults", 77)


async def test_a_newest_result_that_is_too_long_by_itself_is_shortened_under_either_policy(gateway: GatewayRig) -> None:
    await equip(gateway, reader(SUMMARY, turns=2), SUMMARIZE)
    task = await gateway.task()
    turn = await played(task, "short", long("z", 60_000))
    await task.ask(turn)
    step = await task.compacted(turn)
    newest = step.messages[-2]
    assert isinstance(newest, ToolMessage)
    assert "characters are left out" in newest.content
    await task.ask(turn, 2)
    assert (await task.answered(turn, 2)).message.content == "done: newest"


async def test_a_conversation_is_made_shorter_again_when_it_has_grown_again(gateway: GatewayRig) -> None:
    await equip(gateway, reader(SUMMARY, turns=9), SUMMARIZE)
    task = await gateway.task()
    steps: list[WindowCompacted] = []
    for turn in range(1, 9):
        attempt = 1
        await task.ask(turn)
        while isinstance(await task.outcome(turn, attempt), WindowCompacted):
            steps.append(await task.compacted(turn, attempt))
            attempt += 1
            await task.ask(turn, attempt)
        answer = await task.answered(turn, attempt)
        first, second = answer.message.tool_calls
        await task.tool_result(f"r{turn}", 1, first.id, long("a", 8_000))
        await task.tool_result(f"r{turn}", 2, second.id, "short")
    assert len(steps) >= 2
    assert all(step.messages[:2] == START for step in steps)
    assert all(sum("summary" in str(m.content) for m in step.messages) == 1 for step in steps)
    assert all(step.tokens_after < 0.85 * 8_000 for step in steps)


async def test_the_response_format_outlives_a_shorter_conversation(gateway: GatewayRig) -> None:
    wanted = ResponseFormat(schema={"type": "string"})
    await equip(gateway, reader(turns=2), TRUNCATE)
    task = TaskRig(gateway.bus, "job")
    await task.begin(START, wanted)
    turn = await played(task, long("a"), long("b"))
    await task.ask(turn)
    assert (await task.compacted(turn)).response_format == wanted
    await task.ask(turn, 2)
    assert "not valid JSON" in (await task.answered(turn, 2)).invalid


async def test_a_fallback_for_this_failure_is_asked_instead(gateway: GatewayRig) -> None:
    fallback = Fallback(llm_ref=Ref(name="larger"), on=("contextTooLong",))
    await equip(gateway, reader(turns=2), TRUNCATE, fallback)
    await apply_llm(gateway.store, reader(context_tokens=100_000, turns=2), name="larger")
    await gateway.llm_status(name="larger", status="Ready")
    task = await gateway.task()
    turn = await played(task, long("a"), long("b"))
    await task.ask(turn)
    failed = await task.failed(turn)
    assert (failed.cause, failed.llm) == ("contextTooLong", "model")
    await task.write(task.awaiting(turn, 2, Tries(llm="larger")))
    await task.command(turn, 2, llm="larger")
    answer = await task.answered(turn, 2)
    assert answer.llm == "larger"


async def test_a_provider_that_counts_more_than_the_estimate_is_believed(gateway: GatewayRig) -> None:
    counting = ScriptedReply(calls=(CALL, CALL), input_tokens=6_700)
    spec = LLMSpec(
        provider="scripted",
        scripted=ScriptedOptions(transcript=(counting, ScriptedReply(text="done"))),
        parameters=LLMParameters(context_tokens=8_000, max_tokens=500),
    )
    await equip(gateway, spec, FAIL)
    messages: tuple[Message, ...] = (SystemMessage(content="s"), UserMessage(content=long("u", 9_000)))
    task = await gateway.task(messages=messages)
    turn = await played(task, "short")
    await task.ask(turn)
    assert (await task.failed(turn)).cause == "contextTooLong"


async def test_what_another_llm_counted_says_nothing(gateway: GatewayRig) -> None:
    counting = ScriptedReply(calls=(CALL, CALL), input_tokens=9_000)
    script = ScriptedOptions(transcript=(counting, ScriptedReply(text="done")))
    await equip(gateway, reader(turns=1), FAIL)
    await apply_llm(gateway.store, LLMSpec(provider="scripted", scripted=script), name="other")
    await gateway.llm_status(name="other", status="Ready")
    task = await gateway.task(messages=(SystemMessage(content="s"), UserMessage(content=long("u", 9_000))))
    await task.write(task.awaiting(1, 1, Tries(llm="other")))
    await task.command(1, 1, llm="other")
    assert (await task.answered(1)).llm == "other"
    await task.tool_result("r1", 1, "call_1_1", "short")
    await task.tool_result("r1", 2, "call_1_2", "short")
    await task.ask(2)
    assert (await task.answered(2)).llm == "model"


# --- after the provider said so ---------------------------------------------------------


async def test_what_the_provider_finds_too_long_is_made_much_shorter(
    gateway: GatewayRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    TooLong(monkeypatch, 20_000)
    await equip(gateway, reader(context_tokens=None, turns=2), TRUNCATE)
    task = await gateway.task()
    turn = await played(task, long("a"), long("b"))
    await task.ask(turn)
    step = await task.compacted(turn)
    assert "28" in step.reason
    assert "too long" in step.reason
    assert step.tokens_after <= 0.8 * step.tokens_before
    await task.ask(turn, 2)
    assert (await task.answered(turn, 2)).message.content == "done: newest"


async def test_a_provider_that_says_so_again_in_the_same_turn_is_a_failure(
    gateway: GatewayRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    TooLong(monkeypatch, 20_000)
    await equip(gateway, reader(context_tokens=None, turns=2), TRUNCATE)
    task = await gateway.task()
    turn = await played(task, long("a"), long("b"))
    await task.write(task.awaiting(turn, 2, Tries(compactions=1)))
    await task.command(turn, 2)
    failed = await task.failed(turn, 2)
    assert (failed.failure, failed.cause, failed.status) == ("refused", "contextTooLong", 400)


async def test_a_policy_that_fails_keeps_the_words_of_the_provider(
    gateway: GatewayRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    TooLong(monkeypatch, 20_000)
    await equip(gateway, reader(context_tokens=None, turns=2), FAIL)
    task = await gateway.task()
    turn = await played(task, long("a"), long("b"))
    await task.ask(turn)
    failed = await task.failed(turn)
    assert (failed.cause, failed.status) == ("contextTooLong", 400)
    assert "characters are too long" in failed.error


async def test_a_summary_that_is_too_long_itself_gives_way_to_shorter_results(
    gateway: GatewayRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.llm_gateway.compactor.SUMMARIZE", "x" * 30_000)
    TooLong(monkeypatch, 20_000)
    await equip(gateway, reader(context_tokens=None, turns=2), SUMMARIZE)
    task = await gateway.task()
    turn = await played(task, long("a"), long("b"))
    await task.ask(turn)
    assert (await task.compacted(turn)).policy == "truncateToolResults"


# --- once, whoever comes ----------------------------------------------------------------


async def test_a_step_that_was_recorded_is_not_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica records the step and dies before it says that it is done; the planner has not moved yet."""
    server = MemoryServer(ack_wait_s=0.3)
    faults = Faults()
    spy = TooLong(monkeypatch, 10**9)
    async with running_gateway(MemoryBus(server, pause=faults)) as first:
        await equip(first, reader(SUMMARY, turns=2), SUMMARIZE)
        task = TaskRig(MemoryBus(server), "job")
        await task.begin()
        turn = await played(task, long("a"), long("b"))
        faults.once.add("delivery.ack")
        await task.ask(turn)
        recorded = await task.entry(turn)
        asked = len(spy.sent)
        first.fall_silent()
        async with running_gateway(MemoryBus(server)) as second:
            await until(lambda: second.settled("done") + first.settled("done") >= turn)
            assert len(spy.sent) == asked
            assert await task.entry(turn) == recorded


async def test_two_replicas_that_shorten_at_once_record_one_step() -> None:
    """The second delivery is made while the first is under way; whoever is later finds the step recorded."""
    server = MemoryServer(ack_wait_s=0.2)
    slow = ScriptedRule(
        user_contains="Summarize this beginning", reply=ScriptedReply(text="They hold letters.", delay_s=0.6)
    )
    async with running_gateway(MemoryBus(server)) as first:
        await equip(first, reader(slow, turns=2), SUMMARIZE)
        task = TaskRig(MemoryBus(server), "job")
        await task.begin()
        turn = await played(task, long("a"), long("b"))
        await task.ask(turn)
        await until(lambda: first.consumer.in_hand == 1)
        first.fall_silent()
        async with running_gateway(MemoryBus(server)) as second:
            await second.llm_status(status="Ready")
            await until(lambda: second.settled("done") >= 1)
            step = await task.compacted(turn)
            await task.ask(turn, 2)
            assert (await task.answered(turn, 2)).message.content == "done: newest"
            assert step.replaced > 0


async def test_another_replica_goes_on_with_the_shorter_conversation() -> None:
    server = MemoryServer()
    async with running_gateway(MemoryBus(server)) as first:
        await equip(first, reader(turns=2), TRUNCATE)
        task = TaskRig(MemoryBus(server), "job")
        await task.begin()
        turn = await played(task, long("a"), long("b"))
        await task.ask(turn)
        await task.compacted(turn)
    async with running_gateway(MemoryBus(server)) as second:
        await second.llm_status(status="Ready")
        await task.ask(turn, 2)
        assert (await task.answered(turn, 2)).message.content == "done: newest"
