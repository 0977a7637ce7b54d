"""What `describe` and `get --whole` tell of model calls, limits, images and results that were shortened."""

from __future__ import annotations

import io
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from schemas import subjects
from schemas.events import MessageSent, ModelAnswered, ModelFailed, ToolFinished, ToolOutput, WindowCompacted
from schemas.flow import Line, NamespaceFlow, PoolFlow, Reservation, Share
from schemas.messages import AssistantMessage, ImagePart, TextPart, Usage, UserMessage
from schemas.resources import LLM, LLMLimits, LLMSpec, Metadata, Quota, QuotaSpec, ResourceStatus
from schemas.subjects import flow_namespace
from schemas.task import LLMSpend, RetryingModel, Spend, State, Tries
from schemas.wire import encode
from services.cli.client import Client
from services.cli.describe import describe
from services.cli.events import event_lines
from services.cli.exits import ExitCode, Stop
from services.cli.history import history
from services.cli.kinds import kind_named
from services.cli.listing import find, whole_output
from services.cli.narrator import LiveNarrator, said
from services.runtime.memory.bus import MemoryBus
from tests.support.cli import AT, BUDGET, CLOCK, Script, finished_task

PIXEL = ImagePart(media_type="image/png", data="iVBORw0KGgo=")
NOW = AT + timedelta(minutes=10)


async def described(bus: MemoryBus, kind: str, name: str) -> str:
    return await describe(Client(bus), kind_named(kind), "default", name, NOW)


async def long_task(bus: MemoryBus) -> Script:
    """A task whose first LLM failed, whose conversation was made shorter, and whose answer had to be mended."""
    script = Script(bus)
    await script.submit()
    await script.call_model(1)
    failed = ModelFailed(turn=1, attempt=1, failure="transient", error="429", at=AT, llm="main", cause="rateLimited")
    await script.record(script.task.model_event(1, 1), failed)
    compacted = WindowCompacted(
        turn=1,
        attempt=2,
        policy="summarize",
        replaced=1,
        messages=(UserMessage(content=(TextPart(text="So far: nothing."), PIXEL)),),
        tokens_before=9000,
        tokens_after=400,
        at=AT,
        reason="the context is full",
        usage=Usage(input_tokens=9000, output_tokens=300),
        llm="main",
    )
    script.window = (await script.record(script.task.model_event(1, 2), compacted),)
    for attempt, text, invalid in ((3, "Noon", "$: not of type 'object'"), (4, '{"time":"noon"}', "")):
        answer = ModelAnswered(
            turn=1,
            attempt=attempt,
            message=AssistantMessage(content=text),
            usage=Usage(input_tokens=10, output_tokens=5, cost_usd=Decimal("0.02")),
            at=AT,
            llm="spare",
            model="some-model-1",
            latency_s=1.5,
            finish_reason="stop",
            invalid=invalid,
        )
        script.window += (await script.record(script.task.model_event(1, attempt), answer),)
    return script


def spend() -> Spend:
    main = LLMSpend(model_calls=2, input_tokens=9000, output_tokens=300, cached_tokens=100)
    spare = LLMSpend(model_calls=2, input_tokens=20, output_tokens=10, reasoning_tokens=4, cost_usd=Decimal("0.04"))
    return Spend(model_calls=4, input_tokens=9020, output_tokens=310, by_llm={"main": main, "spare": spare})


async def test_a_task_is_described_with_every_model_call_and_what_was_done_to_its_conversation() -> None:
    bus = MemoryBus()
    script = await long_task(bus)
    await script.finish(1)
    text = await described(bus, "task", "t1")
    calls = text.partition("Model calls:\n")[2].partition("Conversation:")[0].splitlines()
    assert [line.split()[:3] for line in calls] == [
        ["TURN", "ATTEMPT", "LLM"],
        ["1", "1", "main"],
        ["1", "2", "main"],
        ["1", "3", "spare"],
        ["1", "4", "spare"],
    ]
    assert "transient (rateLimited): 429" in calls[1]
    assert calls[2].endswith("made shorter (summarize)")
    assert calls[3].endswith("does not fit the format")
    assert calls[4].split()[3:] == ["some-model-1", "10", "5", "$0.02", "1.5s", "stop"]
    conversation = text.partition("Conversation:\n")[2].partition("Events:")[0]
    assert conversation == (
        "  [made shorter in turn 1 by summarize, about 9000 tokens became 400: the context is full]\n"
        "  user:\n"
        "    So far: nothing.\n"
        "    [image image/png, 8 B]\n"
        "  assistant (spare):\n"
        "    Noon\n"
        "  [does not fit the response format: $: not of type 'object']\n"
        "  assistant (spare):\n"
        '    {"time":"noon"}\n'
    )


async def test_a_watcher_is_told_what_is_done_to_a_conversation_and_why_an_answer_does_not_do() -> None:
    bus = MemoryBus()
    script = await long_task(bus)
    waits = ModelFailed(turn=1, attempt=5, failure="throttled", error="60000 tokens a minute are used up", at=AT)
    await script.record(script.task.model_event(1, 5), waits)
    await script.finish(1)
    records = await history(script.log, script.task)
    shorter = "the conversation was made shorter by summarize: about 9000 tokens became 400"
    misfit = "the answer does not fit the response format: $: not of type 'object'"
    assert [line for record in records for line in said(record)] == [
        "task t1 for agent helper",
        "model call failed, attempt 1: 429",
        shorter,
        "Noon",
        misfit,
        '{"time":"noon"}',
        "the model call waits for a limit: 60000 tokens a minute are used up",
    ]
    stream = io.StringIO()
    narrator = LiveNarrator(stream)
    for record in records:
        narrator.tell(record)
    shown = stream.getvalue().splitlines()
    assert shown[1:] == [
        f"! {shorter}",
        f"! {misfit}",
        "! the model call waits for a limit: 60000 tokens a minute are used up",
    ]
    lines = event_lines("t1", await state_of(bus), records)
    assert [(line.type, line.reason) for line in lines][3:] == [
        ("Warning", "LLMRequestFailed"),
        ("Normal", "WindowCompacted"),
        ("Warning", "InvalidResponse"),
        ("Normal", "LLMFinalAnswer"),
        ("Normal", "LLMThrottled"),
    ]


async def test_what_is_said_to_a_running_task_is_part_of_its_conversation() -> None:
    bus = MemoryBus()
    script = Script(bus)
    await script.submit()
    sent = MessageSent(content="And in UTC?", at=AT, by="ada")
    script.window += (await script.record(script.task.message_event("0a1b"), sent),)
    await script.call_model(1)
    text = await described(bus, "task", "t1")
    assert "  user:\n    What time is it?\n  user ada:\n    And in UTC?\n" in text
    assert "MessageSent" in text
    records = await history(script.log, script.task)
    assert "ada says: And in UTC?" in [line for record in records for line in said(record)]


async def state_of(bus: MemoryBus) -> State:
    return (await Client(bus).existing_task("default", "t1")).state


async def test_a_task_that_waits_for_a_limit_says_since_when_until_when_and_why() -> None:
    bus = MemoryBus()
    script = await long_task(bus)
    header: dict[str, Any] = {**script.header(), "spend": spend(), "priority": "low"}
    parked = RetryingModel(
        **header,
        budget=BUDGET,
        turn=1,
        attempt=2,
        not_before=NOW + timedelta(seconds=30),
        error="60000 tokens a minute of LLM 'main' are used up",
        tries=Tries(parks=3, parked_since=AT + timedelta(minutes=8)),
        throttled=True,
    )
    await script.write(parked)
    lines = (await described(bus, "task", "t1")).splitlines()
    assert (
        "Parked:       for 2m (looked 3 times), looks again at 2030-01-01T12:10:30Z:"
        " 60000 tokens a minute of LLM 'main' are used up"
    ) in lines
    assert "Priority:     low" in lines
    assert "  By main:      2 calls, 9000 in (100 cached), 300 out, $0.00" in lines
    assert "  By spare:     2 calls, 20 in, 10 out (4 reasoning), $0.04" in lines
    status = (await find(Client(bus), kind_named("task"), "default", "t1", NOW)).document["status"]
    assert status["parked"] == {
        "since": "2030-01-01T12:08:00Z",
        "until": "2030-01-01T12:10:30Z",
        "reason": "60000 tokens a minute of LLM 'main' are used up",
    }
    assert status["spend"]["byLlm"]["spare"]["costUsd"] == "0.04"


async def task_with_a_long_result(bus: MemoryBus) -> Script:
    script = Script(bus)
    await script.submit()
    await script.call_model(1)
    answer = await script.answer(1, "", CLOCK)
    await script.await_tools(1, answer, CLOCK)
    finished = ToolFinished(
        request="r1",
        n=1,
        tool_call_id="c1",
        tool="time__now",
        outcome="succeeded",
        content="head ... tail",
        at=AT,
        images=(PIXEL,),
        whole=script.task.tool_output("r1", 1),
    )
    script.window += (await script.record(script.task.tool_event("r1", 1), finished),)
    await script.finish(1)
    return script


async def test_a_shortened_result_says_how_to_see_the_whole_and_its_images() -> None:
    bus = MemoryBus()
    script = await task_with_a_long_result(bus)
    how = "(shortened; `holdfast get toolcall t1-r1-tc-01 --whole` prints all of it)"
    for kind, name in (("task", "t1"), ("toolcall", "t1-r1-tc-01")):
        text = await described(bus, kind, name)
        assert "[image image/png, 8 B]" in text
        assert how in text
    with pytest.raises(Stop, match="is not stored any more") as caught:
        await whole_output(Client(bus), "default", "t1-r1-tc-01")
    assert caught.value.code == ExitCode.NOT_FOUND
    await script.record(script.task.tool_output("r1", 1), ToolOutput(content="head and body and tail"))
    assert await whole_output(Client(bus), "default", "t1-r1-tc-01") == "head and body and tail"
    assert "head and body" not in await described(bus, "task", "t1")


async def test_a_result_that_was_not_shortened_is_whole_and_one_that_is_missing_is_said_to_be() -> None:
    bus = MemoryBus()
    await finished_task(bus)
    assert await whole_output(Client(bus), "default", "t1-r1-tc-01") == "12:00"
    script = Script(bus, "t2")
    await script.submit()
    await script.call_model(1)
    await script.await_tools(1, await script.answer(1, "", CLOCK), CLOCK)
    with pytest.raises(Stop, match="has no result yet; it is Pending"):
        await whole_output(Client(bus), "default", "t2-r1-tc-01")


async def test_quotas_and_limits_are_described_with_what_is_used_of_them() -> None:
    bus = MemoryBus()
    client = Client(bus)
    spec = QuotaSpec(requests_per_minute=30, max_tokens_per_day=100_000, max_cost_per_day=Decimal(5))
    await client.apply(Quota(metadata=Metadata(name="default"), spec=spec))
    text = await described(bus, "quota", "default")
    assert "Ready:        yes (Ready)" in text
    assert "  Today:        0 of 100000 tokens, $0.00 of $5.00" in text
    second = int(NOW.timestamp())
    call = Reservation(namespace="default", tokens=700, at=NOW, expires=NOW + timedelta(minutes=2))
    flow = NamespaceFlow(
        day="2030-01-01",
        tokens=91_000,
        cost_usd=Decimal("1.25"),
        seconds={str(second - 10): (2, 3000), str(second - 70): (9, 9000)},
        under_way={"default/t1.1": call, "default/t0.1": Reservation(namespace="d", tokens=9, at=AT, expires=AT)},
        shares={"default": Share(lines={"normal": Line(tail=NOW + timedelta(seconds=5))})},
        held_until=NOW + timedelta(seconds=3),
    )
    await bus.flow.put(flow_namespace("default"), encode(flow))
    used = (await described(bus, "quota", "default")).partition("Used:\n")[2].splitlines()
    assert used == [
        "  Today:        91000 of 100000 tokens, $1.25 of $5.00",
        "  Last minute:  2 of 30 requests, 3000 tokens",
        "  Under way:    1 calls, about 700 tokens",
        "  Waiting:      calls wait for room",
        "  Held until:   2030-01-01T12:10:03Z, as the provider asked",
    ]
    account = {"lab/a": call}
    limits = LLMLimits(tokens_per_minute=9000, concurrency=4)
    await client.apply(LLM(metadata=Metadata(name="main"), spec=LLMSpec(provider="scripted", limits=limits)))
    assert "Used:" not in await described(bus, "llm", "main"), "the gateway has not said which pool it is in"
    key = subjects.status_key("LLM", "default", "main")
    declared = await client.resource("LLM", "default", "main")
    assert declared is not None
    said = ResourceStatus(
        ready=True, status="Ready", status_detail="", observed_revision=declared.revision, at=AT, pool="0123abcd"
    )
    await bus.resources.put(key, encode(said))
    assert "  Last minute:  0 requests, 0 of 9000 tokens" in await described(bus, "llm", "main")
    pool = PoolFlow(seconds={str(second): (1, 4000)}, under_way=account)
    await bus.flow.put(subjects.flow_pool("0123abcd"), encode(pool))
    used = (await described(bus, "llm", "main")).partition("Used:\n")[2].splitlines()
    assert used == ["  Last minute:  1 requests, 4000 of 9000 tokens", "  Under way:    1 of 4 calls, about 700 tokens"]
    later = await describe(client, kind_named("quota"), "default", "default", NOW + timedelta(days=1))
    assert "  Today:        0 of 100000 tokens" in later
