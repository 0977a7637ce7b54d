"""Laws of names: a subject leads back to its task, a tool's name to its tool, and an id is always fit for a subject."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import Literal, NamedTuple

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st

from schemas import subjects
from schemas.ids import (
    RESOURCE_NAME_LENGTH_MAX,
    TOKEN_LENGTH_MAX,
    InvalidId,
    check_resource_name,
    check_token,
    derived_task_name,
    digest,
    partition_of,
)
from schemas.resources import KINDS, AgentSpec, Ref, ServerRef, ToolInfo
from schemas.subjects import TaskSubjects, parse_resource_key, task_of
from schemas.tools import NAME_LENGTH_MAX, Source, agent_tools, delegate_tool, offer

TOKENS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}", fullmatch=True)
RESOURCE_NAMES = st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,20}[a-z0-9])?", fullmatch=True)
NUMBERS = st.integers(1, 10**6)
TASKS = st.builds(TaskSubjects, st.integers(0, 1023), TOKENS, TOKENS)
TOOL_NAMES = st.text(min_size=1, max_size=80) | st.sampled_from(["a", "b__c", "c", "a.b", "a_b", "a b"])
SERVERS = st.lists(
    st.tuples(RESOURCE_NAMES | st.sampled_from(["a", "a__b", "a.b"]), st.lists(TOOL_NAMES, max_size=5, unique=True)),
    max_size=4,
    unique_by=lambda server: server[0],
)


@given(task=TASKS, turn=NUMBERS, attempt=NUMBERS, n=NUMBERS, timer=TOKENS)
@example(task=TaskSubjects(0, "cmd", "evt"), turn=1, attempt=1, n=1, timer="set")
@example(task=TaskSubjects(7, "timer", "fire"), turn=1, attempt=1, n=1, timer="deadline")
def test_every_subject_of_a_task_leads_back_to_it(
    task: TaskSubjects, turn: int, attempt: int, n: int, timer: str
) -> None:
    request = f"r{turn}"
    said = [
        task.state,
        task.model_command(turn, attempt),
        task.tool_command(request, n),
        task.submitted,
        task.model_event(turn, attempt),
        task.tool_event(request, n),
        task.cancel,
        task.context,
        task.tool_output(request, n),
        task.ledger(request, n),
        task.timer(timer),
        task.timer_fired(timer),
    ]
    assert {task_of(subject) for subject in said} == {task}
    assert len(set(said)) == len(said)


@given(subject=st.text(max_size=60) | st.lists(st.sampled_from(["hf", "$KV", "0", "evt", "x", ""])).map(".".join))
def test_any_other_subject_belongs_to_no_task(subject: str) -> None:
    try:
        task = task_of(subject)
    except ValueError:
        return
    assert f".{task.namespace}." in subject
    assert task.task in subject.split(".")


@given(task=TASKS, other=TASKS)
def test_what_is_purged_with_a_task_is_never_another_tasks(task: TaskSubjects, other: TaskSubjects) -> None:
    if task == other:
        return
    patterns = [re.escape(filter_).replace(">", ".+") for filter_ in task.everything]
    for subject in (other.state, other.submitted, other.context, other.model_command(1, 1), other.tool_event("r1", 1)):
        assert not any(re.fullmatch(pattern, subject) for pattern in patterns)


@given(kind=st.sampled_from(KINDS), namespace=TOKENS, name=RESOURCE_NAMES)
def test_a_resource_key_is_taken_apart_into_what_it_was_made_of(kind: str, namespace: str, name: str) -> None:
    assert parse_resource_key(subjects.spec_key(kind, namespace, name)) == ("spec", kind, namespace, name)
    assert parse_resource_key(subjects.status_key(kind, namespace, name)) == ("status", kind, namespace, name)


def mcp(servers: list[tuple[str, list[str]]]) -> list[Source]:
    return [Source("MCPServer", server, tuple(ToolInfo(name=tool) for tool in tools)) for server, tools in servers]


@given(servers=SERVERS)
@example(servers=[("a__b", ["c"]), ("a", ["b__c"])])
@example(servers=[("s", ["x" * 80, "x" * 81])])
def test_every_tool_has_one_name_which_leads_back_to_it(servers: list[tuple[str, list[str]]]) -> None:
    table = offer(mcp(servers))
    assert {(tool.server, tool.info.name) for tool in table.values()} == {
        (server, tool) for server, tools in servers for tool in tools
    }
    assert len(table) == sum(len(tools) for _, tools in servers)
    assert all(provider_takes(name) and name == tool.name for name, tool in table.items())


@given(servers=SERVERS)
def test_the_order_of_servers_and_tools_changes_no_name(servers: list[tuple[str, list[str]]]) -> None:
    assert offer(mcp(servers)) == offer(mcp([(server, tools[::-1]) for server, tools in servers[::-1]]))


def provider_takes(name: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9_-]+", name) is not None and len(name) <= NAME_LENGTH_MAX


class World(NamedTuple):
    """An agent, and the tools that its servers and toolsets have."""

    agent: AgentSpec
    tools: dict[tuple[str, str], tuple[ToolInfo, ...]]

    def tools_of(
        self, via: Literal["MCPServer", "Toolset", "ContactChannel", "Agent"], name: str
    ) -> tuple[ToolInfo, ...]:
        return self.tools.get((via, name), ())


PATTERNS = st.sampled_from(["a", "b__c", "*", "a*", "list_*", "x", "?", "[ab]*", ""])
REFS = st.builds(
    ServerRef,
    name=RESOURCE_NAMES | st.sampled_from(["a", "a__b", "a.b", "shell", "files"]),
    tools=st.none() | st.lists(PATTERNS, max_size=3).map(tuple),
    resources=st.booleans(),
    prompts=st.booleans(),
)
SOME_REFS = st.lists(REFS, max_size=4, unique_by=lambda ref: ref.name).map(tuple)
SOME_TOOLS = st.lists(
    TOOL_NAMES | st.sampled_from(["list_resources", "get_prompt", "run"]), max_size=6, unique=True
).map(lambda names: tuple(ToolInfo(name=name) for name in names))


@st.composite
def worlds(draw: st.DrawFn) -> World:
    servers, toolsets = draw(SOME_REFS), draw(SOME_REFS)
    others = tuple(Ref(name=name) for name in draw(st.lists(RESOURCE_NAMES, max_size=3, unique=True)))
    agent = AgentSpec(llm_ref=Ref(name="m"), system="s", mcp_servers=servers, toolsets=toolsets, sub_agents=others)
    named = [*(("MCPServer", ref.name) for ref in servers), *(("Toolset", ref.name) for ref in toolsets)]
    delegates = {("Agent", ref.name): (delegate_tool(ref.name, ""),) for ref in others}
    return World(agent, {**{place: draw(SOME_TOOLS) for place in named}, **delegates})


def allowed(ref: ServerRef, tool: ToolInfo) -> bool:
    return ref.tools is None or any(fnmatchcase(tool.name, pattern) for pattern in ref.tools)


def expected_tools(world: World) -> list[tuple[str, str, str]]:
    """What an agent may call: told again in the plainest way."""
    wanted: list[tuple[str, str, str]] = []
    for ref in world.agent.mcp_servers:
        wanted += [
            ("MCPServer", ref.name, tool.name) for tool in world.tools["MCPServer", ref.name] if allowed(ref, tool)
        ]
        wanted += [("MCPExtra", ref.name, name) for name in ("list_resources", "read_resource") if ref.resources]
        wanted += [("MCPExtra", ref.name, name) for name in ("list_prompts", "get_prompt") if ref.prompts]
    for ref in world.agent.toolsets:
        wanted += [("Toolset", ref.name, tool.name) for tool in world.tools["Toolset", ref.name] if allowed(ref, tool)]
    wanted += [("Agent", "delegate_to_agent", ref.name) for ref in world.agent.sub_agents]
    return wanted


@given(world=worlds())
@example(
    world=World(
        AgentSpec(
            llm_ref=Ref(name="m"),
            system="s",
            mcp_servers=(ServerRef(name="shell", resources=True), ServerRef(name="a")),
            toolsets=(ServerRef(name="shell"), ServerRef(name="a__b")),
        ),
        {
            ("MCPServer", "shell"): (ToolInfo(name="run"), ToolInfo(name="list_resources")),
            ("MCPServer", "a"): (ToolInfo(name="b__run"),),
            ("Toolset", "shell"): (ToolInfo(name="run"),),
            ("Toolset", "a__b"): (ToolInfo(name="run"),),
        },
    )
)
def test_an_agent_is_offered_exactly_what_it_may_use_under_names_that_lead_back(world: World) -> None:
    """Servers, what is asked of them beyond tools, toolsets and other agents: also with the same names."""
    table = agent_tools(world.agent, world.tools_of)
    assert sorted((tool.via, tool.server, tool.info.name) for tool in table.values()) == sorted(expected_tools(world))
    assert list(table) == sorted(table)
    assert all(provider_takes(name) and name == tool.name for name, tool in table.items())


@given(world=worlds())
def test_whoever_offers_tools_and_whoever_runs_them_agree_in_any_order(world: World) -> None:
    other = World(
        msgspec.structs.replace(
            world.agent,
            mcp_servers=world.agent.mcp_servers[::-1],
            toolsets=world.agent.toolsets[::-1],
            sub_agents=world.agent.sub_agents[::-1],
        ),
        {place: tools[::-1] for place, tools in world.tools.items()},
    )
    assert agent_tools(world.agent, world.tools_of) == agent_tools(other.agent, other.tools_of)


@given(text=st.text(max_size=80))
@example(text="a.b")
@example(text="a*")
@example(text="a>")
@example(text="a b")
@example(text="a\n")
@example(text="ä")
@example(text="٣")
def test_what_passes_the_checks_is_one_token_of_a_subject(text: str) -> None:
    try:
        token = check_token("task", text)
    except InvalidId as invalid:
        assert "task" in str(invalid)  # noqa: PT017 - either outcome is right
    else:
        assert token == text
        assert re.fullmatch(r"[A-Za-z0-9_-]+", token, re.ASCII)
        assert len(token) <= TOKEN_LENGTH_MAX
    try:
        name = check_resource_name("name", text)
    except InvalidId:
        return
    assert re.fullmatch(r"[a-z0-9.-]+", name, re.ASCII)
    assert len(name) <= RESOURCE_NAME_LENGTH_MAX


@given(namespace=TOKENS, agent=RESOURCE_NAMES | st.text(max_size=300), source=st.text())
def test_a_derived_name_is_stable_and_fit_for_a_subject(namespace: str, agent: str, source: str) -> None:
    name = derived_task_name(namespace, agent, source)
    assert name == derived_task_name(namespace, agent, source)
    assert re.fullmatch(r"[A-Za-z0-9_-]+", name)
    assert len(name) <= TOKEN_LENGTH_MAX
    assert name != derived_task_name(namespace, agent, source + "x")


@given(parts=st.lists(st.text(), min_size=1, max_size=4))
def test_a_digest_tells_apart_how_its_parts_are_divided(parts: list[str]) -> None:
    assert digest(*parts) == digest(*(part.encode() for part in parts))
    if len(parts) > 1:
        assert digest(*parts) != digest("".join(parts))


@given(namespace=TOKENS, task=TOKENS, partitions=st.integers(1, 1024))
def test_a_task_lives_in_one_of_the_partitions(namespace: str, task: str, partitions: int) -> None:
    assert 0 <= partition_of(namespace, task, partitions) < partitions
