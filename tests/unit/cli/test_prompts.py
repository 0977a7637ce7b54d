"""What a person at a terminal is asked, and what becomes of what they type."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from schemas import subjects
from schemas.interactions import AnswerInteraction, InteractionAnswered, InteractionRequested
from schemas.requests import Accepted, Rejected
from schemas.wire import decode, encode
from services.cli.client import Client
from services.cli.narrator import LineNarrator
from services.cli.prompts import answered_by
from services.cli.questions import QuestionAsked, QuestionClosed
from services.cli.watching import Asking, Watching
from services.runtime.memory.bus import MemoryBus
from services.runtime.ports import Signal

AT = datetime(2030, 1, 1, 12, tzinfo=UTC)
ARGUMENTS = '{"path": "old"}'
FORM: Any = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "enum": ["Oslo", "Rome"]},
        "nights": {"type": "integer"},
        "breakfast": {"type": "boolean"},
        "note": {"type": "string"},
    },
    "required": ["city", "nights"],
}


def asked(**fields: Any) -> InteractionRequested:
    defaults: Any = {
        "kind": "approval",
        "namespace": "default",
        "task": "t1",
        "interaction": "r1.1.0",
        "message": "I tidy up.",
        "agent": "helper",
        "tool": "box__remove",
        "arguments": ARGUMENTS,
        "digest": "d1",
        "at": AT,
        "expires": AT + timedelta(hours=1),
    }
    return InteractionRequested(**(defaults | fields))


class Typist:
    """A person who types these lines, then Ctrl-D, or nothing for ever; and what they were shown."""

    def __init__(self, *lines: str, edits: str | None = None, waits: bool = False) -> None:
        self.shown: list[str] = []
        self.typed = list(lines)
        self.forgotten = 0
        self._edits = edits
        self._waits = waits

    def say(self, text: str) -> None:
        self.shown.append(text)

    def forget(self) -> None:
        self.forgotten += 1

    async def line(self, prompt: str) -> str:
        self.shown.append(prompt)
        if self.typed:
            return self.typed.pop(0)
        if self._waits:
            await asyncio.Event().wait()
        raise EOFError

    async def edit(self, text: str) -> str | None:
        self.shown.append(text)
        return self._edits


async def typed(one: InteractionRequested, *lines: str, edits: str | None = None) -> AnswerInteraction | None:
    person = Typist(*lines, edits=edits)
    answer = await answered_by(person, one, "ann")
    assert not person.typed
    return answer


APPROVED = AnswerInteraction(task="t1", interaction="r1.1.0", action="accept", by="ann", digest="d1")
OTHERWISE = '{"path": "new"}'


@pytest.mark.parametrize(
    ("lines", "fields"),
    [
        (["1"], {}),
        (["yes"], {}),
        (["2"], {"scope": "task"}),
        (["3"], {"scope": "arguments"}),
        (["4"], {"scope": "tool"}),
        (["", "9", "maybe", "1"], {}),
        (["5", OTHERWISE, "yes"], {"arguments": OTHERWISE}),
        (["5", "no json", "5", "[]", "5", ARGUMENTS, "5", OTHERWISE, "no", "1"], {}),
        (["6", " not now "], {"action": "decline", "comment": "not now"}),
        (["no", ""], {"action": "decline"}),
    ],
)
async def test_a_call_is_judged_by_a_number_and_nothing_is_a_default(lines: Sequence[str], fields: Any) -> None:
    wanted = {"action": "accept", "scope": "once", "arguments": "", "comment": ""} | fields
    answer = await typed(asked(), *lines)
    assert answer is not None
    assert {name: getattr(answer, name) for name in wanted} == wanted
    assert (answer.digest, answer.by, answer.interaction) == ("d1", "ann", "r1.1.0")


@pytest.mark.parametrize("lines", [["7"], [], ["6"], ["5"]])
async def test_a_question_is_left_to_others_by_its_number_or_ctrl_d(lines: Sequence[str]) -> None:
    assert await typed(asked(), *lines) is None


async def test_arguments_are_changed_in_an_editor_and_shown_once_more_before_they_count() -> None:
    person = Typist("5", "yes", edits='{"path":\n "\u202enew"}\n')
    answer = await answered_by(person, asked(), "ann")
    assert answer is not None
    assert answer.arguments == '{"path":\n "\u202enew"}'
    assert '   "\\u202enew"}' in person.shown
    same = Typist("5", edits='{\n  "path": "old"\n}\n')
    assert await answered_by(same, asked(), "ann") is None
    assert "The arguments are as they were; nothing is sent." in same.shown


async def test_an_answer_is_chosen_by_its_number_or_typed() -> None:
    choices = asked(kind="question", choices=("the red one", "the blue one"), arguments="", digest="")
    answer = await typed(choices, "2")
    assert answer is not None
    assert answer.content == {"answer": "the blue one"}
    declined = await typed(choices, "3")
    assert declined is not None
    assert declined.action == "decline"
    assert await typed(choices, "4") is None
    free = await typed(asked(kind="question", arguments="", digest=""), "1", "", "1", "Blue, please")
    assert free is not None
    assert free.content == {"answer": "Blue, please"}


async def test_a_form_is_filled_in_field_by_field() -> None:
    form = asked(kind="elicitation", schema=FORM, arguments="", digest="", server="travel")
    answer = await typed(form, "1", "", "3", "2", "", "two", "2", "perhaps", "yes", "")
    assert answer is not None
    assert answer.content == {"city": "Rome", "nights": 2, "breakfast": True}
    odd = asked(kind="elicitation", schema={"type": "object"}, arguments="", digest="")
    other = await typed(odd, "1", "[]", "1", '{"a": 1}')
    assert other is not None
    assert other.content == {"a": 1}
    page = await typed(asked(kind="elicitation", url="https://example.org", arguments="", digest=""), "1")
    assert page is not None
    assert (page.action, page.content) == ("accept", None)


@pytest.mark.parametrize("kind", ["uncertain", "judgement"])
async def test_any_other_kind_is_accepted_or_declined(kind: Any) -> None:
    accepted, declined = await typed(asked(kind=kind), "1"), await typed(asked(kind=kind), "2", "it did")
    assert accepted == APPROVED
    assert declined is not None
    assert (declined.action, declined.comment) == ("decline", "it did")
    assert await typed(asked(kind=kind), "3") is None


# --- one thing at a time ---


class Planner:
    """Answers the requests with what it is told to."""

    def __init__(self, *replies: Accepted | Rejected) -> None:
        self.bus = MemoryBus()
        self.heard: list[AnswerInteraction] = []
        self.may_reply = asyncio.Event()
        self.may_reply.set()
        self._replies = list(replies)

    async def listen(self) -> Client:
        async def answer(signal: Signal) -> None:
            self.heard.append(decode(signal.data, AnswerInteraction))
            await self.may_reply.wait()
            reply = self._replies.pop(0) if self._replies else Accepted(namespace="default", task="t1")
            await self.bus.signals.publish(signal.reply, encode(reply))

        await self.bus.signals.subscribe(subjects.ASK_ALL, answer)
        return Client(self.bus)


def news(one: InteractionRequested) -> QuestionAsked:
    return QuestionAsked(one, None, child=False)


def closed(one: InteractionRequested, by: str = "bob") -> QuestionClosed:
    answered = InteractionAnswered(
        namespace="default", task="t1", interaction=one.interaction, action="accept", at=AT, by=by
    )
    return QuestionClosed(one, answered, child=False)


async def settled() -> None:
    """Let everything run that can."""
    for _ in range(50):
        await asyncio.sleep(0)


async def test_two_questions_are_asked_one_after_the_other_and_what_happens_meanwhile_is_told_after() -> None:
    planner = Planner(Accepted(namespace="default", task="t1", note="1 of 2 have accepted"))
    person, stream = Typist("1", waits=True), io.StringIO()
    asking = Asking(await planner.listen(), person, "ann")
    watching = Watching(LineNarrator(stream), asking)
    first, second, third = (asked(interaction=f"r1.{n}.0") for n in (1, 2, 3))
    await watching.take(news(first))
    for one in (news(second), news(third), closed(third)):
        await watching.take(one)
    assert "r1.2.0" not in stream.getvalue()
    await settled()
    assert [one.interaction for one in planner.heard] == ["r1.1.0"]
    assert "1 of 2 have accepted" in person.shown
    assert watching.asked == second
    assert "r1.3.0" not in stream.getvalue()
    await watching.take(closed(second))
    assert watching.asked is None, "the third was answered while the second was asked"
    assert person.shown[-1] == "(no answer is needed any more)"
    assert "r1.2.0 (box__remove) was approved by bob on the bus" in stream.getvalue()
    assert "r1.3.0 (box__remove) was approved by bob on the bus" in stream.getvalue()
    assert person.forgotten == 2
    await watching.close()


async def test_an_answer_that_is_refused_is_said_and_asked_for_again() -> None:
    planner = Planner(Rejected(code="invalid", error="arguments must be a JSON object\x1b[2J"))
    person = Typist("1", "6", "no")
    asking = Asking(await planner.listen(), person, "ann")
    watching = Watching(LineNarrator(io.StringIO()), asking)
    await watching.take(news(asked()))
    await settled()
    assert [one.action for one in planner.heard] == ["accept", "decline"]
    assert "That was not accepted: arguments must be a JSON object\ufffd[2J" in person.shown
    await watching.close()


async def test_an_answer_of_ours_that_is_recorded_before_it_is_confirmed_is_not_called_anothers() -> None:
    planner = Planner()
    planner.may_reply.clear()
    person, stream = Typist("1", waits=True), io.StringIO()
    asking = Asking(await planner.listen(), person, "ann")
    watching = Watching(LineNarrator(stream), asking)
    await watching.take(news(asked()))
    await settled()
    asyncio.get_running_loop().call_later(0.01, planner.may_reply.set)
    await watching.take(closed(asked(), by="ann"))
    assert "(no answer is needed any more)" not in person.shown
    assert "was approved by ann" in stream.getvalue()
    await watching.close()


async def test_an_answer_that_comes_second_is_refused_and_not_asked_for_again() -> None:
    planner = Planner(Rejected(code="conflict", error="it was answered by bob"))
    planner.may_reply.clear()
    person = Typist("1", "1", waits=True)
    asking = Asking(await planner.listen(), person, "ann")
    watching = Watching(LineNarrator(io.StringIO()), asking)
    await watching.take(news(asked()))
    await settled()
    asyncio.get_running_loop().call_later(0.01, planner.may_reply.set)
    await watching.take(closed(asked()))
    assert "That was not accepted: it was answered by bob" in person.shown
    assert (len(planner.heard), watching.asked) == (1, None)
    await watching.close()


async def test_nobody_is_asked_who_may_not_answer() -> None:
    person, stream = Typist(waits=True), io.StringIO()
    asking = Asking(await Planner().listen(), person, "ann")
    watching = Watching(LineNarrator(stream), asking)
    await watching.take(news(asked(allowed=("bob",))))
    assert watching.asked is None
    assert "Who may answer: bob" in stream.getvalue()
    await watching.close()
