"""The live view of the resources, and statuses written only when they are news."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from schemas import subjects
from schemas.resources import LLM, Agent, AgentSpec, LLMSpec, Metadata, Ref, Resource, ResourceStatus, ToolInfo
from schemas.subjects import ResourceKey
from schemas.wire import decode, encode
from services.runtime.memory.bus import MemoryBus
from services.runtime.memory.clock import ManualClock
from services.runtime.memory.server import MemoryServer
from services.runtime.resources import Resources
from services.runtime.tasks import spawn

LLM_STATUS = subjects.status_key("LLM", "default", "gpt")


def an_llm(name: str = "gpt", *, provider: str = "scripted") -> LLM:
    return LLM(metadata=Metadata(name=name), spec=LLMSpec(provider="openai" if provider == "openai" else "scripted"))


class View:
    """A server, and the views that several processes have of its resources."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.server = MemoryServer(clock=self.clock)
        self.store = MemoryBus(self.server).resources
        self.changes: list[ResourceKey] = []

    async def apply(self, resource: Resource) -> int:
        kind, metadata = type(resource).__name__, resource.metadata
        return await self.store.put(subjects.spec_key(kind, metadata.namespace, metadata.name), encode(resource))

    @asynccontextmanager
    async def open(self, service: str = "llm-gateway") -> AsyncGenerator[Resources]:
        resources = Resources(MemoryBus(self.server).resources, self.clock, service=service)
        resources.on_change(self.changes.append)
        following = spawn(resources.run(), name="resources")
        try:
            await resources.loaded()
            yield resources
        finally:
            following.cancel()
            await asyncio.wait({following})

    async def settle(self) -> None:
        await self.clock.advance(0)


async def test_what_was_applied_before_is_known_when_it_is_loaded() -> None:
    view = View()
    revision = await view.apply(an_llm())
    await view.apply(Agent(metadata=Metadata(name="helper"), spec=AgentSpec(llm_ref=Ref(name="gpt"), system="s")))
    async with view.open() as resources:
        assert resources.get(LLM, "default", "gpt") == an_llm()
        assert list(resources.all(LLM)) == [(an_llm(), revision)]
        agent = resources.get(Agent, "default", "helper")
        assert agent is not None
        assert agent.spec.llm_ref.name == "gpt"


async def test_names_may_have_dots_and_kinds_and_namespaces_are_apart() -> None:
    view = View()
    await view.apply(an_llm("gpt-4.1"))
    async with view.open() as resources:
        assert resources.get(LLM, "default", "gpt-4.1") is not None
        assert resources.get(LLM, "other", "gpt-4.1") is None
        assert resources.get(Agent, "default", "gpt-4.1") is None


async def test_a_change_is_seen_and_told() -> None:
    view = View()
    async with view.open() as resources:
        await view.apply(an_llm(provider="openai"))
        await view.settle()
        known = resources.get(LLM, "default", "gpt")
        assert known is not None
        assert known.spec.provider == "openai"
        await view.store.delete(subjects.spec_key("LLM", "default", "gpt"))
        await view.settle()
        assert resources.get(LLM, "default", "gpt") is None
    assert view.changes == [ResourceKey("spec", "LLM", "default", "gpt")] * 2


async def test_a_value_that_cannot_be_read_is_passed_over() -> None:
    view = View()
    await view.store.put(subjects.spec_key("LLM", "default", "bad"), b"not JSON")
    await view.store.put("no.resource", b"{}")
    await view.apply(an_llm())
    async with view.open() as resources:
        assert resources.get(LLM, "default", "bad") is None
        assert resources.get(LLM, "default", "gpt") is not None


async def test_a_status_is_written_once_and_seen_by_others() -> None:
    view = View()
    revision = await view.apply(an_llm())
    async with view.open() as resources, view.open("planner") as other:
        assert resources.status("LLM", "default", "gpt") is None
        assert await resources.set_status("LLM", "default", "gpt", status="Ready", detail="ok") is True
        await view.settle()
        status = other.status("LLM", "default", "gpt")
        assert status is not None
        assert (status.ready, status.status_detail, status.observed_revision, status.by) == (
            True,
            "ok",
            revision,
            "llm-gateway",
        )
        view.changes.clear()
        await view.clock.advance(60)
        assert await resources.set_status("LLM", "default", "gpt", status="Ready", detail="ok") is False
        await view.settle()
        assert view.changes == []
        assert await resources.set_status("LLM", "default", "gpt", status="Error", detail="401") is True


async def test_a_status_of_an_earlier_specification_says_nothing() -> None:
    view = View()
    await view.apply(an_llm())
    async with view.open() as resources:
        await resources.set_status("LLM", "default", "gpt", status="Ready", detail="ok")
        await view.apply(an_llm(provider="openai"))
        await view.settle()
        assert resources.status("LLM", "default", "gpt") is None
        assert await resources.set_status("LLM", "default", "gpt", status="Ready", detail="ok") is True
        assert resources.status("LLM", "default", "gpt") is not None


async def test_a_replica_that_lost_the_race_leaves_it_at_that() -> None:
    view = View()
    await view.apply(an_llm())
    async with view.open() as one, view.open() as other:
        results = await asyncio.gather(
            one.set_status("LLM", "default", "gpt", status="Ready", detail="one"),
            other.set_status("LLM", "default", "gpt", status="Ready", detail="other"),
        )
        assert sorted(results) == [False, True]
        await view.settle()
        winner = "one" if results[0] else "other"
        for resources in (one, other):
            status = resources.status("LLM", "default", "gpt")
            assert status is not None
            assert status.status_detail == winner


async def test_tools_are_part_of_the_news() -> None:
    view = View()
    await view.apply(an_llm())
    async with view.open() as resources:
        for tools in ((), (ToolInfo(name="now"),)):
            assert await resources.set_status("LLM", "default", "gpt", status="Ready", detail="ok", tools=tools) is True
    entry = await view.store.get(LLM_STATUS)
    assert entry is not None
    assert entry.data is not None
    assert [tool.name for tool in decode(entry.data, ResourceStatus).tools] == ["now"]


async def test_nothing_is_said_of_a_resource_that_is_not_there() -> None:
    view = View()
    async with view.open() as resources:
        assert await resources.set_status("LLM", "default", "gpt", status="Ready", detail="ok") is False
    assert await view.store.get(LLM_STATUS) is None


async def test_a_status_that_was_forgotten_can_be_said_again() -> None:
    view = View()
    await view.apply(an_llm())
    async with view.open() as resources:
        await resources.set_status("LLM", "default", "gpt", status="Ready", detail="ok")
        await resources.forget_status("LLM", "default", "gpt")
        await view.settle()
        assert resources.status("LLM", "default", "gpt") is None
        assert await resources.set_status("LLM", "default", "gpt", status="Ready", detail="again") is True


async def test_forgetting_a_status_that_is_not_there_writes_nothing() -> None:
    """Or else two things that follow the bucket would make each other forget for ever."""
    view = View()
    async with view.open() as resources:
        before = view.server.resources.last_seq
        await resources.forget_status("MCPServer", "default", "gone")
        assert view.server.resources.last_seq == before


async def test_a_status_can_be_said_before_its_removal_is_seen() -> None:
    """A resource that is deleted and applied again at once."""
    view = View()
    await view.apply(an_llm())
    async with view.open() as resources:
        await resources.set_status("LLM", "default", "gpt", status="Ready", detail="ok")
        await view.settle()
        await resources.forget_status("LLM", "default", "gpt")
        assert await resources.set_status("LLM", "default", "gpt", status="Ready", detail="ok") is True
        await view.settle()
        assert resources.status("LLM", "default", "gpt") is not None


async def test_a_status_of_an_earlier_specification_gives_way() -> None:
    """Another replica was slower to see the new specification, and quicker to write."""
    view = View()
    old = await view.apply(an_llm())
    async with view.open() as resources:
        await view.apply(an_llm(provider="openai"))
        await view.settle()
        late = ResourceStatus(
            ready=True, status="Ready", status_detail="old", observed_revision=old, at=view.clock.now()
        )
        await view.store.put(LLM_STATUS, encode(late))
        assert resources.status("LLM", "default", "gpt") is None
        assert await resources.set_status("LLM", "default", "gpt", status="Ready", detail="new") is True
        await view.settle()
        status = resources.status("LLM", "default", "gpt")
        assert status is not None
        assert status.status_detail == "new"


async def test_a_status_another_replica_wrote_first_is_known_at_once() -> None:
    """Who judged by what is not seen yet would write, and be refused, until the watcher comes."""
    view = View()
    revision = await view.apply(an_llm())
    async with view.open() as resources:
        await view.store.put(LLM_STATUS, encode(ready_for(revision)))
        assert await resources.set_status("LLM", "default", "gpt", status="Error", detail="401") is False
        status = resources.status("LLM", "default", "gpt")
        assert status is not None
        assert status.status_detail == "new"


async def test_only_the_status_that_is_known_is_forgotten() -> None:
    """A slow replica sees the deletion when another one has already seen the resource come again."""
    view = View()
    await view.apply(an_llm())
    async with view.open() as slow:
        await slow.set_status("LLM", "default", "gpt", status="Ready", detail="old")
        newer = await view.store.put(LLM_STATUS, encode(ready_for(await view.apply(an_llm(provider="openai")))))
        await slow.forget_status("LLM", "default", "gpt")
        entry = await view.store.get(LLM_STATUS)
        assert entry is not None
        assert entry.revision == newer


def ready_for(revision: int) -> ResourceStatus:
    at = ManualClock().now()
    return ResourceStatus(ready=True, status="Ready", status_detail="new", observed_revision=revision, at=at)
