"""Planner and gateway together over the memory bus: fallbacks, structured output and long conversations, end to end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from schemas.events import ModelFailed, ToolFinished, WindowCompacted
from schemas.requests import FailureCause, ResponseFormat
from schemas.resources import (
    LLM,
    Agent,
    AgentSpec,
    ContextPolicy,
    Fallback,
    LLMParameters,
    LLMSpec,
    MCPServer,
    MCPServerSpec,
    Metadata,
    Ref,
    ResourceStatus,
    ScriptedCall,
    ScriptedFailure,
    ScriptedOptions,
    ScriptedReply,
    ScriptedRule,
    ServerRef,
    ToolInfo,
)
from schemas.subjects import TaskSubjects, status_key
from schemas.task import AwaitingModel, AwaitingTools, Failed, FinalAnswer, State, Waiting
from schemas.wire import decode, encode
from services.llm_gateway.main import build as build_gateway
from services.planner.main import build as build_planner
from services.runtime.memory.server import MemoryServer
from services.runtime.ports import Outgoing
from services.runtime.replica import Build
from tests.support.stage import NAMESPACE, Stage, on_stage, until

BOTH: dict[str, Build] = {"planner": build_planner, "llm-gateway": build_gateway}
WEATHER = ResponseFormat(
    name="weather",
    schema={"type": "object", "properties": {"degrees": {"type": "number"}}, "required": ["degrees"]},
)
ALWAYS = 99
"""Attempts that fail."""


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.llm_gateway.agents.SETTLE_S", 0.1)
    monkeypatch.setattr("services.planner.core.policy.BACKOFF_BASE_S", 0.05)


def model(name: str, *replies: ScriptedReply, rules: Sequence[ScriptedRule] = (), **parameters: Any) -> LLM:
    script = ScriptedOptions(transcript=replies, rules=tuple(rules))
    spec = LLMSpec(provider="scripted", scripted=script, parameters=LLMParameters(**parameters))
    return LLM(metadata=Metadata(name=name), spec=spec)


def failing(name: str, status: int, message: str = "no", *, times: int = ALWAYS) -> LLM:
    failure = ScriptedFailure(status=status, message=message, times=times)
    return model(name, ScriptedReply(text=f"by {name}", fail=failure))


def saying(name: str) -> LLM:
    return model(name, ScriptedReply(text=f"by {name}"))


def unusable(name: str) -> LLM:
    return LLM(metadata=Metadata(name=name), spec=LLMSpec(provider="openai"))


def fallback(name: str, *causes: FailureCause) -> Fallback:
    return Fallback(llm_ref=Ref(name=name), on=causes) if causes else Fallback(llm_ref=Ref(name=name))


async def with_files(stage: Stage) -> None:
    """A server of tools, as the tool-executor found it."""
    server = MCPServer(metadata=Metadata(name="files"), spec=MCPServerSpec(transport="stdio", command="true"))
    status = ResourceStatus(
        ready=True,
        status="Ready",
        status_detail="",
        observed_revision=await stage.apply(server),
        at=stage.bus.clock.now(),
        tools=(ToolInfo(name="read"),),
    )
    await stage.bus.resources.put(status_key("MCPServer", NAMESPACE, "files"), encode(status))


async def helper(stage: Stage, *llms: LLM, tools: bool = False, **fields: Any) -> None:
    """An agent whose own LLM is the first of these."""
    for llm in llms:
        await stage.apply(llm)
    servers = (ServerRef(name="files"),) if tools else ()
    if tools:
        await with_files(stage)
    spec = AgentSpec(llm_ref=Ref(name=llms[0].metadata.name), system="Be brief.", mcp_servers=servers, **fields)
    await stage.apply(Agent(metadata=Metadata(name="helper"), spec=spec))


async def answer_of(stage: Stage, task: TaskSubjects) -> str:
    state = await stage.until_state(task, FinalAnswer)
    (entry,) = await stage.bus.log(task.partition).read(state.window[-1:])
    content: str = fields_of(entry.data)["message"]["content"]
    return content


async def finished(stage: Stage, task: TaskSubjects, turn: int, content: str) -> None:
    """Finish the call of a turn as the tool-executor would."""
    await stage.stored(task, task.tool_command(f"r{turn}", 1))
    event = ToolFinished(
        request=f"r{turn}",
        n=1,
        tool_call_id=f"call_{turn}_1",
        tool="files__read",
        outcome="succeeded",
        content=content,
        at=stage.bus.clock.now(),
    )
    await stage.bus.log(task.partition).record(Outgoing(task.tool_event(f"r{turn}", 1), encode(event)))


def fields_of(data: bytes) -> dict[str, Any]:
    value: dict[str, Any] = msgspec.json.decode(data)
    return value


async def spent_on(stage: Stage, task: TaskSubjects) -> list[str]:
    state: State | None = await stage.state(task)
    assert state is not None
    return sorted(state.spend.by_llm)


# --- fallbacks --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "message", "cause"),
    [
        (503, "overloaded", "overloaded"),
        (429, "slow down", "rateLimited"),
        (429, "insufficient quota", "quotaExhausted"),
    ],
)
async def test_a_fallback_answers_what_the_agents_own_model_cannot(status: int, message: str, cause: str) -> None:
    async with on_stage(BOTH) as (stage, _):
        await helper(stage, failing("own", status, message), saying("other"), fallbacks=(fallback("other"),))
        task = await stage.submit()
        assert await answer_of(stage, task) == "by other"
        assert await spent_on(stage, task) == ["other", "own"]
        failed = decode(await stage.stored(task, task.model_event(1, 1)), ModelFailed)
        assert (failed.llm, failed.cause) == ("own", cause)
        assert fields_of(await stage.stored(task, task.model_event(1, 2)))["llm"] == "other"


async def test_a_failure_that_no_fallback_names_is_not_handed_on() -> None:
    async with on_stage(BOTH) as (stage, _):
        await helper(stage, failing("own", 401), saying("other"), fallbacks=(fallback("other"),))
        task = await stage.submit()
        assert (await stage.until_state(task, Failed)).reason == "LLMRequestFailed4xx"


async def test_the_next_turn_asks_the_agents_own_model_first() -> None:
    async with on_stage(BOTH) as (stage, _):
        calls = ScriptedReply(calls=(ScriptedCall(tool="files__read"),), fail=ScriptedFailure(status=503, times=1))
        own = model("own", calls, ScriptedReply(text="by own"))
        other = model("other", ScriptedReply(calls=(ScriptedCall(tool="files__read"),)))
        await helper(stage, own, other, tools=True, fallbacks=(fallback("other"),))
        task = await stage.submit()
        await stage.until_state(task, AwaitingTools)
        await finished(stage, task, 1, "ok")
        assert await answer_of(stage, task) == "by own"
        assert fields_of(await stage.stored(task, task.model_event(1, 2)))["llm"] == "other"
        assert fields_of(await stage.stored(task, task.model_event(2, 1)))["llm"] == "own"


async def test_after_the_last_fallback_the_task_waits_and_begins_with_its_own_model_again() -> None:
    async with on_stage(BOTH) as (stage, _):
        await helper(
            stage,
            failing("own", 503, times=1),
            failing("second", 503),
            failing("third", 429),
            fallbacks=(fallback("second"), fallback("third")),
        )
        task = await stage.submit()
        assert await answer_of(stage, task) == "by own"
        named = [fields_of(await stage.stored(task, task.model_event(1, attempt)))["llm"] for attempt in (1, 2, 3, 4)]
        assert named == ["own", "second", "third", "own"]


async def test_an_agent_whose_own_model_is_not_ready_works_by_a_fallback_for_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("services.llm_gateway.agents.SETTLE_S", 600.0)
    async with on_stage(BOTH) as (stage, _):
        await helper(stage, unusable("own"), saying("other"), fallbacks=(fallback("other", "notReady"),))
        task = await stage.submit()
        assert await answer_of(stage, task) == "by other"
        failed = decode(await stage.stored(task, task.model_event(1, 1)), ModelFailed)
        assert (failed.failure, failed.cause, failed.llm) == ("transient", "notReady", "own")


async def test_an_agent_without_a_fallback_for_that_waits() -> None:
    async with on_stage(BOTH) as (stage, _):
        await helper(stage, unusable("own"), saying("other"), fallbacks=(fallback("other"),))
        task = await stage.submit()

        async def says_why() -> bool:
            state = await stage.state(task)
            return isinstance(state, Waiting) and 'LLM "own" is not ready' in state.reason

        await until(says_why, "the task waits for its LLM")


# --- structured output ------------------------------------------------------------------


async def test_an_answer_that_does_not_fit_is_mended_once() -> None:
    async with on_stage(BOTH) as (stage, _):
        mended = ScriptedRule(user_contains="not fit the required format", reply=ScriptedReply(text='{"degrees": 21}'))
        await helper(stage, model("own", ScriptedReply(text="warm"), rules=[mended]), response_format=WEATHER)
        task = await stage.submit()
        assert await answer_of(stage, task) == '{"degrees": 21}'
        assert "not valid JSON" in fields_of(await stage.stored(task, task.model_event(1, 1)))["invalid"]


async def test_an_answer_that_never_fits_fails_the_task_and_says_why() -> None:
    async with on_stage(BOTH) as (stage, _):
        await helper(stage, model("own", ScriptedReply(text="warm")), response_format=WEATHER)
        task = await stage.submit()
        failed = await stage.until_state(task, Failed)
        assert failed.reason == "InvalidResponse"
        assert "not valid JSON" in failed.error
        assert failed.spend.model_calls == 2


async def test_a_tasks_own_format_comes_before_its_agents() -> None:
    async with on_stage(BOTH) as (stage, _):
        await helper(stage, model("own", ScriptedReply(text='"warm"')), response_format=WEATHER)
        task = await stage.submit(responseFormat={"schema": {"type": "string"}})
        assert await answer_of(stage, task) == '"warm"'


# --- long conversations -----------------------------------------------------------------


async def reading(stage: Stage, policy: ContextPolicy, **parameters: Any) -> None:
    calls = ScriptedReply(calls=(ScriptedCall(tool="files__read"),))
    summary = ScriptedRule(user_contains="Summarize this beginning", reply=ScriptedReply(text="It was long."))
    own = model("own", calls, calls, ScriptedReply(text="done"), rules=[summary], **parameters)
    await helper(stage, own, tools=True, context=policy)


@pytest.mark.parametrize("policy", ["truncateToolResults", "summarize"])
async def test_a_task_outgrows_its_models_context_and_goes_on(policy: Any) -> None:
    async with on_stage(BOTH) as (stage, _):
        await reading(stage, ContextPolicy(when_full=policy), context_tokens=4_000, max_tokens=200)
        task = await stage.submit()
        for turn in (1, 2):
            await finished(stage, task, turn, "r" * 9_000)
        assert await answer_of(stage, task) == "done"
        step = decode(await stage.stored(task, task.model_event(3, 1)), WindowCompacted)
        assert step.policy == policy
        state = await stage.until_state(task, FinalAnswer)
        assert len(state.window) < 6
        summaries = 1 if policy == "summarize" else 0
        assert state.spend.model_calls == 3 + summaries


async def test_a_task_that_outgrows_it_under_a_policy_that_fails_says_so() -> None:
    async with on_stage(BOTH) as (stage, _):
        await reading(stage, ContextPolicy(when_full="fail"), context_tokens=4_000, max_tokens=200)
        task = await stage.submit()
        await finished(stage, task, 1, "r" * 30_000)
        failed = await stage.until_state(task, Failed)
        assert failed.reason == "ContextTooLong"
        assert "4,000" in failed.error


async def test_a_provider_that_finds_it_too_long_is_asked_once_more_with_less() -> None:
    async with on_stage(BOTH) as (stage, _):
        refusal = ScriptedFailure(status=400, message="maximum context length exceeded", times=1)
        calls = ScriptedReply(calls=(ScriptedCall(tool="files__read"),))
        own = model("own", calls, ScriptedReply(text="done", fail=refusal))
        await helper(stage, own, tools=True)
        task = await stage.submit()
        await finished(stage, task, 1, "r" * 30_000)
        assert await answer_of(stage, task) == "done"
        step = decode(await stage.stored(task, task.model_event(2, 1)), WindowCompacted)
        assert "maximum context length" in step.reason


async def test_a_provider_that_finds_it_too_long_for_ever_fails_the_task() -> None:
    async with on_stage(BOTH) as (stage, _):
        refusal = ScriptedFailure(status=400, message="maximum context length exceeded", times=ALWAYS)
        calls = ScriptedReply(calls=(ScriptedCall(tool="files__read"),))
        await helper(stage, model("own", calls, ScriptedReply(text="done", fail=refusal)), tools=True)
        task = await stage.submit()
        await finished(stage, task, 1, "r" * 30_000)
        failed = await stage.until_state(task, Failed)
        assert failed.reason == "ContextTooLong"
        assert decode(await stage.stored(task, task.model_event(2, 2)), ModelFailed).cause == "contextTooLong"


async def test_a_step_that_was_recorded_while_the_planner_was_away_is_taken_up_later() -> None:
    server = MemoryServer()
    only_planner: dict[str, Build] = {"planner": build_planner}
    only_gateway: dict[str, Build] = {"llm-gateway": build_gateway}
    async with on_stage(BOTH, server=server) as (stage, _):
        await reading(stage, ContextPolicy(when_full="summarize"), context_tokens=4_000, max_tokens=200)
        task = await stage.submit()
        await finished(stage, task, 1, "r" * 9_000)
        await stage.stored(task, task.tool_command("r2", 1))
    async with on_stage(only_planner, server=server) as (stage, _):
        await finished(stage, task, 2, "r" * 9_000)
        await stage.stored(task, task.model_command(3, 1))
    async with on_stage(only_gateway, server=server) as (stage, _):
        recorded = await stage.stored(task, task.model_event(3, 1))
        assert isinstance(await stage.state(task), AwaitingModel)
    async with on_stage(BOTH, server=server) as (stage, _):
        assert await answer_of(stage, task) == "done"
        assert await stage.stored(task, task.model_event(3, 1)) == recorded
        state = await stage.until_state(task, FinalAnswer)
        assert state.spend.model_calls == 4
