"""Real processes, and agents that delegate: a tree three deep is killed in the middle, another is cancelled."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from schemas.events import ToolFinished
from schemas.interactions import InteractionAnswered
from schemas.requests import Accepted, Rejected
from schemas.resources import (
    LLM,
    Agent,
    AgentSpec,
    ApprovalRule,
    ContactChannel,
    ContactChannelSpec,
    LLMSpec,
    MCPServer,
    MCPServerSpec,
    Metadata,
    Ref,
    ScriptedCall,
    ScriptedOptions,
    ScriptedReply,
    ServerRef,
)
from schemas.subjects import TaskSubjects
from schemas.task import AwaitingTools, Cancelled, FinalAnswer
from schemas.wire import decode
from tests.support.stack import REPOSITORY, SERVICES, Stack, stack
from tests.support.stage import Stage, until

TOOLS = REPOSITORY / "tests" / "chaos" / "live" / "tools.py"
TREE_S = 60.0
TOKENS = 2000


class Tree:
    """root -> middle -> leaf, and a leaf that acts."""

    def __init__(self, running: Stack, effects: Path) -> None:
        self.running = running
        self.stage: Stage = running.stage
        self._effects = effects

    async def grow(self, tool: str, *, approval: bool = False) -> None:
        """The three agents. The leaf calls `tool`, after somebody approved it or at once."""
        server = MCPServerSpec(
            transport="stdio", command=sys.executable, args=(str(TOOLS), str(self._effects)), concurrency=4
        )
        await self.stage.apply(MCPServer(metadata=Metadata(name="effects"), spec=server))
        await self.stage.apply(
            ContactChannel(metadata=Metadata(name="oncall"), spec=ContactChannelSpec(type="console"))
        )
        rule = ApprovalRule(contact_channel=Ref(name="oncall"))
        act = ScriptedCall(tool=f"effects__{tool}", arguments={"key": "leaf"})
        servers, rules = (ServerRef(name="effects"),), (rule,) if approval else ()
        await self._agent("leaf", act, mcp_servers=servers, approvals=rules)
        await self._agent("middle", _delegated("leaf"), sub_agents=(Ref(name="leaf"),))
        await self._agent("root", _delegated("middle"), sub_agents=(Ref(name="middle"),))

    async def _agent(self, name: str, call: ScriptedCall, **fields: Any) -> None:
        """An agent with a model of its own, which makes one call and says that it is done."""
        turns = (
            ScriptedReply(calls=(call,), input_tokens=100, output_tokens=10),
            ScriptedReply(text=f"{name} is done", input_tokens=50, output_tokens=5),
        )
        script = LLMSpec(provider="scripted", scripted=ScriptedOptions(transcript=turns))
        await self.stage.apply(LLM(metadata=Metadata(name=name), spec=script))
        spec = AgentSpec(llm_ref=Ref(name=name), system=f"You are the {name}.", **fields)
        await self.stage.apply(Agent(metadata=Metadata(name=name), spec=spec))

    async def plant(self) -> tuple[TaskSubjects, TaskSubjects, TaskSubjects]:
        """Submit a task to the root; it and the two that come of it, once the leaf waits for its call."""
        root = await self.stage.submit(agentName="root", limits={"maxTokens": TOKENS})
        middle = await self._child(root)
        leaf = await self._child(middle)
        await self.stage.until_state(leaf, AwaitingTools, wait_s=TREE_S)
        return root, middle, leaf

    async def _child(self, task: TaskSubjects) -> TaskSubjects:
        state = await self.stage.until_state(task, AwaitingTools, wait_s=TREE_S)
        (call,) = state.calls
        assert call.child
        return self.stage.task(call.child)

    def acted(self) -> list[str]:
        """What the tools did."""
        if not self._effects.exists():
            return []
        return [str(json.loads(line)["tool"]) for line in self._effects.read_text().splitlines()]

    async def result(self, task: TaskSubjects) -> ToolFinished:
        """The result of a task's one call."""
        return decode(await self.stage.stored(task, task.tool_event("r1", 1)), ToolFinished)


def _delegated(agent: str) -> ScriptedCall:
    return ScriptedCall(tool=f"delegate_to_agent__{agent}", arguments={"message": "see that it is done"})


@asynccontextmanager
async def tree(directory: Path) -> AsyncGenerator[Tree]:
    environ = {"HOLDFAST_PEOPLE_HTTP_PORT": "-1"}
    async with stack(directory, services=(*SERVICES, "human-contact"), environ=environ) as running:
        yield Tree(running, directory / "effects")


async def test_a_tree_that_is_killed_while_its_leaf_acts_gives_one_answer_and_acts_once(tmp_path: Path) -> None:
    async with tree(tmp_path) as here:
        await here.grow("endless")
        root, middle, leaf = await here.plant()
        waiting = [await here.stage.until_state(task, AwaitingTools) for task in (leaf, middle, root)]
        # Each has what its caller had left.
        assert [state.budget.max_tokens for state in waiting] == [TOKENS - 220, TOKENS - 110, TOKENS]
        await until(lambda: _has(here.acted()), "the leaf acts", wait_s=TREE_S)
        for service in ("planner", "tool-executor"):
            here.running.kill(service)
        for service in ("planner", "tool-executor"):
            here.running.start(service)
        ended = [await here.stage.until_state(task, FinalAnswer, wait_s=TREE_S) for task in (leaf, middle, root)]
        # It had begun and nobody heard the end of it: the leaf is told that, and it is not done again.
        assert [(await here.result(task)).outcome for task in (leaf, middle, root)] == [
            "unknown",
            "succeeded",
            "succeeded",
        ]
        assert (await here.result(root)).content == "middle is done"
        assert here.acted() == ["endless"]
        log = here.stage.bus.log(root.partition)
        assert len(await log.subjects(f"{root.root}.evt.*.submitted")) == len(ended)
        # Each used what its own two turns did, and what was done for it.
        assert [(state.spend.input_tokens, state.spend.output_tokens) for state in ended] == [
            (150, 15),
            (300, 30),
            (450, 45),
        ]


async def _has(found: list[str]) -> bool:
    return bool(found)


async def test_a_tree_that_is_cancelled_while_a_person_is_waited_for_asks_nobody_any_more(tmp_path: Path) -> None:
    async with tree(tmp_path) as here:
        await here.grow("charge", approval=True)
        root, middle, leaf = await here.plant()
        await here.stage.stored(leaf, leaf.interaction_asked("r1", 1, 0))
        reply = await here.stage.ask("cancel", {"task": root.task, "reason": "not today", "by": "ann"})
        assert isinstance(reply, Accepted), reply
        for task in (root, middle, leaf):
            await here.stage.until_state(task, Cancelled, wait_s=TREE_S)
            assert (await here.result(task)).outcome == "cancelled"
        withdrawn = decode(await here.stage.stored(leaf, leaf.interaction_answered("r1", 1, 0)), InteractionAnswered)
        assert (withdrawn.action, withdrawn.via, "not today" in withdrawn.comment) == ("cancel", "withdrawn", True)
        late = await here.stage.ask("answer", {"task": leaf.task, "interaction": "r1.1.0", "by": "bob"})
        assert isinstance(late, Rejected), late
        assert late.code == "conflict"
        assert late.error.startswith("interaction r1.1.0 cannot be answered: it was withdrawn at ")
        assert late.error.endswith("because the call that asked has ended")
        assert here.acted() == []
