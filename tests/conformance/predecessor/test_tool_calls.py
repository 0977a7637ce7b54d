"""Cases C of the predecessor: calls that wait for people or other agents, as its users see them."""

from __future__ import annotations

import pytest

from schemas.events import ToolFinished
from schemas.resources import (
    Agent,
    AgentSpec,
    ContactChannel,
    ContactChannelSpec,
    EmailOptions,
    MCPServer,
    MCPServerSpec,
    Metadata,
    Ref,
    SecretKeyRef,
    SecretSource,
    ServerRef,
    SlackOptions,
    ToolInfo,
)
from schemas.subjects import TaskSubjects
from schemas.task import AwaitingModel, FinalAnswer
from schemas.wire import decode
from services.cli.events import event_lines
from services.cli.history import history
from services.cli.toolcalls import ToolCallView, toolcalls
from tests.support.people import People, channel, with_people
from tests.support.stage import scripted_llm, until
from tests.unit.planner.test_delegation import calls

KEY = SecretSource(secret_key_ref=SecretKeyRef(name="humanlayer", key="token"))
CHANNELS = {
    "slack": ContactChannelSpec(type="slack", api_key_from=KEY, slack=SlackOptions(channel_or_user_id="C1")),
    "email": ContactChannelSpec(type="email", api_key_from=KEY, email=EmailOptions(address="ada@example.com")),
}


async def guarded(people: People, spec: ContactChannelSpec | None = None) -> None:
    """An agent `helper` with a server whose calls are approved, a person to ask, and an agent to delegate to."""
    stage = people.stage
    await stage.apply_ready(scripted_llm())
    reach = ContactChannel(metadata=Metadata(name="oncall"), spec=spec or channel().spec)
    await stage.apply(reach)
    server = MCPServer(
        metadata=Metadata(name="fetch"),
        spec=MCPServerSpec(transport="stdio", command="fetch", approval_contact_channel=Ref(name="oncall")),
    )
    await stage.say_ready(server, await stage.apply(server), tools=(ToolInfo(name="fetch"),))
    await stage.apply(
        Agent(metadata=Metadata(name="test-agent"), spec=AgentSpec(llm_ref=Ref(name="model"), system="s"))
    )
    spec_of_helper = AgentSpec(
        llm_ref=Ref(name="model"),
        system="s",
        mcp_servers=(ServerRef(name="fetch"),),
        human_contact_channels=(Ref(name="oncall"),),
        sub_agents=(Ref(name="test-agent"),),
    )
    await stage.apply(Agent(metadata=Metadata(name="helper"), spec=spec_of_helper))


async def begin(people: People, tool: str, **arguments: object) -> TaskSubjects:
    task = await people.stage.submit()
    await calls(people.stage, task, 1, (tool, arguments))
    return task


async def call(people: People, task: TaskSubjects, phase: str) -> ToolCallView:
    """Wait until the first call of a task is shown in a phase."""
    found: list[ToolCallView] = []

    async def shown() -> bool:
        state = await people.stage.state(task)
        assert state is not None
        records = await history(people.stage.bus.log(task.partition), task)
        found[:] = toolcalls("default", task.task, state.window, records)
        return bool(found) and found[0].phase == phase

    try:
        await until(shown, f"the call is {phase}")
    except AssertionError as error:
        raise AssertionError(f"{error}; it is {[one.phase for one in found]}") from None
    return found[0]


async def reasons(people: People, task: TaskSubjects) -> list[str]:
    """The events of a task, by their names."""
    state = await people.stage.state(task)
    assert state is not None
    records = await history(people.stage.bus.log(task.partition), task)
    return [line.reason for line in event_lines(task.task, state, records)]


@pytest.mark.parametrize("kind", ["slack", "email"], ids=["C1", "C2"])
async def test_c1_c2_c5_c7_a_call_waits_for_its_approval_and_is_made_then(kind: str) -> None:
    async with with_people() as people:
        await guarded(people, CHANNELS[kind])
        task = await begin(people, "fetch__fetch", url="u")
        await call(people, task, "AwaitingHumanApproval")
        assert "AwaitingHumanApproval" in await reasons(people, task)
        assert await people.stage.bus.log(task.partition).get(task.tool_command("r1", 1)) is None
        await people.answer(await people.asked(task))
        await people.stage.stored(task, task.tool_command("r1", 1))
        await call(people, task, "ReadyToExecuteApprovedTool")
        await people.stage.finish(task, "r1", 1, content="5")
        done = await call(people, task, "Succeeded")
        assert done.finished is not None
        assert done.finished.content == "5"


async def test_c6_a_rejection_is_the_calls_result_with_its_comment() -> None:
    async with with_people() as people:
        await guarded(people)
        task = await begin(people, "fetch__fetch", url="u")
        await people.answer(await people.asked(task), action="decline", comment="not this one")
        done = await call(people, task, "Rejected")
        assert done.finished is not None
        assert done.finished.content == "Rejected: not this one"
        await people.stage.stored(task, task.model_command(2, 1))


async def test_c3_a_question_to_a_person_waits_for_the_answer() -> None:
    async with with_people() as people:
        await guarded(people)
        task = await begin(people, "oncall__human_contact_console", message="Test human contact message")
        await call(people, task, "AwaitingHumanInput")
        assert "AwaitingHumanContact" in await reasons(people, task)
        asked = await people.asked(task)
        assert asked.message == "Test human contact message"
        await people.answer(asked, content={"answer": 'He said "no".\nTwice.'})
        done = await call(people, task, "Succeeded")
        assert done.finished is not None
        assert done.finished.content == 'He said "no".\nTwice.'


@pytest.mark.parametrize("arguments", [{}, {"message": 12345}])
async def test_c15_a_question_without_a_message_is_told_so_and_asks_nobody(arguments: dict[str, object]) -> None:
    async with with_people() as people:
        await guarded(people)
        task = await begin(people, "oncall__human_contact_console", **arguments)
        done = await call(people, task, "Failed")
        assert done.finished is not None
        assert "missing or invalid 'message' argument" in done.finished.content
        assert people.shown["oncall"].delivered == []


async def test_c9_c10_a_delegated_call_is_a_task_of_the_other_agent_and_its_answer_the_result() -> None:
    async with with_people() as people:
        await guarded(people)
        task = await begin(people, "delegate_to_agent__test-agent", message="test message")
        await call(people, task, "AwaitingSubAgent")
        child = await child_of(people, task)
        await people.stage.answer(child, 1, text="The answer is 42")
        await people.stage.until_state(child, FinalAnswer)
        done = await call(people, task, "Succeeded")
        assert done.finished is not None
        assert done.finished.content == "The answer is 42"


async def test_c11_a_delegated_calls_failure_reaches_the_model_as_text() -> None:
    async with with_people() as people:
        await guarded(people)
        task = await begin(people, "delegate_to_agent__test-agent", message="test message")
        child = await child_of(people, task)
        await people.stage.fail(child, 1, "refused", status=400)
        finished = decode(await people.stage.stored(task, task.tool_event("r1", 1)), ToolFinished)
        assert finished.outcome == "failed"
        assert "LLM request failed with status 400: why" in finished.content
        await people.stage.until_state(task, AwaitingModel)


async def child_of(people: People, task: TaskSubjects) -> TaskSubjects:
    """The task that a delegated call has become; there is exactly one."""
    found: list[str] = []

    async def there() -> bool:
        entries = await people.stage.bus.log(task.partition).last([f"{task.root}.evt.*.submitted"])
        found[:] = [entry.subject.split(".")[4] for entry in entries if entry.subject != task.submitted]
        return bool(found)

    await until(there, "a child")
    (child,) = found
    return TaskSubjects(task.partition, "default", child)


async def test_x6_an_answer_with_quotes_and_newlines_is_one_result_and_the_task_goes_on() -> None:
    async with with_people() as people:
        await guarded(people)
        task = await begin(people, "oncall__human_contact_console", message='Say "hello"\nand more')
        await people.answer(await people.asked(task), content={"answer": '"}\n{"a": 1}'})
        await people.stage.answer(task, 2, text="Done.")
        state = await people.stage.until_state(task, FinalAnswer)
        assert len(state.window) == 4
