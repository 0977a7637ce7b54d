"""What the HumanLayer API says of an answer, and what is made of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from schemas.interactions import AnswerInteraction, InteractionRequested
from services.human_contact.core.humanlayer_words import Call, Decision, answer_of, call_id, spec_of
from services.human_contact.core.questions import asking
from services.human_contact.core.webhook_words import message_id

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
ASKED = InteractionRequested(
    kind="approval",
    namespace="default",
    task="t1",
    interaction="r1.1.0",
    message="why",
    agent="helper",
    tool="box__write",
    at=AT,
    expires=AT + timedelta(days=1),
    arguments='{"path": "a"}',
    digest="d",
)
QUESTION = msgspec.structs.replace(ASKED, kind="question", message="Now?", arguments="", digest="")
RESPONDED = {"responded_at": "2026-03-01T12:00:00Z"}


def answer(asked: InteractionRequested, **said: Any) -> AnswerInteraction | None:
    status = msgspec.json.decode(msgspec.json.encode({"status": said}), type=Call).status
    return answer_of(asked, status or Decision())


def test_nobody_has_answered_yet() -> None:
    assert answer(ASKED) is None
    assert answer(ASKED, requested_at="x", approved=None, comment=None, slack_context={"a": [1]}) is None
    assert answer(QUESTION, response=None, responded_at=None) is None
    assert msgspec.json.decode(b'{"run_id": "r"}', type=Call).status is None


def test_an_approval_is_bound_to_what_was_shown() -> None:
    found = answer(ASKED, approved=True, comment="fine")
    assert found is not None
    assert (found.action, found.digest, found.comment, found.via) == ("accept", "d", "fine", "humanlayer")


@pytest.mark.parametrize(
    ("said", "comment"),
    [({"comment": "no"}, "no"), ({"reject_option_name": "too dear"}, "too dear"), ({}, "")],
)
def test_a_rejection_says_why(said: dict[str, str], comment: str) -> None:
    found = answer(ASKED, approved=False, **said)
    assert found is not None
    assert (found.action, found.comment) == ("decline", comment)


@pytest.mark.parametrize(
    ("choices", "said", "content", "comment"),
    [
        ((), {"response": " noon "}, {"answer": "noon"}, ""),
        ((), {"response_option_name": "noon"}, {"answer": "noon"}, ""),
        ((), {"response": " "}, None, ""),
        (("Yes", "No"), {"response": "yes"}, {"answer": "Yes"}, ""),
        (("Yes", "No"), {"response": "as you like", "response_option_name": "No"}, {"answer": "No"}, ""),
        (("Yes", "No"), {"response": "as you like"}, None, "as you like"),
    ],
)
def test_an_answer_that_is_none_of_the_choices_is_a_refusal_in_its_own_words(
    choices: tuple[str, ...], said: dict[str, str], content: dict[str, str] | None, comment: str
) -> None:
    found = answer(msgspec.structs.replace(QUESTION, choices=choices), **RESPONDED, **said)
    assert found is not None
    assert (found.content, found.comment) == (content, comment)
    assert (found.action == "accept") is (content is not None)


@pytest.mark.parametrize(
    ("allowed", "info", "by"),
    [
        ((), None, ""),
        ((), {"name": "Ann"}, "Ann"),
        ((), {"name": "Ann", "id": 7}, "7"),
        ((), "U1", ""),
        (("U1",), {"id": "U1"}, "U1"),
        (("U1",), {"id": "other", "slack": {"user_id": "U1"}}, "U1"),
        (("U1",), {"id": "U2", "name": "U1"}, "U2"),
        (("U1",), {"name": "U1"}, ""),
        (("ada@example.com",), {"email": "ada@example.com"}, "ada@example.com"),
    ],
)
def test_who_answered_is_an_id_and_never_a_name_that_somebody_chose(
    allowed: tuple[str, ...], info: object, by: str
) -> None:
    found = answer(msgspec.structs.replace(ASKED, allowed=allowed), approved=True, user_info=info)
    assert found is not None
    assert found.by == by


def test_a_questions_id_is_its_own_and_stays() -> None:
    other = msgspec.structs.replace(ASKED, interaction="r1.2.0")
    later = msgspec.structs.replace(ASKED, at=ASKED.at + timedelta(days=1))
    ids = {call_id(ASKED, 0), call_id(ASKED, 0), call_id(ASKED, 1), call_id(other, 0), call_id(later, 0)}
    assert len(ids) == 4
    assert all(len(one) <= 32 for one in ids)


@pytest.mark.parametrize(
    ("arguments", "kwargs"), [("", {}), ("[1]", {"arguments": [1]}), ("no json", {"arguments": "no json"})]
)
def test_arguments_that_are_no_object_are_shown_as_they_are(arguments: str, kwargs: dict[str, Any]) -> None:
    assert spec_of(msgspec.structs.replace(ASKED, arguments=arguments), None, "")["kwargs"] == kwargs


def test_a_question_of_a_later_task_of_the_same_name_has_other_ids_everywhere() -> None:
    later = msgspec.structs.replace(ASKED, at=ASKED.at + timedelta(days=1))
    assert asking(later) != asking(ASKED)
    assert asking(msgspec.structs.replace(ASKED, digest="x")) != asking(ASKED)
    assert message_id("interaction.asked", later, 0) != message_id("interaction.asked", ASKED, 0)
    assert message_id("interaction.asked", ASKED, 0) == message_id("interaction.asked", ASKED, 0)
