"""Delegation: a call that is another agent's task. The planner's whole shell over the memory bus."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest

from schemas.events import ConversationStarted, ModelAnswered, ToolFinished
from schemas.ids import child_task_name, partition_of
from schemas.messages import AssistantMessage, SystemMessage, ToolCall, Usage, UserMessage
from schemas.requests import Limits, Rejected
from schemas.resources import Agent, AgentSpec, Metadata, Ref
from schemas.subjects import TRACEPARENT, TaskSubjects, status_key
from schemas.task import AwaitingModel, AwaitingTools, Cancelled, Failed, FinalAnswer, State
from schemas.wire import decode, encode
from services.planner.core.delegation import delegation_cycle
from services.planner.main import build
from services.runtime.memory.server import MemoryServer
from services.runtime.ports import Outgoing
from services.runtime.settings import Settings
from services.runtime.telemetry.traces import trace_id
from tests.support.stage import NAMESPACE, Stage, on_stage, scripted_llm, until

PLANNER = {"planner": build}


def team(name: str, *subs: str, limits: Limits | None = None) -> Agent:
    spec = AgentSpec(
        llm_ref=Ref(name="model"),
        system=f"you are {name}",
        sub_agents=tuple(Ref(name=sub) for sub in subs),
        limits=limits or Limits(),
    )
    return Agent(metadata=Metadata(name=name), spec=spec)


async def with_team(stage: Stage, *agents: Agent) -> None:
    await stage.apply_ready(scripted_llm())
    for agent in agents:
        await stage.apply(agent)


async def calls(
    stage: Stage, task: TaskSubjects, turn: int, *wanted: tuple[str, object], usage: Usage | None = None
) -> tuple[TaskSubjects, ...]:
    """The model of `task` makes calls; the tasks that answer those that are delegated."""
    await stage.stored(task, task.model_command(turn, 1))
    state = await stage.state(task)
    assert state is not None
    tool_calls = tuple(
        ToolCall(id=f"call-{n}", name=name, arguments=json.dumps(arguments))
        for n, (name, arguments) in enumerate(wanted, start=1)
    )
    event = ModelAnswered(
        turn=turn,
        attempt=1,
        message=AssistantMessage(tool_calls=tool_calls),
        usage=usage or Usage(input_tokens=10, output_tokens=5),
        at=stage.bus.clock.now(),
        llm="model",
    )
    await stage.bus.log(task.partition).record(Outgoing(task.model_event(turn, 1), encode(event)))
    place, partitions = state.submitted_seq, stage.bus.partitions
    names = (
        child_task_name(NAMESPACE, task.task, f"r{turn}", n, place=place, partitions=partitions)
        for n in range(1, len(wanted) + 1)
    )
    return tuple(TaskSubjects(task.partition, NAMESPACE, name) for name in names)


async def result(stage: Stage, task: TaskSubjects, request: str, n: int) -> ToolFinished:
    return decode(await stage.stored(task, task.tool_event(request, n)), ToolFinished)


async def test_a_delegated_call_becomes_a_task_and_its_answer_the_result() -> None:
    async with on_stage(PLANNER) as (stage, _):
        await with_team(stage, team("helper", "writer"), team("writer"))
        task = await stage.submit()
        (child,) = await calls(stage, task, 1, ("delegate_to_agent__writer", {"message": "Write a line."}))
        started = decode(await stage.stored(child, child.context), ConversationStarted)
        assert started.messages == (SystemMessage(content="you are writer"), UserMessage(content="Write a line."))
        await stage.answer(child, 1, text='A "line".\nAnd more.')
        done = await stage.until_state(child, FinalAnswer)
        assert done.preview == "Write a line."
        finished = await result(stage, task, "r1", 1)
        assert (finished.outcome, finished.content) == ("succeeded", 'A "line".\nAnd more.')
        assert (finished.child, finished.tool_call_id) == (child.task, "call-1")
        await stage.answer(task, 2, text="Done.")
        parent = await stage.until_state(task, FinalAnswer)
        assert parent.spend.model_calls == 3
        assert parent.spend.input_tokens == 30
        assert trace_id(done.traceparent) == trace_id(parent.traceparent)
        assert done.parent_span == parent.traceparent != done.traceparent


async def test_children_of_one_turn_run_side_by_side_and_answer_in_any_order() -> None:
    async with on_stage(PLANNER) as (stage, _):
        await with_team(stage, team("helper", "writer", "reader"), team("writer"), team("reader"))
        task = await stage.submit()
        one, two = await calls(
            stage,
            task,
            1,
            ("delegate_to_agent__writer", {"message": "write"}),
            ("delegate_to_agent__reader", {"message": "read"}),
        )
        await stage.answer(two, 1, text="read it")
        await stage.answer(one, 1, text="wrote it")
        await stage.stored(task, task.model_command(2, 1))
        state = await stage.until_state(task, AwaitingModel)
        entries = await stage.bus.log(task.partition).read(state.window[-2:])
        assert [decode(entry.data, ToolFinished).content for entry in entries] == ["wrote it", "read it"]


async def test_an_ordinary_call_beside_a_delegated_one_goes_to_the_tool_executor() -> None:
    async with on_stage(PLANNER) as (stage, _):
        await with_team(stage, team("helper", "writer"), team("writer"))
        task = await stage.submit()
        child, _ = await calls(stage, task, 1, ("delegate_to_agent__writer", {"message": "write"}), ("a__x", {}))
        await stage.finish(task, "r1", 2, content="tool")
        await stage.answer(child, 1, text="agent")
        await stage.stored(task, task.model_command(2, 1))
        assert await stage.bus.log(task.partition).get(task.tool_command("r1", 1)) is None


async def test_a_childs_failure_reaches_the_model_as_text() -> None:
    async with on_stage(PLANNER) as (stage, _):
        await with_team(stage, team("helper", "writer"), team("writer"))
        task = await stage.submit()
        (child,) = await calls(stage, task, 1, ("delegate_to_agent__writer", {"message": "write"}))
        await stage.fail(child, 1, "refused", status=400)
        finished = await result(stage, task, "r1", 1)
        assert finished.outcome == "failed"
        assert finished.content.startswith("The agent 'writer' failed: LLM request failed with status 400")
        await stage.answer(task, 2, text="Pity.")
        assert (await stage.until_state(task, FinalAnswer)).spend.model_calls == 3


@pytest.mark.parametrize("arguments", [{}, {"message": 12345}, {"message": "  "}, [], "text"])
async def test_a_call_without_a_message_is_told_so(arguments: object) -> None:
    async with on_stage(PLANNER) as (stage, _):
        await with_team(stage, team("helper", "writer"), team("writer"))
        task = await stage.submit()
        await calls(stage, task, 1, ("delegate_to_agent__writer", arguments))
        finished = await result(stage, task, "r1", 1)
        assert finished.outcome == "failed"
        assert "missing or invalid 'message' argument" in finished.content


async def test_cancelling_a_task_cancels_its_children_and_theirs() -> None:
    async with on_stage(PLANNER) as (stage, _):
        await with_team(stage, team("helper", "writer"), team("writer", "reader"), team("reader"))
        task = await stage.submit()
        (child,) = await calls(stage, task, 1, ("delegate_to_agent__writer", {"message": "write"}))
        (grandchild,) = await calls(stage, child, 1, ("delegate_to_agent__reader", {"message": "read"}))
        await stage.stored(grandchild, grandchild.model_command(1, 1))
        await stage.ask("cancel", {"task": task.task, "reason": "enough"})
        for one in (task, child, grandchild):
            state = await stage.until_state(one, Cancelled)
            assert "enough" in state.reason
        assert (await result(stage, task, "r1", 1)).outcome == "cancelled"


async def test_a_deadline_and_what_is_left_of_a_budget_pass_down() -> None:
    async with on_stage(PLANNER) as (stage, _):
        await with_team(stage, team("helper", "writer"), team("writer", limits=Limits(max_tokens=10_000)))
        limits = {"maxTokens": 1015, "maxCost": "0.5", "deadlineSeconds": 3600}
        task = await stage.submit(limits=limits)
        one, two = await calls(
            stage,
            task,
            1,
            ("delegate_to_agent__writer", {"message": "write"}),
            ("delegate_to_agent__writer", {"message": "write more"}),
            usage=Usage(input_tokens=10, output_tokens=5, cost_usd=Decimal("0.1")),
        )
        parent = await stage.until_state(task, AwaitingTools)
        for child in (one, two):
            state = await stage.until_state(child, AwaitingModel)
            assert state.budget.max_tokens == 500
            assert state.budget.max_cost_usd == Decimal("0.2")
            assert state.deadline == parent.deadline


async def test_what_children_used_counts_against_the_budget_of_the_whole_tree() -> None:
    async with on_stage(PLANNER) as (stage, _):
        await with_team(stage, team("helper", "writer"), team("writer"))
        task = await stage.submit(limits={"maxTokens": 40})
        (child,) = await calls(stage, task, 1, ("delegate_to_agent__writer", {"message": "write"}))
        await calls(stage, child, 1, ("nobody__knows", {}), usage=Usage(input_tokens=20, output_tokens=4))
        await stage.finish(child, "r1", 1)
        await stage.answer(child, 2, text="Done.")
        state = await stage.until_state(task, Failed)
        assert state.reason == "MaxTokensReached"
        assert state.spend.input_tokens + state.spend.output_tokens == 54


async def test_agents_that_delegate_in_a_circle_do_not_become_ready() -> None:
    async with on_stage(PLANNER) as (stage, _):
        await with_team(stage, team("helper", "writer"), team("writer", "helper"))

        async def said() -> bool:
            entry = await stage.bus.resources.get(status_key("Agent", NAMESPACE, "helper"))
            return entry is not None and b"helper -> writer -> helper" in (entry.data or b"")

        await until(said, "the circle in the agent's status")


async def test_a_circle_that_is_made_while_tasks_run_ends_at_the_child() -> None:
    async with on_stage(PLANNER) as (stage, _):
        await with_team(stage, team("helper", "writer"), team("writer", "reader"), team("reader"))
        task = await stage.submit()
        (child,) = await calls(stage, task, 1, ("delegate_to_agent__writer", {"message": "write"}))
        await stage.stored(child, child.model_command(1, 1))
        # The writer may now delegate to the helper, which has lost its own helpers: no circle, but one for this tree.
        await stage.apply(team("helper"))
        await stage.apply(team("writer", "helper"))
        await calls(stage, child, 1, ("delegate_to_agent__helper", {"message": "help"}))
        finished = await result(stage, child, "r1", 1)
        assert "may not delegate in a circle: helper -> writer -> helper" in finished.content


async def test_a_tree_has_a_greatest_depth() -> None:
    names = ["helper", *(f"level-{n}" for n in range(1, 8))]
    async with on_stage(PLANNER) as (stage, _):
        await with_team(stage, *(team(name, *names[n : n + 1]) for n, name in enumerate(names, start=1)))
        task = await stage.submit()
        tree = [task]
        for name in names[1:7]:
            (child,) = await calls(stage, tree[-1], 1, (f"delegate_to_agent__{name}", {"message": "go on"}))
            tree.append(child)
        state = await stage.until_state(tree[-1], Failed)
        assert "delegate over 5 levels at most" in state.error
        assert (await result(stage, tree[-2], "r1", 1)).outcome == "failed"


async def test_a_child_is_removed_with_its_parent_and_not_before_it() -> None:
    async with on_stage(PLANNER) as (stage, _):
        await with_team(stage, team("helper", "writer"), team("writer"))
        task = await stage.submit()
        child, _ = await calls(stage, task, 1, ("delegate_to_agent__writer", {"message": "write"}), ("a__x", {}))
        await stage.answer(child, 1, text="Done.")
        await stage.until_state(child, FinalAnswer)
        refused = await stage.ask("delete", {"task": child.task})
        assert isinstance(refused, Rejected)
        assert f"belongs to task {task.task!r}, which has not ended" in refused.error
        await stage.finish(task, "r1", 2)
        await stage.answer(task, 2, text="Done.")
        await stage.until_state(task, FinalAnswer)
        await stage.ask("delete", {"task": task.task})
        log = stage.bus.log(task.partition)
        left = [subject for subject in await log.subjects(">") if child.task in subject or task.task in subject]
        assert left == []


async def test_a_child_lives_in_its_parents_partition() -> None:
    server = MemoryServer(partitions=16)
    async with on_stage(PLANNER, server=server, settings=Settings(partitions=16)) as (stage, _):
        await with_team(stage, team("helper", "writer"), team("writer"))
        for n in range(5):
            task = await stage.submit(name=f"task-{n}")
            (child,) = await calls(stage, task, 1, ("delegate_to_agent__writer", {"message": "write"}))
            assert partition_of(NAMESPACE, child.task, 16) == task.partition
            await stage.answer(child, 1, text="Done.")
            await stage.answer(task, 2, text="Done.")
            await stage.until_state(task, FinalAnswer)


async def test_a_child_is_submitted_in_its_own_span() -> None:
    async with on_stage(PLANNER) as (stage, _):
        await with_team(stage, team("helper", "writer"), team("writer"))
        task = await stage.submit()
        (child,) = await calls(stage, task, 1, ("delegate_to_agent__writer", {"message": "write"}))
        await stage.stored(child, child.submitted)
        entry = await stage.bus.log(child.partition).get(child.submitted)
        state: State = await stage.until_state(child, AwaitingModel)
        assert entry is not None
        assert entry.headers[TRACEPARENT] == state.traceparent


def test_a_circle_of_agents_is_found_wherever_it_closes() -> None:
    subs = {"a": ("b", "c"), "b": (), "c": ("d",), "d": ("a",), "e": ("c",)}
    assert delegation_cycle("a", lambda name: subs.get(name, ())) == ("a", "c", "d", "a")
    assert delegation_cycle("b", lambda name: subs.get(name, ())) == ()
    assert delegation_cycle("e", lambda name: subs.get(name, ())) == ()
