"""Calls of the tools of toolsets, asked for as the planner would: a bench whose tasks have a state."""

from __future__ import annotations

import msgspec

from schemas import subjects
from schemas.commands import RunTool
from schemas.events import ModelAnswered, ToolFinished, ToolStarted
from schemas.messages import AssistantMessage, ToolCall, Usage
from schemas.resources import Agent, AgentSpec, Metadata, Ref, ServerRef, Toolset, ToolsetSpec
from schemas.subjects import TaskSubjects
from schemas.task import AwaitingTools, Budget, CallRef
from schemas.wire import decode, encode
from services.runtime.ports import Outgoing
from tests.support.mcp_servers.bench import Bench


class Calls(Bench):
    """A bench whose tasks have a state, as tasks have."""

    async def offer(self, *refs: ServerRef) -> None:
        """An agent with these toolsets."""
        spec = AgentSpec(llm_ref=Ref(name="model"), system="s", toolsets=refs)
        agent = Agent(metadata=Metadata(name="helper"), spec=spec)
        await self.bus.resources.put(subjects.spec_key("Agent", "default", "helper"), encode(agent))

    async def toolset(self, name: str, spec: ToolsetSpec) -> None:
        """Apply a toolset."""
        declared = Toolset(metadata=Metadata(name=name), spec=spec)
        await self.bus.resources.put(subjects.spec_key("Toolset", "default", name), encode(declared))

    async def asks(self, name: str, tool: str, **arguments: object) -> TaskSubjects:
        """Ask for a call of a task that waits for it."""
        task, log, now = TaskSubjects(0, "default", name), self.bus.log(0), self.bus.clock.now()
        call = ToolCall(id="call-1", name=tool, arguments=msgspec.json.encode(arguments).decode())
        answer = ModelAnswered(turn=1, attempt=1, message=AssistantMessage(tool_calls=(call,)), usage=Usage(), at=now)
        seq = await log.record(Outgoing(task.model_event(1, 1), encode(answer)))
        assert seq is not None
        state = AwaitingTools(
            namespace="default",
            task=name,
            agent="helper",
            submitted_seq=1,
            created_at=now,
            updated_at=now,
            budget=Budget(max_turns=3),
            turn=1,
            request="r1",
            answer_seq=seq,
            calls=(CallRef(n=1, id="call-1", tool=tool),),
        )
        await log.write(Outgoing(task.state, encode(state)), expected=0)
        run = RunTool(namespace="default", task=name, agent="helper", request="r1", n=1, answer_seq=seq, tool=tool)
        await log.record(Outgoing(task.tool_command("r1", 1), encode(run)))
        return task

    async def gives(self, name: str, tool: str, **arguments: object) -> ToolFinished:
        """The result of a call."""
        return await self.until_result(await self.asks(name, tool, **arguments))

    async def started(self, task: str) -> ToolStarted | None:
        """What the ledger says of a task's call."""
        entry = await self.bus.log(0).get(TaskSubjects(0, "default", task).ledger("r1", 1))
        return decode(entry.data, ToolStarted) if entry is not None else None
