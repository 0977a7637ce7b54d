from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from schemas.interactions import AnswerInteraction, InteractionAnswered, InteractionRequested
from schemas.subjects import TaskSubjects
from schemas.wire import encode
from services.cli.client import Client
from services.cli.exits import Stop
from services.cli.inbox import answer_of, interaction, open_interactions, row, text_of
from services.runtime.memory.bus import MemoryBus
from services.runtime.ports import Outgoing
from tests.support.cli import finished_task

SCHEMA: Any = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "description": "Where to\x1b[2J", "enum": ["Oslo", "Rome"]},
        "nights": {"type": "integer"},
    },
    "required": ["city"],
}


def question(task: str = "t9", *, expires_s: float = 60.0, **fields: Any) -> InteractionRequested:
    now = datetime.now(UTC)
    return InteractionRequested(
        namespace="default",
        task=task,
        interaction="r1.2.1",
        message="Where\x1b[31m to?",
        agent="helper",
        tool="travel__book",
        server="travel",
        at=now,
        expires=now + timedelta(seconds=expires_s),
        **({"schema": SCHEMA} | fields),
    )


async def asked(bus: MemoryBus, one: InteractionRequested) -> TaskSubjects:
    task = TaskSubjects(0, one.namespace, one.task)
    await bus.log(0).record(Outgoing(task.interaction_asked("r1", 2, 1), encode(one)))
    return task


async def test_the_inbox_holds_what_can_be_answered() -> None:
    bus = MemoryBus()
    late, soon = question("late"), question("soon", expires_s=5)
    for one in (late, soon, question("over", expires_s=-1)):
        await asked(bus, one)
    done = await asked(bus, question("done"))
    answered = InteractionAnswered(namespace="default", task="done", interaction="r1.2.1", action="cancel", at=late.at)
    await bus.log(0).record(Outgoing(done.interaction_answered("r1", 2, 1), encode(answered)))
    await finished_task(bus, "ended")
    await asked(bus, question("ended"))
    client = Client(bus)
    assert await open_interactions(client, "default") == [soon, late]
    assert await open_interactions(client, "elsewhere") == []
    assert await open_interactions(client, None) == [soon, late]


def test_a_question_is_shown_without_what_a_terminal_would_obey() -> None:
    one = question()
    assert row(one, one.at)[:4] == ("t9", "r1.2.1", "elicitation", "travel")
    text = text_of(one, one.at)
    assert "\x1b" not in text + row(one, one.at)[-1]
    assert "MCP server travel asks:" in text
    assert "city (string, required): Where to" in text
    assert 'one of ["Oslo","Rome"]' in text
    assert "nights (integer)" in text
    assert "holdfast answer t9 r1.2.1 --accept '{...}' | --decline" in text


def test_a_page_is_named_and_any_schema_is_shown() -> None:
    page = question(schema=None, url="https://example.org/form")
    assert "https://example.org/form" in text_of(page, page.at)
    assert "--accept yes" in text_of(page, page.at)
    odd = question(schema={"type": "object", "properties": [], "required": 7})
    assert "a JSON object that fits" in text_of(odd, odd.at)


def test_an_answer_is_an_object_or_yes() -> None:
    form, page = question(), question(schema=None, url="https://example.org/form")
    said: Any = {"comment": "", "by": "ann"}
    assert answer_of(form, accept='{"city": "Oslo"}', **said) == AnswerInteraction(
        task="t9", interaction="r1.2.1", action="accept", content={"city": "Oslo"}, by="ann"
    )
    assert answer_of(page, accept="yes", **said).content is None
    for one, text in ((form, "yes"), (form, "[]"), (page, "perhaps")):
        with pytest.raises(Stop, match="--accept must be"):
            answer_of(one, accept=text, **said)
    assert answer_of(form, accept=None, comment="no", by="").action == "decline"


async def test_an_interaction_that_is_not_there_is_said_plainly() -> None:
    bus = MemoryBus()
    await asked(bus, question())
    client = Client(bus)
    assert (await interaction(client, "default", "t9", "r1.2.1")).task == "t9"
    with pytest.raises(Stop, match="has no interaction r1"):
        await interaction(client, "default", "t9", "r1.2.2")
    with pytest.raises(Stop, match="is no id of one"):
        await interaction(client, "default", "t9", "r1")
