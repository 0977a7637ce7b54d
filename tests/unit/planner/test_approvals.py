"""Approvals: calls about which people are asked first. The planner's whole shell over the memory bus."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from schemas.approvals import approving_channel, is_granted
from schemas.commands import AskPerson, RunTool, WithdrawQuestion
from schemas.events import ApprovalGranted, ApprovalScope, ConversationStarted
from schemas.ids import call_digest
from schemas.messages import UserMessage
from schemas.resources import (
    Agent,
    AgentSpec,
    ApprovalRule,
    ContactChannel,
    ContactChannelSpec,
    Grant,
    GrantSpec,
    MCPServer,
    MCPServerSpec,
    Metadata,
    Ref,
    Resource,
    ServerRef,
    ToolAnnotations,
    ToolInfo,
)
from schemas.subjects import TaskSubjects
from schemas.task import AwaitingModel, AwaitingTools, Cancelled
from schemas.tools import OfferedTool
from schemas.wire import decode, encode
from services.planner.main import build
from services.runtime.ports import Outgoing
from tests.support.stage import Stage, on_stage, scripted_llm
from tests.unit.planner.test_delegation import calls, team

PLANNER = {"planner": build}
TOOLS = (
    ToolInfo(name="look", annotations=ToolAnnotations(read_only=True)),
    ToolInfo(name="write"),
)
PEOPLE = ContactChannel(metadata=Metadata(name="oncall"), spec=ContactChannelSpec(type="console"))


def rule(*tools: str, **fields: Any) -> ApprovalRule:
    return ApprovalRule(tools=tools or ("*",), contact_channel=Ref(name="oncall"), **fields)


def careful(*rules: ApprovalRule, **fields: Any) -> Agent:
    spec = AgentSpec(
        llm_ref=Ref(name="model"), system="s", mcp_servers=(ServerRef(name="box"),), approvals=rules, **fields
    )
    return Agent(metadata=Metadata(name="helper"), spec=spec)


async def with_people(stage: Stage, agent: Agent, *others: Resource, server: Mapping[str, Any] | None = None) -> None:
    spec = MCPServerSpec(transport="stdio", command="box", **(server or {}))
    box = MCPServer(metadata=Metadata(name="box"), spec=spec)
    await stage.apply_ready(scripted_llm())
    await stage.say_ready(box, await stage.apply(box), tools=TOOLS)
    await stage.apply_ready(PEOPLE)
    for other in others:
        await stage.apply(other)
    await stage.apply(agent)


async def asked(stage: Stage, task: TaskSubjects, n: int = 1, request: str = "r1") -> AskPerson:
    return decode(await stage.stored(task, task.ask_command(request, n)), AskPerson)


async def approve(
    stage: Stage, task: TaskSubjects, n: int = 1, *, scope: ApprovalScope = "once", arguments: str = "{}"
) -> int:
    question = await asked(stage, task, n)
    event = ApprovalGranted(
        request="r1",
        n=n,
        tool_call_id=question.tool_call_id,
        tool=question.tool,
        arguments=arguments,
        digest=call_digest(question.tool, arguments),
        scope=scope,
        by="ann",
        at=stage.bus.clock.now(),
    )
    seq = await stage.bus.log(task.partition).record(Outgoing(task.approval_event("r1", n), encode(event)))
    assert seq is not None
    return seq


async def test_a_server_with_an_approval_channel_has_every_call_approved() -> None:
    async with on_stage(PLANNER) as (stage, _):
        channel = {"approval_contact_channel": Ref(name="oncall")}
        await with_people(stage, careful(rule(when="never")), server=channel)
        task = await stage.submit()
        await calls(stage, task, 1, ("box__look", {}))
        question = await asked(stage, task)
        assert (question.kind, question.channel, question.tool) == ("approval", "oncall", "box__look")
        assert await stage.bus.log(task.partition).get(task.tool_command("r1", 1)) is None
        seq = await approve(stage, task)
        command = decode(await stage.stored(task, task.tool_command("r1", 1)), RunTool)
        assert command.approved_seq == seq


async def test_only_what_a_rule_names_has_to_be_approved() -> None:
    async with on_stage(PLANNER) as (stage, _):
        await with_people(stage, careful(rule("box__*", when="writes")))
        task = await stage.submit()
        await calls(stage, task, 1, ("box__look", {}), ("box__write", {}))
        await stage.stored(task, task.tool_command("r1", 1))
        assert (await asked(stage, task, 2)).tool == "box__write"
        assert await stage.bus.log(task.partition).get(task.tool_command("r1", 2)) is None


async def test_several_approvals_of_one_turn_are_answered_in_any_order() -> None:
    async with on_stage(PLANNER) as (stage, _):
        await with_people(stage, careful(rule()))
        task = await stage.submit()
        await calls(stage, task, 1, ("box__write", {}), ("box__look", {}))
        second = await approve(stage, task, 2)
        assert decode(await stage.stored(task, task.tool_command("r1", 2)), RunTool).approved_seq == second
        await stage.finish(task, "r1", 2)
        first = await approve(stage, task, 1)
        assert decode(await stage.stored(task, task.tool_command("r1", 1)), RunTool).approved_seq == first
        await stage.finish(task, "r1", 1)
        await stage.stored(task, task.model_command(2, 1))


async def test_approved_for_the_task_is_not_asked_again() -> None:
    async with on_stage(PLANNER) as (stage, _):
        await with_people(stage, careful(rule()))
        task = await stage.submit()
        await calls(stage, task, 1, ("box__write", {}))
        await approve(stage, task, scope="task")
        await stage.finish(task, "r1", 1)
        await calls(stage, task, 2, ("box__write", {"other": 1}), ("box__look", {}))
        await stage.stored(task, task.tool_command("r2", 1))
        assert (await asked(stage, task, 2, "r2")).tool == "box__look"


@pytest.mark.parametrize(("digest", "is_asked"), [("", False), (call_digest("box__write", "{}"), False), ("x", True)])
async def test_a_grant_makes_asking_needless(digest: str, is_asked: bool) -> None:
    async with on_stage(PLANNER) as (stage, _):
        grant = Grant(metadata=Metadata(name="g"), spec=GrantSpec(agent="helper", tool="box__write", digest=digest))
        await with_people(stage, careful(rule()), grant)
        task = await stage.submit()
        await calls(stage, task, 1, ("box__write", {}))
        await stage.stored(task, task.ask_command("r1", 1) if is_asked else task.tool_command("r1", 1))


async def test_a_question_to_a_person_is_a_call_without_a_tool() -> None:
    async with on_stage(PLANNER) as (stage, _):
        agent = careful(human_contact_channels=(Ref(name="oncall"),))
        await with_people(stage, agent)
        task = await stage.submit()
        await calls(stage, task, 1, ("oncall__human_contact_console", {"message": "Now?"}))
        question = await asked(stage, task)
        assert (question.kind, question.channel) == ("question", "oncall")


async def test_delegation_can_need_an_approval_and_its_message_be_edited() -> None:
    async with on_stage(PLANNER) as (stage, _):
        agent = careful(rule("delegate_to_agent__*"), sub_agents=(Ref(name="writer"),))
        await with_people(stage, agent, team("writer"))
        task = await stage.submit()
        (child,) = await calls(stage, task, 1, ("delegate_to_agent__writer", {"message": "write"}))
        await asked(stage, task)
        assert await stage.bus.log(task.partition).get(child.submitted) is None
        await approve(stage, task, arguments='{"message": "write well"}')
        started = decode(await stage.stored(child, child.context), ConversationStarted)
        assert started.messages[-1] == UserMessage(content="write well")


async def test_a_task_that_ends_withdraws_what_people_were_asked() -> None:
    async with on_stage(PLANNER) as (stage, _):
        await with_people(stage, careful(rule()))
        task = await stage.submit()
        await calls(stage, task, 1, ("box__write", {}), ("box__look", {}))
        await approve(stage, task, 2)
        await stage.stored(task, task.tool_command("r1", 2))
        await stage.ask("cancel", {"task": task.task, "reason": "enough"})
        await stage.until_state(task, Cancelled)
        withdrawn = decode(await stage.stored(task, task.withdraw_command("r1", 1)), WithdrawQuestion)
        assert "enough" in withdrawn.reason
        assert await stage.bus.log(task.partition).get(task.withdraw_command("r1", 2)) is None


async def test_a_late_or_second_approval_changes_nothing() -> None:
    async with on_stage(PLANNER) as (stage, _):
        await with_people(stage, careful(rule()))
        task = await stage.submit()
        await calls(stage, task, 1, ("box__write", {}))
        await approve(stage, task)
        state = await stage.until_state(task, AwaitingTools)
        await stage.finish(task, "r1", 1)
        after = await stage.until_state(task, AwaitingModel)
        assert after.turn == state.turn + 1
        assert after.approved == ()


def test_what_a_server_asks_for_is_not_an_agents_to_waive() -> None:
    tool = OfferedTool("box__look", "box", TOOLS[0])
    spec = careful(rule(when="never")).spec
    assert approving_channel(spec, tool, lambda _: "guard") == "guard"
    assert approving_channel(spec, tool, lambda _: "") == ""
    assert approving_channel(spec, tool._replace(via="Toolset"), lambda _: "guard") == ""


def test_a_grant_holds_for_its_agent_tool_and_arguments() -> None:
    grant = Grant(metadata=Metadata(name="g"), spec=GrantSpec(agent="a", tool="t", digest=call_digest("t", "{}")))
    assert is_granted(grant, "a", "t", "{}")
    assert not is_granted(grant, "a", "t", '{"x":1}')
    assert not is_granted(grant, "b", "t", "{}")
    assert not is_granted(grant, "a", "u", "{}")


def test_a_rule_that_asks_nobody_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a contactChannel"):
        ApprovalRule(tools=("*",))
