"""People: asked once, reminded, passed on, answered once. Planner and human-contact over the memory bus."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from schemas.commands import RunTool
from schemas.events import ApprovalGranted
from schemas.ids import call_digest
from schemas.interactions import InteractionAnswered
from schemas.requests import Accepted, Rejected
from schemas.resources import Grant, Ref
from schemas.subjects import TaskSubjects
from schemas.task import Cancelled
from schemas.wire import decode, encode
from services.human_contact import desk
from services.human_contact.channels.base import ChannelFailed
from services.human_contact.core.outcomes import result
from services.runtime.ports import Outgoing, Store, StoreEntry
from tests.support.people import People, channel, with_people
from tests.support.stage import until
from tests.unit.planner.test_delegation import calls


async def begin(people: People, *wanted: tuple[str, object]) -> TaskSubjects:
    task = await people.stage.submit()
    await calls(people.stage, task, 1, *(wanted or (("box__write", {"path": "a"}),)))
    return task


async def approval(people: People, task: TaskSubjects, n: int = 1) -> ApprovalGranted:
    return decode(await people.stage.stored(task, task.approval_event("r1", n)), ApprovalGranted)


async def test_a_call_is_shown_to_people_and_made_when_they_approve() -> None:
    async with with_people() as people:
        await people.agent(channel())
        task = await begin(people)
        (question,) = await people.delivered()
        asked = question.asked
        assert (asked.kind, asked.tool, asked.agent, asked.title) == ("approval", "box__write", "helper", "hello")
        assert json.loads(asked.arguments) == {"path": "a"}
        assert asked.digest == call_digest("box__write", asked.arguments)
        assert isinstance(await people.answer(asked), Accepted)
        granted = await approval(people, task)
        assert (granted.by, granted.digest, granted.scope) == ("ann", asked.digest, "once")
        assert decode(await people.stage.stored(task, task.tool_command("r1", 1)), RunTool).approved_seq > 0

        async def over() -> bool:
            return bool(people.shown["oncall"].closed)

        await until(over, "the channel shows that it is over")


async def test_a_rejection_reaches_the_model_with_its_comment() -> None:
    async with with_people() as people:
        await people.agent(channel())
        task = await begin(people)
        await people.answer(await people.asked(task), action="decline", comment="not on a Friday")
        finished = await people.result(task)
        assert (finished.outcome, finished.content) == ("rejected", "Rejected: not on a Friday")
        assert await people.stage.bus.log(task.partition).get(task.tool_command("r1", 1)) is None


async def test_arguments_that_a_person_edited_are_what_is_approved() -> None:
    async with with_people() as people:
        await people.agent(channel())
        task = await begin(people)
        edited = '{"path": "b"}'
        await people.answer(await people.asked(task), arguments=edited)
        granted = await approval(people, task)
        assert (granted.arguments, granted.digest) == (edited, call_digest("box__write", edited))


async def test_questions_of_one_turn_are_answered_in_any_order_by_different_people() -> None:
    async with with_people() as people:
        await people.agent(channel())
        task = await begin(people, ("box__write", {}), ("box__look", {}))
        one, two = await people.asked(task, 1), await people.asked(task, 2)
        await people.answer(two, by="bob")
        await people.answer(one, by="ann", action="decline")
        assert (await approval(people, task, 2)).by == "bob"
        assert (await people.result(task, 1)).outcome == "rejected"


async def test_a_second_answer_is_refused_with_a_sentence() -> None:
    async with with_people() as people:
        await people.agent(channel())
        asked = await people.asked(await begin(people))
        await people.answer(asked, by="ann")
        refused = await people.answer(asked, by="bob", action="decline")
        assert isinstance(refused, Rejected)
        assert refused.code == "conflict"
        assert "by ann: accept" in refused.error


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"arguments": "no json"}, "arguments is not valid JSON"),
        ({"arguments": "[1]"}, "arguments must be a JSON object"),
        ({"arguments": "{}", "action": "decline"}, "go with an approval only"),
        ({"action": "cancel"}, "accepted or declined"),
        ({"content": {"answer": "x"}}, "content is for questions"),
        ({"digest": "other"}, "something else was shown"),
    ],
)
async def test_an_answer_that_is_none_is_refused(fields: dict[str, Any], said: str) -> None:
    async with with_people() as people:
        await people.agent(channel())
        refused = await people.answer(await people.asked(await begin(people)), **fields)
        assert isinstance(refused, Rejected)
        assert said in refused.error


async def test_only_those_who_may_can_answer() -> None:
    async with with_people() as people:
        await people.agent(channel(allowed_responder_ids=("bob",)))
        task = await begin(people)
        asked = await people.asked(task)
        refused = await people.answer(asked, by="ann")
        assert isinstance(refused, Rejected)
        assert (refused.code, refused.error) == ("forbidden", "'ann' may not answer r1.1.0: it is for bob")
        await people.answer(asked, by="bob")
        assert (await approval(people, task)).by == "bob"


async def test_each_channel_of_a_chain_says_itself_who_may_answer_through_it() -> None:
    async with with_people("boss") as people:
        first = channel(timeout_s=0.1, on_timeout="escalate", escalate_to=Ref(name="boss"))
        await people.agent(first, channel("boss", allowed_responder_ids=("Bob",)))
        task = await begin(people)
        assert (await people.delivered("boss"))[0].asked.allowed == ("Bob",)
        asked = await people.asked(task)
        refused = await people.answer(asked, by="ann", channel="boss")
        assert isinstance(refused, Rejected)
        assert refused.error == "'ann' may not answer r1.1.0: it is for Bob"
        assert isinstance(await people.answer(asked, by="bob", channel="boss"), Accepted)


async def test_people_of_a_later_channel_may_answer_though_the_first_is_for_others() -> None:
    async with with_people("boss") as people:
        first = channel(
            timeout_s=0.1, on_timeout="escalate", escalate_to=Ref(name="boss"), allowed_responder_ids=("ann",)
        )
        await people.agent(first, channel("boss", allowed_responder_ids=("bob",)))
        task = await begin(people)
        await people.step(task, 1, lambda step: step.delivered)
        asked = await people.asked(task)
        for by, via in (("bob", "oncall"), ("ann", "boss"), ("eve", "boss"), ("eve", "oncall"), ("eve", "")):
            assert isinstance(await people.answer(asked, by=by, channel=via), Rejected), (by, via)
        assert isinstance(await people.answer(asked, by="bob"), Accepted)


async def test_several_people_accept_what_was_shown_and_nothing_else() -> None:
    async with with_people() as people:
        await people.agent(channel(quorum=2))
        task = await begin(people)
        asked = await people.asked(task)
        refused = await people.answer(asked, by="ann", arguments='{"path": "b"}')
        assert isinstance(refused, Rejected)
        assert "what was shown" in refused.error
        await people.answer(asked, by="bob", scope="once")
        again = await people.answer(asked, by="BOB", scope="tool")
        assert isinstance(again, Accepted)
        assert again.note == "1 of 2 have accepted"
        await people.answer(asked, by="ann", scope="tool")
        granted = await approval(people, task)
        assert (granted.by, granted.scope, granted.digest) == ("ann, bob", "once", asked.digest)


async def test_each_of_several_who_have_accepted_may_say_so_again_when_they_were_enough() -> None:
    """Whoever asks again, because no reply came, hears that they were heard."""
    async with with_people() as people:
        await people.agent(channel(quorum=2))
        task = await begin(people)
        asked = await people.asked(task)
        for by in ("ann", "bob"):
            await people.answer(asked, by=by)
        await approval(people, task)
        for by in ("ann", "bob"):
            again = await people.answer(asked, by=by)
            assert isinstance(again, Accepted), again
            assert not again.created
        for by, action in (("eve", "accept"), ("bob", "decline")):
            assert isinstance(await people.answer(asked, by=by, action=action), Rejected), (by, action)


async def test_a_grant_that_was_revoked_does_not_come_back_while_a_channel_is_told() -> None:
    async with with_people() as people:
        shown = people.shown["oncall"]
        shown.deaf = [ChannelFailed("down", transient=True)]
        await people.agent(channel())
        task = await begin(people)
        await people.answer(await people.asked(task), scope="tool")
        await approval(people, task)
        store = people.stage.bus.resources
        (grant,) = [entry.key for entry in await _all(store) if entry.key.startswith("spec.Grant.")]
        await store.delete(grant)

        async def told() -> bool:
            return bool(shown.closed)

        await until(told, "the channel is told")
        found = await store.get(grant)
        assert found is None or found.data is None


async def test_several_people_have_to_accept_and_one_is_enough_to_decline() -> None:
    async with with_people() as people:
        await people.agent(channel(quorum=2))
        task = await begin(people, ("box__write", {}), ("box__look", {}))
        one, two = await people.asked(task, 1), await people.asked(task, 2)
        for _ in range(2):
            counted = await people.answer(one, by="ann")
            assert isinstance(counted, Accepted)
            assert counted.note == "1 of 2 have accepted"
        await people.answer(one, by="bob")
        assert (await approval(people, task, 1)).by == "ann, bob"
        await people.answer(two, by="ann")
        await people.answer(two, by="bob", action="decline", comment="no")
        assert (await people.result(task, 2)).content == "Rejected: no"


async def test_approved_for_good_is_a_grant_that_can_be_revoked() -> None:
    async with with_people() as people:
        await people.agent(channel())
        task = await begin(people)
        await people.answer(await people.asked(task), scope="arguments")
        await approval(people, task)
        (stored,) = [entry for entry in await _all(people.stage.bus.resources) if entry.key.startswith("spec.Grant.")]
        grant = decode(stored.data or b"", Grant)
        assert (grant.spec.agent, grant.spec.tool, grant.spec.by) == ("helper", "box__write", "ann")
        await people.stage.finish(task, "r1", 1)
        await calls(people.stage, task, 2, ("box__write", {"path": "a"}), ("box__write", {"path": "b"}))
        await people.stage.stored(task, task.tool_command("r2", 1))
        assert (await people.asked(task, 2, "r2")).tool == "box__write"


async def _all(store: Store) -> list[StoreEntry]:
    found: list[StoreEntry] = []
    async for entry in store.watch():
        if entry is None:
            break
        found.append(entry)
    return found


async def test_a_person_answers_a_models_question() -> None:
    async with with_people() as people:
        await people.agent(channel(), rule=False, human_contact_channels=(Ref(name="oncall"),))
        task = await begin(people, ("oncall__human_contact_console", {"message": "Now?", "choices": ["yes", "no"]}))
        asked = await people.asked(task)
        assert (asked.kind, asked.message, asked.choices) == ("question", "Now?", ("yes", "no"))
        for content in (None, {}, {"answer": ""}, {"answer": "maybe"}, {"answer": "yes", "more": 1}):
            assert isinstance(await people.answer(asked, content=content), Rejected)
        await people.answer(asked, content={"answer": "yes"})
        finished = await people.result(task)
        assert (finished.outcome, finished.content) == ("succeeded", "yes")


@pytest.mark.parametrize("arguments", [{}, {"message": 12345}, {"message": "x", "choices": "y"}])
async def test_a_question_without_a_message_asks_nobody(arguments: object) -> None:
    async with with_people() as people:
        await people.agent(channel(), rule=False, human_contact_channels=(Ref(name="oncall"),))
        task = await begin(people, ("oncall__human_contact_console", arguments))
        finished = await people.result(task)
        assert finished.outcome == "failed"
        assert "Nobody was asked: " in finished.content
        assert people.shown["oncall"].delivered == []


@pytest.mark.parametrize(("on_timeout", "outcome"), [("deny", "rejected"), ("fail", "failed"), ("approve", None)])
async def test_a_question_that_nobody_answers_in_time(on_timeout: str, outcome: str | None) -> None:
    async with with_people() as people:
        await people.agent(channel(timeout_s=0.1, on_timeout=on_timeout))
        task = await begin(people)
        if outcome is None:
            assert (await approval(people, task)).via == "expired"
            return
        finished = await people.result(task)
        assert finished.outcome == outcome
        assert "Nobody answered within" in finished.content
        refused = await people.answer(await people.asked(task))
        assert isinstance(refused, Rejected)
        assert "nobody had answered it by" in refused.error


async def test_a_question_is_passed_on_to_the_next_channel_and_the_first_may_still_answer() -> None:
    async with with_people("boss") as people:
        escalating = channel(timeout_s=0.1, on_timeout="escalate", escalate_to=Ref(name="boss"))
        await people.agent(escalating, channel("boss"))
        task = await begin(people)
        await people.delivered("boss")
        assert len(people.shown["oncall"].delivered) == 1
        await people.answer(await people.asked(task))
        await approval(people, task)

        async def both_know() -> bool:
            return all(len(shown.closed) == 1 for shown in people.shown.values())

        await until(both_know, "both channels show that it is over")


async def test_people_are_reminded() -> None:
    async with with_people() as people:
        await people.agent(channel(remind_s=0.1))
        await begin(people)

        async def twice() -> bool:
            return people.shown["oncall"].reminded[:2] == ["place-1", "place-1"]

        await until(twice, "two reminders")
        assert len(people.shown["oncall"].delivered) == 1


async def test_a_channel_that_is_away_is_tried_again() -> None:
    async with with_people() as people:
        people.shown["oncall"].fails = [ChannelFailed("down", transient=True)]
        await people.agent(channel())
        await begin(people)
        await people.delivered()


async def test_a_channel_that_refuses_ends_the_call_with_its_words() -> None:
    async with with_people() as people:
        people.shown["oncall"].fails = [ChannelFailed("no such channel", transient=False)]
        await people.agent(channel())
        task = await begin(people)
        finished = await people.result(task)
        assert (finished.outcome, finished.content) == ("failed", "failed to request approval: no such channel")
        refused = await people.answer(await people.asked(task))
        assert isinstance(refused, Rejected)


async def test_a_refusal_after_people_were_asked_leaves_them_time_to_answer() -> None:
    async with with_people("boss") as people:
        people.shown["boss"].fails = [ChannelFailed("no such user", transient=False)]
        escalating = channel(timeout_s=0.1, on_timeout="escalate", escalate_to=Ref(name="boss"))
        await people.agent(escalating, channel("boss"))
        task = await begin(people)
        step = await people.step(task, 1, lambda step: bool(step.refused))
        assert (step.channel, step.refused, step.delivered) == ("boss", "no such user", False)
        assert await people.stage.bus.log(task.partition).get(task.tool_event("r1", 1)) is None
        assert isinstance(await people.answer(await people.asked(task)), Accepted)
        assert (await approval(people, task)).by == "ann"

        async def closed() -> bool:
            return bool(people.shown["oncall"].closed)

        await until(closed, "who was asked sees that it is over")
        assert people.shown["boss"].closed == []


async def test_a_channel_that_refuses_passes_the_question_on_at_once() -> None:
    async with with_people("boss") as people:
        people.shown["oncall"].fails = [ChannelFailed("no such user", transient=False)]
        first = channel(timeout_s=3600.0, on_timeout="escalate", escalate_to=Ref(name="boss"))
        await people.agent(first, channel("boss"))
        task = await begin(people)
        await people.delivered("boss")
        assert (await people.step(task, 0, lambda _: True)).refused == "no such user"
        await people.answer(await people.asked(task))
        assert (await approval(people, task)).by == "ann"


async def test_only_when_all_channels_refuse_the_call_fails() -> None:
    async with with_people("boss") as people:
        people.shown["oncall"].fails = [ChannelFailed("no such user", transient=False)]
        people.shown["boss"].fails = [ChannelFailed("gone", transient=False)]
        first = channel(timeout_s=3600.0, on_timeout="escalate", escalate_to=Ref(name="boss"))
        await people.agent(first, channel("boss"))
        finished = await people.result(await begin(people))
        assert (finished.outcome, finished.content) == ("failed", "failed to request approval: no such user; gone")


async def test_a_channel_that_is_never_reached_is_passed_over_when_its_time_is_over() -> None:
    async with with_people("boss") as people:
        people.shown["oncall"].fails = [ChannelFailed("down", transient=True) for _ in range(100)]
        first = channel(timeout_s=0.3, on_timeout="escalate", escalate_to=Ref(name="boss"))
        await people.agent(first, channel("boss"))
        task = await begin(people)
        await people.delivered("boss")
        assert people.shown["oncall"].delivered == []
        await people.answer(await people.asked(task))
        assert (await approval(people, task)).by == "ann"


async def test_a_question_that_reaches_nobody_in_its_time_is_not_approved() -> None:
    async with with_people() as people:
        people.shown["oncall"].fails = [ChannelFailed("down", transient=True) for _ in range(100)]
        await people.agent(channel(timeout_s=0.2, on_timeout="approve"))
        finished = await people.result(await begin(people))
        assert finished.outcome == "rejected"
        assert "Nobody could be reached within" in finished.content


@pytest.mark.parametrize(("transient", "at_least"), [(False, 1), (True, 2)])
async def test_a_reminder_that_fails_does_not_end_the_question(transient: bool, at_least: int) -> None:
    async with with_people() as people:
        people.shown["oncall"].mute = ChannelFailed("thread is locked", transient=transient)
        await people.agent(channel(remind_s=0.05, timeout_s=3600.0))
        task = await begin(people)
        step = await people.step(task, 0, lambda step: step.reminded >= at_least and bool(step.refused) != transient)
        assert step.delivered
        assert isinstance(await people.answer(await people.asked(task)), Accepted)
        assert (await approval(people, task)).by == "ann"


async def test_a_question_that_cannot_be_handled_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk, "MOVES_MAX", 0)
    async with with_people() as people:
        await people.agent(channel())
        task = await begin(people)
        finished = await people.result(task)
        assert "People could not be asked (broken)" in finished.content
        data = await people.stage.stored(task, task.interaction_answered("r1", 1, 0))
        assert decode(data, InteractionAnswered).via == "withdrawn"


async def test_a_wake_up_that_cannot_be_handled_is_not_the_last(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(desk, "AFTER_DEAD_S", 0.3)
    async with with_people() as people:
        await people.agent(channel(remind_s=0.1, timeout_s=1.0))
        task = await begin(people)
        await people.delivered()
        with monkeypatch.context() as broken:
            broken.setattr(desk, "MOVES_MAX", 0)

            async def dead() -> bool:
                return any("goes round" in record.getMessage() for record in caplog.records)

            await until(dead, "a wake-up is a dead letter")
        assert "Nobody answered" in (await people.result(task)).content


async def test_an_answer_is_not_taken_once_the_call_has_its_result() -> None:
    async with with_people() as people:
        await people.agent(channel())
        task = await begin(people, ("box__write", {}), ("box__look", {}))
        asked = await people.asked(task)
        failed = encode(result(asked, "failed", "nobody took the question", asked.at))
        await people.stage.bus.log(task.partition).record(Outgoing(task.tool_event("r1", 1), failed))
        refused = await people.answer(asked)
        assert isinstance(refused, Rejected)
        assert "the call that it is about has its result" in refused.error
        assert await people.stage.bus.log(task.partition).get(task.approval_event("r1", 1)) is None


async def test_a_task_that_is_cancelled_withdraws_its_questions() -> None:
    async with with_people() as people:
        await people.agent(channel())
        task = await begin(people)
        asked = await people.asked(task)
        await people.delivered()
        await people.stage.ask("cancel", {"task": task.task})
        await people.stage.until_state(task, Cancelled)
        data = await people.stage.stored(task, task.interaction_answered("r1", 1, 0))
        assert decode(data, InteractionAnswered).via == "withdrawn"
        refused = await people.answer(asked)
        assert isinstance(refused, Rejected)
        assert "withdrawn" in refused.error or "has ended" in refused.error


async def test_questions_of_one_task_are_kept_together() -> None:
    async with with_people() as people:
        await people.agent(channel())
        await begin(people, ("box__write", {}))
        first = (await people.delivered())[0]
        assert first.thread == ""
        await people.answer(first.asked)
        task = people.stage.task(first.asked.task)
        await people.stage.finish(task, "r1", 1)
        await calls(people.stage, task, 2, ("box__write", {}))
        second = (await people.delivered(count=2))[1]
        assert second.thread == "place-1"


async def test_many_answers_at_once_count_once() -> None:
    async with with_people() as people:
        await people.agent(channel())
        task = await begin(people)
        asked = await people.asked(task)
        replies = await asyncio.gather(*(people.answer(asked, by=f"p{n}") for n in range(8)))
        assert sum(isinstance(reply, Accepted) for reply in replies) == 1
        assert (await approval(people, task)).by.startswith("p")
