"""When a task ends: who wants to know is written into its state, and asked for once."""

from __future__ import annotations

from typing import Any

import pytest

from schemas.events import ToolFinished
from schemas.notifications import Notify
from schemas.requests import Accepted, Rejected
from schemas.resources import (
    Agent,
    AgentSpec,
    Metadata,
    Ref,
    SecretKeyRef,
    SecretSource,
    Subscription,
    SubscriptionSpec,
    WebhookSink,
)
from schemas.subjects import TaskSubjects
from schemas.task import Cancelled, Failed, FinalAnswer
from schemas.wire import decode
from services.planner.core.outstanding import outstanding
from services.planner.main import build
from tests.support.stage import Stage, on_stage, scripted_llm

KEY = SecretSource(secret_key_ref=SecretKeyRef(name="ops", key="signing"))
HOOK = WebhookSink(url="https://hooks.example/", secret_from=(KEY,))
URL = "https://answers.example/"


def subscription(name: str, **spec: Any) -> Subscription:
    return Subscription(metadata=Metadata(name=name), spec=SubscriptionSpec(webhook=HOOK, **spec))


async def command(stage: Stage, task: TaskSubjects) -> Notify | None:
    entry = await stage.bus.log(task.partition).get(task.notify_command)
    return decode(entry.data, Notify) if entry is not None else None


async def test_who_wants_to_know_is_decided_when_the_task_ends() -> None:
    async with on_stage({"planner": build}) as (stage, _):
        await stage.with_agent()
        task = await stage.submit(labels={"tier": "1"})
        await stage.apply(subscription("all"))
        await stage.apply(subscription("failures", events=("task.failed",)))
        await stage.apply(subscription("others", agents=("other",)))
        await stage.apply(subscription("tier-one", labels={"tier": "1"}))
        await stage.answer(task, 1, text="noon")
        state = await stage.until_state(task, FinalAnswer)
        assert state.subscriptions == ("all", "tier-one")
        asked = await command(stage, task)
        assert asked is not None
        assert (asked.event, asked.answer_seq, asked.at) == ("task.finished", state.window[-1], state.ended_at)
        await stage.apply(subscription("too-late"))
        again = await stage.state(task)
        assert again == state


async def test_nobody_wants_to_know_and_nothing_is_said() -> None:
    async with on_stage({"planner": build}) as (stage, _):
        await stage.with_agent()
        task = await stage.submit()
        await stage.answer(task, 1, text="noon")
        await stage.until_state(task, FinalAnswer)
        assert await command(stage, task) is None


async def test_a_task_of_another_namespace_is_nobody_s_business() -> None:
    async with on_stage({"planner": build}) as (stage, _):
        await stage.with_agent()
        metadata = Metadata(name="all", namespace="other")
        await stage.apply(Subscription(metadata=metadata, spec=SubscriptionSpec(webhook=HOOK)))
        task = await stage.submit()
        await stage.answer(task, 1, text="noon")
        assert (await stage.until_state(task, FinalAnswer)).subscriptions == ()


async def test_a_failure_and_a_cancellation_are_told_with_their_reason() -> None:
    async with on_stage({"planner": build}) as (stage, _):
        await stage.with_agent()
        failed = await stage.submit(responseURL=URL)
        await stage.fail(failed, 1, "refused", status=400)
        state = await stage.until_state(failed, Failed)
        assert state.response_url == URL
        told = await command(stage, failed)
        assert told is not None
        assert (told.event, told.error, told.answer_seq) == ("task.failed", state.error, 0)
        cancelled = await stage.submit(userMessage="stop", contactChannelRef="oncall")
        await stage.ask("cancel", {"task": cancelled.task, "reason": "not needed"})
        assert (await stage.until_state(cancelled, Cancelled)).contact_channel == "oncall"
        told = await command(stage, cancelled)
        assert told is not None
        assert (told.event, told.error) == ("task.cancelled", "not needed")


async def test_a_task_that_another_one_asked_for_is_told_to_subscriptions_only() -> None:
    async with on_stage({"planner": build}) as (stage, _):
        await stage.apply_ready(scripted_llm())
        await stage.apply_ready(
            Agent(metadata=Metadata(name="writer"), spec=AgentSpec(llm_ref=Ref(name="model"), system="s"))
        )
        boss = AgentSpec(llm_ref=Ref(name="model"), system="s", sub_agents=(Ref(name="writer"),))
        await stage.apply(Agent(metadata=Metadata(name="helper"), spec=boss))
        await stage.apply(subscription("writers", agents=("writer",)))
        task = await stage.submit(responseURL=URL, contactChannelRef="oncall")
        await stage.answer(task, 1, calls=("delegate_to_agent__writer",))
        result = decode(await stage.stored(task, task.tool_event("r1", 1)), ToolFinished)
        child = stage.task(result.child)
        submitted = await stage.stored(child, child.submitted)
        assert b"answers.example" not in submitted
        await stage.until_state(child, Failed)  # it was asked nothing
        ended = await stage.state(child)
        assert isinstance(ended, Failed)
        assert (ended.response_url, ended.contact_channel, ended.subscriptions) == ("", "", ("writers",))


@pytest.mark.parametrize(
    "url",
    [
        "ftp://a.example/",
        "a.example",
        "http://",
        "https://a.example/ b",
        "https://[::1",
        "https://ä.example/",
        "x" * 3000,
    ],
)
async def test_a_response_url_that_is_none_is_refused(url: str) -> None:
    async with on_stage({"planner": build}) as (stage, _):
        reply = await stage.ask("submit", {"agentName": "helper", "userMessage": "x", "responseURL": url})
        assert isinstance(reply, Rejected)
        assert "responseURL" in reply.error


async def test_a_contact_channel_s_name_is_checked() -> None:
    async with on_stage({"planner": build}) as (stage, _):
        reply = await stage.ask("submit", {"agentName": "helper", "userMessage": "x", "contactChannelRef": "No Name"})
        assert isinstance(reply, Rejected)
        good = await stage.ask("submit", {"agentName": "helper", "userMessage": "x", "contactChannelRef": "oncall"})
        assert isinstance(good, Accepted)


async def test_what_is_told_is_a_function_of_the_state() -> None:
    async with on_stage({"planner": build}) as (stage, _):
        await stage.with_agent()
        task = await stage.submit(responseURL=URL)
        await stage.answer(task, 1, text="noon")
        state = await stage.until_state(task, FinalAnswer)
        assert outstanding(state) == (await command(stage, task),)
