"""The checker finds what goes wrong with people and with other agents: everything is broken on purpose."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.chaos.live.checker import check
from tests.chaos.live.checker_people import NOBODY
from tests.chaos.live.record import Effect, Record, Stored

START = datetime(2026, 1, 1, tzinfo=UTC)
HF = "hf.0.default"
USAGE = {"inputTokens": 10, "outputTokens": 1}
CALLS = (
    ("effects__charge", {"key": "a"}),
    ("effects__charge", {"key": "b"}),
    ("delegate_to_agent__sub", {"message": "go"}),
)


def at(seq: int) -> datetime:
    return START + timedelta(seconds=seq)


def stored(seq: int, subject: str, **body: Any) -> Stored:
    return Stored(subject, seq, at(seq), body)


def state(seq: int, task: str, *window: int, tokens: tuple[int, int]) -> Stored:
    spend = {"inputTokens": tokens[0], "outputTokens": tokens[1]}
    return stored(seq, f"$KV.holdfast_0.default.{task}", type="task.final-answer.v1", window=[*window], spend=spend)


def answer(seq: int, task: str, turn: int, *wanted: tuple[str, dict[str, str]]) -> Stored:
    calls = [
        {"id": f"call_{n}", "name": name, "arguments": json.dumps(arguments)}
        for n, (name, arguments) in enumerate(wanted, 1)
    ]
    message = {"toolCalls": calls} if calls else {"content": "done"}
    subject = f"{HF}.evt.{task}.llm.{turn}.1"
    return stored(seq, subject, type="model.answered.v1", turn=turn, attempt=1, message=message, usage=USAGE)


def result(seq: int, n: int, outcome: str, **body: Any) -> Stored:
    return stored(seq, f"{HF}.evt.job.tool.r1.{n}", toolCallId=f"call_{n}", outcome=outcome, content="", **body)


def said(seq: int, n: int, action: str, **body: Any) -> Stored:
    subject = f"{HF}.int.job.r1.{n}.0.answered"
    return stored(seq, subject, type="interaction.answered.v1", action=action, **body)


def asked(seq: int, n: int) -> Stored:
    return stored(seq, f"{HF}.int.job.r1.{n}.0.asked", type="interaction.requested.v1", kind="approval")


def good() -> Record:
    """A task with a call that was approved, one that was rejected, and one that another agent took."""
    messages = [
        stored(1, f"{HF}.evt.job.submitted"),
        stored(2, f"{HF}.msg.job.context"),
        stored(3, f"{HF}.cmd.llm.job.1.1"),
        answer(4, "job", 1, *CALLS),
        stored(5, f"{HF}.cmd.ask.job.r1.1"),
        stored(6, f"{HF}.cmd.ask.job.r1.2"),
        stored(7, f"{HF}.evt.job-r1-3.submitted", parent={"task": "job", "request": "r1", "n": 3}),
        asked(8, 1),
        asked(9, 2),
        stored(10, f"{HF}.msg.job-r1-3.context"),
        stored(11, f"{HF}.cmd.llm.job-r1-3.1.1"),
        answer(12, "job-r1-3", 1),
        state(13, "job-r1-3", 10, 12, tokens=(10, 1)),
        result(14, 3, "succeeded", child="job-r1-3", spend=USAGE),
        said(15, 1, "accept"),
        stored(16, f"{HF}.evt.job.approval.r1.1"),
        said(17, 2, "decline"),
        result(18, 2, "rejected"),
        stored(19, f"{HF}.cmd.tool.job.r1.1"),
        stored(20, f"{HF}.led.job.r1.1"),
        result(22, 1, "succeeded"),
        stored(23, f"{HF}.cmd.llm.job.2.1"),
        answer(24, "job", 2),
        state(25, "job", 2, 4, 22, 18, 14, 24, tokens=(30, 3)),
    ]
    seen = [each for each in messages if each.subject.startswith("$KV.") or ".int." in each.subject]
    effects = [Effect("charge", "a", at(21))]
    return Record(accepted={"job": "FinalAnswer"}, messages=messages, states=seen, effects=effects, kills=[])


def without(record: Record, *endings: str) -> Record:
    return record._replace(messages=[message for message in record.messages if not message.subject.endswith(endings)])


def instead(record: Record, *messages: Stored) -> Record:
    new = {message.subject: message for message in messages}
    kept = [message for message in record.messages if message.subject not in new]
    return record._replace(messages=sorted([*kept, *messages], key=lambda message: message.seq))


PLANTED: dict[str, tuple[Callable[[Record], Record], str]] = {
    "nobody was asked": (lambda r: without(r, ".1.0.asked"), "question about r1.1 has no place"),
    "nobody's answer was recorded": (lambda r: without(r, ".1.0.answered"), "question about r1.1 has no answer"),
    "a question was recorded twice": (lambda r: r._replace(states=[*r.states, asked(26, 1)]), "changed at 26"),
    "an answer was replaced": (lambda r: r._replace(states=[*r.states, said(26, 1, "decline")]), "changed at 26"),
    "a question has a second id": (
        lambda r: instead(r, stored(26, f"{HF}.int.job.r1.1.1.asked", kind="approval")),
        "about a question that nobody has",
    ),
    "a question that nobody commanded": (lambda r: without(r, "cmd.ask.job.r1.2"), "about a question that nobody has"),
    "an answer that is nobody's": (lambda r: instead(r, said(15, 1, "accept", via="withdrawn")), "via withdrawn"),
    "an answer where nobody answers": (
        lambda r: instead(r, asked(8, 1)._replace(body={**asked(8, 1).body, "channel": NOBODY})),
        "via request and not expired",
    ),
    "a rejected call was made": (
        lambda r: r._replace(effects=[*r.effects, Effect("charge", "b", at(21))]),
        "which nobody approved",
    ),
    "a rejected call succeeded": (lambda r: instead(r, result(18, 2, "succeeded")), "ended as succeeded"),
    "an effect before its approval": (
        lambda r: r._replace(effects=[Effect("charge", "a", at(14))]),
        "before it was approved",
    ),
    "an effect twice": (
        lambda r: r._replace(effects=[*r.effects, Effect("charge", "a", at(22))]),
        "charge acted 2 times",
    ),
    "an approval is not recorded": (lambda r: without(r, "approval.r1.1"), "the approval of r1.1"),
    "an approval of what was rejected": (
        lambda r: instead(r, stored(18, f"{HF}.evt.job.approval.r1.2")),
        "the approval of r1.2",
    ),
    "a delegated call is no task": (
        lambda r: r._replace(messages=[each for each in r.messages if "job-r1-3" not in each.subject]),
        "0 tasks were made",
    ),
    "a delegated call is two tasks": (
        lambda r: instead(r, stored(7, f"{HF}.evt.twin.submitted", parent={"task": "job", "request": "r1", "n": 3})),
        "2 tasks were made",
    ),
    "a result of another child": (
        lambda r: instead(r, result(14, 3, "succeeded", child="job-r1-9", spend=USAGE)),
        "is not of job-r1-3",
    ),
    "a task that no call asked for": (
        lambda r: instead(r, stored(7, f"{HF}.evt.twin.submitted", parent={"task": "job", "request": "r9", "n": 1})),
        "which made no such call",
    ),
    "a child that has not ended": (
        lambda r: instead(r, stored(13, "$KV.holdfast_0.default.job-r1-3", type="task.awaiting-model.v1")),
        "job-r1-3: should have ended as FinalAnswer",
    ),
    "a tree that forgets what its leaf used": (
        lambda r: instead(r, state(25, "job", 2, 4, 22, 18, 14, 24, tokens=(20, 2))),
        "its inputTokens are 20 and should be 30",
    ),
}


def test_a_good_record_with_people_and_agents_is_judged_good() -> None:
    assert check(good()) == []


@pytest.mark.parametrize("planted", PLANTED)
def test_what_is_wrong_with_people_and_agents_is_found(planted: str) -> None:
    break_it, words = PLANTED[planted]
    found = check(break_it(good()))
    assert any(words in what for what in found), found
