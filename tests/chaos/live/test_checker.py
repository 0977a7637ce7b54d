"""The checker finds what it is there to find: every invariant is broken on purpose, one at a time."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.chaos.live.checker import NOT_CALLED, check
from tests.chaos.live.record import Effect, Kill, Record, Stored

START = datetime(2026, 1, 1, tzinfo=UTC)
STATE = "$KV.holdfast_0.default.job"
HF = "hf.0.default"


def at(seq: int) -> datetime:
    return START + timedelta(seconds=seq)


def stored(seq: int, subject: str, **body: Any) -> Stored:
    return Stored(subject, seq, at(seq), body)


def answer(seq: int, turn: int, *tools: str) -> Stored:
    calls = [
        {"id": f"call_{turn}_{n}", "name": f"effects__{tool}", "arguments": json.dumps({"key": f"job {turn}.{n}"})}
        for n, tool in enumerate(tools, 1)
    ]
    message = {"toolCalls": calls} if calls else {"content": "done"}
    return stored(seq, f"{HF}.evt.job.llm.{turn}.1", type="model.answered.v1", turn=turn, attempt=1, message=message)


def result(seq: int, n: int, outcome: str = "succeeded", content: str = "") -> Stored:
    return stored(
        seq,
        f"{HF}.evt.job.tool.r1.{n}",
        type="tool.finished.v1",
        toolCallId=f"call_1_{n}",
        outcome=outcome,
        content=content,
    )


def good() -> Record:
    """A task with two calls in its first turn and an answer in its second."""
    final = stored(14, STATE, type="task.final-answer.v1", window=[2, 5, 11, 10, 13])
    return Record(
        accepted={"job": "FinalAnswer"},
        messages=[
            stored(1, f"{HF}.evt.job.submitted", type="task.submitted.v1"),
            stored(2, f"{HF}.msg.job.context", type="task.context.v1"),
            stored(4, f"{HF}.cmd.llm.job.1.1", type="model.call.v1"),
            answer(5, 1, "charge", "lookup"),
            stored(7, f"{HF}.cmd.tool.job.r1.1", type="tool.run.v1"),
            stored(8, f"{HF}.cmd.tool.job.r1.2", type="tool.run.v1"),
            stored(9, f"{HF}.led.job.r1.1", type="tool.started.v1"),
            result(10, 2),
            result(11, 1),
            stored(12, f"{HF}.cmd.llm.job.2.1", type="model.call.v1"),
            answer(13, 2),
            final,
        ],
        states=[stored(3, STATE, type="task.awaiting-model.v1"), final],
        effects=[Effect("charge", "job 1.1", at(9)), Effect("lookup", "job 1.2", at(9))],
        kills=[],
    )


def without(record: Record, *endings: str) -> Record:
    return record._replace(messages=[message for message in record.messages if not message.subject.endswith(endings)])


def instead(record: Record, *messages: Stored) -> Record:
    """With other messages on the same subjects."""
    new = {message.subject: message for message in messages}
    kept = [message for message in record.messages if message.subject not in new]
    return record._replace(messages=sorted([*kept, *messages], key=lambda message: message.seq))


def final(window: list[int], seq: int = 14) -> Stored:
    return stored(seq, STATE, type="task.final-answer.v1", window=window)


def killed(record: Record, victim: str, seq: int) -> Record:
    return record._replace(kills=[Kill(victim, at(seq))])


def uncertain(record: Record) -> Record:
    return instead(record, result(11, 1, "unknown"))


PLANTED: dict[str, tuple[Callable[[Record], Record], str]] = {
    "a task is lost": (lambda r: r._replace(messages=[], effects=[]), "lost"),
    "a task has not ended": (
        lambda r: instead(r, stored(14, STATE, type="task.awaiting-model.v1")),
        "should have ended as FinalAnswer",
    ),
    "a task has ended in another way": (lambda r: r._replace(accepted={"job": "Cancelled"}), "should have ended as"),
    "a call has no result": (lambda r: without(r, ".tool.r1.2"), "has no result"),
    "a result has no call": (
        lambda r: instead(r, stored(11, f"{HF}.evt.job.tool.r1.3", toolCallId="x", outcome="failed", content="")),
        "result tool.r1.3 has no call",
    ),
    "a result is another call's": (
        lambda r: instead(r, result(11, 1)._replace(body={**result(11, 1).body, "toolCallId": "call_1_2"})),
        "and not call_1_1",
    ),
    "a command has no outcome": (lambda r: without(r, "evt.job.llm.2.1"), "command llm.2.1 has no outcome"),
    "an outcome has no command": (lambda r: without(r, "cmd.llm.job.2.1"), "outcome llm.2.1 has no command"),
    "results are in the wrong order": (lambda r: instead(r, final([2, 5, 10, 11, 13])), "its window is"),
    "a result is missing in the window": (lambda r: instead(r, final([2, 5, 11, 13])), "its window is"),
    "the window is of another task": (lambda r: instead(r, final([2, 5, 11, 10, 13, 14])), "its window is"),
    "the last entry is no answer": (
        lambda r: instead(r, answer(13, 2, "lookup")),
        "its last entry is not an answer",
    ),
    "the model was called too early": (
        lambda r: instead(r, result(12, 1)._replace(seq=13, at=at(13))),
        "came before result 1",
    ),
    "a thread is forgotten": (
        lambda r: instead(r, stored(1, f"{HF}.evt.job.submitted", type="task.submitted.v1", spec={"threadID": "T"})),
        "was asked for in thread 'T', and begins thread ''",
    ),
    "a forbidden second effect": (
        lambda r: r._replace(effects=[*r.effects, Effect("charge", "job 1.1", at(10))]),
        "charge acted 2 times",
    ),
    "an effect that nobody asked for": (
        lambda r: r._replace(effects=[*r.effects, Effect("charge", "job 9.9", at(10))]),
        "which no model asked for",
    ),
    "a success without an effect": (lambda r: r._replace(effects=r.effects[1:]), "and its result says it did"),
    "an effect without an entry in the ledger": (
        lambda r: without(r, "led.job.r1.1"),
        "without an entry in the ledger",
    ),
    "uncertainty without a kill": (uncertain, "ended as unknown"),
    "uncertainty by a kill of another service": (lambda r: killed(uncertain(r), "planner", 10), "ended as unknown"),
    "uncertainty by a kill at another time": (lambda r: killed(uncertain(r), "tool-executor", 13), "ended as unknown"),
    "uncertainty about what may be repeated": (
        lambda r: killed(instead(r, result(10, 2, "unknown")), "tool-executor", 9),
        "(lookup) ended as unknown",
    ),
    "an effect that its result denies": (
        lambda r: killed(instead(r, result(11, 1, "failed", NOT_CALLED)), "tool-executor", 10),
        "and its result says that it was not called",
    ),
    "a call that was not made, without a kill": (
        lambda r: instead(r, result(11, 1, "failed", NOT_CALLED))._replace(effects=r.effects[1:]),
        "ended as failed",
    ),
    "a failure for no reason": (lambda r: instead(r, result(11, 1, "failed")), "ended as failed"),
    "an end that changed": (
        lambda r: r._replace(states=[*r.states, stored(15, STATE, type="task.failed.v1")]),
        "after it had ended",
    ),
    "a task that went on after its end": (
        lambda r: r._replace(states=[*r.states, stored(15, STATE, type="task.awaiting-model.v1")]),
        "after it had ended",
    ),
    "a dead letter": (lambda r: r._replace(letters=[stored(1, "hf.dlq.letter.X.1", reason="broken")]), "dead letter"),
    "a message that is left over": (lambda r: r._replace(unsettled={"planner": 1}), "not settled"),
    "a process that ended by itself": (lambda r: r._replace(surprises=["a planner ended"]), "a planner ended"),
}


def test_a_good_record_is_judged_good() -> None:
    assert check(good()) == []


def test_uncertainty_is_accepted_when_its_executor_was_killed() -> None:
    record = killed(uncertain(good()), "tool-executor", 10)
    assert check(record) == []
    assert check(record._replace(effects=record.effects[1:])) == []


def test_what_may_be_repeated_may_have_acted_twice() -> None:
    record = good()
    assert check(record._replace(effects=[*record.effects, Effect("lookup", "job 1.2", at(10))])) == []


def test_an_answer_that_came_after_the_end_asks_for_nothing() -> None:
    failed = stored(14, STATE, type="task.failed.v1", window=[2])
    late = without(good(), ".r1.1", ".r1.2", "llm.job.2.1", "llm.2.1")
    record = instead(late, failed)._replace(accepted={"job": "Failed"}, states=[failed], effects=[])
    assert check(record) == []
    kept = instead(late, failed._replace(body={**failed.body, "window": [2, 5]}))
    assert any("has no result" in what for what in check(kept._replace(accepted={"job": "Failed"})))


@pytest.mark.parametrize("planted", PLANTED)
def test_what_is_wrong_is_found(planted: str) -> None:
    break_it, words = PLANTED[planted]
    found = check(break_it(good()))
    assert any(words in what for what in found), found
