"""Planner and gateway together: what limits and budgets do to tasks, from their submission to their end."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from schemas.resources import (
    LLM,
    Agent,
    AgentSpec,
    Fallback,
    LLMLimits,
    LLMParameters,
    LLMSpec,
    Metadata,
    Pricing,
    Quota,
    QuotaSpec,
    Ref,
    ScriptedOptions,
    ScriptedReply,
)
from schemas.task import Failed, FinalAnswer, RetryingModel
from services.llm_gateway.main import build as build_gateway
from services.planner.main import build as build_planner
from services.runtime.replica import Build, Replica
from tests.support.stage import Stage, on_stage

BOTH: dict[str, Build] = {"planner": build_planner, "llm-gateway": build_gateway}
ANSWER = ScriptedReply(text="noon", input_tokens=60, output_tokens=40)
SLOW = ScriptedReply(text="noon", delay_s=0.05)


async def helper(stage: Stage, reply: ScriptedReply = ANSWER, *, fallbacks: tuple[str, ...] = (), **spec: Any) -> None:
    """An agent whose LLM has limits; its fallbacks have none."""
    for name in ("model", *fallbacks):
        llm = LLMSpec(
            provider="scripted",
            parameters=LLMParameters(model=name, max_tokens=100),
            scripted=ScriptedOptions(transcript=(reply,)),
            **(spec if name == "model" else {}),
        )
        await stage.apply(LLM(metadata=Metadata(name=name), spec=llm))
    agent = AgentSpec(
        llm_ref=Ref(name="model"),
        system="Be brief.",
        fallbacks=tuple(Fallback(llm_ref=Ref(name=name)) for name in fallbacks),
    )
    await stage.apply(Agent(metadata=Metadata(name="helper"), spec=agent))


def waits(replica: Replica, reason: str) -> float:
    value = replica.metrics.registry.get_sample_value("holdfast_model_waits_total", {"reason": reason})
    return value or 0.0


async def test_tasks_that_find_no_room_park_and_each_is_answered() -> None:
    async with on_stage(BOTH) as (stage, replica):
        await helper(stage, SLOW, limits=LLMLimits(concurrency=1))
        tasks = [await stage.submit(name=f"job-{n}") for n in range(5)]
        for task in tasks:
            state = await stage.until_state(task, FinalAnswer, wait_s=20)
            assert state.spend.model_calls == 1
        assert waits(replica, "concurrency") + waits(replica, "line") >= 4


async def test_a_task_that_waits_says_for_what_and_is_in_nobodys_hands() -> None:
    async with on_stage(BOTH) as (stage, _):
        await helper(stage, limits=LLMLimits(requests_per_minute=1))
        await stage.until_state(await stage.submit(name="first"), FinalAnswer)
        parked = await stage.until_state(await stage.submit(name="second"), RetryingModel)
        assert parked.throttled
        assert "requestsPerMinute leaves no room" in parked.error
        assert (parked.tries.parks, parked.tries.failures) == (1, 0)
        assert (parked.not_before - parked.updated_at).total_seconds() > 30


async def test_a_fallback_is_asked_instead_of_waiting() -> None:
    async with on_stage(BOTH) as (stage, _):
        await helper(stage, fallbacks=("spare",), limits=LLMLimits(requests_per_minute=1))
        await stage.until_state(await stage.submit(name="first"), FinalAnswer)
        state = await stage.until_state(await stage.submit(name="second"), FinalAnswer)
        assert list(state.spend.by_llm) == ["spare"]


async def test_a_task_beyond_its_tokens_fails_before_the_call() -> None:
    async with on_stage(BOTH) as (stage, _):
        await helper(stage)
        state = await stage.until_state(await stage.submit(limits={"maxTokens": 5}), Failed)
        assert (state.reason, state.spend.model_calls) == ("MaxTokensReached", 1)
        assert state.spend.input_tokens == 0
        assert "of 5 tokens (maxTokens)" in state.error


async def test_a_task_beyond_its_money_fails_before_the_call() -> None:
    async with on_stage(BOTH) as (stage, _):
        await helper(stage, pricing=Pricing(input=Decimal(1000), output=Decimal(1000)))
        state = await stage.until_state(await stage.submit(limits={"maxCost": "0.001"}), Failed)
        assert (state.reason, state.spend.cost_usd) == ("MaxCostReached", Decimal(0))


async def test_a_task_of_a_namespace_whose_day_is_spent_fails_and_says_so() -> None:
    async with on_stage(BOTH) as (stage, _):
        await stage.apply(Quota(metadata=Metadata(name="default"), spec=QuotaSpec(max_tokens_per_day=10)))
        await helper(stage)
        state = await stage.until_state(await stage.submit(), Failed)
        assert state.reason == "QuotaReached"
        assert "maxTokensPerDay" in state.error


async def test_a_day_that_is_spent_lets_tasks_wait_where_the_quota_says_so() -> None:
    async with on_stage(BOTH) as (stage, _):
        spec = QuotaSpec(max_tokens_per_day=250, when_spent="wait")
        await stage.apply(Quota(metadata=Metadata(name="default"), spec=spec))
        await helper(stage)
        answered = waiting = 0
        for n in range(4):
            task = await stage.submit(name=f"job-{n}")
            while True:
                state = await stage.state(task)
                if isinstance(state, FinalAnswer):
                    answered += 1
                    break
                if isinstance(state, RetryingModel) and "next day" in state.error:
                    waiting += 1
                    break
                assert not isinstance(state, Failed), state
                await stage.bus.clock.sleep(0.01)
        assert (answered, waiting) == (2, 2)
