"""What is said of a task."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from schemas.notifications import contradictions, wants
from schemas.resources import (
    EmailSink,
    SecretKeyRef,
    SecretSource,
    SlackSink,
    SMTPServer,
    SubscriptionSpec,
    WebhookSink,
)
from schemas.task import Spend
from services.notifier.core import words
from services.notifier.core.words import Told

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
KEY = SecretSource(secret_key_ref=SecretKeyRef(name="ops", key="signing"))
FINISHED = Told(
    namespace="team",
    task="t1",
    agent="helper",
    event="task.finished",
    at=AT,
    started_at=AT,
    output='It is "noon".\nIn Tokyo.',
    error="",
    labels={"tier": "1"},
    spend=Spend(model_calls=2, input_tokens=30, output_tokens=5, cost_usd=Decimal("0.0042")),
    preview="What time is it?",
    thread="t0",
    thread_id="TICKET-17",
)
FAILED = msgspec.structs.replace(FINISHED, event="task.failed", output="", error="out of turns")
CANCELLED = msgspec.structs.replace(FAILED, event="task.cancelled", error="Cancelled by ada: not needed")


def test_a_response_url_hears_the_answer_in_the_predecessors_words() -> None:
    assert json.loads(words.human_contact(FINISHED, "abc")) == {
        "run_id": "helper",
        "call_id": "abc",
        "spec": {"msg": 'It is "noon".\nIn Tokyo.'},
    }


def test_a_response_url_hears_why_there_is_no_answer() -> None:
    assert json.loads(words.human_contact(FAILED, "abc"))["spec"]["msg"] == "Task t1 failed: out of turns"
    assert "cancelled" in json.loads(words.human_contact(CANCELLED, "abc"))["spec"]["msg"]


def test_a_subscriber_hears_what_programs_need() -> None:
    event = json.loads(words.event(FINISHED))
    assert (event["type"], event["timestamp"]) == ("task.finished", "2026-03-01T12:00:00Z")
    assert event["data"]["usage"] == {"modelCalls": 2, "inputTokens": 30, "outputTokens": 5, "costUsd": "0.0042"}
    assert (event["data"]["phase"], event["data"]["output"]) == ("FinalAnswer", FINISHED.output)
    assert "error" not in event["data"]
    failed = json.loads(words.event(FAILED))["data"]
    assert (failed["phase"], failed["error"]) == ("Failed", "out of turns")
    assert "output" not in failed


def test_people_read_which_task_it_was_and_what_came_of_it() -> None:
    text = words.announcement(FINISHED)
    for part in ("t1", "helper", "finished", "What time is it?", "In Tokyo."):
        assert part in text


def test_what_is_too_long_is_shortened_and_says_so() -> None:
    assert words.shortened("x" * 100, 50).endswith("(shortened)")
    assert len(words.shortened("x" * 100, 50)) <= 50
    assert words.shortened("x" * 50, 50) == "x" * 50


HOOK = WebhookSink(url="https://a.example/", secret_from=(KEY,))


def test_a_subscription_wants_what_it_names() -> None:
    spec = SubscriptionSpec(events=("task.failed",), agents=("helper",), labels={"tier": "1"}, webhook=HOOK)
    assert wants(spec, "task.failed", "helper", {"tier": "1", "other": "x"})
    assert not wants(spec, "task.finished", "helper", {"tier": "1"})
    assert not wants(spec, "task.failed", "other", {"tier": "1"})
    assert not wants(spec, "task.failed", "helper", {})
    assert wants(SubscriptionSpec(webhook=HOOK), "task.cancelled", "anybody", {})


SMTP = SMTPServer(host="smtp.example")
MAIL = EmailSink(to=("a@b.example",), from_="h@b.example", smtp=SMTP)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "exactly one"),
        ({"webhook": HOOK, "email": MAIL}, "exactly one"),
        ({"webhook": HOOK, "events": ()}, "at least one"),
        ({"webhook": WebhookSink(url="ftp://a", secret_from=(KEY,))}, "http"),
        ({"webhook": WebhookSink(url="https://a", secret_from=())}, "signed"),
        ({"webhook": WebhookSink(url="https://a", secret_from=(KEY,), timeout_s=0)}, "more than 0"),
        ({"slack": SlackSink()}, "either"),
        ({"slack": SlackSink(channel="C1")}, "either"),
        ({"slack": SlackSink(token_from=KEY)}, "either"),
        ({"slack": SlackSink(channel="C1", token_from=KEY, webhook_from=KEY)}, "either"),
        ({"email": msgspec.structs.replace(MAIL, to=())}, "at least one"),
        ({"email": msgspec.structs.replace(MAIL, smtp=SMTPServer(host="h", username_from=KEY))}, "together"),
        (
            {
                "email": msgspec.structs.replace(
                    MAIL, smtp=SMTPServer(host="h", security="none", username_from=KEY, password_from=KEY)
                )
            },
            "tls",
        ),
    ],
)
def test_a_subscription_that_contradicts_itself_is_told_so(fields: dict[str, Any], said: str) -> None:
    assert said in " ".join(problem for _, problem in contradictions(SubscriptionSpec(**fields)))


def test_one_that_does_not_is_told_nothing() -> None:
    sinks: tuple[dict[str, Any], ...] = (
        {"webhook": HOOK},
        {"email": MAIL},
        {"slack": SlackSink(channel="C1", token_from=KEY)},
        {"slack": SlackSink(webhook_from=KEY)},
    )
    for fields in sinks:
        assert list(contradictions(SubscriptionSpec(**fields))) == []
