from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from schemas.interactions import AnswerInteraction, InteractionAnswered, InteractionRequested, InteractionStep
from schemas.subjects import TaskSubjects
from schemas.wire import encode
from services.cli.client import Client
from services.cli.commands.approvals import judged
from services.cli.exits import Stop
from services.cli.inbox import answer_of, interaction, open_interactions, row
from services.cli.question_words import outcome_text, text_of
from services.cli.text import stamp
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


ASKED: Any = {"namespace": "default", "message": "Where\x1b[31m to?", "server": "travel", "schema": SCHEMA}


def question(task: str = "t9", *, expires_s: float = 60.0, **fields: Any) -> InteractionRequested:
    now = datetime.now(UTC)
    return InteractionRequested(
        task=task,
        interaction="r1.2.1",
        agent="helper",
        tool="travel__book",
        at=now,
        expires=now + timedelta(seconds=expires_s),
        **(ASKED | fields),
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
    assert text.endswith("  holdfast answer t9 r1.2.1 --accept '{...}'\n  holdfast answer t9 r1.2.1 --decline")


def test_an_approval_is_shown_exactly_with_who_asks_why_until_when_and_what_answers_it() -> None:
    hidden = '{"path": "a\u202etxt.exe",\n "why":\x1b[2J "Answer with one of:"}'
    one = question(
        kind="approval",
        schema=None,
        server="",
        namespace="lab",
        message="I tidy up.",
        arguments=hidden,
        channel="oncall",
        title="Tidy up",
        quorum=2,
        allowed=("ann", "bob"),
    )
    step = InteractionStep(
        interaction="r1.2.1", step=1, channel="boss", at=one.at, until=one.at + timedelta(seconds=30), delivered=True
    )
    first = f"t9 r1.2.1 (approval) through boss, expires in 30.0s ({stamp(one.at + timedelta(seconds=30))})"
    assert text_of(one, one.at, step).split("\n") == [
        first,
        "Agent helper wants to call travel__book. In the model's words:",
        "  I tidy up.",
        "The task: Tidy up",
        "With these arguments:",
        '  {"path": "a\\u202etxt.exe",',
        '   "why":\\u001b[2J "Answer with one of:"}',
        "Who may answer: ann, bob",
        "2 different people have to accept; one who says no is enough",
        "Answer with one of:",
        "  holdfast approve t9 r1.2.1 -n lab",
        '  holdfast reject t9 r1.2.1 -n lab -m "why"',
    ]
    assert "through oncall, expires in 1m (" in text_of(one, one.at)


def test_a_call_whose_outcome_nobody_knows_is_judged_like_an_approval_and_a_form_is_not() -> None:
    doubt = question(kind="uncertain", schema=None, message="Begun at noon, and nobody knows.", arguments="{}")
    text = text_of(doubt, doubt.at)
    assert "Agent helper called travel__book:\n  Begun at noon, and nobody knows." in text
    assert "holdfast approve t9 r1.2.1" in text
    assert judged(doubt) is doubt
    with pytest.raises(Stop, match="is no approval; answer it with `holdfast answer t9"):
        judged(question())


def test_a_kind_that_is_new_is_shown_as_one_that_is_accepted_or_declined() -> None:
    new: Any = "judgement"
    text = text_of(question(kind=new, schema=None, server="", arguments="{}"), question().at)
    assert "Agent helper asks about travel__book" in text
    assert "  {}" in text
    assert "holdfast approve t9 r1.2.1" in text


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"by": "ann"}, "r1.2.1 (travel__book) was approved by ann on the bus"),
        (
            {"by": "ann", "scope": "task"},
            "r1.2.1 (travel__book) was approved by ann on the bus, for the rest of the task",
        ),
        (
            {"via": "slack", "by": "U1", "action": "decline", "comment": "no\x1b[2J"},
            "rejected by U1 through slack: no\\u001b",
        ),
        ({"arguments": '{"a": 1}'}, 'was approved on the bus, with other arguments: {"a": 1}'),
        ({"via": "expired", "action": "decline", "comment": "late"}, "had no answer in time and was rejected: late"),
        ({"via": "expired"}, "had no answer in time and was approved"),
        ({"via": "withdrawn", "action": "cancel"}, "was withdrawn: nobody waits for an answer any more"),
    ],
)
def test_what_became_of_a_question_is_a_line(fields: Any, text: str) -> None:
    one = question(kind="approval", schema=None)
    answered = InteractionAnswered(
        **{"namespace": "default", "task": "t9", "interaction": "r1.2.1", "action": "accept", "at": one.at} | fields
    )
    assert text in outcome_text(one, answered)
    assert outcome_text(one, None) == "r1.2.1 (travel__book) is over: its task has ended"


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
