"""Flow control in a running gateway: what a task is told, what is on the bus, and what becomes of reservations."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from decimal import Decimal
from typing import Any

import msgspec

from schemas.events import ModelFailed
from schemas.flow import NamespaceFlow, PoolFlow
from schemas.requests import FailureCause
from schemas.resources import (
    LLMLimits,
    LLMParameters,
    LLMSpec,
    Metadata,
    Pricing,
    Quota,
    QuotaSpec,
    ScriptedFailure,
    ScriptedOptions,
    ScriptedReply,
)
from schemas.task import Budget, Spend, Tries
from schemas.wire import decode
from services.runtime.memory.bus import MemoryBus
from services.runtime.memory.server import MemoryServer
from tests.support.gateway import (
    NAMESPACE,
    Faults,
    GatewayRig,
    TaskRig,
    apply_agent,
    apply_llm,
    put,
    running_gateway,
)
from tests.support.waiting import until

ONE_A_MINUTE = LLMLimits(requests_per_minute=1)
PRICING = Pricing(input=Decimal(1000), output=Decimal(1000))
ANSWER = ScriptedReply(text="noon", input_tokens=30, output_tokens=20)


@asynccontextmanager
async def gateway(
    limits: LLMLimits | None = None,
    *,
    quota: QuotaSpec | None = None,
    reply: ScriptedReply = ANSWER,
    server: MemoryServer | None = None,
    faults: Faults | None = None,
    **spec: Any,
) -> AsyncGenerator[GatewayRig]:
    bus = MemoryBus(server, pause=faults) if faults else MemoryBus(server)
    async with running_gateway(bus) as rig:
        if quota is not None:
            await put(rig.store, Quota(metadata=Metadata(name="default", namespace=NAMESPACE), spec=quota))
        llm = LLMSpec(
            provider="scripted",
            parameters=LLMParameters(model="shared", max_tokens=100),
            scripted=ScriptedOptions(transcript=(reply,)),
            limits=limits or LLMLimits(),
            **spec,
        )
        await apply_llm(rig.store, llm)
        await apply_agent(rig.store)
        await rig.llm_status(status="Ready")
        yield rig


async def asked(rig: GatewayRig, name: str, **state: Any) -> TaskRig:
    """A task whose first call has been asked for."""
    task = await rig.task(name)
    await task.write(msgspec.structs.replace(task.awaiting(), **state))
    await task.command()
    return task


def flow_messages(rig: GatewayRig) -> int:
    assert isinstance(rig.bus, MemoryBus)
    return rig.bus.server.flow.last_seq


async def pools(rig: GatewayRig) -> list[PoolFlow]:
    assert isinstance(rig.bus, MemoryBus)
    return [decode(entry.data, PoolFlow) for entry in rig.bus.server.flow.entries() if ".pool." in entry.subject]


async def namespace_flow(rig: GatewayRig) -> NamespaceFlow:
    entry = await rig.bus.flow.get(f"namespace.{NAMESPACE}")
    assert entry is not None
    assert entry.data is not None
    return decode(entry.data, NamespaceFlow)


def counted(rig: GatewayRig, metric: str, **labels: str) -> float:
    return rig.runtime.metrics.registry.get_sample_value(metric, labels) or 0.0


async def refused(rig: GatewayRig, task: TaskRig, cause: FailureCause) -> ModelFailed:
    failed = await task.failed()
    assert (failed.failure, failed.cause, rig.calls()) == ("refused", cause, 0), failed
    return failed


# --- limits -----------------------------------------------------------------------------


async def test_without_limits_nothing_is_said_on_the_bus() -> None:
    async with gateway(quota=QuotaSpec(weight=3)) as rig:
        await (await asked(rig, "job")).answered()
        assert flow_messages(rig) == 0


async def test_a_call_without_room_is_not_made_and_its_task_is_told_when_to_come_again() -> None:
    async with gateway(ONE_A_MINUTE) as rig:
        await (await asked(rig, "first")).answered()
        failed = await (await asked(rig, "second")).failed()
        assert (failed.failure, failed.cause, failed.llm) == ("throttled", "rateLimited", "model")
        assert failed.retry_after_s is not None
        assert 0 < failed.retry_after_s <= 62
        assert "requestsPerMinute" in failed.error
        assert rig.calls() == 1
        assert counted(rig, "holdfast_model_waits_total", reason="requests") == 1


async def test_a_call_that_has_waited_is_made_and_its_wait_is_counted() -> None:
    async with gateway(LLMLimits(requests_per_minute=60)) as rig:
        since = rig.bus.clock.now() - timedelta(seconds=9)
        await (await asked(rig, "job", tries=Tries(parks=1, parked_since=since))).answered()
        assert counted(rig, "holdfast_model_parked_seconds_count") == 1
        assert counted(rig, "holdfast_model_parked_seconds_sum") >= 9


async def test_two_replicas_share_the_limits() -> None:
    server = MemoryServer()
    async with gateway(ONE_A_MINUTE, server=server) as one, running_gateway(MemoryBus(server)) as other:
        tasks = [await asked(one, f"job-{n}") for n in range(6)]
        outcomes = [await task.outcome() for task in tasks]
        assert one.calls() + other.calls() == 1
        assert sum(isinstance(outcome, ModelFailed) for outcome in outcomes) == 5


async def test_what_a_call_used_is_settled_afterwards() -> None:
    async with gateway(LLMLimits(tokens_per_minute=100_000), quota=QuotaSpec(max_tokens_per_day=10_000)) as rig:
        await (await asked(rig, "job")).answered()

        async def settled() -> bool:
            (pool,) = await pools(rig)
            return not pool.under_way and not (await namespace_flow(rig)).under_way

        await until(settled, "the call is settled")
        (pool,) = await pools(rig)
        assert list(pool.seconds.values()) == [(1, 50)]
        assert (pool.learned.calls, pool.learned.output_tokens) == (1, 20)
        assert (await namespace_flow(rig)).tokens == 50


async def test_an_attempt_that_follows_at_once_does_not_spoil_the_count_of_the_one_before() -> None:
    async with gateway(LLMLimits(tokens_per_minute=100_000), quota=QuotaSpec(max_tokens_per_day=10_000)) as rig:
        task = await asked(rig, "job")
        await task.answered()
        await task.ask(1, 2)
        await task.answered(1, 2)

        async def settled() -> bool:
            return (await namespace_flow(rig)).tokens == 100 and not (await pools(rig))[0].under_way

        await until(settled, "both are settled")
        assert sum(tokens for _, tokens in (await pools(rig))[0].seconds.values()) == 100


async def test_a_call_that_the_provider_refused_costs_a_request_and_no_tokens() -> None:
    reply = ScriptedReply(fail=ScriptedFailure(status=400, times=9))
    async with gateway(LLMLimits(tokens_per_minute=100_000), reply=reply) as rig:
        await (await asked(rig, "job")).failed()

        async def settled() -> bool:
            return not (await pools(rig))[0].under_way

        await until(settled, "the call is settled")
        assert list((await pools(rig))[0].seconds.values()) == [(1, 0)]


async def test_a_provider_that_limits_our_rate_holds_back_the_others_too() -> None:
    reply = ScriptedReply(fail=ScriptedFailure(status=429, times=9, retry_after_s=40))
    async with gateway(LLMLimits(requests_per_minute=100), reply=reply) as rig:
        assert (await (await asked(rig, "first")).failed()).failure == "transient"

        async def held() -> bool:
            return (await pools(rig))[0].held_until is not None

        await until(held, "the pool is held back")
        failed = await (await asked(rig, "second")).failed()
        assert failed.failure == "throttled"
        assert failed.retry_after_s is not None
        assert 35 < failed.retry_after_s <= 40
        assert "the provider has asked to wait" in failed.error


async def test_a_call_that_can_never_fit_is_refused_and_the_numbers_are_said() -> None:
    async with gateway(LLMLimits(tokens_per_minute=5)) as rig:
        failed = await refused(rig, await asked(rig, "job"), "rateLimited")
        assert "allows 5 a minute (limits.tokensPerMinute)" in failed.error
        assert counted(rig, "holdfast_model_limit_refusals_total", reason="tooLarge") == 1


async def test_a_call_is_not_made_while_the_limits_cannot_be_written_and_no_task_fails_of_it() -> None:
    faults = Faults()
    async with gateway(ONE_A_MINUTE, faults=faults) as rig:
        faults.always.add("store.put")
        task = await asked(rig, "job")
        await until(lambda: faults.seen["store.put"] > 2, "it has been tried again")
        assert rig.calls() == 0
        faults.always.clear()
        await task.answered()


async def test_llms_with_one_key_model_and_address_share_a_pool_and_the_key_is_not_in_its_name() -> None:
    async with gateway(LLMLimits(requests_per_minute=100)) as rig:
        await apply_llm(
            rig.store,
            LLMSpec(
                provider="scripted",
                parameters=LLMParameters(model="shared"),
                scripted=ScriptedOptions(transcript=(ANSWER,)),
                limits=LLMLimits(requests_per_minute=50),
            ),
            name="same",
        )
        await rig.llm_status(name="same", status="Ready")
        await apply_agent(rig.store, name="helper", llm="model")
        await (await asked(rig, "one")).answered()
        await apply_agent(rig.store, name="helper", llm="same")
        await until(
            lambda: "same" in str(rig.runtime.resources.known("Agent", NAMESPACE, "helper")), "the agent has changed"
        )
        await (await asked(rig, "two")).answered()
        assert len(await pools(rig)) == 1


# --- budgets ----------------------------------------------------------------------------


async def test_a_call_beyond_its_tasks_tokens_is_refused_before_it_is_made() -> None:
    async with gateway() as rig:
        budget, spend = Budget(max_turns=20, max_tokens=100), Spend(input_tokens=60, output_tokens=39)
        failed = await refused(rig, await asked(rig, "job", budget=budget, spend=spend), "maxTokens")
        assert "used 99 of 100 tokens" in failed.error
        assert counted(rig, "holdfast_model_limit_refusals_total", reason="maxTokens") == 1


async def test_a_call_beyond_its_tasks_money_is_refused_before_it_is_made() -> None:
    async with gateway(pricing=PRICING) as rig:
        budget = Budget(max_turns=20, max_cost_usd=Decimal("0.001"))
        await refused(rig, await asked(rig, "job", budget=budget), "maxCost")


async def test_a_day_that_is_spent_ends_a_task_or_lets_it_wait_for_midnight() -> None:
    async with gateway(quota=QuotaSpec(max_tokens_per_day=150)) as rig:
        await (await asked(rig, "first")).answered()

        async def settled() -> bool:
            return (await namespace_flow(rig)).tokens == 50

        await until(settled, "the call is settled")
        failed = await (await asked(rig, "second")).failed()
        assert (failed.failure, failed.cause) == ("refused", "namespaceQuota")
        assert "50 of 150 tokens" in failed.error
        waiting = Quota(
            metadata=Metadata(name="default", namespace=NAMESPACE),
            spec=QuotaSpec(max_tokens_per_day=150, when_spent="wait"),
        )
        await put(rig.store, waiting)
        await until(lambda: rig.runtime.resources.get(Quota, NAMESPACE, "default") == waiting, "the quota has changed")
        failed = await (await asked(rig, "third")).failed()
        assert (failed.failure, failed.cause) == ("throttled", "namespaceQuota")
        assert failed.retry_after_s is not None
        assert failed.retry_after_s <= 24 * 3600


async def test_a_call_that_one_limit_turns_away_leaves_nothing_in_the_other() -> None:
    async with gateway(ONE_A_MINUTE, quota=QuotaSpec(max_tokens_per_day=10_000)) as rig:
        await (await asked(rig, "first")).answered()
        await (await asked(rig, "second")).failed()

        async def settled() -> bool:
            flow = await namespace_flow(rig)
            return not flow.under_way and flow.tokens == 50

        await until(settled, "nothing is reserved")
