"""Cases T of the predecessor: its tasks, as our planner has them. The test plays the gateway and the executor."""

from __future__ import annotations

from typing import Any

import pytest

from schemas.events import ConversationStarted, ModelAnswered, ToolFinished
from schemas.messages import Message, SystemMessage, ToolMessage, UserMessage
from schemas.requests import Rejected
from schemas.resources import AgentSpec, ContactChannelSpec, Ref, ToolInfo
from schemas.subjects import TaskSubjects
from schemas.task import AwaitingModel, AwaitingTools, Failed, FinalAnswer, RetryingModel, State, Waiting
from schemas.task_view import TaskView, describe_state
from schemas.tools import agent_tools, contact_tool, delegate_tool
from schemas.wire import decode
from services.planner.core.machine import transition
from services.planner.main import build
from tests.support.playbook import submitted
from tests.support.stage import Stage, agent, on_stage, scripted_llm
from tests.unit.planner.test_delegation import calls

PLANNER = {"planner": build}
HISTORY = [
    {"role": "system", "content": "Custom system"},
    {"role": "user", "content": "one"},
    {"role": "assistant", "content": "two"},
    {"role": "user", "content": "User query"},
]


async def messages(stage: Stage, task: TaskSubjects, state: State) -> list[Message]:
    """What the model sees of a task."""
    found: list[Message] = []
    for entry in await stage.bus.log(task.partition).read(state.window):
        if entry.subject == task.context:
            found += decode(entry.data, ConversationStarted).messages
        elif ".llm." in entry.subject:
            found.append(decode(entry.data, ModelAnswered).message)
        else:
            result = decode(entry.data, ToolFinished)
            found.append(ToolMessage(tool_call_id=result.tool_call_id, name=result.tool, content=result.content))
    return found


def seen(state: State) -> TaskView:
    return describe_state(state)


def test_t1_a_new_task_is_initializing() -> None:
    state = transition(None, submitted())
    assert state is not None
    view = seen(state)
    assert (view.phase, view.status, view.status_detail) == ("Initializing", "Pending", "Initializing Task")


async def test_t2_t3_a_task_waits_for_its_agent_and_for_it_to_be_ready() -> None:
    async with on_stage(PLANNER) as (stage, _):
        task = await stage.submit()
        view = seen(await stage.until_state(task, Waiting))
        assert (view.phase, view.status, view.ready) == ("Pending", "Pending", False)
        assert (view.status_detail, view.reason) == ("Waiting for Agent to exist", "Waiting")
        model = scripted_llm()
        await stage.say_ready(model, await stage.apply(model), ready=False)
        await stage.apply(agent())
        other = await stage.submit()
        state = await stage.until_state(other, Waiting)
        assert state.reason.startswith('Waiting for agent "helper" to become ready')


async def test_t4_t10_a_ready_agent_begins_with_its_instructions_and_the_message() -> None:
    async with on_stage(PLANNER) as (stage, _):
        waiting = await stage.submit(userMessage="test-user-message")
        await stage.until_state(waiting, Waiting)
        await stage.with_agent()
        state = await stage.until_state(waiting, AwaitingModel)
        assert await messages(stage, waiting, state) == [
            SystemMessage(content="you are a testing assistant"),
            UserMessage(content="test-user-message"),
        ]
        view = seen(state)
        assert (view.phase, view.status, view.ready) == ("ReadyForLLM", "Ready", True)
        assert (view.status_detail, view.reason) == ("Ready to send to LLM", "ValidationSucceeded")


async def test_t5_a_context_window_with_instructions_is_taken_as_it_is() -> None:
    async with on_stage(PLANNER) as (stage, _):
        await stage.with_agent()
        window = [HISTORY[0], HISTORY[3]]
        task = await stage.submit(userMessage=None, contextWindow=window)
        state = await stage.until_state(task, AwaitingModel)
        assert [message.content for message in await messages(stage, task, state)] == ["Custom system", "User query"]
        assert state.preview == "User query"


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (
            {"userMessage": "a", "contextWindow": [{"role": "user", "content": "b"}]},
            "only one of userMessage or contextWindow can be provided",
        ),
        ({}, "one of userMessage or contextWindow must be provided"),
        (
            {"contextWindow": [{"role": "system", "content": "s"}]},
            "contextWindow must contain at least one user message",
        ),
    ],
    ids=["T7", "T8", "T9"],
)
async def test_t7_t8_t9_an_input_that_is_none_is_refused_at_once(request_: dict[str, Any], said: str) -> None:
    async with on_stage(PLANNER) as (stage, _):
        reply = await stage.ask("submit", {"agentName": "helper", **request_})
        assert isinstance(reply, Rejected)
        assert reply.error == said


async def test_t11_a_text_is_the_final_answer() -> None:
    async with on_stage(PLANNER) as (stage, _):
        await stage.with_agent()
        task = await stage.submit()
        await stage.answer(task, 1, text="The moon is a natural satellite.")
        state = await stage.until_state(task, FinalAnswer)
        found = await messages(stage, task, state)
        assert (len(found), found[-1].content) == (3, "The moon is a natural satellite.")
        view = seen(state)
        assert (view.phase, view.status, view.ready) == ("FinalAnswer", "Ready", True)
        assert (view.status_detail, view.reason) == ("LLM final response received", "LLMFinalAnswer")


async def test_t12_a_failure_that_may_pass_keeps_the_phase_and_is_tried_again() -> None:
    async with on_stage(PLANNER) as (stage, _):
        await stage.with_agent()
        task = await stage.submit()
        await stage.fail(task, 1, "transient", retry_after_s=60)
        view = seen(await stage.until_state(task, RetryingModel))
        assert (view.phase, view.status, view.error) == ("ReadyForLLM", "Error", "why")
        assert view.status_detail.startswith("LLM request failed: why")
        assert view.reason == "LLMRequestFailed"


async def test_t13_a_refusal_with_a_status_fails_the_task_at_once() -> None:
    async with on_stage(PLANNER) as (stage, _):
        await stage.with_agent()
        task = await stage.submit()
        await stage.fail(task, 1, "refused", status=400)
        state = await stage.until_state(task, Failed)
        assert (state.error, state.reason) == ("LLM request failed with status 400: why", "LLMRequestFailed4xx")
        assert (seen(state).phase, seen(state).status) == ("Failed", "Error")


async def test_t14_t15_a_call_is_made_with_its_arguments_and_the_task_waits_for_it() -> None:
    async with on_stage(PLANNER) as (stage, _):
        await stage.with_agent()
        task = await stage.submit()
        await calls(stage, task, 1, ("fetch__fetch", {"url": "https://api.example.com/data"}))
        state = await stage.until_state(task, AwaitingTools)
        (call,) = state.calls
        assert call.tool == "fetch__fetch"
        (entry,) = await stage.bus.log(task.partition).read([state.answer_seq])
        (asked,) = decode(entry.data, ModelAnswered).message.tool_calls
        assert asked.arguments == '{"url": "https://api.example.com/data"}'
        await stage.stored(task, task.tool_command(state.request, 1))
        view = seen(state)
        assert (view.phase, view.status_detail) == ("ToolCallsPending", "LLM response received, tool calls pending")
        assert view.reason == "ToolCallsPending"
        assert await stage.bus.log(task.partition).get(task.model_command(2, 1)) is None


async def test_t16_results_go_to_the_model_in_the_order_of_the_calls_rejected_ones_too() -> None:
    async with on_stage(PLANNER) as (stage, _):
        await stage.with_agent()
        task = await stage.submit()
        await stage.answer(task, 1, calls=("a__x", "a__y"))
        await stage.finish(task, "r1", 2, outcome="rejected", content="Rejected: no")
        await stage.finish(task, "r1", 1, content='{"data": "test-data"}')
        await stage.stored(task, task.model_command(2, 1))
        state = await stage.until_state(task, AwaitingModel)
        found = await messages(stage, task, state)
        assert len(found) == 5
        assert [(one.tool_call_id, one.content) for one in found if isinstance(one, ToolMessage)] == [
            ("call-1", '{"data": "test-data"}'),
            ("call-2", "Rejected: no"),
        ]
        view = seen(state)
        assert view.status_detail == "All tool calls completed, ready to send tool results to LLM"
        assert (view.phase, view.reason) == ("ReadyForLLM", "AllToolCallsCompleted")


async def test_t17_what_has_ended_stays_as_it_is() -> None:
    async with on_stage(PLANNER) as (stage, _):
        await stage.with_agent()
        task = await stage.submit()
        await stage.answer(task, 1, text="Done.")
        state = await stage.until_state(task, FinalAnswer)
        reply = await stage.ask("cancel", {"task": task.task})
        assert not isinstance(reply, Rejected) or "ended" in reply.error
        other = await stage.submit()
        await stage.until_state(other, AwaitingModel)
        assert await stage.state(task) == state


async def test_t18_a_long_conversation_goes_to_the_model_in_its_order_and_the_reply_behind_it() -> None:
    async with on_stage(PLANNER) as (stage, _):
        await stage.with_agent()
        task = await stage.submit(userMessage=None, contextWindow=HISTORY)
        await stage.answer(task, 1, text="five")
        found = await messages(stage, task, await stage.until_state(task, FinalAnswer))
        assert [one.content for one in found] == ["Custom system", "one", "two", "User query", "five"]


def test_t19_t21_tools_are_named_and_known_by_where_they_come_from() -> None:
    spec = AgentSpec(
        llm_ref=Ref(name="model"),
        system="s",
        mcp_servers=(),
        human_contact_channels=(Ref(name="oncall"),),
        sub_agents=(Ref(name="sub-agent"),),
    )
    about = "A specialized sub-agent for testing"

    def tools_of(source: str, name: str) -> tuple[ToolInfo, ...]:
        if source == "ContactChannel":
            return (contact_tool(ContactChannelSpec(type="slack")),)
        return (delegate_tool(name, about),)

    tools = agent_tools(spec, tools_of)
    assert {name: tool.via for name, tool in tools.items()} == {
        "oncall__human_contact_slack": "ContactChannel",
        "delegate_to_agent__sub-agent": "Agent",
    }
    assert tools["delegate_to_agent__sub-agent"].info.description == about
    assert tools["oncall__human_contact_slack"].info.description == "Contact a human via Slack"
    assert agent_tools(AgentSpec(llm_ref=Ref(name="model"), system="s"), tools_of) == {}


async def test_x1_x2_no_model_call_is_made_before_every_call_has_its_result() -> None:
    async with on_stage(PLANNER) as (stage, _):
        await stage.with_agent()
        task = await stage.submit()
        await stage.answer(task, 1, calls=("a__x", "a__y", "a__z"))
        for n in (3, 1):
            await stage.finish(task, "r1", n)
        assert await stage.bus.log(task.partition).get(task.model_command(2, 1)) is None
        await stage.finish(task, "r1", 2)
        await stage.stored(task, task.model_command(2, 1))
        assert await stage.bus.log(task.partition).get(task.model_command(2, 2)) is None


async def test_x3_the_model_sees_why_a_call_failed() -> None:
    async with on_stage(PLANNER) as (stage, _):
        await stage.with_agent()
        task = await stage.submit()
        await stage.answer(task, 1, calls=("a__x",))
        await stage.finish(task, "r1", 1, outcome="failed", content="no such file: a")
        await stage.stored(task, task.model_command(2, 1))
        found = await messages(stage, task, await stage.until_state(task, AwaitingModel))
        assert found[-1].content == "no such file: a"
