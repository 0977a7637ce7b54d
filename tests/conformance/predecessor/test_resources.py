"""Cases A, and what sections 1 and 3 say of resources: their readiness, in the words that users' scripts look for."""

from __future__ import annotations

import msgspec
import pytest

from schemas.contact_channels import problem_of
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
    Resource,
    ResourceStatus,
    SecretKeyRef,
    SecretSource,
    ServerRef,
    SlackOptions,
    ToolInfo,
)
from schemas.subjects import status_key
from schemas.tools import agent_tools, contact_tool
from schemas.wire import decode
from services.planner.core.readiness import Verdict, evaluate
from services.planner.main import build
from tests.support.stage import Stage, on_stage, scripted_llm, until

PLANNER = {"planner": build}
KEY = SecretSource(secret_key_ref=SecretKeyRef(name="humanlayer", key="token"))
SLACK = SlackOptions(channel_or_user_id="C1")
EMAIL = EmailOptions(address="ada@example.com")
READY = "All dependencies validated successfully"


def an_agent(**fields: object) -> Agent:
    spec = msgspec.structs.replace(AgentSpec(llm_ref=Ref(name="model"), system="s"), **fields)
    return Agent(metadata=Metadata(name="helper"), spec=spec)


async def until_said(stage: Stage, status: str, detail: str) -> None:
    """Wait until the agent has this status."""
    found: list[ResourceStatus] = []

    async def said() -> bool:
        entry = await stage.bus.resources.get(status_key("Agent", "default", "helper"))
        found[:] = [decode(entry.data, ResourceStatus)] if entry is not None and entry.data else []
        return bool(found) and found[0].status == status and detail in found[0].status_detail

    try:
        await until(said, f"{status}: {detail}")
    except AssertionError as error:
        raise AssertionError(f"{error}; it is {found}") from None


async def test_a1_an_agent_whose_model_is_ready_is_ready() -> None:
    async with on_stage(PLANNER) as (stage, _):
        await stage.apply_ready(scripted_llm())
        await stage.apply(an_agent())
        await until_said(stage, "Ready", READY)


async def test_a2_an_agents_channels_are_its_tools() -> None:
    agent = an_agent(human_contact_channels=(Ref(name="ada"),))
    channel = ContactChannelSpec(type="email", api_key_from=KEY, email=EMAIL)
    tools = agent_tools(agent.spec, lambda _source, _name: (contact_tool(channel),))
    assert list(tools) == ["ada__human_contact_email"]
    async with on_stage(PLANNER) as (stage, _):
        await stage.apply_ready(scripted_llm())
        await stage.apply_ready(ContactChannel(metadata=Metadata(name="ada"), spec=channel))
        await stage.apply(agent)
        await until_said(stage, "Ready", READY)


@pytest.mark.parametrize(
    ("missing", "agent"),
    [
        ("LLM", an_agent()),
        ("MCPServer", an_agent(mcp_servers=(ServerRef(name="gone"),))),
        ("ContactChannel", an_agent(human_contact_channels=(Ref(name="gone"),))),
        ("Agent", an_agent(sub_agents=(Ref(name="gone"),))),
    ],
    ids=["LLM", "MCPServer", "ContactChannel", "Agent"],
)
async def test_a3_x10_an_agent_recovers_when_what_it_lacks_appears(missing: str, agent: Agent) -> None:
    sleeping = MCPServer(metadata=Metadata(name="gone"), spec=MCPServerSpec(transport="stdio", command="c"))
    channel = ContactChannel(metadata=Metadata(name="gone"), spec=ContactChannelSpec(type="console"))
    other = Agent(metadata=Metadata(name="gone"), spec=AgentSpec(llm_ref=Ref(name="model"), system="s"))
    late: dict[str, Resource] = {
        "LLM": scripted_llm(),
        "MCPServer": sleeping,
        "ContactChannel": channel,
        "Agent": other,
    }
    async with on_stage(PLANNER) as (stage, _):
        if missing != "LLM":
            await stage.apply_ready(scripted_llm())
        await stage.apply(agent)
        name = "model" if missing == "LLM" else "gone"
        await until_said(stage, "Error", f'{missing} "{name}" not found')
        revision = await stage.apply(late[missing])
        if missing != "Agent":
            await until_said(stage, "Pending", f'{missing} "{name}" is not ready')
            await stage.say_ready(late[missing], revision)
        await until_said(stage, "Ready", READY)


async def test_a5_the_tools_of_a_server_are_the_agents() -> None:
    server = MCPServer(metadata=Metadata(name="test-fetch"), spec=MCPServerSpec(transport="stdio", command="c"))
    agent = an_agent(mcp_servers=(ServerRef(name="test-fetch"),))
    async with on_stage(PLANNER) as (stage, _):
        await stage.apply_ready(scripted_llm())
        await stage.say_ready(server, await stage.apply(server), tools=(ToolInfo(name="fetch"),))
        await stage.apply(agent)
        await until_said(stage, "Ready", READY)
    assert list(agent_tools(agent.spec, lambda _source, _name: (ToolInfo(name="fetch"),))) == ["test-fetch__fetch"]


async def test_an_agent_whose_model_becomes_unready_is_so_too() -> None:
    async with on_stage(PLANNER) as (stage, _):
        model = scripted_llm()
        revision = await stage.apply(model)
        await stage.say_ready(model, revision)
        await stage.apply(an_agent())
        await until_said(stage, "Ready", READY)
        await stage.say_ready(model, revision, ready=False)
        await until_said(stage, "Pending", 'LLM "model" is not ready (status: "Error")')


def test_an_agent_that_delegates_to_itself_is_an_error_and_not_pending_for_ever() -> None:
    verdict = evaluate(
        an_agent(sub_agents=(Ref(name="helper"),)), lambda _kind, _name: (True, None), lambda _: ("helper",)
    )
    assert verdict == Verdict("Error", "subAgents: agents delegate in a circle: helper -> helper")


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (ContactChannelSpec(type="slack", slack=SLACK), "either apiKeyFrom or channelApiKeyFrom must be provided"),
        (
            ContactChannelSpec(type="slack", slack=SLACK, api_key_from=KEY, channel_api_key_from=KEY, channel_id="c"),
            "apiKeyFrom and channelApiKeyFrom are mutually exclusive",
        ),
        (
            ContactChannelSpec(type="slack", slack=SLACK, channel_api_key_from=KEY),
            "channelId is required when channelApiKeyFrom is set",
        ),
        (
            ContactChannelSpec(type="slack", slack=SLACK, api_key_from=KEY, channel_id="c"),
            "channelId can only be used with channelApiKeyFrom",
        ),
        (ContactChannelSpec(type="slack", api_key_from=KEY), "slackConfig is required for slack channel type"),
        (ContactChannelSpec(type="email", api_key_from=KEY), "emailConfig is required for email channel type"),
        (
            ContactChannelSpec(type="email", api_key_from=KEY, email=EmailOptions(address="nobody")),
            "invalid email address: ",
        ),
    ],
)
def test_a_channel_that_contradicts_itself_is_told_in_the_known_words(spec: ContactChannelSpec, said: str) -> None:
    assert problem_of(spec).startswith(said)
