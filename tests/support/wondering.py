"""Plays a tool-executor that has questions in the middle of a call: it asks people through a contact channel."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from schemas.ids import call_digest
from schemas.interactions import InteractionAnswered, InteractionRequested, PeopleDue
from schemas.resources import Agent, AgentSpec, Metadata, Ref, ServerRef
from schemas.subjects import TaskSubjects
from schemas.wire import decode, encode
from services.runtime.ports import Outgoing
from tests.support.people import People
from tests.support.stage import Stage
from tests.unit.planner.test_delegation import calls

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "title": "City <b>", "description": "Where & when?", "minLength": 3},
        "nights": {"type": "integer", "maximum": 30, "default": 2},
        "mail": {"type": "string", "format": "email"},
        "from": {"type": "string", "format": "date"},
        "smoking": {"type": "boolean"},
        "room": {"type": "string", "enum": ["s", "d"], "enumNames": ["Single", "Double"], "default": "d"},
        "extras": {"type": "array", "items": {"type": "string", "enum": ["sauna", "bike"]}},
    },
    "required": ["city"],
}
URL = "https://bank.example@evil.example/sign?x=<b>"
ARGUMENTS = '{"amount": 100, "to": "<script>"}'


async def begin(people: People) -> TaskSubjects:
    """A task whose one call is under way, of an agent whose calls nobody has to approve."""
    spec = AgentSpec(llm_ref=Ref(name="model"), system="s", mcp_servers=(ServerRef(name="box"),))
    await people.stage.apply(Agent(metadata=Metadata(name="asker"), spec=spec))
    task = await people.stage.submit(agentName="asker")
    await calls(people.stage, task, 1, ("box__write", {}))
    await people.stage.stored(task, task.tool_command("r1", 1))
    return task


async def wonder(stage: Stage, task: TaskSubjects, *, k: int = 1, in_s: float = 60.0, **fields: Any) -> None:
    """Ask, and wake whoever brings questions to people."""
    now = stage.bus.clock.now()
    form = {"schema": SCHEMA} if "url" not in fields and fields.get("kind", "elicitation") == "elicitation" else {}
    words: dict[str, Any] = {
        "message": "Where to, <i>friend</i>?",
        "agent": "helper",
        "tool": "box__write",
        "server": "box",
        "channel": "oncall",
        "title": "Book a trip",
        **form,
        **fields,
    }
    asked = InteractionRequested(
        namespace="default",
        task=task.task,
        interaction=f"r1.1.{k}",
        **words,
        at=now,
        expires=now + timedelta(seconds=in_s),
    )
    await stage.bus.log(task.partition).record(Outgoing(task.interaction_asked("r1", 1, k), encode(asked)))
    due = PeopleDue(interaction=asked.interaction, due=now)
    await stage.bus.log(task.partition).record(Outgoing(task.look_command("r1", 1, k), encode(due)))


async def doubt(stage: Stage, task: TaskSubjects, **fields: Any) -> None:
    """Ask about a call whose outcome nobody knows."""
    lost: dict[str, Any] = {
        "kind": "uncertain",
        "message": "This call was begun, and nobody knows how it ended.",
        "arguments": ARGUMENTS,
        "digest": call_digest("box__write", ARGUMENTS),
        "began": stage.bus.clock.now(),
        "attempt": 2,
    }
    await wonder(stage, task, **{**lost, **fields})


async def said(stage: Stage, task: TaskSubjects, k: int = 1) -> InteractionAnswered:
    """Wait for the answer."""
    return decode(await stage.stored(task, task.interaction_answered("r1", 1, k)), InteractionAnswered)


async def unanswered(stage: Stage, task: TaskSubjects, k: int = 1) -> bool:
    """Whether the question is open."""
    return await stage.bus.log(task.partition).get(task.interaction_answered("r1", 1, k)) is None
