"""Names resolved to what carries them out, from a table that is kept while nothing changes."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from schemas import subjects
from schemas.resources import (
    Agent,
    AgentSpec,
    MCPServer,
    MCPServerSpec,
    Metadata,
    Ref,
    Resource,
    ServerRef,
    ToolInfo,
)
from schemas.tools import agent_tools
from schemas.wire import encode
from services.runtime.memory.bus import MemoryBus
from services.runtime.resources import Resources
from services.runtime.tasks import spawn
from services.tool_executor import resolve
from services.tool_executor.calls import NotNow
from services.tool_executor.core.arguments import BadArguments
from services.tool_executor.resolve import Resolver
from tests.support.waiting import until

SERVER = MCPServer(metadata=Metadata(name="s"), spec=MCPServerSpec(transport="stdio", command="x", timeout_s=7.0))


def agent(*servers: ServerRef, name: str = "helper", namespace: str = "default") -> Agent:
    spec = AgentSpec(llm_ref=Ref(name="m"), system="s", mcp_servers=servers)
    return Agent(metadata=Metadata(name=name, namespace=namespace), spec=spec)


class Shelf:
    """Resources, and the resolver that reads them."""

    def __init__(self) -> None:
        self.bus = MemoryBus()
        self.resources = Resources(self.bus.resources, self.bus.clock, service="test")
        self.resolver = Resolver(self.resources)

    async def put(self, resource: Resource, *tools: str) -> None:
        """Apply a resource; with tools, say that it has them."""
        kind, meta = type(resource).__name__, resource.metadata
        revision = await self.bus.resources.put(subjects.spec_key(kind, meta.namespace, meta.name), encode(resource))
        await until(lambda: self._known(kind, meta) == revision, "the resource is seen")
        if tools:
            infos = tuple(ToolInfo(name=name) for name in tools)
            await self.resources.set_status(
                kind, meta.namespace, meta.name, status="Ready", detail=" ".join(tools), tools=infos
            )

    def _known(self, kind: str, meta: Metadata) -> int:
        known = self.resources.known(kind, meta.namespace, meta.name)
        return known.revision if known is not None else 0

    def tool(self, name: str, *, namespace: str = "default") -> str:
        """The server's own name of a tool."""
        return self.resolver.resolve(namespace, "helper", name).info.name


@asynccontextmanager
async def shelf() -> AsyncGenerator[Shelf]:
    made = Shelf()
    following = spawn(made.resources.run(), name="resources")
    try:
        yield made
    finally:
        following.cancel()


async def test_a_table_is_made_once_and_again_when_something_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    build = agent_tools

    def counted(*arguments: object) -> object:
        made.append("table")
        return build(*arguments)  # type: ignore[arg-type]  # as they came

    monkeypatch.setattr(resolve, "agent_tools", counted)
    async with shelf() as here:
        await here.put(SERVER, "one")
        await here.put(agent(ServerRef(name="s")))
        for _ in range(3):
            assert here.tool("s__one") == "one"
        assert len(made) == 1
        await here.put(agent(ServerRef(name="s"), name="other"))
        await here.put(agent(ServerRef(name="s"), namespace="elsewhere"))
        assert here.tool("s__one") == "one"
        assert len(made) == 1, "another agent's change is no reason"
        await here.put(SERVER, "one", "two")
        assert here.tool("s__two") == "two"
        await here.put(agent(ServerRef(name="s", tools=("one",))))
        with pytest.raises(BadArguments):
            here.tool("s__two")
        assert len(made) == 3


async def test_where_a_tool_comes_from_and_how_it_may_be_called_is_known() -> None:
    async with shelf() as here:
        await here.put(SERVER, "one")
        await here.put(agent(ServerRef(name="s", resources=True)))
        own = here.resolver.resolve("default", "helper", "s__one")
        assert (own.via, own.server, own.where, own.policy.repeatable) == ("MCPServer", "s", "MCP server 's'", False)
        extra = here.resolver.resolve("default", "helper", "s__read_resource")
        assert (extra.via, extra.policy.repeatable, extra.policy.timeout_s) == ("MCPExtra", True, 7.0)


async def test_what_is_not_there_now_is_told_from_what_is_not_there_at_all() -> None:
    async with shelf() as here:
        with pytest.raises(NotNow, match="agent 'helper' is not there any more"):
            here.tool("s__one")
        await here.put(agent(ServerRef(name="s")))
        with pytest.raises(NotNow, match="MCP server 's' is not ready"):
            here.tool("s__one")
        await here.put(SERVER, "one")
        with pytest.raises(BadArguments, match="Perhaps you mean s__one"):
            here.tool("s__on")
