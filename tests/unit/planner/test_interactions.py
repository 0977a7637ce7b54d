"""Answers to interactions, as the planner takes them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from schemas import subjects
from schemas.interactions import (
    CONTENT_BYTES_MAX,
    InteractionAnswered,
    InteractionRequested,
    interaction_id,
    parse_interaction_id,
)
from schemas.requests import Accepted, Rejected
from schemas.subjects import TaskSubjects
from schemas.task import Cancelled
from schemas.wire import decode, encode
from services.planner.main import build
from services.runtime.memory.server import MemoryServer
from services.runtime.ports import Outgoing, Signal
from tests.support.stage import Stage, on_stage, until

PLANNER = {"planner": build}
SCHEMA: Any = {
    "type": "object",
    "properties": {"city": {"type": "string", "minLength": 1}, "nights": {"type": "integer", "maximum": 30}},
    "required": ["city"],
}


async def asked(stage: Stage, task: TaskSubjects, *, in_s: float = 60.0, **fields: Any) -> None:
    """Ask as a tool-executor would."""
    now = stage.bus.clock.now()
    question = InteractionRequested(
        namespace="default",
        task=task.task,
        interaction="r1.1.1",
        message="Where to?",
        agent="helper",
        tool="travel__book",
        server="travel",
        at=now,
        expires=now + timedelta(seconds=in_s),
        **({"schema": SCHEMA} | fields),
    )
    await stage.bus.log(task.partition).record(Outgoing(task.interaction_asked("r1", 1, 1), encode(question)))


async def recorded(stage: Stage, task: TaskSubjects) -> InteractionAnswered | None:
    entry = await stage.bus.log(task.partition).get(task.interaction_answered("r1", 1, 1))
    return decode(entry.data, InteractionAnswered) if entry is not None else None


def answer(task: TaskSubjects, **fields: Any) -> dict[str, Any]:
    return {"task": task.task, "interaction": "r1.1.1", "content": {"city": "Oslo"}, "by": "ann", **fields}


async def test_an_answer_is_recorded_once_and_said_at_once() -> None:
    heard: list[bytes] = []

    async def hear(signal: Signal) -> None:
        heard.append(signal.data)

    async with on_stage(PLANNER) as (stage, _):
        task = await stage.submit()
        await asked(stage, task)
        await stage.bus.signals.subscribe(task.live, hear)
        assert await stage.ask("answer", answer(task)) == Accepted(namespace="default", task=task.task)
        found = await recorded(stage, task)
        assert found is not None
        assert (found.action, found.content, found.by, found.via) == ("accept", {"city": "Oslo"}, "ann", "request")
        await until(_heard(heard, encode(found)), "the answer on the live subject")


def _heard(heard: list[bytes], data: bytes) -> Any:
    async def is_heard() -> bool:
        return data in heard

    return is_heard


async def test_the_same_answer_again_is_accepted_and_another_one_refused() -> None:
    async with on_stage(PLANNER) as (stage, _):
        task = await stage.submit()
        await asked(stage, task)
        await stage.ask("answer", answer(task))
        again = await stage.ask("answer", answer(task))
        assert again == Accepted(namespace="default", task=task.task, created=False)
        other = await stage.ask("answer", answer(task, content={"city": "Rome"}, by="bob"))
        assert isinstance(other, Rejected)
        assert (other.code, "it was answered at" in other.error, "by ann: accept" in other.error) == (
            "conflict",
            True,
            True,
        )
        found = await recorded(stage, task)
        assert found is not None
        assert found.content == {"city": "Oslo"}
        assert await stage.bus.dead_letters.subjects(subjects.DEAD_LETTERS_SUBJECTS[0]) == []


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"content": {}}, "'city' is a required property"),
        ({"content": {"city": "Oslo", "nights": 99}}, "99 is greater than the maximum of 30"),
        ({"content": None}, "content is required"),
        ({"content": {"city": "x" * CONTENT_BYTES_MAX}}, "content has more than"),
        ({"action": "decline"}, "content goes with an accepted form only"),
        ({"interaction": "r1.1"}, "interaction 'r1.1' is no id of one"),
        ({"interaction": "r1.1.1.asked"}, "is no id of one"),
        ({"action": "maybe"}, "Invalid enum value 'maybe'"),
    ],
)
async def test_an_answer_that_does_not_fit_is_refused_in_a_sentence(fields: dict[str, Any], words: str) -> None:
    async with on_stage(PLANNER) as (stage, _):
        task = await stage.submit()
        await asked(stage, task)
        reply = await stage.ask("answer", answer(task, **fields))
        assert isinstance(reply, Rejected)
        assert words in reply.error
        assert await recorded(stage, task) is None


@pytest.mark.parametrize("action", ["decline", "cancel"])
async def test_somebody_may_say_no(action: str) -> None:
    async with on_stage(PLANNER) as (stage, _):
        task = await stage.submit()
        await asked(stage, task)
        assert isinstance(await stage.ask("answer", answer(task, action=action, content=None)), Accepted)


async def test_a_visit_to_a_page_is_accepted_without_content() -> None:
    async with on_stage(PLANNER) as (stage, _):
        task = await stage.submit()
        await asked(stage, task, schema=None, url="https://example.org/pay")
        reply = await stage.ask("answer", answer(task))
        assert isinstance(reply, Rejected)
        assert "a visit to a web page" in reply.error
        assert isinstance(await stage.ask("answer", answer(task, content=None)), Accepted)


async def test_what_is_not_open_cannot_be_answered() -> None:
    async with on_stage(PLANNER) as (stage, _):
        task = await stage.submit()
        nothing = await stage.ask("answer", answer(task))
        assert isinstance(nothing, Rejected)
        assert nothing.code == "not_found"
        await asked(stage, task, in_s=-1)
        late = await stage.ask("answer", answer(task))
        assert isinstance(late, Rejected)
        assert (late.code, "it expired at" in late.error) == ("conflict", True)


async def test_a_withdrawn_question_says_why() -> None:
    async with on_stage(PLANNER) as (stage, _):
        task = await stage.submit()
        await asked(stage, task)
        withdrawn = InteractionAnswered(
            namespace="default",
            task=task.task,
            interaction="r1.1.1",
            action="cancel",
            at=stage.bus.clock.now(),
            via="withdrawn",
        )
        await stage.bus.log(task.partition).record(Outgoing(task.interaction_answered("r1", 1, 1), encode(withdrawn)))
        reply = await stage.ask("answer", answer(task))
        assert isinstance(reply, Rejected)
        assert "the call that asked has ended" in reply.error


async def test_a_task_that_has_ended_needs_no_answer_and_its_removal_removes_all() -> None:
    server = MemoryServer()
    async with on_stage(PLANNER, server=server) as (stage, _):
        task = await stage.submit()
        await asked(stage, task)
        in_an_hour = stage.bus.clock.now() + timedelta(hours=1)
        await stage.bus.timers.set(
            task.people_timer("ask-r1-1"), task.people_timer_fired("ask-r1-1"), in_an_hour, b"{}", {}
        )
        await stage.ask("cancel", {"task": task.task})

        async def ended() -> bool:
            reply = await stage.ask("answer", answer(task))
            return isinstance(reply, Rejected) and "has ended" in reply.error

        await until(ended, "the answer is refused")

        async def removed() -> bool:
            return isinstance(await stage.ask("delete", {"task": task.task}), Accepted)

        await until(removed, "the task can be removed")
        assert await stage.bus.log(task.partition).subjects(f"{task.root}.int.>") == []
        assert server.timers_of(task.people_timers).subjects([task.people_timers]) == []


def test_ids_of_interactions_are_read_back() -> None:
    assert parse_interaction_id(interaction_id("r12", 3, 1)) == ("r12", 3, 1)
    for wrong in ("", "r0.1.1", "r1.1.00", "r1.1.1 ", "x1.1.1", "r1.1.>"):
        with pytest.raises(ValueError, match="is no id of one"):
            parse_interaction_id(wrong)


DOUBT: dict[str, Any] = {
    "kind": "uncertain",
    "schema": None,
    "arguments": '{"to":"ada"}',
    "digest": "d",
    "attempt": 1,
}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"action": "cancel"}, "made again (accept) or left as it is (decline)"),
        ({"content": {"answer": "yes"}}, "nothing goes with the answer but a comment"),
        ({"arguments": "{}"}, "nothing goes with the answer but a comment"),
        ({"scope": "task"}, "nothing goes with the answer but a comment"),
        ({"digest": "other"}, "something else was shown"),
    ],
)
async def test_a_call_whose_outcome_nobody_knows_is_made_again_as_it_was_or_left(
    fields: dict[str, Any], words: str
) -> None:
    async with on_stage(PLANNER) as (stage, _):
        task = await stage.submit()
        await asked(stage, task, **DOUBT)
        refused = await stage.ask("answer", answer(task, **({"content": None} | fields)))
        assert isinstance(refused, Rejected)
        assert words in refused.error
        assert await recorded(stage, task) is None
        taken = await stage.ask("answer", answer(task, content=None, action="decline", comment="it is there"))
        assert isinstance(taken, Accepted)
        found = await recorded(stage, task)
        assert found is not None
        assert (found.action, found.by, found.comment) == ("decline", "ann", "it is there")


@pytest.mark.parametrize("fields", [DOUBT, {}])
async def test_what_was_asked_in_the_middle_of_a_call_is_withdrawn_with_its_task(fields: dict[str, Any]) -> None:
    async with on_stage(PLANNER) as (stage, _):
        await stage.with_agent()
        task = await stage.submit()
        await stage.answer(task, 1, calls=("box__write", "box__look"))
        await stage.stored(task, task.tool_command("r1", 2))
        await asked(stage, task, **fields)
        await stage.ask("cancel", {"task": task.task, "reason": "enough"})
        await stage.until_state(task, Cancelled)
        found = decode(await stage.stored(task, task.interaction_answered("r1", 1, 1)), InteractionAnswered)
        assert (found.action, found.via) == ("cancel", "withdrawn")
        assert "enough" in found.comment
        late = await stage.ask("answer", answer(task, content=None))
        assert isinstance(late, Rejected)
        assert "withdrawn" in late.error
        assert not await stage.bus.log(task.partition).subjects(f"{task.root}.cmd.ask.>")
